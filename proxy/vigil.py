"""What is looked at now and then: whether there is room for calls, how late the loop is, and which connections wait for too long.

The rule a reader could break: a look is for the event loop and takes microseconds; what takes longer goes to a thread.
"""

import asyncio
from typing import Protocol

from proxy.downstream.listener import Listener
from proxy.health import EventLog, Healths
from proxy.memory import give_back
from proxy.overload import LOOK_S, Overload
from proxy.pipeline import Pipeline
from proxy.retries import ROLL_S
from proxy.telemetry.instruments import Histogram

_GIVE_BACK_S = 2.0  # how often memory is given back, near the limit


class Store(Protocol):
    """failures: writes that went wrong, so far."""

    @property
    def failures(self) -> int: ...


class Vigil:
    """Runs until it is cancelled. lag: how late the loop wakes it. healths: how upstreams do, whose tries fade."""

    def __init__(
        self,
        *,
        overload: Overload,
        pipeline: Pipeline,
        listeners: tuple[Listener, ...],
        store: Store,
        log: EventLog,
        healths: Healths,
        header_s: float,
        lag: Histogram,
    ) -> None:
        self._overload = overload
        self._pipeline = pipeline
        self._listeners = listeners
        self._store = store
        self._log = log
        self._failures = 0  # of the store, that were told of
        self._healths = healths
        self._header_s = header_s
        self._lag = lag

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        swept = given_back = loop.time()
        while True:
            due = loop.time() + LOOK_S
            await asyncio.sleep(LOOK_S)
            now = loop.time()
            late_s = max(0.0, now - due)
            self._lag.observe(late_s)
            self._overload.look(late_s=late_s, running=self._pipeline.inflight)
            if now - swept >= ROLL_S:
                swept = now
                self._healths.roll()
                if self._store.failures > self._failures:
                    self._failures = self._store.failures
                    self._log.event("state.failed", level="error", operation="write")
                for listener in self._listeners:
                    listener.close_late(header_s=self._header_s)
            if self._overload.near and now - given_back >= _GIVE_BACK_S:
                given_back = now
                await asyncio.to_thread(give_back)
