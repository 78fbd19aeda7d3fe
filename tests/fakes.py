"""A fake upstream that does exactly what its script says, and a client that sends exactly the bytes it is given.

    async with FakeUpstream() as upstream:
        upstream.queue(json_answer(200, {"id": "x"}))
        upstream.queue(sse_answer([b"data: {}\\n\\n", b"data: [DONE]\\n\\n"], framing="chunked", cut_after=1))

One script answers one request, in the order in which whole requests arrive, whatever the connection. A request without a script
gets 500. After a script that did not end its connection, the connection is kept for the next request.
A test waits for facts and never for time: `await upstream.arrived(2)`, `await request.closed_early.wait()`.

The rule a reader could break: what a builder returns are plain steps, and two `Send`s may still reach the peer in one read.
Whoever needs them apart puts a `Wait` between them and sets its event once the first was seen.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, cast

import orjson

Framing = Literal["chunked", "length", "close"]

# Guards against a test that would hang: no passing test comes near it.
_HANG_S = 20.0


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes and wait until the peer's slowness allows more."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on when the test says so."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in order (FIN), after what was sent."""


@dataclass(frozen=True, slots=True)
class Abort:
    """End the connection with a reset (RST); what was sent may be lost."""


@dataclass(frozen=True, slots=True)
class UntilClosed:
    """Do nothing until the peer closes the connection."""


Step = Send | Wait | Close | Abort | UntilClosed


@dataclass(slots=True, eq=False)
class Received:
    """One whole request as it came.

    number: 0, 1, … in order of arrival; connection: 0, 1, … in order of being accepted. headers: names and values as sent.
    body: without its framing. sent_bytes: what the script has written so far. closed_early: the peer went before the script's end.
    played: the script is over, at its end or early.
    """

    number: int
    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    sent_bytes: int = 0
    closed_early: asyncio.Event = field(default_factory=asyncio.Event)
    played: asyncio.Event = field(default_factory=asyncio.Event)

    def header(self, name: str) -> str | None:
        """The only value of a header, None where it is absent. Several are a fault of the sender."""
        values = [v for n, v in self.headers if n.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> object:
        return orjson.loads(self.body)


def _head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{n}: {v}" for n, v in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _split(body: bytes, sizes: Iterable[int]) -> list[bytes]:
    """The body in pieces of these sizes, and what is left as the last one."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    return [p for p in (*pieces, body[at:]) if p]


def json_answer(
    status: int, payload: object, *, headers: Mapping[str, str] | None = None, splits: Sequence[int] = ()
) -> list[Step]:
    """A JSON answer with a Content-Length. splits: sizes of the body's pieces, one `Send` each; the head is the first `Send`."""
    body = orjson.dumps(payload)
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    return [Send(_head(status, fields.items())), *map(Send, _split(body, splits))]


def sse_answer(
    events: Sequence[bytes],
    *,
    framing: Framing = "chunked",
    cut_after: int | None = None,
    splits: Sequence[int] | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[Step]:
    """An event stream. The head is the first `Send`, then one `Send` for each piece of the body, each a chunk of its own.

    events: raw bytes with their blank lines. splits: sizes of the pieces; None makes every event one piece.
    cut_after: how many events come before the connection is closed in mid-answer; with framing `close` that looks complete.
    """
    sent = events if cut_after is None else events[:cut_after]
    pieces = list(sent) if splits is None else _split(b"".join(sent), splits)
    frames: dict[Framing, dict[str, str]] = {
        "chunked": {"transfer-encoding": "chunked"},
        "length": {"content-length": str(sum(map(len, events)))},
        "close": {"connection": "close"},
    }
    steps: list[Step] = [Send(_head(200, {"content-type": "text/event-stream", **frames[framing], **(headers or {})}.items()))]
    steps += [Send(b"%x\r\n%b\r\n" % (len(p), p) if framing == "chunked" else p) for p in pieces]
    if cut_after is not None or framing == "close":
        return [*steps, Close()]
    return [*steps, Send(b"0\r\n\r\n")] if framing == "chunked" else steps


UNSCRIPTED = tuple(json_answer(500, {"error": {"message": "no script", "type": "server_error", "param": None, "code": None}}))


class FakeUpstream:
    """An HTTP/1.1 server on a free port of 127.0.0.1, played from scripts.

    default: the script of a request that has none queued, or what makes one of the request, where many come at once.
    Leaving the `async with` closes everything, and fails if a request was malformed.
    """

    def __init__(self, *, default: Sequence[Step] | Callable[[Received], Sequence[Step]] = UNSCRIPTED) -> None:
        self.requests: list[Received] = []
        self.accepted = 0  # connections, so far
        self.received_bytes = 0  # also of requests that never became whole
        self.port = 0
        self._default = default
        self._scripts: deque[tuple[Step, ...]] = deque()
        self._links: set[_Link] = set()
        self._faults: list[BaseException] = []
        self._grew = asyncio.Event()
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<FakeUpstream :{self.port} requests={len(self.requests)} queued={len(self._scripts)} open={len(self._links)}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._links)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        await self.hang_up()
        await self._server.wait_closed()
        if self._faults and error is None:
            raise self._faults[0]

    def queue(self, steps: Iterable[Step]) -> None:
        """The script of the next request that has none yet."""
        self._scripts.append(tuple(steps))

    async def arrived(self, count: int = 1) -> Received:
        """Wait until so many whole requests have come in all, and return the last of them."""
        async with asyncio.timeout(_HANG_S):
            while len(self.requests) < count:
                self._grew.clear()
                await self._grew.wait()
        return self.requests[count - 1]

    async def hang_up(self) -> None:
        """Close every open connection, idle or not, as a server does whose keep-alive time is over."""
        await asyncio.gather(*(link.stop() for link in list(self._links)))

    def _take(self, request: Received) -> tuple[Step, ...]:
        self.requests.append(request)
        self._grew.set()
        if self._scripts:
            return self._scripts.popleft()
        return tuple(self._default(request) if callable(self._default) else self._default)


class _Link(asyncio.Protocol):
    """One connection: collects a whole request, plays its script, then takes the next."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self._upstream = upstream
        self._pending = b""
        self._gone = asyncio.Event()  # the peer closed or reset, or we did
        self._lost = asyncio.Event()  # nothing of the connection is left
        self._writable = asyncio.Event()
        self._playing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._number = self._upstream.accepted
        self._upstream.accepted += 1
        self._upstream._links.add(self)
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._upstream.received_bytes += len(data)
        self._pending += data
        self._next()

    def eof_received(self) -> bool:
        self._gone.set()
        return False  # closes our side too, once what was written is flushed

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._writable.set()
        self._lost.set()
        self._upstream._links.discard(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def stop(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.wait([self._playing])
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # a peer that does not read would keep an orderly close waiting
        self._transport.close()
        await self._lost.wait()

    def _next(self) -> None:
        if self._playing is not None or self._transport.is_closing():
            return
        try:
            whole = _parse(self._pending)
        except (ValueError, AssertionError) as exc:
            self._upstream._faults.append(AssertionError(f"malformed request {self._pending[:200]!r}: {exc!r}"))
            self._transport.abort()
            return
        if whole is not None:
            method, target, headers, body, self._pending = whole
            request = Received(len(self._upstream.requests), self._number, method, target, headers, body)
            self._playing = asyncio.create_task(self._play(request, self._upstream._take(request)))
            self._playing.add_done_callback(self._ended)

    def _ended(self, playing: asyncio.Task[None]) -> None:
        self._playing = None
        if playing.cancelled():
            return
        if fault := playing.exception():
            self._upstream._faults.append(fault)
        self._next()

    async def _play(self, request: Received, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case Send(data) if not self._gone.is_set():
                    self._transport.write(data)
                    await self._either(self._writable)
                    request.sent_bytes += len(data)
                case Wait(event):
                    await self._either(event)
                case UntilClosed():
                    await self._gone.wait()
                case Close():
                    self._transport.close()
                    break
                case Abort():
                    _reset(self._transport)
                    break
            if self._gone.is_set():
                request.closed_early.set()
                break
        request.played.set()

    async def _either(self, event: asyncio.Event) -> None:
        """Until the event is set or the peer is gone."""
        if event.is_set():
            return
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(self._gone.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _reset(transport: asyncio.Transport) -> None:
    """Close with a RST: a socket that lingers for zero seconds drops what it still holds."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


_Whole = tuple[str, str, list[tuple[str, str]], bytes, bytes]


def _parse(data: bytes) -> _Whole | None:
    """(method, target, headers, body, rest), or None while the request is not whole. ValueError, AssertionError: malformed."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    assert version in ("HTTP/1.1", "HTTP/1.0"), version
    pairs = [line.split(":", 1) for line in lines]
    headers = [(name, value.strip()) for name, value in pairs]
    length = [v for n, v in headers if n.lower() == "content-length"]
    coding = [v for n, v in headers if n.lower() == "transfer-encoding"]
    assert len(length) + len(coding) <= 1, f"ambiguous framing: {length} {coding}"
    if coding:
        assert coding == ["chunked"], coding
        dechunked = dechunk(rest)
        return None if dechunked is None else (method, target, headers, *dechunked)
    size = int(length[0]) if length else 0
    return None if len(rest) < size else (method, target, headers, rest[:size], rest[size:])


def dechunk(data: bytes) -> tuple[bytes, bytes] | None:
    """(body, rest) of a chunked body, None while its last chunk is missing. ValueError: not chunked. Trailers are not expected."""
    body = b""
    while True:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return None
        size = int(line.partition(b";")[0], 16)
        if len(data) < size + 2:
            return None
        if data[size : size + 2] != b"\r\n":
            raise ValueError(f"chunk of {size} bytes does not end in CRLF")
        body += data[:size]
        data = data[size + 2 :]
        if size == 0:
            return body, data


async def raw_exchange(host: str, port: int, data: bytes) -> bytes:
    """Send these bytes and return all that comes back until the server closes or resets.

    The request must make the server close (`Connection: close`, or something it does not accept); TimeoutError if it does not.
    """
    reader, writer = await asyncio.open_connection(host, port)
    got = bytearray()
    try:
        async with asyncio.timeout(_HANG_S):
            writer.write(data)
            while chunk := await reader.read(65536):
                got += chunk
    except ConnectionError:
        pass  # a reset ends the exchange like any other end; what came before it counts
    finally:
        writer.transport.abort()
    return bytes(got)
