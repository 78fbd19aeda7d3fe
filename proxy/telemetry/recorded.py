"""The metrics of recorded calls, declared once. They are there from the first scrape, and count once calls are recorded."""

from collections.abc import Callable, Mapping

from proxy.telemetry.instruments import Counter, Declaration, Family, Gauge

RECORDED: Mapping[str, Declaration] = {
    "tollhouse_recorded_calls_total": Declaration(
        "counter", "Recorded calls that ended, by the status of their task.", ("status",), most=4
    ),
    "tollhouse_recording_reads_total": Declaration(
        "counter",
        "Reads of a recording that asked no upstream: by the same key (joined, replayed), from an event on (resumed), by a task's page.",
        ("how",),
        most=5,
    ),
    "tollhouse_recordings_forgotten_total": Declaration(
        "counter", "Recordings that were expired or evicted, or lost their beginning (trimmed).", ("why",), most=3
    ),
    "tollhouse_recordings": Declaration("gauge", "Recordings that run, and such that ended and are kept.", ("state",), most=2),
    "tollhouse_recorded_bytes": Declaration("gauge", "Memory that recordings take."),
}


class RecordedMetrics:
    """counter, gauge: make a family of this name."""

    def __init__(self, counter: Callable[[str], Family[Counter]], gauge: Callable[[str], Family[Gauge]]) -> None:
        self.calls = counter("tollhouse_recorded_calls_total")
        self.reads = counter("tollhouse_recording_reads_total")
        self.forgotten = counter("tollhouse_recordings_forgotten_total")
        self.count = gauge("tollhouse_recordings")
        self.bytes = gauge("tollhouse_recorded_bytes").child()
