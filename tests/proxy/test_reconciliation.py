"""What is compared with what, and when two figures agree."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Usage
from proxy.export import Export, Line, Measure
from proxy.reconciliation import Comparison, reconcile
from proxy.state.books import Books, UsageRow
from tests.books import DAY, NOV_1

ONE = Fraction(1, 100)
COST: Measure = "cost_nanousd"


def ours(*rows: UsageRow) -> Books:
    return Books(rows, ())


def row(model: str = "m", *, day: int = 0, cost: int = 100, source: str = "reported", surface: str = "chat") -> UsageRow:
    usage = Usage(input_tokens=10, output_tokens=5, cached_tokens=4)
    return UsageRow(NOV_1 + day * DAY, None, None, model, surface, source, 2, usage, cost)


def theirs(*lines: Line, surfaces: frozenset[str] | None = None) -> Export:
    return Export(lines, NOV_1, NOV_1 + 7 * DAY, True, surfaces)


def line(model: str | None = "m", cost: int = 100, *, day: int = 0) -> Line:
    return Line(NOV_1 + day * DAY, model, {COST: cost})


def found(books: Books, export: Export) -> list[tuple[int | None, str | None, int | None, int | None]]:
    return [(one.day_s, one.model, one.ours, one.theirs) for one in reconcile(books, export).compared]


def test_line_items_and_sources_of_a_model_on_a_day_are_one_line() -> None:
    books = ours(row(cost=60), row(cost=40, source="estimated"), row(day=1))
    export = theirs(line(cost=30), line(cost=70), line(day=1, cost=90))
    assert found(books, export) == [(NOV_1, "m", 100, 100), (NOV_1 + DAY, "m", 100, 90)]


def test_what_only_one_side_has_is_nothing_on_the_other() -> None:
    assert found(ours(row("a")), theirs(line("b", 7))) == [(NOV_1, "a", 100, None), (NOV_1, "b", None, 7)]


@pytest.mark.parametrize(
    ("name", "booked", "expected"),
    [
        ("gpt-4.1-mini-2025-04-14", ["gpt-4.1-mini"], "gpt-4.1-mini"),
        ("gpt-4-0613", ["gpt-4"], "gpt-4"),
        ("gpt-4.1-mini-2025-04-14", ["gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"], "gpt-4.1-mini-2025-04-14"),
        ("gpt-4.1-mini-2025-04-14", ["gpt-4.1"], "gpt-4.1-mini-2025-04-14"),
        ("gpt-4.1-2025-04-14-preview", ["gpt-4.1"], "gpt-4.1-2025-04-14-preview"),
    ],
)
def test_a_snapshot_is_its_model_only_where_the_books_do_not_have_it_itself(name: str, booked: list[str], expected: str) -> None:
    models = {model for _, model, _, amount in found(ours(*map(row, booked)), theirs(line(name))) if amount is not None}
    assert models == {expected}


def test_where_the_books_have_both_names_and_the_provider_knows_the_snapshot_alone_it_is_compared_with_both() -> None:
    books = ours(row("gpt-4.1", cost=60), row("gpt-4.1-2025-04-14", cost=40), row("gpt-4", cost=5))
    dated = "gpt-4.1-2025-04-14"
    assert found(books, theirs(line(dated))) == [(NOV_1, "gpt-4", 5, None), (NOV_1, dated, 100, 100)]
    apart = [(NOV_1, "gpt-4", 5, None), (NOV_1, "gpt-4.1", 60, 50), (NOV_1, dated, 40, 50)]
    assert found(books, theirs(line("gpt-4.1", 50), line(dated, 50))) == apart
    later = found(books, theirs(line("gpt-4.1-2026-01-01", 50), line(dated, 50)))
    assert later == apart, "a snapshot that the books do not have is the model's"


def test_an_export_that_tells_no_models_apart_is_compared_by_day() -> None:
    result = reconcile(ours(row("a"), row("b")), theirs(line(None, 200)))
    assert not result.by_model
    assert found(ours(row("a"), row("b")), theirs(line(None, 200))) == [(NOV_1, None, 200, 200)]


def test_only_measures_that_the_export_gives_are_compared() -> None:
    export = theirs(Line(NOV_1, "m", {"calls": 2, "input_tokens": 11}), Line(NOV_1, "n", {"calls": 1}))
    result = reconcile(ours(row("m"), row("n")), export)
    assert [(one.model, one.measure, one.ours, one.theirs) for one in result.compared] == [
        ("m", "calls", 2, 2),
        ("m", "input_tokens", 10, 11),
        ("n", "calls", 2, 1),
    ]


def test_calls_that_an_export_is_not_about_are_left_out() -> None:
    books = ours(row(), row("embedder", surface="embeddings"))
    export = theirs(line(), surfaces=frozenset(["chat"]))
    assert found(books, export) == [(NOV_1, "m", 100, 100)]


def test_totals_are_over_what_was_compared() -> None:
    (total,) = reconcile(ours(row(cost=60), row("a", source="counted", cost=40)), theirs(line(cost=50), line("b", 5))).totals
    assert (total.ours, total.theirs, total.unreported) == (100, 55, (40, 100))


@pytest.mark.parametrize(
    ("our", "their", "within"),
    [
        (99, 100, True),
        (101, 100, True),
        (98, 100, False),
        (102, 100, False),
        (None, 0, True),
        (0, None, True),
        (None, 1, False),
        (1, None, False),
        (1, 0, False),
        (-100, -101, True),
    ],
)
def test_tolerance_is_of_theirs(our: int | None, their: int | None, within: bool) -> None:
    assert Comparison(NOV_1, "m", COST, our, their, (0, 0)).within(ONE) is within


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_without_tolerance_every_nanodollar_counts(our: int, their: int) -> None:
    assert Comparison(NOV_1, "m", COST, our, their, (0, 0)).within(Fraction(0)) is (our == their)


AMOUNTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 10**12)), max_size=20)


@given(AMOUNTS)
def test_an_export_of_the_books_themselves_agrees_to_the_nanodollar(amounts: list[tuple[str, int, int]]) -> None:
    result = reconcile(
        ours(*(row(model, day=day, cost=cost) for model, day, cost in amounts)),
        theirs(*(line(model, cost, day=day) for model, day, cost in amounts)),
    )
    assert result.differing(Fraction(0)) == ()
    assert sum(one.ours or 0 for one in result.compared) == sum(cost for _, _, cost in amounts)
