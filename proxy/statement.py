"""A statement: the books told group by group, dearest first, with what is held and where the figures come from.

The rule a reader could break: what is open is not spent. Holds stand beside the cost and are in no sum of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from proxy.state.books import CLASSES, DAY_S, Books, Column, UsageRow
from proxy.state.totals import HOUR_S, OpenHold

Word = Column | Literal["source"]
WORDS: tuple[Word, ...] = (*get_args(Column), "source")
SOURCES = ("reported", "counted", "estimated", "recovered")


@dataclass(slots=True)
class Group:
    """Sums of one group. name: a text for each word that groups are told apart by. sources: nanodollars and calls by source.

    held_nanousd, held_tokens: over holds that are open now.
    """

    name: tuple[str, ...]
    calls: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    cost_nanousd: int = 0
    sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    holds: int = 0
    held_nanousd: int = 0
    held_tokens: int = 0

    def add(self, row: UsageRow) -> None:
        self.calls += row.calls
        self.cost_nanousd += row.cost_nanousd
        for name in CLASSES:
            self.tokens[name] += getattr(row.usage, name)
        cost_nanousd, calls = self.sources.get(row.source, (0, 0))
        self.sources[row.source] = cost_nanousd + row.cost_nanousd, calls + row.calls

    def hold(self, hold: OpenHold) -> None:
        self.holds += 1
        self.held_nanousd += hold.nanousd
        self.held_tokens += hold.tokens

    def share(self, source: str) -> tuple[int, int]:
        """(part, whole) of the cost that comes from a source; of the calls, where they cost nothing."""
        cost_nanousd, calls = self.sources.get(source, (0, 0))
        return (cost_nanousd, self.cost_nanousd) if self.cost_nanousd else (calls, self.calls)

    def figures(self) -> dict[str, Any]:
        """As JSON, without the name."""
        return {
            "calls": self.calls,
            **self.tokens,
            "cost_nanousd": self.cost_nanousd,
            "holds": self.holds,
            "held_nanousd": self.held_nanousd,
            "held_tokens": self.held_tokens,
            "cost_nanousd_by_source": {source: self.sources.get(source, (0, 0))[0] for source in SOURCES},
        }


@dataclass(frozen=True, slots=True)
class Statement:
    by: Sequence[Word]
    groups: Sequence[Group]
    total: Group


def statement(books: Books, by: Sequence[Word]) -> Statement:
    """books: told apart at least by `by`. A hold is of the hour and day in which it began, and its source is `held`."""
    groups: dict[tuple[str, ...], Group] = {}
    total = Group(())
    for row in books.rows:
        name = tuple(_of_row(row, by))
        groups.setdefault(name, Group(name)).add(row)
        total.add(row)
    for hold in books.holds:
        name = tuple(_of_hold(hold, by))
        groups.setdefault(name, Group(name)).hold(hold)
        total.hold(hold)
    ordered = sorted(groups.values(), key=lambda group: (-group.cost_nanousd, -group.held_nanousd, -group.calls, group.name))
    return Statement(by, ordered, total)


def moment(epoch_s: float, *, step_s: int = HOUR_S) -> str:
    """UTC, to the minute, or to the day for steps of a day."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d" if step_s == DAY_S else "%Y-%m-%d %H:%M")


def _of_row(row: UsageRow, by: Sequence[Word]) -> Iterator[str]:
    for word in by:
        if word in ("hour", "day"):
            yield moment(row.hour_s or 0, step_s=DAY_S if word == "day" else HOUR_S)
        else:
            yield getattr(row, word)


def _of_hold(hold: OpenHold, by: Sequence[Word]) -> Iterator[str]:
    for word in by:
        if word in ("hour", "day"):
            step_s = DAY_S if word == "day" else HOUR_S
            yield moment(hold.began_s // step_s * step_s, step_s=step_s)
        else:
            yield "held" if word == "source" else getattr(hold.holder, word)
