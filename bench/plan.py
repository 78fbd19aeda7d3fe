"""How often and how long. Times in seconds."""

from dataclasses import dataclass

from bench.wire import Stream


@dataclass(frozen=True, slots=True)
class Show:
    """One window of paced streams. apart_s: between the starts of two; probe_s: how long first tokens are asked for after it, or 0."""

    streams: int
    pace_s: float
    apart_s: float
    window_s: float
    probe_s: float = 0.0
    settle_s: float = 0.05

    @property
    def stream(self) -> Stream:
        """The first lasts until window and probes are over, with some room for a slow machine."""
        open_s = self.streams * self.apart_s + self.settle_s + self.window_s + self.probe_s
        return Stream(round((open_s * 1.1 + 0.15) / self.pace_s) + 1, self.pace_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """A round has so many slices of each closed loop, in which the subjects take turns, and one window of each show for each.

    Short turns, because a neighbour's load on a shared machine then falls on all subjects alike. crowd: the window on a fresh
    process, whose memory tells what an open stream takes; None leaves it out. stall_rounds: those that look at the event loop.
    times_judged: how many times as many slices a loop has that a goal is about.
    """

    rounds: int
    slices: int
    times_judged: int
    slice_s: float
    shows: tuple[Show, ...]
    crowd: Show | None
    flat_out_events: int
    stall_rounds: int


PROMPTS = {"1k": 1000, "32k": 32_000}
CONNECTIONS = (1, 32, 256)
JUDGED = frozenset({("1k", 1), ("1k", 32), ("32k", 32)})
FLAT_OUT_STREAMS = 32

# What mock and load carry on their one core beside the slowest subject: see bench/README.md.
CROWD_STREAMS = 1000
CROWD_EVENTS_S = 10

FULL = Plan(
    rounds=5,
    slices=5,
    times_judged=3,
    slice_s=0.14,
    shows=(
        Show(10, pace_s=0.02, apart_s=0.008, window_s=1.6, probe_s=2.5),
        Show(100, pace_s=0.02, apart_s=0.005, window_s=1.8, probe_s=1.0),
    ),
    crowd=Show(CROWD_STREAMS, pace_s=1 / CROWD_EVENTS_S, apart_s=0.002, window_s=2.0),
    flat_out_events=4000,
    stall_rounds=3,
)
QUICK = Plan(
    rounds=3,
    slices=2,
    times_judged=1,
    slice_s=0.06,
    shows=(
        Show(10, pace_s=0.02, apart_s=0.006, window_s=0.4, probe_s=0.3),
        Show(100, pace_s=0.02, apart_s=0.003, window_s=0.5, probe_s=0.3),
    ),
    crowd=None,
    flat_out_events=600,
    stall_rounds=1,
)
