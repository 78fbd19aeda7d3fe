"""The clients of the benchmark: raw connections that send fixed requests and compare every reply with what it must be.

The rule a reader could break: a reply that is not 200, not whole, or not the expected bytes ends the run. A fast proxy that loses
bytes is not fast.
"""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

_PATIENCE_S = 30.0


class BadReply(Exception):
    """The subject did not hand on what the upstream said."""


class _Reader:
    """Takes one HTTP reply apart as it comes. Sans-IO. over: the reply is whole."""

    __slots__ = ("_body", "_headed", "_left", "_pending", "over")

    def __init__(self) -> None:
        self.over = False
        self._headed = False
        self._left: int | None = None  # bytes still to come, None for chunks
        self._pending = b""
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> int:
        """How many bytes of the body these were. Errors: BadReply."""
        if self.over:
            raise BadReply(f"bytes after the end: {data[:200]!r}")
        self._pending += data
        if not self._headed and not self._head():
            return 0
        return self._chunks() if self._left is None else self._plain(self._left)

    def body(self) -> bytes:
        return b"".join(self._body)

    def _head(self) -> bool:
        head, found, rest = self._pending.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise BadReply(f"not a 200: {self._pending[:600]!r}")
        low = head.lower()
        at = low.find(b"\r\ncontent-length:")
        if at >= 0:
            self._left = int(low[at + 17 :].split(b"\r\n", 1)[0])
        elif b"\r\ntransfer-encoding: chunked" not in low:
            raise BadReply(f"no framing: {head!r}")
        self._pending, self._headed = rest, True
        return True

    def _plain(self, left: int) -> int:
        taken, self._pending = self._pending, b""
        if len(taken) > left:
            raise BadReply(f"bytes after the end: {taken[left:][:200]!r}")
        self._left = left - len(taken)
        self.over = self._left == 0
        self._body.append(taken)
        return len(taken)

    def _chunks(self) -> int:
        """Takes whole chunks only: they are small."""
        pending, at, got = self._pending, 0, 0
        while (line := pending.find(b"\r\n", at)) >= 0:
            size = int(pending[at:line], 16)
            end = line + 2 + size
            if len(pending) < end + 2:
                break
            if pending[end : end + 2] != b"\r\n":
                raise BadReply(f"a chunk of {size} bytes ends in {pending[end : end + 2]!r}")
            at = end + 2
            if size == 0:
                self.over = True
                if at < len(pending):
                    raise BadReply(f"bytes after the end: {pending[at:][:200]!r}")
                break
            self._body.append(pending[line + 2 : end])
            got += size
        self._pending = pending[at:]
        return got


class _Client(asyncio.Protocol):
    """One keep-alive connection. `finished` ends with it: None when it was asked to stop, or what went wrong."""

    def __init__(self, requests: Sequence[bytes], expected: bytes) -> None:
        self._requests, self._expected = requests, expected
        self._turn = 0
        self._stopping = False
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls: list[int] = []  # nanoseconds of each whole call
        self.body_bytes = 0
        self.first_ns = 0  # until the first byte of the body, of the call under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._send()

    def _send(self) -> None:
        self._reader = _Reader()
        self.first_ns = 0
        data = self._requests[self._turn % len(self._requests)]
        self._turn += 1
        self._begun_ns = time.perf_counter_ns()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            got = self._reader.feed(data)
            if got and not self.first_ns:
                self.first_ns = time.perf_counter_ns() - self._begun_ns
            self.body_bytes += got
            if self._reader.over:
                self._complete(time.perf_counter_ns() - self._begun_ns)
        except (BadReply, ValueError) as exc:
            self._end(exc if isinstance(exc, BadReply) else BadReply(f"malformed: {data[:200]!r}"))

    def _complete(self, taken_ns: int) -> None:
        body = self._reader.body()
        if body != self._expected:
            raise BadReply(f"{len(body)} bytes instead of {len(self._expected)}: {body[:200]!r} … {body[-200:]!r}")
        self.calls.append(taken_ns)
        if self._stopping:
            self._end(None)
        else:
            self._send()

    def stop(self) -> None:
        """After the call that is under way."""
        self._stopping = True

    def abandon(self) -> None:
        """At once, whatever is under way."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(BadReply(f"the connection was lost in mid-call: {exc!r}"))

    def _end(self, error: BadReply | None) -> None:
        if self.finished.done():
            return
        if error is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(error)
        self._transport.close()


class Load:
    """Some clients at work. Leaving the `async with` stops them after their calls and fails if any reply was wrong.

    once: each makes one call (a stream); otherwise the next follows as soon as one is over.
    """

    def __init__(
        self, port: int, requests: Sequence[bytes], *, expected: bytes, clients: int, once: bool = False, apart_s: float = 0
    ) -> None:
        self._port, self._count, self._apart_s, self._once = port, clients, apart_s, once
        # Neighbours begin with different requests, so that both kinds are always under way.
        turned = [[*requests[i % len(requests) :], *requests[: i % len(requests)]] for i in range(clients)]
        self._make = [lambda order=order: _Client(order, expected) for order in turned]
        self.clients: list[_Client] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for make in self._make:
            _, client = await loop.create_connection(make, "127.0.0.1", self._port)
            self.clients.append(client)
            if self._once:
                client.stop()
            if self._apart_s:
                await asyncio.sleep(self._apart_s)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            for client in self.clients:
                client.abandon()
            return
        for client in self.clients:
            client.stop()
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*(client.finished for client in self.clients))

    @property
    def calls(self) -> int:
        """Whole calls so far."""
        return sum(len(client.calls) for client in self.clients)

    @property
    def body_bytes(self) -> int:
        return sum(client.body_bytes for client in self.clients)
