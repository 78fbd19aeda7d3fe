"""From the bytes of a policy file to a PolicySet: parse, read, cross-check, freeze; or every mistake at once.

The rule a reader could break: nothing half-made leaves here. Either the whole file is right and a PolicySet exists, or a
PolicyFileError carries all that is wrong.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from proxy.call import Price
from proxy.policy.contract import Clause
from proxy.policy.crosscheck import cross_check
from proxy.policy.document import Enough, Mistakes, Pairs, PolicyFileError, parse
from proxy.policy.keys import AccessKey, KeyRing
from proxy.policy.policyset import LARGEST_ANSWER_BYTES, CompiledRoute, Globs, Policy, PolicySet, Scope, UpstreamConfig
from proxy.policy.prices import CLASSES, UNITS, PriceTable, unit_price, whole_price
from proxy.policy.reading import BROKEN, Reader, Reading
from proxy.policy.references import References
from proxy.policy.sections import (
    Breaker,
    Key,
    Match,
    PolicyEntry,
    PolicyFile,
    PriceEntry,
    Prices,
    Retries,
    Route,
    TierPrices,
    TokenPrices,
    Upstream,
    shapes,
)
from proxy.policy.values import epoch_s
from proxy.timeouts import Timeouts

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
    retries, breaker = entry.retries or Retries(), entry.breaker or Breaker()
    return UpstreamConfig(
        base_url=entry.base_url,
        api_key=entry.api_key,
        timeouts=Timeouts(**timeouts),
        attempts=retries.attempts,
        retry_percent=retries.budget,
        failures=breaker.failures,
        open_s=breaker.open,
        page=entry.page,
        forward_headers=entry.forward_headers,
        largest_answer=entry.largest_answer or LARGEST_ANSWER_BYTES,
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


def _classes(entry: TokenPrices) -> dict[str, int | None]:
    return {name: getattr(entry, name) for name in CLASSES}


def _tier_price(entry: TierPrices, **more: Any) -> Price:
    long = whole_price(_classes(entry.long)) if entry.long is not None else None
    return whole_price(_classes(entry), long=long, long_above=entry.long.above if entry.long is not None else 0, **more)


def _price(entry: PriceEntry) -> Price:
    sold = next(((getattr(entry, name), parts) for name, parts in UNITS.items() if getattr(entry, name) is not None), None)
    return _tier_price(
        entry,
        unit=unit_price(*sold) if sold is not None else 0,
        call=entry.call or 0,
        tiers={tier: _tier_price(prices) for tier, prices in entry.tiers.items()},
    )


def _prices(section: Prices) -> PriceTable:
    unknown = None
    if isinstance(section.unknown, PriceEntry):
        unknown = _price(section.unknown)
    elif section.unknown == "free":
        unknown = Price(0, 0, 0, 0, 0, 0)
    entries = {model: e if isinstance(e, tuple) else (e,) for model, e in section.models.items()}
    return PriceTable.shipped().with_overrides(
        {model: _price(e) for model, each in entries.items() for e in each if e.from_ is None},
        unknown=unknown,
        tier=section.tier,
        tools=section.tools,
        dated=[(epoch_s(e.from_), model, _price(e)) for model, each in entries.items() for e in each if e.from_ is not None],
    )


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
