"""What is measured while a soak runs, over time: memory, descriptors, loop lag, and the pace of a steady probe.

The rule a reader could break: the first windows warm up and are shown, but nothing is compared with them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

WINDOWS = 15
SETTLED = 3  # the first window that counts, by its index
_BUCKET = re.compile(r'^tollhouse_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
_CALLS = re.compile(r"^tollhouse_call_seconds_count\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """at_s: since the start. lag: how often the loop was at most so many seconds late, by these, so far; calls: that were admitted."""

    at_s: float
    rss: int
    descriptors: int
    lag: dict[float, int]
    calls: int

    @classmethod
    def of(cls, at_s: float, *, rss: int, descriptors: int, metrics: str) -> "Sample":
        lag = {float(edge): int(float(count)) for edge, count in _BUCKET.findall(metrics)}
        return cls(at_s, rss, descriptors, lag, sum(int(float(count)) for count in _CALLS.findall(metrics)))


@dataclass(frozen=True, slots=True)
class Window:
    """One line of the table. rss: median of its samples, bytes; lag_s: the edge of the bucket of its longest lateness."""

    begins_s: float
    ends_s: float
    rss: float
    descriptors: float
    calls_s: float
    lag_s: float
    p50_s: float
    p99_s: float
    control_s: float  # the 99th percentile of the same calls past the proxy: what the machine did


@dataclass(slots=True)
class Series:
    """samples: in their order. probes: when each ended since the start, and its seconds; controls: of the same calls past the proxy."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    probes: list[tuple[float, float]] = field(default_factory=list)
    controls: list[tuple[float, float]] = field(default_factory=list)

    def windows(self) -> list[Window]:
        each = self.seconds / WINDOWS
        return [window for n in range(WINDOWS) if (window := self._window(n * each, (n + 1) * each)) is not None]

    def _window(self, begins_s: float, ends_s: float) -> Window | None:
        samples = [one for one in self.samples if begins_s <= one.at_s < ends_s]
        probes = sorted(seconds for at_s, seconds in self.probes if begins_s <= at_s < ends_s)
        controls = sorted(seconds for at_s, seconds in self.controls if begins_s <= at_s < ends_s)
        if len(samples) < 2 or not probes or not controls:
            return None
        first, last = samples[0], samples[-1]
        late = [
            edge
            for edge in sorted(last.lag)
            if last.lag[edge] - first.lag[edge] >= last.lag[max(last.lag)] - first.lag[max(last.lag)]
        ]
        return Window(
            begins_s,
            ends_s,
            median(one.rss for one in samples),
            median(one.descriptors for one in samples),
            (last.calls - first.calls) / (last.at_s - first.at_s),
            late[0],
            median(probes),
            probes[int(len(probes) * 0.99)],
            controls[int(len(controls) * 0.99)],
        )


def drift(values: Sequence[float], *, over: int = 1) -> float:
    """By how much the last is above the first that counts, as a share. over: the medians of so many are compared."""
    first = min(SETTLED, len(values) - 1)
    return median(values[-over:]) / median(values[first : first + over]) - 1


def table(windows: Sequence[Window]) -> str:
    lines = [
        "| from–to, min | calls/s | RSS, MiB | descriptors | loop late, most ms | probe p50, ms | p99, ms | past Tollhouse p99, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for w in windows:
        cells = (
            f"{w.begins_s / 60:.1f}–{w.ends_s / 60:.1f}",
            f"{w.calls_s:.0f}",
            f"{w.rss / (1 << 20):.1f}",
            f"{w.descriptors:.0f}",
            f"{w.lag_s * 1e3:g}",
            f"{w.p50_s * 1e3:.2f}",
            f"{w.p99_s * 1e3:.1f}",
            f"{w.control_s * 1e3:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
