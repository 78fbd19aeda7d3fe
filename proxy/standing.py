"""Which alarms stand, as the policies in force and the spend so far have it: asked at the start and after every reload.

A call that settles raises what it crosses. What crossed without one is found here: spend of before a restart whose notice was lost with
the process, and a limit that a reload lowered or raised. The rule a reader could break: in doubt an alarm stands.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from proxy.clock import Clock
from proxy.page import Page
from proxy.policy.contract import Balance, Charge, Clause, Notice, Quota
from proxy.policy.policyset import PolicySet
from proxy.state.arithmetic import window
from proxy.state.memory import Spend


class Books(Protocol):
    """The part of a store that knows what was spent."""

    def spends(self) -> Iterator[Spend]: ...

    def peek(self, charge: Charge) -> Balance: ...


class Standing:
    """Asks the policies in force about the spend in a store."""

    def __init__(self, policies: Callable[[], PolicySet], books: Books, clock: Clock) -> None:
        self._policies = policies
        self._books = books
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Standing under {self._policies().version}>"

    def notices(self) -> list[Notice]:
        """What the spend of windows that are open calls for, raised before or not."""
        clauses, now_s = self._clauses(), self._clock.wall_s()
        found: list[Notice] = []
        for spend in self._books.spends():
            clause = clauses.get((spend.policy, spend.clause))
            charge = clause[0].watched(spend.subject) if clause is not None else None
            if clause is None or charge is None:
                continue
            limit = charge.limit
            if limit.unit is not spend.unit or limit.told_from is None or spend.spent < limit.told_from:
                continue
            assert isinstance(limit.rule, Quota)
            if spend.window == window(limit.rule.period, limit.rule.zone, now_s):
                held = Charge(limit, spend.subject, 0, enforced=charge.enforced and not clause[1])
                found += clause[0].settled(Balance(held, remaining=0, reset_s=0.0, spent=spend.spent, window=spend.window))
        return found

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

    def _clauses(self) -> dict[tuple[str, str], tuple[Clause, bool]]:
        """By policy and kind; with whether it is shadowed."""
        policies = self._policies().policies
        return {(policy.name, clause.clause): (clause, policy.shadow) for policy in policies for clause in policy.clauses}
