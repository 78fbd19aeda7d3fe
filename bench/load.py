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
    """One keep-alive connection: a call at a time, and the next follows at once while `again` holds."""

    def __init__(self, requests: Sequence[bytes], expected: bytes) -> None:
        self._requests, self._expected = requests, expected
        self._turn = 0
        self.again = False
        self.idle = asyncio.Event()  # no call is under way, or none will ever be again
        self.idle.set()
        self.error: BadReply | None = None
        self.calls_ns: list[int] = []
        self.body_bytes = 0
        self.first_ns = 0  # until the first byte of the body, of the latest call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self) -> None:
        """Begin a call. Only while idle."""
        self.idle.clear()
        self._reader = _Reader()
        self.first_ns = 0
        data = self._requests[self._turn % len(self._requests)]
        self._turn += 1
        self._begun_ns = time.perf_counter_ns()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            got = self._reader.feed(data)
        except BadReply as exc:
            self._fail(exc)
            return
        except ValueError:
            self._fail(BadReply(f"malformed chunk: {data[:200]!r}"))
            return
        if got and not self.first_ns:
            self.first_ns = time.perf_counter_ns() - self._begun_ns
        self.body_bytes += got
        if self._reader.over:
            self._complete(time.perf_counter_ns() - self._begun_ns)

    def _complete(self, taken_ns: int) -> None:
        body = self._reader.body()
        if body != self._expected:
            self._fail(BadReply(f"{len(body)} bytes instead of {len(self._expected)}: {body[:200]!r} … {body[-200:]!r}"))
            return
        self.calls_ns.append(taken_ns)
        if self.again:
            self.send()
        else:
            self.idle.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(BadReply(f"the connection was lost: {exc!r}"))

    def _fail(self, error: BadReply) -> None:
        self.error = self.error or error
        self.again = False
        self.idle.set()
        self._transport.close()


class Load:
    """Clients of one port, connected and idle until told to work. requests: sent in turn; expected: the body of every reply."""

    def __init__(self, port: int, requests: Sequence[bytes], *, expected: bytes, clients: int) -> None:
        self._port = port
        # Neighbours begin with different requests, so that all kinds are always under way.
        turns = [i % len(requests) for i in range(clients)]
        self._clients = [_Client([*requests[turn:], *requests[:turn]], expected) for turn in turns]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for client in self._clients:
            await loop.create_connection(lambda c=client: c, "127.0.0.1", self._port)  # type: ignore[misc]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for client in self._clients:
            client._transport.close()

    def resume(self) -> None:
        """Every client makes one call after the other."""
        for client in self._clients:
            client.again = True
            client.send()

    async def pause(self) -> None:
        """Wait for the calls under way and begin no more. Errors: BadReply for any reply so far, TimeoutError."""
        for client in self._clients:
            client.again = False
        async with asyncio.timeout(_PATIENCE_S):
            for client in self._clients:
                await client.idle.wait()
        for client in self._clients:
            if client.error is not None:
                raise client.error

    async def once(self, *, apart_s: float) -> None:
        """Every client begins one call, so many seconds after its neighbour."""
        for client in self._clients:
            client.send()
            await asyncio.sleep(apart_s)

    @property
    def calls(self) -> int:
        """Whole calls so far."""
        return sum(len(client.calls_ns) for client in self._clients)

    @property
    def body_bytes(self) -> int:
        return sum(client.body_bytes for client in self._clients)

    @property
    def calls_ns(self) -> list[int]:
        """How long each whole call took."""
        return [taken for client in self._clients for taken in client.calls_ns]

    @property
    def first_ns(self) -> list[int]:
        """How long the latest call of each client waited for the first byte of its body."""
        return [client.first_ns for client in self._clients]
