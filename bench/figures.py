"""Every row of the table, and what it has to reach. Data only: a goal is changed here and nowhere else."""

from dataclasses import dataclass
from typing import Literal

from bench.lineup import BASELINE, LIMIT
from bench.plan import CONNECTIONS, CROWD_EVENTS_S, CROWD_STREAMS, FLAT_OUT_STREAMS, PROMPTS


@dataclass(frozen=True, slots=True)
class Goal:
    """At most `must`, better at most `aim`. of: Tollhouse's own figure, or its ratio to that subject's."""

    must: float
    aim: float
    of: str = "itself"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. digits: after the point. alone: only Tollhouse has it, so there is no ratio."""

    key: str
    title: str
    digits: int
    group: Literal["Calls", "Streams", "Event loop", "Process"]
    goals: tuple[Goal, ...] = ()
    more_is_better: bool = False
    alone: bool = False


def _connections(number: int) -> str:
    return "1 connection" if number == 1 else f"{number} connections"


def _calls() -> tuple[Figure, ...]:
    goals = {("1k", 32): (Goal(0.65, 0.45, BASELINE),), ("32k", 32): (Goal(0.65, 0.45, BASELINE),)}
    rows = []
    for size in PROMPTS:
        shown = f"{size[:-1]} kB prompt"
        for clients in CONNECTIONS:
            title = f"CPU µs per request, {shown}, {_connections(clients)}"
            rows.append(Figure(f"call_{size}_{clients}_us", title, 0, "Calls", goals.get((size, clients), ())))
        for clients in CONNECTIONS:
            title = f"requests/s, {shown}, {_connections(clients)}"
            rows.append(Figure(f"calls_{size}_{clients}_s", title, 0, "Calls", more_is_better=True))
        for part in ("p50", "p99"):
            goal = (Goal(250, 150),) if (size, part) == ("1k", "p50") else ()
            rows.append(Figure(f"added_{part}_{size}_us", f"added latency {part}, µs, {shown}, 1 connection", 0, "Calls", goal))
    return tuple(rows)


def _streams() -> tuple[Figure, ...]:
    rows = [
        Figure("event_10_us", "CPU µs per event, 10 streams × 50 events/s", 1, "Streams"),
        Figure(
            "event_100_us",
            "CPU µs per event, 100 streams × 50 events/s",
            1,
            "Streams",
            (Goal(0.9, 0.75, BASELINE), Goal(1.6, 1.3, LIMIT)),
        ),
        Figure(
            f"event_{CROWD_STREAMS}_us", f"CPU µs per event, {CROWD_STREAMS:,} streams × {CROWD_EVENTS_S} events/s", 1, "Streams"
        ),
        Figure("stream_rss_kib", f"RSS per open stream, KiB, {CROWD_STREAMS:,} streams", 1, "Streams", (Goal(20, 12),)),
    ]
    for streams in (10, 100):
        for part in ("p50", "p99"):
            rows.append(Figure(f"first_{part}_{streams}_us", f"first token {part}, µs, beside {streams} streams", 0, "Streams"))
        for part in ("p50", "p99"):
            goal = (Goal(500, 300),) if (streams, part) == (10, "p50") else ()
            title = f"first token {part} added, µs, beside {streams} streams"
            rows.append(Figure(f"first_added_{part}_{streams}_us", title, 0, "Streams", goal))
    flat = f"{FLAT_OUT_STREAMS} streams flat out"
    rows.append(Figure("flat_out_events_s", f"events/s, {flat}", 0, "Streams", more_is_better=True))
    rows.append(Figure("flat_out_event_us", f"CPU µs per event, {flat}", 1, "Streams"))
    return tuple(rows)


_STALLS = {
    "none": "while streams run and nothing else happens",
    "scrape": "while /metrics is scraped, its series at their bounds",
    "reload": "while a large policy file is reloaded",
    "large": "while 1 MB prompts pass",
}

FIGURES = (
    *_calls(),
    *_streams(),
    Figure("stall_cpu_ms", "longest stall, CPU ms", 2, "Event loop", (Goal(10, 3),), alone=True),
    *(Figure(f"stall_{key}_cpu_ms", f"– {title}", 2, "Event loop", alone=True) for key, title in _STALLS.items()),
    Figure("stall_wall_ms", "longest stall, wall clock ms", 2, "Event loop", alone=True),
    *(Figure(f"stall_{key}_wall_ms", f"– {title}", 2, "Event loop", alone=True) for key, title in _STALLS.items()),
    Figure("cold_start_s", "cold start: process start to first 200, s", 2, "Process", (Goal(0.5, 0.35),)),
    Figure("rss_idle_mib", "RSS idle, MiB", 1, "Process", (Goal(55, 45),)),
    Figure("rss_after_mib", "RSS after the load, MiB", 1, "Process", (Goal(70, 55),)),
)
