"""What came to the data port and was no request: how often, and why.

The rule a reader could break: whoever sends nonsense decides neither how much is logged nor what stands there.
"""

import asyncio

from proxy.downstream.rules import Rejection
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics

TELL_S = 1.0  # one line in so long, for all of them


class Rejections:
    """Counts each at once, and logs the first one at once and others together."""

    def __init__(self, *, log: Log, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._metrics = metrics
        self._loop = loop
        self._waiting: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Rejections waiting={sum(self._waiting.values())}>"

    def add(self, rejection: Rejection) -> None:
        reason, error = rejection
        self._metrics.rejected(reason, error.deadline)
        self._waiting[reason] = self._waiting.get(reason, 0) + 1
        if self._timer is None:
            self._tell()

    def close(self) -> None:
        """Tell what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell()
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self) -> None:
        waiting, self._waiting, self._timer = self._waiting, {}, None
        if waiting:
            reasons = [f"{reason}={count}" for reason, count in waiting.items()]
            self._log.event("edge.rejected", level="warning", count=sum(waiting.values()), reasons=reasons)
            self._timer = self._loop.call_later(TELL_S, self._tell)
