"""The clause `budget`: money in a calendar window."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import Budget
from proxy.policy.contract import Balance, Charge, Quota, Unit
from proxy.policy.scalar import Wrong
from tests.policies.calls import FREE, PRICE, a_call

USD = 1_000_000_000
DAY = (1_767_225_600, 1_767_312_000)


def budget(**fields: Any) -> Budget:
    return Budget(**{"policy": "everyone", "usd": 50 * USD, "per": "day", **fields})


def balance(clause: Budget, *, spent: int, held: int = 0, window: tuple[int, int] | None = DAY) -> Balance:
    (charge,) = clause.charges(a_call())
    return Balance(charge, remaining=0, reset_s=0.0, spent=spent, held=held, window=window)


def noticed(clause: Budget, spent: int) -> list[int]:
    """Thresholds of the notices that so much spend raises, in nanodollars: nobody asks the clause before it wants to be told."""
    one = balance(clause, spent=spent)
    told_from = one.charge.limit.told_from
    if told_from is None or spent < told_from:
        return []
    notices = clause.settled(one)
    assert notices
    return [notice.threshold for notice in notices]


def test_the_most_a_call_can_cost_is_held_for_everyone() -> None:
    (charge,) = budget(when_spent="reject").charges(a_call(input_bound=1000, cap=1000, choices=2))
    assert charge.amount == PRICE.worst_nanousd(input_tokens=1000, output_tokens=2000) == 9_000_000
    assert (charge.subject, charge.limit.rule) == ("everyone", Quota(50 * USD, "day", "UTC"))
    assert (charge.limit.unit, charge.limit.error) == (Unit.NANOUSD, "budget_exceeded")


@pytest.mark.parametrize(("when_spent", "enforced"), [("alarm", False), ("reject", True)])
def test_only_a_rejecting_budget_refuses(when_spent: str, enforced: bool) -> None:
    (charge,) = budget(when_spent=when_spent).charges(a_call())
    assert charge.enforced is enforced


@pytest.mark.parametrize(
    ("price", "charged"),
    [(PRICE, True), (None, False), (FREE, False), (replace(FREE, output=1), True), (replace(FREE, input=1), True)],
)
def test_only_a_call_that_can_cost_something_meets_the_budget(price: Any, charged: bool) -> None:
    """Also where nothing is held because no bound on the output is known: what it did cost is then counted at the end."""
    assert bool(budget().charges(a_call(price=price, input_bound=0, cap=None))) is charged


@pytest.mark.parametrize(
    ("spent_usd", "thresholds"),
    [
        ("0", []),
        ("24.999999999", []),
        ("25", [50]),
        ("39.999999999", [50]),
        ("40", [50, 80]),
        ("50", [50, 80, 100]),
        ("80", [50, 80, 100]),
    ],
)
def test_every_threshold_that_is_reached_is_noticed(spent_usd: str, thresholds: list[int]) -> None:
    whole, _, part = spent_usd.partition(".")
    spent = int(whole) * USD + int(part.ljust(9, "0"))
    clause = budget()
    assert noticed(clause, spent) == thresholds


@given(st.lists(st.integers(1, 200), max_size=4).map(tuple), st.integers(1, 10**13), st.integers(0, 3 * 10**13))
def test_a_threshold_is_noticed_from_the_very_nanodollar_that_reaches_it(alarm_at: tuple[int, ...], usd: int, spent: int) -> None:
    clause = budget(usd=usd, alarm_at=alarm_at, when_spent="reject")
    for amount in (spent, *(-(-usd * percent // 100) - early for percent in alarm_at for early in (0, 1))):
        reached = [percent for percent in alarm_at if amount * 100 >= usd * percent]
        assert noticed(clause, amount) == reached


def test_what_is_only_held_raises_no_alarm() -> None:
    clause = budget()
    assert clause.settled(balance(clause, spent=0, held=50 * USD)) == ()


def test_a_notice_says_whose_money_where_it_stands_and_who_is_told() -> None:
    clause = budget(by=("key",), page=("oncall", "team"), alarm_at=(80,), when_spent="reject")
    (notice,) = clause.settled(balance(clause, spent=41 * USD))
    assert (notice.policy, notice.subject, notice.threshold) == ("everyone", "key=web", 80)
    assert (notice.spent_nanousd, notice.limit_nanousd, notice.window) == (41 * USD, 50 * USD, DAY)
    assert (notice.to, notice.refuses, notice.zone) == (("oncall", "team"), True, "UTC")


@pytest.mark.parametrize(("page", "traced"), [((), False), (("oncall",), True)])
def test_who_spends_is_remembered_only_where_somebody_is_told(page: tuple[str, ...], traced: bool) -> None:
    (charge,) = budget(page=page).charges(a_call())
    assert charge.limit.traced is traced


@pytest.mark.parametrize(("when_spent", "enforced"), [("alarm", False), ("reject", True)])
def test_what_is_watched_is_the_quota_that_calls_are_charged_on(when_spent: str, enforced: bool) -> None:
    clause = budget(by=("key",), when_spent=when_spent)
    (charge,) = clause.charges(a_call())
    assert clause.watched("key=web") == replace(charge, amount=0)
    assert charge.enforced is enforced


def test_a_shadowed_budget_does_not_say_that_it_refuses() -> None:
    clause = budget(when_spent="reject")
    (charge,) = clause.charges(a_call())
    shadowed = Balance(Charge(charge.limit, charge.subject, 0, enforced=False), remaining=0, reset_s=0, spent=50 * USD, window=DAY)
    assert {notice.refuses for notice in clause.settled(shadowed)} == {False}


def test_the_same_facts_make_the_same_page() -> None:
    clause = budget()
    first, again = (clause.settled(balance(clause, spent=spent)) for spent in (26 * USD, 27 * USD))
    assert [n.dedup for n in first] == [n.dedup for n in again]


def test_without_a_window_there_is_nothing_to_notice() -> None:
    clause = budget()
    assert clause.settled(balance(clause, spent=99 * USD, window=None)) == ()


@pytest.mark.parametrize(
    "fields", [{"alarm_at": ()}, {"alarm_at": (), "when_spent": "reject", "page": ("team",)}, {"by": ("everyone", "key")}]
)
def test_a_budget_that_could_not_do_what_it_says_is_a_mistake(fields: dict[str, Any]) -> None:
    with pytest.raises(Wrong):
        budget(**fields)
