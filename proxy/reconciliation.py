"""The books held against a provider's export: by UTC day and model, measure by measure, where they differ.

The rule a reader could break: only what both could know is compared. A measure that the export does not give, a day that it does not
cover and calls that it is not about make no difference.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

from proxy.export import Export, Measure
from proxy.state.books import DAY_S, Books, UsageRow

MEASURES: Sequence[Measure] = ("cost_nanousd", "calls", "input_tokens", "cached_tokens", "output_tokens")
_SNAPSHOT = re.compile(r"-(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4})\Z")

Place = tuple[int, str | None]  # epoch second of the UTC day, model; None where models are not told apart


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of one day and model, or of all. None: that side has nothing there.

    unreported: (part, whole) of our figure's cost, or calls where it costs nothing, that no upstream reported.
    """

    day_s: int | None
    model: str | None
    measure: Measure
    ours: int | None
    theirs: int | None
    unreported: tuple[int, int]

    @property
    def difference(self) -> int:
        return (self.ours or 0) - (self.theirs or 0)

    def within(self, tolerance: Fraction) -> bool:
        """tolerance: of theirs. Nothing on one side agrees with zero on the other."""
        return abs(self.difference) <= tolerance * abs(self.theirs or 0)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """compared: in the order of days and models; totals: one for each measure; by_model: whether the export tells models apart."""

    compared: tuple[Comparison, ...]
    totals: tuple[Comparison, ...]
    by_model: bool

    def differing(self, tolerance: Fraction) -> tuple[Comparison, ...]:
        return tuple(one for one in self.compared if not one.within(tolerance))


def reconcile(books: Books, export: Export) -> Reconciliation:
    """books: of the export's span, told apart by day, model and surface."""
    by_model = any(line.model is not None for line in export.lines)
    ours: dict[Place, list[UsageRow]] = {}
    for row in books.rows:
        if row.hour_s is not None and (export.surfaces is None or row.surface in export.surfaces):
            ours.setdefault((row.hour_s // DAY_S * DAY_S, row.model if by_model else None), []).append(row)
    theirs: dict[Place, dict[Measure, int]] = {}
    known = {model for _, model in ours}
    for line in export.lines:
        sums = theirs.setdefault((line.day_s, _matched(line.model, known) if by_model else None), {})
        for measure, amount in line.amounts.items():
            sums[measure] = sums.get(measure, 0) + amount
    measures = [measure for measure in MEASURES if any(measure in sums for sums in theirs.values())]
    compared = [
        _compared(place, measure, ours.get(place, ()), theirs.get(place))
        for place in sorted({*ours, *theirs}, key=lambda place: (place[0], place[1] or ""))
        for measure in measures
        if place not in theirs or measure in theirs[place]
    ]
    return Reconciliation(tuple(compared), tuple(_total(compared, measure) for measure in measures), by_model)


def _matched(model: str | None, known: set[str | None]) -> str | None:
    """The name that the books have for a model: its own, or that of which it is a dated snapshot."""
    if model is None or model in known:
        return model
    undated = _SNAPSHOT.sub("", model)
    return undated if undated in known else model


def _compared(place: Place, measure: Measure, rows: Sequence[UsageRow], theirs: Mapping[Measure, int] | None) -> Comparison:
    ours = sum(_figure(row, measure) for row in rows) if rows else None
    return Comparison(*place, measure, ours, theirs[measure] if theirs is not None else None, _unreported(rows))


def _total(compared: Sequence[Comparison], measure: Measure) -> Comparison:
    own = [one for one in compared if one.measure == measure]
    parts = [one.unreported for one in own]
    return Comparison(
        None,
        None,
        measure,
        sum(one.ours or 0 for one in own),
        sum(one.theirs or 0 for one in own),
        (sum(part for part, _ in parts), sum(whole for _, whole in parts)),
    )


def _figure(row: UsageRow, measure: Measure) -> int:
    found: int = getattr(row if measure in _OF_ROWS else row.usage, measure)
    return found


_OF_ROWS = {f.name for f in fields(UsageRow)}


def _unreported(rows: Sequence[UsageRow]) -> tuple[int, int]:
    by_cost = any(row.cost_nanousd for row in rows)
    sizes = [(row.source, row.cost_nanousd if by_cost else row.calls) for row in rows]
    return sum(size for source, size in sizes if source != "reported"), sum(size for _, size in sizes)
