"""Groups: every row and hold is in exactly one, the total is of all, and what is open is in no cost."""

from proxy.call import Usage
from proxy.policy.contract import Unit
from proxy.state.books import Books, UsageRow
from proxy.state.contract import Holder
from proxy.state.totals import OpenHold
from proxy.statement import moment, statement
from tests.books import DAY, NOV_1


def row(key: str, *, source: str = "reported", cost: int = 100, calls: int = 1, hour_s: int | None = NOV_1) -> UsageRow:
    usage = Usage(input_tokens=10 * calls, output_tokens=5 * calls)
    return UsageRow(hour_s, key, "ada", "gpt-4.1", "chat", source, calls, usage, cost)


def hold(id: int, key: str, *, nanousd: int = 7, began_s: float = NOV_1) -> OpenHold:
    amounts = tuple(
        (("everyone", "budget", "everyone", unit, (0, 1)), held) for unit, held in ((Unit.NANOUSD, nanousd), (Unit.TOKENS, 30))
    )
    return OpenHold(id, Holder(key, "ada", "gpt-4.1", "chat"), began_s, began_s + 900, amounts)


def test_sources_of_a_group_are_summed_and_remembered() -> None:
    told = statement(Books((row("a"), row("a", source="estimated", cost=300), row("b", cost=50)), ()), ("key",))
    assert [(group.name, group.cost_nanousd, group.calls) for group in told.groups] == [(("a",), 400, 2), (("b",), 50, 1)]
    assert told.groups[0].share("reported") == (100, 400)
    assert told.groups[0].share("estimated") == (300, 400)
    assert told.groups[0].share("counted") == (0, 400)
    assert (told.total.cost_nanousd, told.total.calls, told.total.tokens["input_tokens"]) == (450, 3, 30)


def test_where_nothing_costs_anything_shares_are_of_calls() -> None:
    told = statement(Books((row("a", cost=0, calls=3), row("a", cost=0, source="counted")), ()), ("key",))
    assert told.total.share("counted") == (1, 4)


def test_holds_stand_beside_the_cost_also_where_nothing_was_used_yet() -> None:
    told = statement(Books((row("a"),), (hold(1, "a"), hold(2, "a"), hold(3, "b"))), ("key",))
    assert [(group.name, group.cost_nanousd, group.holds, group.held_nanousd) for group in told.groups] == [
        (("a",), 100, 2, 14),
        (("b",), 0, 1, 7),
    ]
    assert (told.total.cost_nanousd, told.total.holds, told.total.held_nanousd, told.total.held_tokens) == (100, 3, 21, 90)


def test_the_dearest_comes_first_and_equal_ones_always_in_the_same_order() -> None:
    rows = (row("b"), row("c", cost=900), row("a"), row("d", calls=2))
    names = [group.name for group in statement(Books(rows, ()), ("key",)).groups]
    assert names == [("c",), ("d",), ("a",), ("b",)]
    assert names == [group.name for group in statement(Books(rows[::-1], ()), ("key",)).groups]


def test_a_group_is_named_in_the_order_of_the_words() -> None:
    books = Books((row("a", hour_s=NOV_1 + 3600),), (hold(1, "a", began_s=NOV_1 + DAY + 3661),))
    told = statement(books, ("model", "hour", "day", "source", "key"))
    assert [group.name for group in told.groups] == [
        ("gpt-4.1", "2026-11-01 01:00", "2026-11-01", "reported", "a"),
        ("gpt-4.1", "2026-11-02 01:00", "2026-11-02", "held", "a"),
    ]


def test_moments_are_in_utc() -> None:
    assert moment(NOV_1 + 61) == "2026-11-01 00:01"
