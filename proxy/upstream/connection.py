"""One connection to an upstream: requests one after another, each answered before the next begins.

              send                 head                    last byte, read to its end
    IDLE ────────────► WAITING ────────────► BODY ──────────────────────────────────────► IDLE, or CLOSED if it may not be kept
      │                   │                    │
      └───────────────────┴────────────────────┴─► CLOSED: end of the stream, reset, garbage, or nobody wants the rest

IDLE is `_answer is None`; then nothing may come: a byte, or the end of the stream, closes the connection at once. WAITING and BODY
differ by `answer.status`; interim answers (1xx) are passed over in WAITING. llhttp decides what a message is and where it ends; what it
lets pass though HTTP/1.1 does not is refused in `on_headers_complete`. An answer without length or chunks ends with the stream.

What can be known of a request that got no answer: `send` looks for an end or a reset that the kernel has already seen, and writes in
the same breath. If that write is refused, no byte was accepted, and the request may go over another connection. Once a byte was
accepted, nobody but the upstream knows what became of it, so it is never sent again. Over TLS every write counts as accepted.

The rule a reader could break: a connection whose framing was in any doubt is never used again, so a fault always closes it.
"""

import asyncio
import re
import select
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol, cast

import httptools

from proxy.upstream.answer import HttpAnswer
from proxy.upstream.chunks import END, ONE_CHUNK, SIZE, data_at
from proxy.upstream.fields import KeptFields
from proxy.upstream.kernel import received_bytes
from proxy.upstream.rules import MOST_FIELDS, MOST_HEAD_BYTES, fault_of

# A body up to this leaves with its head in one write; a longer one follows in pieces of this size, as fast as the socket takes them.
PIECE_BYTES = 128 << 10

_TIMEOUT = re.compile(r"(?:^|[,;\s])timeout=(\d{1,6})", re.IGNORECASE)


class Owner(Protocol):
    """Who keeps connections. fields: what they are to keep of an answer's."""

    fields: KeptFields

    def free(self, connection: "Connection") -> None:
        """It may be used for another request."""

    def lost(self, connection: "Connection") -> None:
        """It is closed. Called once."""


class Connection(asyncio.BaseProtocol):
    """A connected socket, as it is with TLS; `PlainConnection` goes without. plain: whether this one does.

    retires_at, expires_at: for its owner. idle_s: how long the upstream says that it keeps an idle connection, None where it does not.
    """

    __slots__ = (
        "_answer",
        "_body_pieces",
        "_chunk_at",
        "_dry_bytes",
        "_fields",
        "_look",
        "_loop",
        "_made",
        "_marks",
        "_owner",
        "_parser",
        "_received",
        "_requests",
        "_sock",
        "_transport",
        "_values",
        "_write_waiter",
        "_writing_paused",
        "expires_at",
        "idle_s",
        "on_body",
        "on_chunk_complete",
        "on_chunk_header",
        "retires_at",
    )
    plain = False

    def __init__(self, owner: Owner, *, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._fields = owner.fields
        self._values: list[bytes] = []  # of all fields of the head, kept or not
        self._dry_bytes = 0  # received since the request, or since the last byte of a body
        self._sock = sock
        # Asking the kernel through this costs 0.4 µs, a third of what a `recv` with MSG_PEEK costs that finds nothing.
        self._look = select.poll()
        self._look.register(sock, select.POLLIN)
        self._loop = loop
        self._received: list[bytes] = []  # of the answer's body, for it to take
        self._chunk_at = 0  # the last read was one chunk, and here its data began; 0 = it was anything else
        self._body_pieces = 0  # how many of them lay there when the body's last byte had come
        self._marks: list[int] = []  # the last read's ends of sizes and of chunks
        # No code of ours runs for a piece: what must be looked at is, once the read is through.
        self.on_body = self._received.append
        self.on_chunk_header = partial(self._marks.append, SIZE)
        self.on_chunk_complete = partial(self._marks.append, END)
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._answer: HttpAnswer | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._writing_paused = False
        self._made = False
        self._requests = 0
        self.retires_at = self.expires_at = 0.0
        self.idle_s: float | None = None

    def __repr__(self) -> str:
        state = "closed" if self._parser is None else "idle" if self._answer is None else repr(self._answer)
        return f"<Connection requests={self._requests} {state}>"

    @property
    def gone(self) -> bool:
        """Whether its socket is closed; its owner was told."""
        return self._parser is None

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def usable(self) -> bool:
        """Whether nothing came since the last answer, neither a byte nor an end, also not as far as only the kernel knows yet."""
        if self._parser is None or self._transport.is_closing():
            return False
        if not self.plain and not self._requests:
            return True  # behind its handshake a TLS server sends tickets, and they prove nothing
        return not self._look.poll(0)

    def send(self, parts: tuple[bytes | memoryview, ...], size: int) -> HttpAnswer | None:
        """Write a request's head and what of its body is at hand. The answer, whose head is yet to come.

        size: bytes of all parts. None if no byte was accepted; the connection is closed then.
        """
        if not self.usable():
            self.abort()
            return None
        self._requests += 1
        if self.plain and not self._transport.get_write_buffer_size():
            # Nothing waits in the transport, so the order holds; and unlike the transport's write, this one says whether it failed.
            try:
                accepted = self._sock.sendmsg(parts)
            except BlockingIOError:
                accepted = 0
            except OSError:
                self.abort()
                return None
            if accepted < size:
                self._transport.write(memoryview(b"".join(parts))[accepted:])
        else:
            self._transport.write(b"".join(parts))
        self._dry_bytes = self._chunk_at = 0
        answer = self._answer = HttpAnswer(self, self._loop, self._received)
        return answer

    async def send_on(self, answer: HttpAnswer, rest: memoryview | AsyncIterator[bytes], progress: Callable[[], object]) -> None:
        """Write what of the body `send` was not given. Errors: whatever `rest` raises; the answer says what else went wrong.

        progress: called before every wait for the socket to take more.
        """
        answer.sending = True
        await (self._pieces(answer, rest, progress) if isinstance(rest, memoryview) else self._chunks(answer, rest, progress))

    async def _pieces(self, answer: HttpAnswer, rest: memoryview, progress: Callable[[], object]) -> None:
        for at in range(0, len(rest), PIECE_BYTES):
            progress()
            if not await self._wanted(answer):
                return
            self._transport.write(rest[at : at + PIECE_BYTES])
        answer.sending = False

    async def _chunks(self, answer: HttpAnswer, chunks: AsyncIterator[bytes], progress: Callable[[], object]) -> None:
        async for chunk in chunks:
            if chunk:
                progress()
                if not await self._wanted(answer):
                    return
                self._transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
        progress()
        if await self._wanted(answer):
            self._transport.write(b"0\r\n\r\n")
            answer.sending = False

    async def _wanted(self, answer: HttpAnswer) -> bool:
        """Wait until the socket takes more. False when there is no point: the upstream has refused already, or is gone."""
        if self._writing_paused and self._open_to_more(answer):
            waiter = self._write_waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._write_waiter = None
        return self._open_to_more(answer)

    def _open_to_more(self, answer: HttpAnswer) -> bool:
        return answer.fault is None and answer.status < 300 and self._parser is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Close the socket at once, so that the upstream learns of it. Any number of times."""
        if self._parser is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """Whoever made it gave up. A loop may go on with a handshake that was cancelled; its end is then the connection's too."""
        self._parser = None
        if self._made:
            self._transport.abort()

    # ── for the answer ───────────────────────────────────────────────────────────────────────────────────────────────

    def pause(self) -> None:
        self._transport.pause_reading()

    def go_on(self) -> None:
        if self._parser is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def received_bytes(self) -> int:
        return received_bytes(self._sock)

    def let_go(self, answer: HttpAnswer) -> None:
        if answer is not self._answer:
            return
        self._answer = None
        spent = answer.whole and answer.keep and not answer.chunks and not answer.sending and answer.fault is None
        if spent and self._parser is not None and not self._transport.is_closing():
            self._owner.free(self)
        else:
            self.abort()

    # ── from the socket ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._made = True
        if self._parser is None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None:
            self.abort()
            return
        if at := self._chunk_at:
            end = len(data) - 2
            if at < end and answer.take_chunk is not None and data[:at] == b"%x\r\n" % (end - at) and data[end:] == b"\r\n":
                # One chunk, and llhttp stands between chunks. It need not see this one, behind which it would stand there again.
                try:
                    going = answer.take_chunk(data, at, end)
                except Exception as error:
                    answer.rest(error)  # it belongs to whoever pumps
                    return
                if going is not None:
                    if not going:
                        answer.rest()
                    return
            self._chunk_at = 0
        if answer.whole:
            self._break(answer, "bytes after the end")
            return
        self._dry_bytes += len(data)
        self._marks.clear()
        try:
            parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a mistake of ours: it goes to the loop's handler, which closes the connection
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            answer.fault = answer.fault or ("bytes after the end" if answer.whole else str(error))
        received = self._received
        if received:
            self._dry_bytes = 0
            take = answer.take
            if take is not None and answer.fault is None and not answer.whole:
                if self._marks == ONE_CHUNK:
                    self._chunk_at = data_at(data, received)
                try:
                    if not take(received.pop() if len(received) == 1 else answer.taken()):
                        answer.rest()
                except Exception as error:
                    answer.rest(error)  # it belongs to whoever pumps
                return
            if answer.bodiless:
                answer.fault = "a body where none can be"
        if answer.fault is not None:
            if answer.whole:
                del received[self._body_pieces :]  # they are of no body, or of another message
            self._break(answer, answer.fault)
        elif self._dry_bytes > MOST_HEAD_BYTES and not answer.whole:
            # Neither head nor trailers nor the extensions of chunks may go on for ever.
            self._break(answer, "too many bytes without a body's")
        else:
            answer.came(len(data))
            if answer.sending:
                self._look_at_writing()

    def eof_received(self) -> None:
        answer = self._answer
        if answer is None:
            self.abort()
            return
        answer.keep = False
        if answer.until_end:
            answer.whole = True
            answer.came(0)
        elif not answer.whole:
            self._break(answer, "the stream ended early")

    def connection_lost(self, exc: Exception | None) -> None:
        self._parser = None
        answer = self._answer
        if answer is not None and not answer.whole:
            answer.fail("the connection was lost" + (f": {type(exc).__name__}" if exc is not None else ""))
        self._look_at_writing()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._look_at_writing()

    def _look_at_writing(self) -> None:
        """Let whoever waits to write decide anew."""
        waiter = self._write_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _break(self, answer: HttpAnswer, fault: str) -> None:
        answer.fail(fault)
        self.abort()
        self._look_at_writing()

    # ── from the parser ──────────────────────────────────────────────────────────────────────────────────────────────
    # A callback notes a fault and returns; `data_received` acts on it once the read is through.

    def on_message_begin(self) -> None:
        self._values.clear()
        answer = self._answer
        if answer is not None and answer.whole:
            answer.fault = "bytes after the end"

    def on_status(self, reason: bytes) -> None:
        if b"\0" in reason and self._answer is not None:
            self._answer.fault = "NUL in the status line"

    def on_header(self, name: bytes, value: bytes) -> None:
        self._values.append(value)
        key = self._fields[name]
        if key is None:
            return
        answer = self._answer
        if answer is None or answer.status:
            return  # a trailer: dropped
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        headers = answer.headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None or answer.fault is not None:
            return
        status, version, headers = parser.get_status_code(), parser.get_http_version(), answer.headers
        plain = version == "1.1" and 200 <= status <= 599 and headers.get("transfer-encoding", "chunked") == "chunked"
        if not plain or self._dry_bytes > MOST_HEAD_BYTES or len(self._values) > MOST_FIELDS:
            answer.fault = fault_of(status, version, headers, self._values)
            if answer.fault is not None:
                return
            if status < 200:
                headers.clear()
                return
        answer.status = status
        if answer.bodiless or status in (204, 304):
            answer.bodiless = answer.whole = True
            self._body_pieces = 0
        elif "content-length" not in headers and "transfer-encoding" not in headers:
            answer.until_end = True
        if "keep-alive" in headers and (said := _TIMEOUT.search(headers["keep-alive"])) is not None:
            self.idle_s = float(said[1])

    def on_message_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is not None and parser is not None and answer.status:
            if not answer.whole:
                answer.whole = True
                self._body_pieces = len(self._received)
            # Not reached where llhttp had to be overruled: after HEAD it waits for a body.
            answer.keep = parser.should_keep_alive()
