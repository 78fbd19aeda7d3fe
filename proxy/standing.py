"""Which alarms stand, as the policies in force and the spend so far have it: asked at the start and after every reload.

A call that settles raises what it crosses. What crossed without one is found here: spend of before a restart whose notice was lost with
the process, and a limit that a reload lowered or raised. The rule a reader could break: in doubt an alarm stands.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from proxy.clock import Clock
from proxy.page import Page
from proxy.policy.contract import Balance, Charge, Clause, Limit, Notice, Quota
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

    def notices(self) -> Iterator[tuple[Notice, ...]]:
        """What the spend of windows that are open calls for, raised before or not: for each that is looked at, mostly nothing.

        One by one, so that whoever asks can give others their turn: users come by the hundred thousand.
        """
        clauses, now_s = self._clauses(), self._clock.wall_s()
        for spend in self._books.spends():
            clause, shadowed = clauses.get((spend.policy, spend.clause), (None, False))
            charge = clause.watched(spend.subject) if clause is not None else None
            found: tuple[Notice, ...] = ()
            if clause is not None and charge is not None and _reached(spend, charge.limit, now_s):
                held = Charge(charge.limit, spend.subject, 0, enforced=charge.enforced and not shadowed)
                found = clause.settled(Balance(held, remaining=0, reset_s=0.0, spent=spend.spent, window=spend.window))
            yield found

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

    def resets(self) -> Iterator[tuple[str, int]]:
        """Each policy with a budget, and when the window turns that is open now: epoch seconds."""
        now_s = self._clock.wall_s()
        for (policy, _), (clause, _) in self._clauses().items():
            charge = clause.watched("everyone")
            if charge is not None and isinstance(rule := charge.limit.rule, Quota):
                yield policy, window(rule.period, rule.zone, now_s)[1]

    def _clauses(self) -> dict[tuple[str, str], tuple[Clause, bool]]:
        """By policy and kind; with whether it is shadowed."""
        policies = self._policies().policies
        return {(policy.name, clause.clause): (clause, policy.shadow) for policy in policies for clause in policy.clauses}


def _reached(spend: Spend, limit: Limit, now_s: float) -> bool:
    """Whether so much of this quota is spent in its current window that its clause wants to hear of it."""
    if limit.unit is not spend.unit or limit.told_from is None or spend.spent < limit.told_from:
        return False
    assert isinstance(limit.rule, Quota)
    return spend.window == window(limit.rule.period, limit.rule.zone, now_s)
