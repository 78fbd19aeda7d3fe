"""Mistakes that only show when parts of a file are held against each other: unknown names, duplicates, contradictions.

It works on what could be read, also where other things around it are wrong, so that all mistakes come out at once. The rule a reader
could break: a name is unknown only if the section that would define it was there to be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.policy.document import Trail, written
from proxy.policy.policyset import Globs
from proxy.policy.reading import ANY, Reading
from proxy.policy.scalar import did_you_mean, quote
from proxy.policy.sections import Key, Match, PolicyEntry

# A call is held against every policy the first time it comes by: a millisecond for so many.
MOST_POLICIES = 1000
# Where a file names who is paged.
PAGED = (("policies", ANY, "budget", "page", ...), ("policies", ANY, "record", "tell", ...), ("upstreams", ANY, "page", ...))


def cross_check(reading: Reading, *, upstream_given: bool) -> None:
    """Add to the reading's mistakes. upstream_given: whether the settings name an upstream."""
    _check_upstreams(reading, upstream_given=upstream_given)
    _check_names(reading)
    _check_duplicates(reading)
    if ("policies", MOST_POLICIES) in reading.places:
        reading.wrong(("policies", MOST_POLICIES), f"more than {MOST_POLICIES} policies; let one speak of many keys by their tags")
    else:
        _check_aliases(reading)


def names_under(reading: Reading, section: str) -> tuple[str, ...]:
    """The keys of a mapping at the top of the file, whether or not what they name could be read."""
    return tuple(str(trail[1]) for trail in reading.places if len(trail) == 2 and trail[0] == section)


def _check_upstreams(reading: Reading, *, upstream_given: bool) -> None:
    named = names_under(reading, "upstreams")
    if ("upstreams",) not in reading.places and not upstream_given:
        reading.wrong(
            (),
            'missing key "upstreams": the settings name no upstream either (OPENAI_API_KEY, TOLLHOUSE_UPSTREAM, or --pretend for a try)',
        )
    if len(named) > 1 and ("routes",) not in reading.places:
        reading.wrong((), f'missing key "routes": there are {len(named)} upstreams, and nothing says which takes a call')
    known = named or (("default",) if upstream_given else ())
    if known:
        _check_known(reading, "upstream", known, ("routes", ANY, "to", ...))


def _check_names(reading: Reading) -> None:
    ids = tuple(str(v) for _, v in reading.find("keys", ANY, "id"))
    if ids:
        _check_known(reading, "key", ids, ("policies", ANY, "match", "keys", ...))
    pages = names_under(reading, "pages")
    for trail, _ in reading.find("policies", ANY, "record"):
        if (trail[0], trail[1], "match", "models") in reading.places:
            reading.wrong(trail, "what is recorded is decided before the body is read, so this policy cannot match by `models`")
    for trail, name in reading.find("policies", ANY, "record", "tell", ...):
        kinds = [trail[2] for trail, _ in reading.find("pages", name, ANY)]
        if kinds and "webhook" not in kinds:
            reading.wrong(trail, f"only a webhook is told of tasks, and {reading.shown(trail)} is none")
    for pattern in PAGED:
        for trail, name in reading.find(*pattern):
            if isinstance(name, str) and name not in pages:
                none = "" if pages else "; there are none under `pages`"
                reading.wrong(trail, f"unknown page {reading.shown(trail)}{_hint(reading, trail, pages)}{none}")


def _check_known(reading: Reading, what: str, known: Sequence[str], pattern: tuple[object, ...]) -> None:
    names = frozenset(known)
    for trail, name in reading.find(*pattern):
        if isinstance(name, str) and name not in names:
            reading.wrong(trail, f"unknown {what} {reading.shown(trail)}{_hint(reading, trail, known)}")


def _hint(reading: Reading, trail: Trail, known: Sequence[str]) -> str:
    found = reading.found[trail]
    return did_you_mean(found.value, known) if found.literal else ""


def _check_duplicates(reading: Reading) -> None:
    _check_unique(reading, ("policies", ANY, "name"), "{value} already names {first}")
    _check_unique(reading, ("keys", ANY, "id"), "{value} is already the id of {first}")
    _check_unique(reading, ("keys", ANY, "hash"), "this is already the hash of {first}")
    anonymous = [trail for trail, value in reading.find("keys", ANY, "anonymous") if value is True]
    for trail in anonymous[1:]:
        reading.wrong(trail, f"only one key can be anonymous; keys[{anonymous[0][1]}] is already")


def _check_unique(reading: Reading, pattern: tuple[object, ...], message: str) -> None:
    first: dict[object, Trail] = {}
    for trail, value in reading.find(*pattern):
        if value in first:
            reading.wrong(trail, message.format(value=reading.shown(trail), first=written(first[value][:2])))
        first.setdefault(value, trail)


def _check_aliases(reading: Reading) -> None:
    """No alias of an alias, and no two for one name that a single call could meet."""
    keys = [value for _, value in reading.find("keys", ANY) if isinstance(value, Key)]
    policies = {trail[1]: value for trail, value in reading.find("policies", ANY) if isinstance(value, PolicyEntry)}
    aliases = [
        _Alias(trail, str(target), _Reach(policies[trail[1]].match or Match(), keys))
        for trail, target in reading.find("policies", ANY, "models", "alias", ANY)
        if trail[1] in policies and policies[trail[1]].mode == "enforce"
    ]
    by_name: dict[str, list[_Alias]] = {}
    for alias in aliases:
        if alias.name == alias.target:
            reading.wrong(alias.trail, f"{quote(alias.name)} is an alias of itself")
            continue
        before = by_name.setdefault(alias.name, [])
        other = next((o for o in before if o.target != alias.target and alias.reach.meets(o.reach, model=alias.name)), None)
        if other is not None:
            reading.wrong(
                alias.trail, f"{written(other.trail[:2])} sends {quote(alias.name)} elsewhere, and one call can meet both"
            )
        before.append(alias)
    for alias in aliases:
        if alias.name != alias.target and any(alias.reach.shares_a_key(o.reach) for o in by_name.get(alias.target, ())):
            what = f"{reading.shown(alias.trail)} is an alias itself"
            reading.wrong(alias.trail, f"{what}, and aliases are not followed twice; name the model it stands for")


@dataclass(frozen=True, slots=True)
class _Alias:
    trail: Trail
    target: str
    reach: "_Reach"

    @property
    def name(self) -> str:
        return str(self.trail[-1])


class _Reach:
    """Which calls a policy can meet, as far as the file tells."""

    def __init__(self, match: Match, keys: Sequence[Key]) -> None:
        self._keys = frozenset(
            key.id
            for key in keys
            if (match.keys is None or key.id in match.keys) and (match.tags is None or not set(match.tags).isdisjoint(key.tags))
        )
        self._models = Globs(match.models) if match.models is not None else None
        self._paths = match.paths

    def shares_a_key(self, other: "_Reach") -> bool:
        return not self._keys.isdisjoint(other._keys)

    def meets(self, other: "_Reach", *, model: str) -> bool:
        """Whether one call for `model` can match both."""
        takes = all(reach._models is None or reach._models.match(model) for reach in (self, other))
        return takes and self.shares_a_key(other) and _overlap(self._paths, other._paths)


def _overlap(some: tuple[str, ...] | None, others: tuple[str, ...] | None) -> bool:
    """Whether a path can match both lists. Two patterns are taken to overlap: telling for sure is not worth its code."""
    if some is None or others is None:
        return True
    wild = any("*" in path or "?" in path for path in some) and any("*" in path or "?" in path for path in others)
    return wild or any(map(Globs(others).match, some)) or any(map(Globs(some).match, others))
