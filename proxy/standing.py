"""Which alarms stand, as the policies in force and the spend so far have it: asked at the start and after every reload.

A call that settles raises what it crosses. What crossed without one is found here: spend of before a restart whose notice was lost with
the process, and a limit that a reload lowered or raised. The rule a reader could break: in doubt an alarm stands.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Protocol

from proxy.outage import Outage, What
from proxy.outage_page import AnyPage, OutagePage
from proxy.page import Page
from proxy.policy.contract import Balance, Charge, Clause, Limit, Notice, Quota
from proxy.policy.policyset import PolicySet, UpstreamConfig
from proxy.state.arithmetic import window
from proxy.state.contract import Spend


class Books(Protocol):
    """The part of a store that knows what was spent."""

    def reached(self, limits: Sequence[Limit]) -> AsyncIterator[Spend]: ...

    def highest(self, limits: Sequence[Limit]) -> AsyncIterator[Balance]: ...

    def peek(self, charge: Charge) -> Balance: ...


class Upstreams(Protocol):
    """The part of the upstreams' healths that knows what is wrong with them."""

    def outages(self, upstreams: Mapping[str, UpstreamConfig]) -> Iterator[Outage]: ...

    def stands(self, name: str, config: UpstreamConfig, what: What) -> bool | None: ...


class Standing:
    """Asks the policies in force about the spend in a store, and the upstreams that they name how they do."""

    def __init__(self, policies: Callable[[], PolicySet], books: Books, upstreams: Upstreams) -> None:
        self._policies = policies
        self._books = books
        self._upstreams = upstreams

    def __repr__(self) -> str:
        return f"<Standing under {self._policies().version}>"

    async def notices(self) -> AsyncIterator[tuple[Notice, ...]]:
        """What the spend of windows that are open calls for, raised before or not. Errors: StateUnavailable.

        One subject at a time, so that whoever asks can give others their turn: users come by the hundred thousand.
        """
        clauses = self._clauses()
        async for spend in self._books.reached([limit for limit in self._watched() if limit.told_from is not None]):
            clause, shadowed = clauses[spend.policy, spend.clause]
            charge = clause.watched(spend.subject)
            assert charge is not None
            held = Charge(charge.limit, spend.subject, 0, enforced=charge.enforced and not shadowed)
            yield clause.settled(Balance(held, remaining=0, reset_s=0.0, spent=spend.spent, window=spend.window))

    def highest(self) -> AsyncIterator[Balance]:
        """Of each budget where the subject stands that spent most in the window that is open. Errors: StateUnavailable."""
        return self._books.highest(self._watched())

    def outages(self) -> tuple[Outage, ...]:
        """What is wrong with upstreams now and worth a page, raised before or not."""
        return tuple(self._upstreams.outages(self._policies().upstreams))

    def lifted(self, page: AnyPage, now_s: float) -> AnyPage | None:
        """The resolve `page` as it is due now, where what was paged is over before its time; None where it stands.

        What was wrong with an upstream before a restart stands until a call has shown otherwise.
        """
        if isinstance(page, OutagePage):
            config = self._policies().upstreams.get(page.upstream)
            if config is not None and self._upstreams.stands(page.upstream, config, page.what) is not False:
                return None
            return page.ended(now_s=now_s, removed=config is None)
        raised = self.raised(page)
        return None if raised is None else page.lifted(raised_nanousd=raised, now_s=now_s)

    def raised(self, page: Page) -> int | None:
        """The budget, in nanodollars, that was raised so far that the page's threshold is no longer crossed; None where it stands."""
        clause = self._clauses().get((page.policy, "budget"))
        charge = clause[0].watched(page.subject) if clause is not None else None
        if charge is None or charge.limit.amount <= page.limit_nanousd:
            return None
        balance, most = self._books.peek(charge), charge.limit.amount
        if balance.window != page.window or not balance.spent:
            return None  # not the budget of the page: its period is another, or its subject is too long for a page to quote it
        # A crash may have lost the last of what was spent, and the page knows of it.
        return most if max(balance.spent, page.spent_nanousd) * 100 < most * page.threshold else None

    def resets(self, now_s: float) -> Iterator[tuple[str, int]]:
        """Each policy with a budget, and when the window turns that is open now: epoch seconds."""
        for (policy, _), (clause, _) in self._clauses().items():
            charge = clause.watched("everyone")
            if charge is not None and isinstance(rule := charge.limit.rule, Quota):
                yield policy, window(rule.period, rule.zone, now_s)[1]

    def _watched(self) -> list[Limit]:
        """The quotas that policies hear of."""
        return [charge.limit for clause, _ in self._clauses().values() if (charge := clause.watched("")) is not None]

    def _clauses(self) -> dict[tuple[str, str], tuple[Clause, bool]]:
        """By policy and kind; with whether it is shadowed."""
        policies = self._policies().policies
        return {(policy.name, clause.clause): (clause, policy.shadow) for policy in policies for clause in policy.clauses}
