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
from typing import cast

import httptools

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.known import KnownHead, parts_of
from proxy.downstream.outlet import Outlet
from proxy.downstream.owner import Owner
from proxy.downstream.peer import address, is_loopback
from proxy.downstream.rules import MOST_FIELDS, MOST_HEAD_BYTES, OTHER_PROTOCOL, Rejection, fault_of, late, malformed, too_large
from proxy.downstream.sink import HttpSink
from proxy.wire.names import LowerNames
from proxy.wire.request import RequestHead

MOST_WAITING = 64  # requests sent ahead of their turn; reading stops at the first, but one read may bring many
HIGH_WATER_BYTES = 32 << 10  # from here on the transport says that its reader is slow
LINGER_S = 2.0
_NAMES = LowerNames()


class ClientConnection(asyncio.Protocol):
    """The server's side of one socket.

    waiting_since: loop time at which it began to wait for something that may not take for ever (`waiting_for`), None while it does not.
    """

    __slots__ = (
        "_arrival",
        "_begun",
        "_deaf",
        "_early",
        "_framing_bytes",
        "_head_open",
        "_headers",
        "_known",
        "_last_parts",
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
        "date",
        "waiting_for",
        "waiting_since",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self.date = owner.date
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._queue: list[HttpArrival | Rejection] = []  # requests whose turn has not come, and what is none
        self._arrival: HttpArrival | None = None  # whose body is being received
        self._running: HttpArrival | None = None
        self._task: asyncio.Task[None] | None = None
        self._deaf = False  # nothing that comes is looked at any more
        self._early = False  # something came behind a head that asks for another protocol
        self._begun = 0  # messages, by what was read last
        self._known: KnownHead | None = None  # the head of the last request, if it is one of those and the next begins with a read
        self._last_parts = 0  # the hash of what else it was
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
        if since is None or now - since <= patience_s[self.waiting_for]:
            return
        if self.waiting_for == "head" and not self._deaf:
            self._reject(late())
        else:
            self._outlet.abort() if self._transport.is_closing() or self.waiting_for == "close" else self._close()

    def abort(self) -> None:
        self._outlet.abort()

    # ── for arrival and sink ─────────────────────────────────────────────────────────────────────────────────────────

    def closing(self) -> bool:
        return self._owner.closing or (self._deaf and not self._queue)

    def go_on(self) -> None:
        if not self._queue and not self._transport.is_closing():
            self._transport.resume_reading()

    def source(self) -> str:
        return address(self._transport)

    def invite(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def hand_over(self, heir: asyncio.Protocol) -> asyncio.Transport | None:
        """The socket is another protocol's from here on, which says so when it is lost (`lost`). None: something came before its time."""
        running = self._running
        if self._early or self._queue or not self._deaf or running is None or running.length or self._transport.is_closing():
            return None
        self._transport.set_protocol(heir)
        return self._transport

    def lost(self, exc: Exception | None) -> None:
        self._task = None  # which was told by whoever has the socket, and ends by itself
        self.connection_lost(exc)

    # ── from the socket ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._loopback = is_loopback(transport)
        self._outlet = Outlet(self._transport, self._loop)
        self._wait("request")

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._early = True
            return
        known = self._known
        if known is not None and self._running is None and (at := known.body_at(data)):
            self._begin(HttpArrival(self, self._loop, known.head, len(data) - at, self._loopback, (data, at)))
            return
        fresh = self._arrival is None and not self._head_open
        self._begun = 0
        self._read_bytes = len(data)
        self._framing_bytes += len(data)
        if fresh and OTHER_PROTOCOL.match(data):
            self._reject(malformed())
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a mistake of ours: it goes to the loop's handler, which closes the connection
        except httptools.HttpParserUpgrade as upgrade:
            # The request was taken. What follows is another protocol, which nobody may speak before it was agreed to.
            self._deaf = True
            self._early = upgrade.args[0] < len(data)
            if self._arrival is not None:
                self._arrival.complete()
        except httptools.HttpParserError:
            self._reject(malformed())
        self._known = self._learn(data) if fresh and self._begun == 1 and self._arrival is None else None
        if self._framing_bytes > MOST_HEAD_BYTES:
            self._reject(too_large(len(self._url) if self._head_open and not self._headers else 0))
        elif self._head_open and self._running is None and self.waiting_for != "head" and not self._deaf:
            self._wait("head")

    def _learn(self, data: bytes) -> KnownHead | None:
        """The head of the last read, if that held one message and nothing else. From its second time on it is known by its bytes."""
        arrival = self._queue[-1] if self._queue else self._running
        if self._deaf or self._head_open or arrival is None or isinstance(arrival, Rejection) or arrival.length is None:
            return None
        parts = parts_of(data, method=arrival.head.method, length=arrival.length)
        if parts is None:
            return None
        known, self._last_parts = self._owner.heads.meet(parts, arrival.head, last=self._last_parts)
        if known is not None:
            arrival.head = known.head
        return known

    def eof_received(self) -> None:
        """A client that ends its side is one that left: the transport closes, and the call is cancelled."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        del self._parser  # which holds on to this
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
        self._begun += 1
        self._head_open = True
        self._url, self._headers, self._repeated = b"", {}, ()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers  # of a trailer: a dict that nobody looks at
        key = _NAMES[name]
        if key in headers:
            self._repeat(key, value)
            return
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
        method, version = parser.get_method().decode(), parser.get_http_version()
        fault = fault_of(method, self._url, version, headers, len(repeated), large=large)
        if fault is not None:
            self._reject(fault)
            return
        length = headers.pop("content-length", None)
        head = RequestHead(
            method=method,
            target=self._url.decode("utf-8", "surrogateescape"),
            headers=headers,
            repeated=repeated,
            keep=parser.should_keep_alive(),
            modern=version == "1.1",
        )
        arrival = self._arrival = HttpArrival(self, self._loop, head, None if length is None else int(length), self._loopback)
        if self._running is None:
            self._begin(arrival)
        else:
            self._enqueue(arrival)

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
        head = arrival.head
        sink = HttpSink(self, self._outlet, head.method == "HEAD", head.modern, head.keep)
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
            if isinstance(following, Rejection):
                self._refuse(following)
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
            if self._transport.can_write_eof():  # TLS knows no half of a connection
                self._transport.write_eof()
        except OSError:  # it was reset, and the loop is yet to say so
            self._transport.abort()

    def _close(self) -> None:
        """End, once what was written is on its way."""
        self._deaf = True
        self._transport.close()
        self._wait("flush")

    def _enqueue(self, following: HttpArrival | Rejection) -> None:
        if len(self._queue) >= MOST_WAITING:
            self._transport.abort()
            return
        self._queue.append(following)
        self._transport.pause_reading()

    def _reject(self, rejection: Rejection) -> None:
        """What came is no request, or no end of one. Nothing behind it is looked at."""
        if self._deaf:
            return
        self._deaf = True
        if self._arrival is not None:
            self._arrival.fail()
            if self.waiting_for == "rest":
                self._part()
        elif self._running is None:
            self._refuse(rejection)
        else:
            self._enqueue(rejection)

    def _refuse(self, rejection: Rejection) -> None:
        self._wait("close")
        sink = HttpSink(self, self._outlet, False, True, False)
        self._task = self._loop.create_task(self._say(sink, rejection))

    async def _say(self, sink: HttpSink, rejection: Rejection) -> None:
        with contextlib.suppress(ConnectionError):  # whoever sent it has left
            await self._owner.reject(sink, rejection)
        self._task = None
        self._part()
