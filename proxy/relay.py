"""The road of an answer: chunk in, meter, sink out. JSON and SSE take the same one.

The rule a reader could break: one chunk is in hand at a time. Awaiting the sink's write is what slows the upstream down, so there is
no queue and no second task here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from proxy.call import Timeouts
from proxy.deadlines import Watch
from proxy.errors import UpstreamError
from proxy.upstream.contract import Answer
from proxy.wire.failure import in_band_refusal
from proxy.wire.meter import Meter

# A server that keeps the connection open behind its last event holds nobody up longer than this.
_TAIL_S = 1.0


class Sink(Protocol):
    """Where an answer goes: the client's socket. head_sent: whether a status line has left; there is never a second.

    Every coroutine waits while the reader is slow, may be cancelled, and raises ConnectionError when the reader is gone.
    """

    @property
    def head_sent(self) -> bool: ...

    async def start(self, status: int, headers: Mapping[str, str]) -> None: ...

    async def write(self, chunk: bytes) -> None: ...

    async def end(self) -> None: ...

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Head and body at once, for an answer that is complete before its head is sent."""

    def abort(self) -> None:
        """Break the connection, so that nobody takes what was sent for a whole answer."""


async def relay(
    answer: Answer,
    sink: Sink,
    *,
    meter: Meter,
    watch: Watch,
    timeouts: Timeouts,
    head: Callable[[], Mapping[str, str]],
    settle: Callable[[], Awaitable[None]],
    first_token: Callable[[], None],
    secrets: Callable[[], tuple[str, ...]],
) -> None:
    """Pass an answer on to its end.

    head: the response's headers; called when they are sent, so a whole answer's can name its cost.
    settle: called once the usage is known, before the client sees the end, so that its next call finds the balances right.
    Errors: UpstreamError when the answer breaks off or reports a failure. Cancelled by the watch or a client that left.
    """
    if meter.streams:
        await sink.start(answer.status, head())
        watch.expect("first_token", timeouts.first_token)
    else:
        watch.expect("idle", timeouts.idle)
    token_at: float | None = watch.at
    while chunk := await _next(answer, ended=meter.ended):
        passed = meter.feed(chunk)
        if meter.streams and meter.first_token and token_at is not None:
            token_at = None
            first_token()
        if meter.ended:
            await settle()
        if passed:
            watch.expect("write_stall", timeouts.write_stall)
            if not sink.head_sent:
                await sink.start(answer.status, head())
            await sink.write(passed)
        if meter.error is not None:
            raise in_band_refusal(meter.error, secrets=secrets())
        if meter.streams and token_at is not None:
            watch.expect_at("first_token", token_at)
        else:
            watch.expect("idle", timeouts.idle)
    rest = meter.finish()
    await settle()
    watch.expect("write_stall", timeouts.write_stall)
    if not sink.head_sent:
        await sink.whole(answer.status, head(), rest)
        return
    if rest:
        await sink.write(rest)
    await sink.end()


async def _next(answer: Answer, *, ended: bool) -> bytes:
    """The next chunk. After the surface's own end only the framing's can follow; it is waited for, but not for long."""
    if not ended:
        return await answer.read()
    try:
        async with asyncio.timeout(_TAIL_S):
            return await answer.read()
    except (TimeoutError, UpstreamError):
        return b""
