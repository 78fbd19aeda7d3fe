"""A compiled policy file: one frozen value that a call keeps from its first line to its last.

It answers who calls, which rules apply, how much body may be read, and which upstream takes a model. Nothing here reads, waits or
counts. The rule a reader could break: every answer depends on the arguments alone. The caches are bounded and only remember
answers; names in them come from clients.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from types import MappingProxyType
from typing import TypeVar

from proxy.call import Call, Principal
from proxy.errors import Refusal
from proxy.policy.contract import Balance, Charge, Clause, Notice, Terms
from proxy.policy.keys import KeyRing
from proxy.policy.prices import PriceTable
from proxy.policy.reading import Reading
from proxy.policy.sections import PageSink
from proxy.timeouts import Timeouts

# What a body may have where no policy says less: images and files inside a JSON body fit, a mistake does not fill the memory.
DEFAULT_BODY_BYTES = 32 * 2**20
# No answer of a model is near it; one that is larger has no end.
LARGEST_ANSWER_BYTES = 256 * 2**20
_MOST_CACHED = 4096
_LONGEST_CACHED_NAME = 200


K = TypeVar("K")
V = TypeVar("V")


class Globs:
    """Patterns of which one is enough. `*` is any run of characters, `/` too; `?` is any one; case matters."""

    __slots__ = ("_match", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._match = re.compile("|".join(map(translate, self.patterns)) or r"(?!)").match

    def match(self, text: str) -> bool:
        return self._match(text) is not None

    def __repr__(self) -> str:
        return f"<Globs {' '.join(self.patterns)}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """One upstream. base_url: without a slash at its end. forward_headers: lower case. largest_answer: bytes, of calls with a meter.

    attempts: tries of a call that it did not take. retry_percent: of its calls, tries beyond the first. failures: in a row, after which it
    is not asked for open_s; 0 = it always is. page: names under `pages` that are told when it refuses our credentials or is down.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    timeouts: Timeouts = Timeouts()
    attempts: int = 2
    retry_percent: int = 20
    failures: int = 5
    open_s: float = 10.0
    page: tuple[str, ...] = ()
    forward_headers: tuple[str, ...] = ()
    largest_answer: int = LARGEST_ANSWER_BYTES


_SLACK_S = 60  # for the body, the tokenizer and the sweep


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """models: None takes every call, also one without a model. to: upstream names, at least one."""

    models: Globs | None
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which calls a policy is about: those that fit every condition that is not None."""

    keys: frozenset[str] | None = None
    tags: frozenset[str] | None = None
    models: Globs | None = None
    paths: Globs | None = None

    def reaches(self, key: str, tags: Iterable[str]) -> bool:
        return (self.keys is None or key in self.keys) and (self.tags is None or not self.tags.isdisjoint(tags))

    def covers(self, path: str) -> bool:
        return self.paths is None or self.paths.match(path)

    def names(self, *models: str | None) -> bool:
        """Whether one of `models` is meant."""
        return self.models is None or any(m is not None and self.models.match(m) for m in models)


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule. shadow: evaluated and counted, never refusing."""

    name: str
    scope: Scope
    shadow: bool
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The clauses that a call meets, by hook and in stage order; those of shadowed policies apart.

    model: the name that will be sent upstream. charges: each with whether it is shadowed; steady, varying: the same, apart.
    watchers: who hears of settled balances, by (policy, clause). A plan is itself and no other: what is remembered goes by it.
    """

    model: str | None
    prepare: tuple[Clause, ...]
    shadow_prepare: tuple[Clause, ...]
    check: tuple[Clause, ...]
    shadow_check: tuple[Clause, ...]
    charges: tuple[tuple[Clause, bool], ...]
    steady: tuple[tuple[Clause, bool], ...]
    varying: tuple[tuple[Clause, bool], ...]
    watchers: Mapping[tuple[str, str], Clause]

    def notices(self, balance: Balance) -> tuple[Notice, ...]:
        """What a settled balance calls for."""
        limit = balance.charge.limit
        clause = self.watchers.get((limit.policy, limit.clause))
        return clause.settled(balance) if clause is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class PolicySet:
    """Everything a policy file says. version: the first 12 hex digits of the SHA-256 of its bytes.

    source: what was read where, for lints. deny_unpriced: whether a model without a price is refused.
    longest_s: no call under it takes longer, however often and wherever it is tried.
    """

    version: str
    upstreams: Mapping[str, UpstreamConfig]
    routes: tuple[CompiledRoute, ...]
    keys: KeyRing
    unmetered: Globs
    prices: PriceTable
    deny_unpriced: bool
    pages: Mapping[str, PageSink]
    policies: tuple[Policy, ...]
    source: Reading
    longest_s: int = field(init=False)
    _plans: dict[tuple[str, str, str | None], Plan] = field(default_factory=dict)
    _limits: dict[tuple[str, str], tuple[int, str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tries = sum(config.attempts * config.timeouts.total for config in self.upstreams.values())
        object.__setattr__(self, "longest_s", round(tries) + _SLACK_S)

    def __repr__(self) -> str:
        return (
            f"<PolicySet {self.version} upstreams={len(self.upstreams)} keys={len(self.keys.keys)} policies={len(self.policies)} "
            f"prices={self.prices.version}>"
        )

    def identify(self, *, presented: str | None, header: Callable[[str], str | None], loopback: bool, now_s: float) -> Principal:
        """Who pays for a call: see KeyRing.identify. Errors: NotAdmitted, InvalidCall."""
        return self.keys.identify(presented=presented, header=header, loopback=loopback, now_s=now_s)

    def counts(self) -> bool:
        """Whether calls may have their input counted before they are admitted."""
        return any(clause.counts() for p in self.policies if not p.shadow for clause in p.clauses)

    def plan(self, principal: Principal, path: str, model: str | None) -> Plan:
        """Which clauses a call meets. path: canonical. model: the name the client asked for.

        A policy matches by the name asked for and by the name sent, so an alias is no way around a rule.
        """
        cached = (principal.key, path, model)  # the key stands for its tags
        plan = self._plans.get(cached)
        if plan is None:
            plan = self._make_plan(principal, path, model)
            if len(path) + len(model or "") <= _LONGEST_CACHED_NAME:
                _remember(self._plans, cached, plan)
        return plan

    def _make_plan(self, principal: Principal, path: str, model: str | None) -> Plan:
        near = [p for p in self.policies if p.scope.reaches(principal.key, principal.tags) and p.scope.covers(path)]
        sent = model
        if model is not None:
            renames = (c.sends(model) for p in near if not p.shadow and p.scope.names(model) for c in p.clauses)
            sent = next((name for name in renames if name != model), model)
        met = sorted(
            ((clause, p.shadow) for p in near if p.scope.names(model, sent) for clause in p.clauses),
            key=lambda pair: pair[0].stage,
        )

        def having(hook: str, *, shadow: bool) -> tuple[Clause, ...]:
            return tuple(c for c, shadowed in met if shadowed is shadow and _overrides(c, hook))

        charges = tuple(pair for pair in met if _overrides(pair[0], "charges"))
        return Plan(
            model=sent,
            prepare=having("prepare", shadow=False),
            shadow_prepare=having("prepare", shadow=True),
            check=having("check", shadow=False),
            shadow_check=having("check", shadow=True),
            charges=charges,
            steady=tuple(pair for pair in charges if pair[0].steady),
            varying=tuple(pair for pair in charges if not pair[0].steady),
            watchers=MappingProxyType({(c.policy, c.clause): c for c, _ in met if _overrides(c, "settled")}),
        )

    def charges(self, call: Call, plan: Plan) -> list[Charge]:
        """What every clause wants held, the steady ones first."""
        return charges(call, plan.varying, charges(call, plan.steady))

    def body_limit(self, principal: Principal, path: str) -> tuple[int, str | None]:
        """The most bytes of body to read, and the policy that says so, None for the proxy's own bound.

        Policies that depend on the model have their say once the body was read.
        """
        cached = (principal.key, path)
        limit = self._limits.get(cached)
        if limit is None:
            limits = [
                (most, p.name)
                for p in self.policies
                if not p.shadow
                and p.scope.models is None
                and p.scope.reaches(principal.key, principal.tags)
                and p.scope.covers(path)
                for c in p.clauses
                if (most := c.body_limit()) is not None
            ]
            smallest = min(limits, default=None)
            # A policy may also allow more than the proxy does by itself.
            limit = smallest or (DEFAULT_BODY_BYTES, None)
            if len(path) <= _LONGEST_CACHED_NAME:
                _remember(self._limits, cached, limit)
        return limit

    def recording(self, principal: Principal, path: str) -> Terms | None:
        """What policies allow of recordings of a call; None = it is not recorded."""
        found: Terms | None = None
        for p in self.policies:
            if not p.shadow and p.scope.models is None and p.scope.reaches(principal.key, principal.tags) and p.scope.covers(path):
                for clause in p.clauses:
                    if (terms := clause.terms()) is not None:
                        found = terms if found is None else found.within(terms)
        return found

    def route(self, model: str | None) -> tuple[str, ...]:
        """Names of the upstreams that take `model`, the first one first. model: the name sent. Errors: Refusal."""
        for route in self.routes:
            if route.models is None or (model is not None and route.models.match(model)):
                return route.to
        what = "a call without a model" if model is None else f"the model '{model[:100]}'"
        raise Refusal("model_not_allowed", f"No route takes {what}.", param="model", clause="routes")

    def is_unmetered(self, path: str) -> bool:
        """Whether the file lets this path pass without a meter."""
        return self.unmetered.match(path)


def _overrides(clause: Clause, hook: str) -> bool:
    return getattr(type(clause), hook) is not getattr(Clause, hook)


def charges(call: Call, clauses: Iterable[tuple[Clause, bool]], before: Iterable[Charge] = ()) -> list[Charge]:
    """What these clauses want held, after what is to be held `before`; a shadowed one's is counted and never refuses."""
    asked = [*before]
    for clause, shadow in clauses:
        own = clause.charges(call)
        asked += [Charge(c.limit, c.subject, c.amount, enforced=False) for c in own] if shadow else own
    return asked


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    """Keep an answer; the oldest one goes when there are too many."""
    if len(cache) >= _MOST_CACHED:
        del cache[next(iter(cache))]
    cache[key] = value
