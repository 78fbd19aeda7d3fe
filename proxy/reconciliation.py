"""The books held against a provider's export: by UTC day and model, measure by measure, where they differ.

The rule a reader could break: only what both could know is compared. A measure that the export does not give, a day that it does not
cover and calls that it is not about make no difference.
"""

import re
from collections.abc import Collection, Mapping, Sequence
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
    rows = [row for row in books.rows if export.surfaces is None or row.surface in export.surfaces]
    our_name, their_name = _names({row.model for row in rows if row.model}, {line.model for line in export.lines if line.model})
    ours: dict[Place, list[UsageRow]] = {}
    for row in rows:
        if row.hour_s is not None:
            model = our_name.get(row.model or "", row.model) if by_model else None
            ours.setdefault((row.hour_s // DAY_S * DAY_S, model), []).append(row)
    theirs: dict[Place, dict[Measure, int]] = {}
    for line in export.lines:
        sums = theirs.setdefault((line.day_s, their_name.get(line.model or "", line.model)), {})
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


def _names(ours: Collection[str], theirs: Collection[str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Under which name a model of ours, and one of theirs, is compared, where that is not its own.

    A dated snapshot is its model, unless the books have it by its own name. Where the books have both, and the provider knows the
    snapshot alone, calls to either are told as the snapshot's there, and so here.
    """
    snapshots: dict[str, list[str]] = {}
    for name in theirs:
        undated = _SNAPSHOT.sub("", name)
        if undated != name and undated in ours:
            snapshots.setdefault(undated, []).append(name)
    our_name: dict[str, str] = {}
    their_name: dict[str, str] = {}
    for undated, names in snapshots.items():
        their_name.update((name, undated) for name in names if name not in ours)
        if undated not in theirs and len(names) == 1 and names[0] in ours:
            our_name[undated] = names[0]
    return our_name, their_name


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
