"""Clients that each hold one stream open. What they receive is kept as it came and taken apart when all is over.

The rule a reader could break: while streams run, a client does nothing but keep bytes. It shares its core with the mock, and every
microsecond spent on reading an event here is an event that the two cannot carry.
"""

import asyncio
import time
from types import TracebackType
from typing import Self, cast

from bench.reply import BadReply, Reply

_LAST = b"0\r\n\r\n"


class _Listener(asyncio.Protocol):
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.over = asyncio.Event()
        self.ended_s = 0.0
        self.lost: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        if data.endswith(_LAST) or (len(data) < len(_LAST) and b"".join(self.parts[-len(_LAST) :]).endswith(_LAST)):
            self.ended_s = time.perf_counter()
            self.over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = f"the connection was lost: {exc!r}"
        self.over.set()


class Listeners:
    """Streams of one port, each on a connection of its own. expected: the body of each."""

    def __init__(self, port: int, requests: tuple[bytes, ...], *, expected: bytes, streams: int) -> None:
        self._port, self._requests, self._expected = port, requests, expected
        self._listeners = [_Listener() for _ in range(streams)]
        self._marks: list[list[int]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            await loop.create_connection(lambda one=listener: one, "127.0.0.1", self._port)  # type: ignore[misc]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for listener in self._listeners:
            listener.transport.close()

    async def begin(self, *, apart_s: float) -> None:
        """Every client asks for its stream, so many seconds after its neighbour; 0 is all at once."""
        due = time.perf_counter()
        for at, listener in enumerate(self._listeners):
            listener.transport.write(self._requests[at % len(self._requests)])
            if apart_s:
                due += apart_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))

    def mark(self) -> None:
        """Remember what has come so far."""
        self._marks.append([len(listener.parts) for listener in self._listeners])

    @property
    def ended(self) -> int:
        """Streams that are over."""
        return sum(listener.over.is_set() for listener in self._listeners)

    async def end(self, *, patience_s: float) -> float:
        """Wait for the last stream. Returns the time at which it ended. Errors: TimeoutError."""
        async with asyncio.timeout(patience_s):
            for listener in self._listeners:
                await listener.over.wait()
        return max(listener.ended_s for listener in self._listeners)

    def check(self) -> list[int]:
        """Compare every stream. Returns how many bytes of bodies had come at each mark, and at the end. Errors: BadReply."""
        totals = [0] * (len(self._marks) + 1)
        for at, listener in enumerate(self._listeners):
            reply, got, begun = Reply(), 0, 0
            for which, end in enumerate([*(marks[at] for marks in self._marks), len(listener.parts)]):
                if piece := b"".join(listener.parts[begun:end]):
                    got += reply.feed(piece)
                totals[which] += got
                begun = end
            if listener.lost and not reply.over:
                raise BadReply(f"{listener.lost} after {got} bytes of the stream")
            reply.check(self._expected)
        return totals
