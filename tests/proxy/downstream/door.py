"""A listener with a handler of the test's, and a client that sends exactly the bytes it is given.

async with Door(echo) as door, door.caller() as caller:
    caller.send(GET)
    assert (await caller.answer()).status == 200

What the event loop's handler is told of is a failure when the door closes: nothing a client does may get there.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.listener import Listener
from proxy.downstream.rules import Rejection
from proxy.downstream.sink import HttpSink
from proxy.errors import ProxyError

HANG_S = 20.0
T = TypeVar("T")
Handler = Callable[[HttpArrival, HttpSink], Awaitable[None]]

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
MOST_BODY_BYTES = 64 << 20
CROWDED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def get(target: str = "/a", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "host: x", *fields, "", ""]).encode()


def post(body: bytes, *fields: str, target: str = "/a") -> bytes:
    """A request whose body has a length."""
    return get(target, f"content-length: {len(body)}", *fields, method="POST") + body


async def soon(waiting: Awaitable[T]) -> T:
    """The same, and a failure instead of a test that hangs."""
    async with asyncio.timeout(HANG_S):
        return await waiting


async def turns(until: Callable[[], bool]) -> None:
    """Let the loop turn until a fact holds that nothing announces."""
    async with asyncio.timeout(HANG_S):
        while not until():
            await asyncio.sleep(0)


def move_time(seconds: float) -> None:
    """Later, for everything that asks the loop what time it is."""
    asyncio.get_running_loop().moved_s += seconds  # type: ignore[attr-defined]


async def echo(arrival: HttpArrival, sink: HttpSink) -> None:
    """Read all, answer with what was read."""
    body = await arrival.read(MOST_BODY_BYTES)
    assert body is not None
    sink.whole(body, 200, [f"x-asked: {arrival.head.method} {arrival.head.target}"])
    await sink.room()


async def deaf(arrival: HttpArrival, sink: HttpSink) -> None:
    """Refuse without reading a byte of the body."""
    sink.whole(b"who are you?", 401, ["x-asked: nothing"])
    await sink.room()


async def deaf_for_good(arrival: HttpArrival, sink: HttpSink) -> None:
    """The same, and the connection ends with it."""
    sink.whole(b"too much", 413, ["x-asked: nothing"], close=True)
    await sink.room()


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as it came. fields: names in lower case. body: without its framing."""

    status: int
    fields: dict[str, str]
    body: bytes


class Door:
    """A listener on a free port. begun: every request that was handed to the handler; cancelled, finished: how many ended so.

    rejected: why clients were told that they sent no request.
    """

    def __init__(self, handler: Handler = echo, *, most: int = 4096) -> None:
        self._handler = handler
        self.begun: list[HttpArrival] = []
        self.finished = 0
        self.cancelled = 0
        self.rejected: list[str] = []
        self.faults: list[dict[str, Any]] = []
        self.wall_s = 1_800_000_000.0
        self.listener = Listener(
            answer=self._answer, reject=self._reject, wall_s=lambda: self.wall_s, most=most, crowded=lambda: CROWDED
        )
        self.port = 0

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))
        _, self.port = await self.listener.listen("127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await soon(self.listener.close())
        if error is None:
            await turns(lambda: self.connections == 0)
            assert not self.faults, self.faults

    @property
    def connections(self) -> int:
        return int(repr(self.listener).partition("connections=")[2].split()[0])

    async def idle(self, count: int) -> None:
        """Wait until so many connections were made, and all wait for a request or the rest of one."""
        await turns(lambda: self.connections == count and all(c.waiting_since is not None for c in self.listener._connections))

    @asynccontextmanager
    async def caller(self, *, receive_bytes: int | None = None) -> AsyncIterator["Caller"]:
        """A connected client. receive_bytes: a small receive buffer of its socket, for a client that is to be slow."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", self.port))
        caller = Caller(sock)
        try:
            yield caller
        finally:
            caller.leave()

    async def until(self, *, begun: int = 0, finished: int = 0, cancelled: int = 0) -> None:
        """Wait until so many requests were begun, answered, cancelled."""
        await turns(lambda: len(self.begun) >= begun and self.finished >= finished and self.cancelled >= cancelled)

    async def _answer(self, arrival: HttpArrival, sink: HttpSink) -> None:
        self.begun.append(arrival)
        try:
            try:
                await self._handler(arrival, sink)
            except ProxyError as error:
                sink.whole(b"refused", error.status, [f"x-code: {error.code}"], close=error.close)
                await sink.room()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except ConnectionError:
            sink.abort()
        self.finished += 1

    async def _reject(self, sink: HttpSink, rejection: Rejection) -> None:
        self.rejected.append(rejection.reason)
        sink.whole(b"no request", rejection.error.status, ["x-asked: nothing"])
        await sink.room()


class Caller:
    """A client's socket, without anybody reading ahead of the test. got: what was received and not yet taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.got = bytearray()
        self._loop = asyncio.get_running_loop()

    async def send(self, *pieces: bytes) -> None:
        """Pieces, each in a segment of its own that the other side has most likely read before the next comes."""
        for piece in pieces:
            await soon(self._loop.sock_sendall(self.sock, piece))
            await asyncio.sleep(0)

    def end(self) -> None:
        """Nothing more will be sent; what is answered will be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def more(self) -> bool:
        """Receive some more. False: the other side has ended. Errors: ConnectionError when it was reset."""
        piece = await soon(self._loop.sock_recv(self.sock, 65536))
        self.got += piece
        return bool(piece)

    async def ended(self) -> bytes:
        """Whatever still comes until the other side ends in order."""
        while await self.more():
            pass
        return self._take(len(self.got))

    async def answer(self, method: str = "GET") -> Answered:
        """The next answer, whole; an interim one is an answer too."""
        while b"\r\n\r\n" not in self.got:
            assert await self.more(), f"ended in a head: {self.got!r}"
        head = self._take(self.got.index(b"\r\n\r\n") + 4)[:-4]
        first, *lines = head.decode().split("\r\n")
        version, status = first.split()[:2]
        assert version == "HTTP/1.1"
        fields = dict(line.split(": ", 1) for line in lines)
        assert len(fields) == len(lines), lines
        if method == "HEAD" or status[0] == "1" or status in ("204", "304"):
            return Answered(int(status), fields, b"")
        if fields.get("transfer-encoding") == "chunked":
            return Answered(int(status), fields, await self._chunks())
        if "content-length" not in fields:
            return Answered(int(status), fields, await self.ended())
        body = await self._exactly(int(fields["content-length"]))
        return Answered(int(status), fields, body)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(await self._line(), 16):
            body += (await self._exactly(size + 2))[:-2]
        assert await self._line() == b""
        return bytes(body)

    async def _line(self) -> bytes:
        while b"\r\n" not in self.got:
            assert await self.more(), "ended in a body"
        return self._take(self.got.index(b"\r\n") + 2)[:-2]

    async def _exactly(self, size: int) -> bytes:
        while len(self.got) < size:
            assert await self.more(), "ended in a body"
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self.got[:size])
        del self.got[:size]
        return taken
