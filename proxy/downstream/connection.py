"""One connection of a client: requests one after another, each answered before the next is begun.

           head                      answer sent, request whole
    IDLE ────────► RUNNING ──────────────────────────────────────► IDLE, or the next that waits, or CLOSED
                      │  answer sent, request not whole
                      └────────────────────────────────► LINGERING: the rest is read and dropped, but not for long

llhttp decides what a message is and where it ends. A request that comes while another is running waits; nothing more is read then.
What is malformed gets our own answer, after those before it, and ends the connection. A client that leaves cancels its call.

The rule a reader could break: a request that was not read to its end is never followed by another on the same connection, since
nobody could say where that begins.
"""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any, Protocol, cast

import httptools

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.outlet import Outlet
from proxy.downstream.sink import HttpSink
from proxy.wire.names import LowerNames

MOST_HEAD_BYTES = 32 << 10
MOST_FIELDS = 100
MOST_WAITING = 64  # requests sent ahead of their turn; reading stops at the first, but one read may bring many
HIGH_WATER_BYTES = 64 << 10  # from here on the transport says that its reader is slow
LINGER_S = 2.0
_NAMES = LowerNames()


class Owner(Protocol):
    """Whom a connection belongs to. date: the Date field's value. closing: no call is begun any more."""

    closing: bool

    def date(self) -> str: ...

    def answer(self, arrival: HttpArrival, sink: HttpSink) -> Coroutine[Any, Any, None]:
        """Answer a request. Raises nothing but CancelledError and ConnectionError, when the client has left."""

    def malformed(self, sink: HttpSink) -> Coroutine[Any, Any, None]:
        """Answer what is no request."""

    def lost(self, connection: "ClientConnection") -> None:
        """Its socket is closed, by whichever side."""


class ClientConnection(asyncio.Protocol):
    """The server's side of one socket.

    waiting_since: loop time at which it began to wait for something that may not take for ever (`waiting_for`), None while it does not.
    """

    __slots__ = (
        "_arrival",
        "_deaf",
        "_framing_bytes",
        "_head_open",
        "_headers",
        "_loop",
        "_loopback",
        "_outlet",
        "_owner",
        "_parser",
        "_queue",
        "_read_bytes",
        "_repeated",
        "_running",
        "_task",
        "_transport",
        "_url",
        "waiting_for",
        "waiting_since",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._queue: list[HttpArrival | None] = []  # requests whose turn has not come; None for what is no request
        self._arrival: HttpArrival | None = None  # whose body is being received
        self._running: HttpArrival | None = None
        self._task: asyncio.Task[None] | None = None
        self._deaf = False  # nothing that comes is looked at any more
        self._head_open = False
        self._framing_bytes = 0  # of a head, or since some of a body came: sizes, extensions, trailers
        self._read_bytes = 0  # the last time
        self._url = b""
        self._headers: dict[str, str] = {}
        self._repeated: tuple[str, ...] = ()
        self.waiting_for = "request"
        self.waiting_since: float | None = None

    def __repr__(self) -> str:
        state = "running" if self._running is not None else f"waiting for {self.waiting_for}"
        return f"<ClientConnection {state} queued={len(self._queue)} deaf={self._deaf}>"

    # ── for the owner ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def task(self) -> "asyncio.Task[None] | None":
        """The call that is running."""
        return self._task

    def close_if_idle(self) -> None:
        if self._running is None and self._task is None and not self._queue:
            self._close()

    def close_if_late(self, now: float, *, patience_s: dict[str, float]) -> None:
        """Close it if it has waited longer than it may. patience_s: by what it waits for: request, head, rest, close, flush."""
        since = self.waiting_since
        if since is not None and now - since > patience_s[self.waiting_for]:
            self._transport.abort() if self._transport.is_closing() or self.waiting_for == "close" else self._close()

    def abort(self) -> None:
        self._transport.abort()

    # ── for arrival and sink ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def date(self) -> str:
        return self._owner.date()

    @property
    def closing(self) -> bool:
        return self._owner.closing or (self._deaf and not self._queue)

    def go_on(self) -> None:
        if not self._queue and not self._transport.is_closing():
            self._transport.resume_reading()

    def invite(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # ── from the socket ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._loopback = is_loopback(transport)
        self._outlet = Outlet(self._transport, self._loop)
        self._wait("request")

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._read_bytes = len(data)
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a mistake of ours: it goes to the loop's handler, which closes the connection
        except httptools.HttpParserUpgrade:
            # The request was taken and will be refused; what follows is another protocol.
            self._deaf = True
            if self._arrival is not None:
                self._arrival.complete()
        except httptools.HttpParserError:
            self._malformed()
        if self._framing_bytes > MOST_HEAD_BYTES:
            self._malformed()
        elif self._head_open and self._running is None and self.waiting_for != "head" and not self._deaf:
            self._wait("head")

    def eof_received(self) -> None:
        """A client that ends its side is one that left: the transport closes, and the call is cancelled."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._queue.clear()
        self.waiting_since = None
        self._outlet.resume()
        if self._task is not None:
            self._task.cancel()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._outlet.slow = True

    def resume_writing(self) -> None:
        self._outlet.resume()

    # ── from the parser ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        self._head_open = True
        self._url = b""
        self._headers = {}
        self._repeated = ()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers  # of a trailer: a dict that nobody looks at
        key = _NAMES[name]
        if key in headers:
            self._repeat(key, value)
            return
        try:
            headers[key] = value.decode()
        except UnicodeDecodeError:
            headers[key] = value.decode("utf-8", "surrogateescape")

    def _repeat(self, key: str, value: bytes) -> None:
        """A field that stands more than once. Behind too many to be accepted none is copied any more: that would take seconds."""
        if len(self._repeated) > MOST_FIELDS:
            return
        self._repeated = (*self._repeated, key)
        self._headers[key] += ", " + value.decode("utf-8", "surrogateescape")

    def on_headers_complete(self) -> None:
        large = self._framing_bytes > MOST_HEAD_BYTES or self._read_bytes > MOST_HEAD_BYTES
        self._head_open = False
        self._framing_bytes = 0
        if self._deaf:
            return
        parser, headers, repeated = self._parser, self._headers, self._repeated
        self._headers = {}
        if len(headers) + len(repeated) > MOST_FIELDS or (large and self._size_of(headers) > MOST_HEAD_BYTES):
            self._malformed()
            return
        version = parser.get_http_version()
        modern = version == "1.1"
        if not modern and (version != "1.0" or "transfer-encoding" in headers):  # RFC 9112, section 6.1: faulty framing
            self._malformed()
            return
        arrival = self._arrival = HttpArrival(
            self,
            self._loop,
            parser.get_method().decode(),
            self._url.decode("utf-8", "surrogateescape"),
            headers,
            repeated,
            self._loopback,
            parser.should_keep_alive(),
            modern,
        )
        if self._running is None:
            self._begin(arrival)
        else:
            self._enqueue(arrival)

    def _size_of(self, headers: dict[str, str]) -> int:
        return len(self._url) + sum(map(len, headers)) + sum(map(len, headers.values()))

    def on_body(self, data: bytes) -> None:
        self._framing_bytes = 0
        if self._arrival is not None and self._arrival.feed(data):
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._framing_bytes = 0
        arrival, self._arrival = self._arrival, None
        if arrival is None:
            return
        arrival.complete()
        if self.waiting_for == "rest" and arrival is self._running:
            self._turn(keep=True)

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _wait(self, what: str) -> None:
        self.waiting_for = what
        self.waiting_since = self._loop.time()

    def _begin(self, arrival: HttpArrival) -> None:
        self.waiting_since = None
        self.waiting_for = "answer"
        self._running = arrival
        sink = HttpSink(self, self._outlet, bodiless=arrival.method == "HEAD", modern=arrival.modern, keep_alive=arrival.keep)
        self._task = self._loop.create_task(self._answer(arrival, sink))

    async def _answer(self, arrival: HttpArrival, sink: HttpSink) -> None:
        try:
            await self._owner.answer(arrival, sink)
        except ConnectionError:  # the client has left
            self._transport.abort()
        except BaseException:
            self._transport.abort()
            raise
        finally:
            self._task = None
        if arrival.whole:
            self._turn(keep=sink.keep_alive)
        else:
            self._linger(arrival, keep=sink.keep_alive)

    def _linger(self, arrival: HttpArrival, *, keep: bool) -> None:
        """An answer was sent to a request that is not whole."""
        if self._transport.is_closing():
            return
        arrival.discard()
        if keep and not self._deaf:
            self._wait("rest")
        else:
            self._part()

    def _turn(self, *, keep: bool) -> None:
        """The running request is over: the next one, or the end."""
        self._running = None
        if self._transport.is_closing():
            return
        if not keep or self._owner.closing:
            self._part() if self._deaf or self._queue else self._close()
        elif not self._queue:
            self._wait("head" if self._head_open else "request")
        else:
            following = self._queue.pop(0)
            if not self._queue:
                self._transport.resume_reading()
            if following is None:
                self._refuse()
            else:
                self._begin(following)

    def _part(self) -> None:
        """End, but read on for a while: closing over unread bytes is a reset, which might overtake the answer on its way."""
        if self._transport.is_closing():
            return
        self._deaf = True
        self._wait("close")
        try:
            self._transport.resume_reading()
            self._transport.write_eof()
        except OSError:  # it was reset, and the loop is yet to say so
            self._transport.abort()

    def _close(self) -> None:
        """End, once what was written is on its way."""
        self._deaf = True
        self._transport.close()
        self._wait("flush")

    def _enqueue(self, following: HttpArrival | None) -> None:
        if len(self._queue) >= MOST_WAITING:
            self._transport.abort()
            return
        self._queue.append(following)
        self._transport.pause_reading()

    def _malformed(self) -> None:
        """What came is no request, or no end of one. Nothing behind it is looked at."""
        if self._deaf:
            return
        self._deaf = True
        if self._arrival is not None:
            self._arrival.fail()
            if self.waiting_for == "rest":
                self._part()
        elif self._running is None:
            self._refuse()
        else:
            self._enqueue(None)

    def _refuse(self) -> None:
        self._wait("close")
        sink = HttpSink(self, self._outlet, False, True, False)
        self._task = self._loop.create_task(self._say_malformed(sink))

    async def _say_malformed(self, sink: HttpSink) -> None:
        with contextlib.suppress(ConnectionError):  # whoever sent it has left
            await self._owner.malformed(sink)
        self._task = None
        self._part()


def is_loopback(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer is this machine (in a pod: any of its containers)."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        sock = transport.get_extra_info("socket")
        return sock is not None and sock.family == socket.AF_UNIX
    host = peer[0]
    return bool(host == "127.0.0.1" or ip_address(host.partition("%")[0]).is_loopback)
