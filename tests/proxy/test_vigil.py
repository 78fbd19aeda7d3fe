"""What is looked at now and then, for as long as the process lives."""

import asyncio
from typing import Any

from proxy.telemetry.metrics import Metrics
from proxy.vigil import Vigil
from tests.clock import FakeClock


class Looked:
    """An overload, a pipeline, upstreams' healths and a listener, as far as they are looked at."""

    def __init__(self, *, near: bool) -> None:
        self.near = near
        self.inflight = 7
        self.rolls = 0
        self.failures = 3
        self.events: list[str] = []
        self.looks: list[tuple[float, int]] = []
        self.sweeps: list[float] = []
        self.swept = asyncio.Event()

    def look(self, *, late_s: float, running: int) -> None:
        self.looks.append((late_s, running))

    def event(self, name: str, /, **fields: object) -> None:
        self.events.append(name)

    def roll(self) -> None:
        self.rolls += 1

    def close_late(self, *, header_s: float) -> None:
        self.sweeps.append(header_s)
        if len(self.sweeps) == 2:
            self.swept.set()


async def test_room_is_looked_for_several_times_before_connections_are_and_the_lag_is_told() -> None:
    metrics = Metrics(version="1", clock=FakeClock())
    looked: Any = Looked(near=True)
    parts: Any = dict.fromkeys(("overload", "pipeline", "store", "log", "healths"), looked)
    vigil = Vigil(**parts, listeners=(looked,), header_s=10.0, lag=metrics.loop_lag_seconds)
    running = asyncio.create_task(vigil.run())
    async with asyncio.timeout(20):
        await looked.swept.wait()
    running.cancel()
    assert len(looked.looks) > len(looked.sweeps)
    assert all(late_s >= 0 and calls == 7 for late_s, calls in looked.looks)
    assert looked.sweeps == [10.0, 10.0]
    assert looked.rolls == 2
    assert looked.events == ["state.failed"], "once, until there are more"
    assert metrics.loop_lag_seconds.count >= len(looked.looks)
