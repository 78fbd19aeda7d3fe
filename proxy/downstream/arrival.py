"""A request on its way in: its head, and what of its body was received and not yet read.

The connection fills it, the pipeline empties it. The rule a reader could break: nothing of a body is dropped but what `discard` was
asked to drop, and a body whose framing broke is an error for whoever reads it, never a short body.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from proxy.errors import InvalidCall
from proxy.wire.request import RequestHead

TINY_BYTES = 64
MOST_TINY = 20_000  # chunks of a body that are smaller: each costs a microsecond, and a client that means well sends no more
HIGH_WATER_BYTES = 256 << 10  # what waits for a reader; one read of the loop may come on top


class Line(Protocol):
    """What a request asks of the connection that it comes over."""

    def go_on(self) -> None:
        """Read again: what was buffered has been taken."""

    def invite(self) -> None:
        """Write `100 Continue`."""

    def source(self) -> str:
        """The peer's address."""


class HttpArrival:
    """An `Arrival` as the pipeline has it.

    head: its head. length: bytes of body that it announces, None where it does not say. whole: the body's last byte was received.
    """

    __slots__ = (
        "_chunks",
        "_fault",
        "_invited",
        "_line",
        "_loop",
        "_read",
        "_tiny",
        "_waiter",
        "discarding",
        "head",
        "held",
        "length",
        "loopback",
        "size",
        "whole",
    )

    def __init__(
        self,
        line: Line,
        loop: asyncio.AbstractEventLoop,
        head: RequestHead,
        length: int | None,
        loopback: bool,
        read: tuple[bytes, int] | None = None,
    ) -> None:
        """read: what was read, and where in it the body begins, where all of the body came with the head and its length is known."""
        self._line = line
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._fault = self._invited = False
        self._chunks: list[bytes] = []
        self._tiny = 0
        self._read = read
        self.head = head
        self.length = length
        self.loopback = loopback
        self.held = self.discarding = False
        self.whole = read is not None
        self.size = 0 if read is None or length is None else length  # bytes that wait

    def __repr__(self) -> str:
        return f"<HttpArrival {self.head.method} buffered={self.size} whole={self.whole} broken={self._fault}>"

    # ── for the reader ───────────────────────────────────────────────────────────────────────────────────────────────

    def at_hand(self, most_bytes: int) -> tuple[bytes, int] | None:
        """The contract's `at_hand`."""
        if not self.whole or self.size > most_bytes:
            return None
        read = self._read
        if read is None:
            return self._joined(), 0
        self._read, self.size = None, 0
        return read

    def source(self) -> str:
        """The contract's `source`."""
        return self._line.source()

    async def read(self, most_bytes: int) -> bytes | None:
        """The contract's `read`. Errors: InvalidCall for broken framing."""
        if self.length is not None and self.length > most_bytes:
            return None
        if not self.whole:
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
        if self._read is not None:
            (data, at), self._read = self._read, None
            taken = [data[at:]]
        if self.held:
            self.held = False
            self._line.go_on()
        return taken

    def _invite(self) -> None:
        """Answer `Expect: 100-continue`, now that the caller is known. Source: RFC 9110, section 10.1.1."""
        if not self._invited and self.head.modern and self.head.headers.get("expect", "").lower() == "100-continue":
            self._invited = True
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
        if len(data) < TINY_BYTES and self.length is None:
            self._tiny += 1
            if self._tiny > MOST_TINY:
                self.discard()
                self.fail()
                return False
        self._chunks.append(data)
        self.size += len(data)
        self.wake()
        if self.size > HIGH_WATER_BYTES and not self.held:
            self.held = True
            return True
        return False

    def complete(self) -> None:
        self.whole = not self._fault
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
