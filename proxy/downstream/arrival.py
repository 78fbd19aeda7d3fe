"""A request on its way in: its head, and what of its body was received and not yet read.

The connection fills it, the pipeline empties it. The rule a reader could break: nothing of a body is dropped but what `discard` was
asked to drop, and a body whose framing broke is an error for whoever reads it, never a short body.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from proxy.errors import InvalidCall

HIGH_WATER_BYTES = 256 << 10  # what waits for a reader; one read of the loop may come on top


class Line(Protocol):
    """What a request asks of the connection that it comes over."""

    def go_on(self) -> None:
        """Read again: what was buffered has been taken."""

    def invite(self) -> None:
        """Write `100 Continue`."""


class HttpArrival:
    """An `Arrival` as the pipeline has it.

    method, target: as on the request line. headers: names in lower case, a repeated name's values joined by ", "; repeated: those
    names. whole: the body's last byte was received. keep: the client lets the connection live on. modern: it speaks HTTP/1.1.
    """

    __slots__ = (
        "_chunks",
        "_fault",
        "_line",
        "_loop",
        "_waiter",
        "discarding",
        "headers",
        "held",
        "keep",
        "loopback",
        "method",
        "modern",
        "repeated",
        "size",
        "target",
        "whole",
    )

    def __init__(
        self,
        line: Line,
        loop: asyncio.AbstractEventLoop,
        method: str,
        target: str,
        headers: Mapping[str, str],
        repeated: tuple[str, ...],
        loopback: bool,
        keep: bool,
        modern: bool,
    ) -> None:
        self._line = line
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: list[bytes] = []
        self._fault = False
        self.method = method
        self.target = target
        self.headers = headers
        self.repeated = repeated
        self.loopback = loopback
        self.keep = keep
        self.modern = modern
        self.whole = self.held = self.discarding = False
        self.size = 0  # bytes that wait

    def __repr__(self) -> str:
        return f"<HttpArrival {self.method} buffered={self.size} whole={self.whole} broken={self._fault}>"

    # ── for the reader ───────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, most_bytes: int) -> bytes | None:
        """The contract's `read`. Errors: InvalidCall for broken framing."""
        told = self.headers.get("content-length")
        if told is not None and int(told) > most_bytes:
            return None
        if self.whole:
            return self._joined() if self.size <= most_bytes else None
        self._invite()
        while not self.whole:
            if self._fault:
                raise _malformed()
            if self.size > most_bytes:
                return None
            if self.held:
                self.held = False
                self._line.go_on()
            await self._news()
        return self._joined() if self.size <= most_bytes else None

    def _joined(self) -> bytes:
        taken = self._take()
        return taken[0] if len(taken) == 1 else b"".join(taken)

    async def chunks(self, most_bytes: int) -> AsyncIterator[bytes]:
        """The contract's `chunks`."""
        self._invite()
        passed = 0
        while True:
            if self._fault:
                raise _malformed()
            whole = self.whole
            for chunk in self._take():
                passed += len(chunk)
                if passed > most_bytes:
                    raise InvalidCall("request_too_large", f"Bodies of up to {most_bytes} bytes are accepted here.", close=True)
                yield chunk
            if whole:
                return
            if not (self._chunks or self.whole or self._fault):  # which came while the last chunk was in use
                await self._news()

    def _take(self) -> list[bytes]:
        taken, self._chunks, self.size = self._chunks, [], 0
        if self.held:
            self.held = False
            self._line.go_on()
        return taken

    def _invite(self) -> None:
        """Answer `Expect: 100-continue`, now that the caller is known. Source: RFC 9110, section 10.1.1."""
        if self.modern and self.headers.get("expect", "").lower() == "100-continue":
            self._line.invite()

    async def _news(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    # ── for the connection ───────────────────────────────────────────────────────────────────────────────────────────

    def feed(self, data: bytes) -> bool:
        """Keep some of the body. Whether the connection should stop reading until it was taken."""
        if self.discarding:
            return False
        self._chunks.append(data)
        self.size += len(data)
        self.wake()
        if self.size > HIGH_WATER_BYTES and not self.held:
            self.held = True
            return True
        return False

    def complete(self) -> None:
        self.whole = True
        self.wake()

    def fail(self) -> None:
        """The rest of the body is no body."""
        self._fault = True
        self.wake()

    def discard(self) -> None:
        """Nobody will read what is left."""
        self.discarding = True
        self._take()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _malformed() -> InvalidCall:
    return InvalidCall("bad_request", "The body's framing is malformed.", close=True)
