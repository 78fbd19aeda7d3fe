"""An answer on its way in: its head, what of its body was received and not yet read, and how it ended.

The connection fills it, one reader empties it. The rule a reader could break: what was received before a fault is handed out before
the fault is reported, so that whoever reads sees every byte that came.
"""

import asyncio
from typing import Protocol

from proxy.upstream.contract import Take, TakeChunk
from proxy.upstream.failure import broken, cut

# What waits for a reader that is slower than the upstream; one read of its connection may come on top.
HIGH_WATER_BYTES = 32 << 10


class Line(Protocol):
    """What an answer asks of the connection that it comes over."""

    def pause(self) -> None:
        """Read no more for now: enough waits."""

    def go_on(self) -> None:
        """Read again: what was buffered has been taken."""

    def received_bytes(self) -> int:
        """How much came over it in all, this answer's or another's."""

    def let_go(self, answer: "HttpAnswer") -> None:
        """The reader is done with the answer, whether or not it is whole."""


class HttpAnswer:
    """An `Answer` as the contract has it. status: 0 until its head is complete.

    chunks: the body's bytes that wait to be read; size: at least as many, with their framing. whole: the body's last byte was received.
    fault: why no more will come. bodiless: no body can come (HEAD); until_end: it ends with the stream; sending: not all of the request
    was written; keep: its connection may be used for another.
    """

    __slots__ = (
        "_line",
        "_loop",
        "_waiter",
        "bodiless",
        "chunks",
        "fault",
        "headers",
        "held",
        "keep",
        "sending",
        "size",
        "status",
        "take",
        "take_chunk",
        "told",
        "until_end",
        "whole",
    )

    def __init__(self, line: Line, loop: asyncio.AbstractEventLoop, chunks: list[bytes]) -> None:
        """chunks: where the connection puts what comes, for as long as the answer is not closed."""
        self._line: Line | None = line
        self._loop = loop
        self._waiter: asyncio.Future[bool] | None = None  # True: the pump is to rest
        self.take: Take | None = None
        self.take_chunk: TakeChunk | None = None
        self.headers: dict[str, str] = {}
        self.chunks = chunks
        self.fault: str | None = None
        self.status = self.size = 0
        self.bodiless = self.until_end = self.sending = self.keep = self.whole = False
        self.told = False  # that it is whole
        self.held = False  # the connection stopped reading until the chunks are taken

    def __repr__(self) -> str:
        return f"<HttpAnswer {self.status} buffered={self.size} whole={self.whole} fault={self.fault!r}>"

    # ── for the reader ───────────────────────────────────────────────────────────────────────────────────────────────

    def more(self) -> "asyncio.Future[bool]":
        """Done when more of the head came. Errors: UpstreamError("upstream_broken") when none will."""
        if self.fault is not None:
            raise broken(self.fault)
        waiter = self._waiter = self._loop.create_future()
        return waiter

    async def read(self) -> bytes:
        """The contract's `read`. One reader at a time."""
        chunks = self.chunks
        while not chunks:
            if self.fault is not None:
                raise cut(self.fault)
            if self.whole:
                self.told = True
                return b""
            if self.held:
                self._let_come()
            waiter = self._waiter = self._loop.create_future()
            await waiter
        return self.taken()

    def at_hand(self) -> bytes | None:
        """The contract's `at_hand`."""
        if not self.whole or self.fault is not None:
            return None
        self.told = True
        return self.taken() if self.chunks else b""

    def received(self) -> bytes:
        """The contract's `received`."""
        return self.taken() if self.chunks else b""

    def received_bytes(self) -> int:
        """The contract's `received_bytes`."""
        return 0 if self._line is None else self._line.received_bytes()

    def hold(self) -> None:
        """The contract's `hold`."""
        if not (self.held or self.whole) and self._line is not None:
            self.held = True
            self._line.pause()

    async def pump(self, take: Take, take_chunk: TakeChunk | None = None) -> bool:
        """The contract's `pump`. One reader at a time."""
        while True:
            while self.chunks:
                if not take(self.taken()):
                    return True
            if self.fault is not None:
                raise cut(self.fault)
            if self.whole:
                self.told = True
                return False
            if self.held:
                self._let_come()
            self.take, self.take_chunk = take, take_chunk
            waiter = self._waiter = self._loop.create_future()
            try:
                if await waiter:
                    return True
            finally:
                self.take = self.take_chunk = None

    def close(self) -> None:
        if self.held:
            self._let_come()  # the connection may be another's next
        line, self._line = self._line, None
        if line is not None:
            line.let_go(self)
            self.chunks = []  # what comes over the connection from now on is another answer's

    # ── for the connection ───────────────────────────────────────────────────────────────────────────────────────────

    def fail(self, fault: str) -> None:
        """No more will come. fault: fixed words for the log. The first one stands, and none comes after the end was told."""
        if self.fault is None and not self.told:
            self.fault = fault
        self.came(0)

    def taken(self) -> bytes:
        """What waits, in one piece; there is some."""
        chunks = self.chunks
        if len(chunks) == 1:
            taken = chunks.pop()
        else:
            taken = b"".join(chunks)
            chunks.clear()
        self.size = 0
        if self.held:
            self._let_come()
        return taken

    def _let_come(self) -> None:
        self.held = False
        if self._line is not None:
            self._line.go_on()

    def rest(self, error: Exception | None = None) -> None:
        """Whoever takes wants no more for now, or failed: the pump ends with that."""
        self.take = self.take_chunk = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(True) if error is None else waiter.set_exception(error)

    def came(self, size: int) -> None:
        """So many bytes of it were received, and what they held waits; or else something happened: let the reader look."""
        if self.chunks:
            self.size += size
            if self.size > HIGH_WATER_BYTES and not self.held and self._line is not None:
                self.held = True
                self._line.pause()
        waiter = self._waiter
        if waiter is not None:  # one that was cancelled meanwhile starts afresh with its next wait
            self._waiter = None
            if not waiter.done():
                waiter.set_result(False)
