"""The figures of one run: medians with their spread, and the ratio of Tollhouse to the bare relay within each round."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. digits: after the point."""

    key: str
    title: str
    digits: int
    more_is_better: bool = False


FIGURES = (
    Figure("request_1k_us", "CPU µs per request, 1 kB prompt, 32 connections", 0),
    Figure("request_32k_us", "CPU µs per request, 32 kB prompt, 32 connections", 0),
    Figure("event_us", "CPU µs per SSE event, 100 streams × 50 events/s", 1),
    Figure("requests_s", "requests/s on one core, 1 kB prompt, 32 connections", 0, more_is_better=True),
    Figure("added_p50_us", "added latency p50, µs, one connection", 0),
    Figure("added_p99_us", "added latency p99, µs, one connection", 0),
    Figure("first_token_p50_us", "first token p50, µs, while 100 streams run", 0),
    Figure("first_token_p99_us", "first token p99, µs, while 100 streams run", 0),
    Figure("rss_idle_mib", "RSS idle, MiB", 1),
    Figure("rss_after_mib", "RSS after the load, MiB", 1),
    Figure("cold_start_s", "cold start: process start to first 200, s", 2),
)


@dataclass(slots=True)
class Report:
    """What was measured so far: for every figure and subject one value per round."""

    baseline: str
    subject: str
    values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, subject: str, **figures: float) -> None:
        for key, value in figures.items():
            self.values[key][subject].append(value)

    def ratios(self, key: str) -> list[float]:
        """Round by round, because the machine's mood changes more between rounds than within one."""
        pairs = zip(self.values[key][self.subject], self.values[key][self.baseline], strict=True)
        return [mine / theirs for mine, theirs in pairs if theirs > 0]

    def best_ratio(self, figure: Figure) -> float | None:
        """Of the best round of each: what is left when the neighbours are quiet. None where nothing was added at best."""
        best = max if figure.more_is_better else min
        mine, theirs = (best(self.values[figure.key][name]) for name in (self.subject, self.baseline))
        return mine / theirs if theirs > 0 else None

    def table(self) -> str:
        lines = [f"| | {self.baseline} | {self.subject} | ratio | ratio of the best |", "|---|---|---|---|---|"]
        for figure in FIGURES:
            best = self.best_ratio(figure)
            cells = (
                figure.title,
                _spread(self.values[figure.key][self.baseline], figure.digits),
                _spread(self.values[figure.key][self.subject], figure.digits),
                _spread(self.ratios(figure.key), 2),
                "–" if best is None else f"{best:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        return {
            figure.key: {
                "title": figure.title,
                **{name: {"median": median(v), "rounds": v} for name, v in self.values[figure.key].items()},
                "ratio": {"median": median(self.ratios(figure.key)), "rounds": self.ratios(figure.key)},
                "ratio_of_the_best": self.best_ratio(figure),
            }
            for figure in FIGURES
        }


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    low, mid, high = (f"{v:.{digits}f}" for v in (min(values), median(values), max(values)))
    return mid if low == high else f"{mid} ({low}–{high})"
