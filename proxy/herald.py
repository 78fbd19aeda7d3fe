"""Tells webhooks of tasks that ended: signed as pages are (Standard Webhooks), tried again, and forgotten with the process.

Whoever misses one asks the task's page, which is why this queue is in memory. The rule a reader could break: a webhook hears what the page
of the task says, and no content.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import orjson

from proxy.clock import Clock
from proxy.lane import EventLog, Send, Unreachable
from proxy.page import rfc3339
from proxy.sinks import Sink, sign

# Between two tries. Standard Webhooks has more of them, over days; a task is kept for minutes.
PAUSES_S = (1.0, 5.0, 30.0, 120.0)
MOST_UNDER_WAY = 256  # beyond it a webhook is not told


class Herald:
    """sinks: what is configured under `pages` now, by name. count: as for pages, with `delivered`, `failed`, `given_up`."""

    def __init__(
        self,
        *,
        sinks: Callable[[], Mapping[str, Sink]],
        send: Send,
        clock: Clock,
        log: EventLog,
        count: Callable[[str, str], None],
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._sinks = sinks
        self._send = send
        self._clock = clock
        self._log = log
        self._count = count
        self._pauses_s = pauses_s
        self._telling: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Herald telling={len(self._telling)}>"

    def announce(self, names: Iterable[str], facts: Mapping[str, Any]) -> None:
        """Tell these of a task that ended. facts: as its page has them. Never waits."""
        body = orjson.dumps({"type": f"task.{facts['status']}", "timestamp": rfc3339(self._clock.wall_s()), "data": dict(facts)})
        for name in names:
            sink = self._sinks().get(name)
            if sink is None or sink.kind != "webhook":
                continue
            if len(self._telling) >= MOST_UNDER_WAY:
                self._count(sink.kind, "given_up")
                continue
            task = asyncio.get_running_loop().create_task(self._tell(sink, str(facts["id"]), body))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Those that were not told by now are not."""
        for task in tuple(self._telling):
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    async def _tell(self, sink: Sink, id: str, body: bytes) -> None:
        message = "msg_" + sha256(f"task {id}".encode()).hexdigest()[:32]  # the same for every try: receivers tell repeats by it
        for attempt, pause_s in enumerate((*self._pauses_s, None), 1):
            timestamp_s = int(self._clock.wall_s())
            headers = {"content-type": "application/json", "webhook-id": message, "webhook-timestamp": str(timestamp_s)}
            if sink.secret is not None:
                headers["webhook-signature"] = sign(sink.secret, id=message, timestamp_s=timestamp_s, body=body)
            status: int | None = None
            try:
                status, _ = await self._send(sink.url, headers, body)
            except Unreachable:
                pass
            if status is not None and 200 <= status < 300:
                self._count(sink.kind, "delivered")
                self._log.event("page.delivered", page=message, sink=sink.name, kind=sink.kind, attempts=attempt, status=status)
                return
            if pause_s is None or (status is not None and status < 500 and status not in (408, 429)):
                break
            self._count(sink.kind, "failed")
            await asyncio.sleep(pause_s)
        self._count(sink.kind, "given_up")
        self._log.event(
            "page.failed", level="warning", page=message, sink=sink.name, kind=sink.kind, attempts=attempt, status=status
        )
