"""From the bytes of a policy file to a PolicySet: parse, read, cross-check, freeze; or every mistake at once.

The rule a reader could break: nothing half-made leaves here. Either the whole file is right and a PolicySet exists, or a
PolicyFileError carries all that is wrong.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path

from proxy.call import Price, Timeouts
from proxy.policy.contract import Clause
from proxy.policy.crosscheck import cross_check
from proxy.policy.document import Enough, Mistakes, Pairs, PolicyFileError, parse
from proxy.policy.keys import AccessKey, KeyRing
from proxy.policy.policyset import CompiledRoute, Globs, Policy, PolicySet, Scope, UpstreamConfig
from proxy.policy.prices import PriceTable
from proxy.policy.reading import BROKEN, Reader, Reading
from proxy.policy.references import References
from proxy.policy.sections import Key, Match, PolicyEntry, PolicyFile, PriceEntry, Prices, Route, Upstream, shapes
from proxy.policy.values import epoch_s

# The name of the upstream that the settings give.
GIVEN = "default"


def compile_text(
    data: bytes,
    *,
    file: str,
    kinds: tuple[type[Clause], ...],
    env: Mapping[str, str],
    upstream: UpstreamConfig | None = None,
) -> PolicySet:
    """The policy set that a file means.

    file: its name in messages, and what relative `${file:…}` paths stand beside. kinds: what clauses there are. env: for `${env:…}`.
    upstream: the one from the settings, for a file that names none. Errors: PolicyFileError with every mistake.
    """
    mistakes = Mistakes(file)
    references = References(env, folder=Path(file).parent)
    reading = Reading(mistakes, files=references.files)
    content = BROKEN
    try:
        root = parse(data, mistakes)
        content = Reader(reading, references=references, shapes=shapes(kinds)).read(root, PolicyFile, trail=())
        if isinstance(root, Pairs):
            cross_check(reading, upstream_given=upstream is not None)
    except Enough:
        pass
    if mistakes.found or content is BROKEN:
        raise PolicyFileError(mistakes.in_order(), files=references.files)
    return _freeze(content, reading, version=sha256(data).hexdigest()[:12], given=upstream)


def _freeze(content: PolicyFile, reading: Reading, *, version: str, given: UpstreamConfig | None) -> PolicySet:
    upstreams = {name: _upstream(u) for name, u in (content.upstreams or {}).items()}
    if not upstreams:
        assert given is not None, "the cross check has seen to that"
        upstreams = {GIVEN: given}
    return PolicySet(
        version=version,
        upstreams=upstreams,
        routes=tuple(map(_route, content.routes or (Route(to=tuple(upstreams)),))),
        keys=KeyRing(map(_key, content.keys)),
        unmetered=Globs(content.unmetered),
        prices=_prices(content.prices),
        deny_unpriced=content.prices.unknown == "deny",
        pages={name: page.sink for name, page in content.pages.items()},
        policies=tuple(map(_policy, content.policies)),
        source=reading,
    )


def _upstream(entry: Upstream) -> UpstreamConfig:
    timeouts = {}
    if entry.timeouts is not None:
        own = {f.name: getattr(entry.timeouts, f.name) for f in fields(entry.timeouts)}
        timeouts = {name: seconds for name, seconds in own.items() if seconds is not None}
    return UpstreamConfig(
        base_url=entry.base_url,
        api_key=entry.api_key,
        timeouts=Timeouts(**timeouts),
        attempts=entry.retries.attempts if entry.retries else 2,
        forward_headers=entry.forward_headers,
    )


def _route(entry: Route) -> CompiledRoute:
    return CompiledRoute(Globs(entry.models) if entry.models is not None else None, entry.to)


def _key(entry: Key) -> AccessKey:
    return AccessKey(
        id=entry.id,
        digest=entry.hash,
        tags=entry.tags,
        user_header=entry.user.header if entry.user else None,
        expires_s=epoch_s(entry.expires) if entry.expires else None,
    )


def _price(entry: PriceEntry) -> Price:
    """A class without a price of its own costs what the plain class costs: nothing is free by being absent."""

    def or_plain(own: int | None, plain: int) -> int:
        return plain if own is None else own

    return Price(
        input=entry.input,
        output=entry.output,
        cached_input=or_plain(entry.cached_input, entry.input),
        cache_write=or_plain(entry.cache_write, entry.input),
        audio_input=or_plain(entry.audio_input, entry.input),
        audio_output=or_plain(entry.audio_output, entry.output),
    )


def _prices(section: Prices) -> PriceTable:
    unknown = None
    if isinstance(section.unknown, PriceEntry):
        unknown = _price(section.unknown)
    elif section.unknown == "free":
        unknown = Price(0, 0, 0, 0, 0, 0)
    own = {model: _price(entry) for model, entry in section.models.items()}
    return PriceTable.shipped().with_overrides(own, unknown=unknown)


def _policy(entry: PolicyEntry) -> Policy:
    match = entry.match or Match()
    scope = Scope(
        keys=frozenset(match.keys) if match.keys is not None else None,
        tags=frozenset(match.tags) if match.tags is not None else None,
        models=Globs(match.models) if match.models is not None else None,
        paths=Globs(match.paths) if match.paths is not None else None,
    )
    clauses = tuple(replace(clause, policy=entry.name) for clause in entry.clauses)
    return Policy(entry.name, scope, entry.mode == "shadow", clauses)
