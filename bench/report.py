"""The figures of one run: medians with their spread, ratios within each round, and whether the goals are met.

The rule a reader could break: a ratio is taken between two values of the same round, because the machine's mood changes more between
rounds than within one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from typing import Any

from bench.figures import FIGURES, Figure, Goal


def percentiles(nanoseconds: Sequence[int]) -> tuple[float, float]:
    """p50 and p99 in µs; nothing has none."""
    if not nanoseconds:
        return 0.0, 0.0
    ordered = sorted(nanoseconds)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] / 1000 for part in (0.50, 0.99))
    return p50, p99


@dataclass(slots=True)
class Report:
    """What was measured so far. names: the subjects in the order of the columns, the limit (if there is one) first.

    values: for every figure and subject one value per round. behind: windows that were measured again. series: of a full scrape.
    judged: the goals apply, since the subject is Tollhouse.
    """

    names: tuple[str, ...]
    limit: str
    baseline: str
    subject: str
    values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    replies: int = 0
    reply_bytes: int = 0
    behind: int = 0
    series: int = 0
    judged: bool = True
    shares: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, subject: str, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            self.values[key][subject].append(value)

    def compared(self, replies: int, body_bytes: int) -> None:
        """So many were whole, and as expected."""
        self.replies += replies
        self.reply_bytes += body_bytes

    def busy(self, subject: str, share: float) -> None:
        """The share of its core that it used under 32 or more connections."""
        self.shares["calls"][subject].append(share)

    def flat_out_busy(self, subject: str, share: float) -> None:
        self.shares["flat out"][subject].append(share)

    def busy_shares(self, kind: str) -> dict[str, float]:
        """Medians."""
        return {name: median(self.shares[kind][name]) for name in self.names if self.shares[kind][name]}

    def ratios(self, key: str, other: str) -> list[float]:
        """Round by round. None at all where the other added nothing in some round: what is left would be chance."""
        pairs = list(zip(self.values[key][self.subject], self.values[key][other], strict=False))
        return [mine / theirs for mine, theirs in pairs] if all(theirs > 0 for _, theirs in pairs) else []

    def best_ratio(self, figure: Figure) -> float | None:
        """Of the best round of each: what is left when the neighbours are quiet. None where nothing was added at best."""
        best = max if figure.more_is_better else min
        both = [self.values[figure.key][name] for name in (self.subject, self.baseline)]
        if not all(both):
            return None
        mine, theirs = map(best, both)
        return mine / theirs if theirs > 0 else None

    def reached(self, figure: Figure, goal: Goal) -> float | None:
        """The median that the goal is about; None when it was not measured."""
        values = self.values[figure.key][self.subject] if goal.of == "itself" else self.ratios(figure.key, goal.of)
        return median(values) if values else None

    def verdict(self, figure: Figure, goal: Goal) -> str:
        """must first, then aim."""
        reached, of = self.reached(figure, goal), "" if goal.of == "itself" else f" × {goal.of}"
        said = "not measured" if reached is None else "met" if reached <= goal.must else "**missed**"
        aim = "" if reached is None else ": met" if reached <= goal.aim else ": not yet"
        return f"≤ {goal.must:g}{of}: {said}; aim ≤ {goal.aim:g}{aim}"

    def score(self) -> str:
        """How many goals are met, in words. Empty when there are none to meet."""
        if not self.judged:
            return ""
        goals = [(goal, self.reached(figure, goal)) for figure in FIGURES for goal in figure.goals]
        known = [(goal, reached) for goal, reached in goals if reached is not None]
        musts = sum(reached <= goal.must for goal, reached in known)
        aims = sum(reached <= goal.aim for goal, reached in known)
        unknown = f"; {len(goals) - len(known)} not measured" if len(known) < len(goals) else ""
        return f"Goals: {musts} of {len(known)} met, {aims} of {len(known)} as well as aimed for{unknown}."

    def left_out(self) -> list[str]:
        """Titles of the rows that this run did not measure; a row that is part of another goes without saying."""
        missing = [figure.title for figure in FIGURES if not self.values[figure.key][self.subject]]
        return [title for title in missing if not title.startswith("–")]

    def table(self) -> str:
        ratios = [f"÷ {self.baseline}", "÷ of the best", *([f"÷ {self.limit}"] if self.limit in self.names else [])]
        heads = ["", *self.names, *ratios, "goal"]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        measured = [figure for figure in FIGURES if self.values[figure.key][self.subject]]
        for group, figures in groupby(measured, key=lambda figure: figure.group):
            lines.append(f"| **{group}** |" + " |" * (len(heads) - 1))
            lines += [f"| {' | '.join(self._cells(figure))} |" for figure in figures]
        return "\n".join(lines)

    def _cells(self, figure: Figure) -> list[str]:
        values = [_spread(self.values[figure.key][name], figure.digits) for name in self.names]
        best = self.best_ratio(figure)
        ratios = [_spread(self.ratios(figure.key, self.baseline), 2), "–" if best is None else f"{best:.2f}"]
        if self.limit in self.names:
            ratios.append(_spread(self.ratios(figure.key, self.limit), 2))
        goals = "<br>".join(self.verdict(figure, goal) for goal in figure.goals if self.judged)
        return [figure.title, *values, *ratios, goals]

    def json(self) -> dict[str, Any]:
        """Every round of every row."""
        return {figure.key: self._row(figure) for figure in FIGURES if self.values[figure.key][self.subject]}

    def _row(self, figure: Figure) -> dict[str, Any]:
        measured = {name: values for name, values in self.values[figure.key].items() if values}
        others = [name for name in (self.baseline, self.limit) if name in measured]
        return {
            "title": figure.title,
            **{name: {"median": median(values), "rounds": values} for name, values in measured.items()},
            "ratios": {name: self.ratios(figure.key, name) for name in others},
            "ratio_of_the_best": self.best_ratio(figure),
            "goals": [
                {"of": goal.of, "must": goal.must, "aim": goal.aim, "reached": self.reached(figure, goal)} for goal in figure.goals
            ],
        }


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    low, mid, high = (f"{v:.{digits}f}" for v in (min(values), median(values), max(values)))
    return mid if low == high else f"{mid} ({low}–{high})"
