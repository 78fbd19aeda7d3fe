"""Warnings about a policy file that is right and may still not be what was meant. `tollhouse check` prints them; none fails it."""

from collections.abc import Callable, Iterator

from proxy.policy.crosscheck import PAGED, names_under
from proxy.policy.document import Mistake, Trail
from proxy.policy.keys import AccessKey
from proxy.policy.policyset import Globs, Policy, PolicySet
from proxy.policy.reading import ANY

Warnings = Iterator[tuple[Trail, str]]


def lints(policies: PolicySet) -> tuple[Mistake, ...]:
    """What looks unintended, in the order of the file."""
    warnings = [policies.source.at(trail, message) for lint in _LINTS for trail, message in lint(policies)]
    return tuple(sorted(warnings, key=lambda w: (w.place, w.path, w.message)))


def _reached(policy: Policy, policies: PolicySet) -> list[AccessKey]:
    return [key for key in policies.keys.keys if policy.scope.reaches(key.id, key.tags)]


def _unreached_policies(policies: PolicySet) -> Warnings:
    for n, policy in enumerate(policies.policies):
        if not _reached(policy, policies):
            yield ("policies", n, "match"), "no key has these ids and tags, so this policy never applies"


def _unused_tags(policies: PolicySet) -> Warnings:
    carried = {tag for key in policies.keys.keys for tag in key.tags}
    for trail, tag in policies.source.find("policies", ANY, "match", "tags", ...):
        if isinstance(tag, str) and tag not in carried:
            yield trail, f"no key carries the tag {policies.source.shown(trail)}"


def _unpriced_models(policies: PolicySet) -> Warnings:
    if not policies.deny_unpriced:
        return
    source = policies.source
    patterns = (
        ("routes", ANY, "models", ...),
        ("policies", ANY, "models", "allow", ...),
        ("policies", ANY, "models", "alias", ANY),
    )
    for pattern in patterns:
        for trail, model in source.find(*pattern):
            if isinstance(model, str) and not _is_wild(model) and policies.prices.find(model) is None:
                yield trail, f"the model {source.shown(trail)} has no price, so `prices.unknown: deny` refuses it"


def _refused_aliases(policies: PolicySet) -> Warnings:
    source = policies.source
    allowed: dict[object, list[str]] = {}
    for trail, glob in source.find("policies", ANY, "models", "allow", ...):
        if isinstance(glob, str):
            allowed.setdefault(trail[1], []).append(glob)
    for trail, target in source.find("policies", ANY, "models", "alias", ANY):
        if trail[1] in allowed and not Globs(allowed[trail[1]]).match(target):
            yield trail, f"this policy does not allow {source.shown(trail)}, so the alias is refused"


def _shared_users(policies: PolicySet) -> Warnings:
    for trail, word in policies.source.find("policies", ANY, ANY, "by", ...):
        reached = _reached(policies.policies[int(trail[1])], policies)
        if word == "user" and reached and not any(key.user_header for key in reached):
            yield (
                trail,
                "no key it applies to names a user header (`user: {header: …}`), so everyone with one key counts as one user",
            )


def _dead_routes(policies: PolicySet) -> Warnings:
    catch_all: int | None = None
    for n, route in enumerate(policies.routes):
        if catch_all is not None:
            yield ("routes", n), f"never used: routes[{catch_all}] takes every call before it"
        elif route.models is None:
            catch_all = n
    if catch_all is None:
        yield ("routes",), "no route takes calls without a model, such as GET /v1/models; a last route without `models` would"


def _unused_names(policies: PolicySet) -> Warnings:
    used = {name for route in policies.routes for name in route.to}
    for name in names_under(policies.source, "upstreams"):
        if name not in used:
            yield ("upstreams", name), "no route leads to this upstream"
    paged = {name for pattern in PAGED for _, name in policies.source.find(*pattern)}
    for name in policies.pages:
        if name not in paged:
            yield ("pages", name), "no budget and no upstream pages it"


def _nothing_enforced(policies: PolicySet) -> Warnings:
    if not policies.policies:
        yield (), "there are no policies: every call with a valid key passes, without a limit"
    elif all(policy.shadow for policy in policies.policies):
        yield ("policies",), "every policy is in shadow mode: nothing is enforced"


def _literal_secrets(policies: PolicySet) -> Warnings:
    secrets = (
        ("upstreams", ANY, "api_key"),
        ("pages", ANY, ANY, "routing_key"),
        ("pages", ANY, ANY, "secret"),
        ("pages", ANY, "slack", "url"),
    )
    for pattern in secrets:
        for trail, _ in policies.source.find(*pattern):
            if policies.source.found[trail].literal:
                yield trail, "a secret stands in the file itself; ${env:NAME} or ${file:/path} keeps it out"


def _open_doors(policies: PolicySet) -> Warnings:
    for trail, path in policies.source.find("unmetered", ...):
        if path in ("/v1/*", "/v1/**"):
            yield trail, "every path that has no meter passes without one"


def _is_wild(model: str) -> bool:
    return "*" in model or "?" in model


_LINTS: tuple[Callable[[PolicySet], Warnings], ...] = (
    _unreached_policies,
    _unused_tags,
    _unpriced_models,
    _refused_aliases,
    _shared_users,
    _dead_routes,
    _unused_names,
    _nothing_enforced,
    _literal_secrets,
    _open_doors,
)
