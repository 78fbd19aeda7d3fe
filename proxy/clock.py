"""The only place that reads the clock. Whoever needs time receives a Clock; a test hands in one that it moves itself."""

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic_ns(self) -> int:
        """Nanoseconds that only grow: for durations, rates and deadlines."""

    def wall_s(self) -> float:
        """Seconds since the epoch, UTC: for calendar windows and timestamps. It may step."""


class SystemClock:
    __slots__ = ()

    monotonic_ns = staticmethod(time.monotonic_ns)
    wall_s = staticmethod(time.time)
