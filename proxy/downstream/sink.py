"""The sink that an answer is written to: head, framing and body, onto the client's socket.

The rule a reader could break: one head, then its body in one framing, then the end. `HttpSink` is the only writer of an answer.
"""

import asyncio
from http import HTTPStatus
from typing import Protocol

from proxy.downstream.outlet import Outlet
from proxy.errors import InvalidCall

# Their answers end with the head, whatever it says. Source: RFC 9112, section 6.3.
_BODILESS = frozenset({204, 304})
_STARTS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus}


class Line(Protocol):
    """What a sink asks of the connection that it writes to.

    date: the Date field's value for now. closing: the connection ends with this answer, whatever the client wants.
    """

    def date(self) -> str: ...

    def closing(self) -> bool: ...

    def abort(self) -> None: ...

    def hand_over(self, heir: asyncio.Protocol) -> asyncio.Transport | None:
        """Give the socket to another protocol; None where something came of it before it was agreed to."""

    def lost(self, exc: Exception | None) -> None:
        """The socket that was handed over is closed."""


class HttpSink:
    """A `Sink` as the relay has it. bodiless: the answer to HEAD. modern: the client speaks HTTP/1.1, and so knows chunks.

    Errors of writing: ConnectionResetError when the client is gone.
    """

    __slots__ = ("_bodiless", "_chunked", "_line", "_modern", "_outlet", "head_sent", "keep_alive")

    def __init__(self, line: Line, outlet: Outlet, bodiless: bool, modern: bool, keep_alive: bool) -> None:
        self._line = line
        self._outlet = outlet
        self._bodiless = bodiless
        self._modern = modern
        self._chunked = False
        self.head_sent = False
        self.keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"<HttpSink head_sent={self.head_sent} keep_alive={self.keep_alive}>"

    @property
    def slow(self) -> bool:
        return self._outlet.slow

    def start(self, status: int, lines: list[str], length: int | None = None, *, first: bytes = b"", close: bool = False) -> bool:
        if status in _BODILESS:
            self._bodiless = True
        elif length is not None:
            lines.append(f"content-length: {length}")
        elif not self._bodiless:
            if self._modern:
                self._chunked = True
                lines.append("transfer-encoding: chunked")
            else:
                self.keep_alive = False
        head = self._head(status, lines, close)
        return self._outlet.send(head + self._framed(first) if first and not self._bodiless else head)

    def write(self, piece: bytes) -> bool:
        if self._bodiless:
            return False
        return self._outlet.send(self._framed(piece))

    def write_chunk(self, chunk: bytes, at: int, end: int) -> bool:
        return self._outlet.send(chunk) if self._chunked else self.write(chunk[at:end])

    async def room(self) -> None:
        await self._outlet.room()

    def end(self) -> bool:
        return self._outlet.send(b"0\r\n\r\n") if self._chunked else self._outlet.slow

    def whole(self, body: bytes, status: int, lines: list[str], length: int | None = None, *, close: bool = False) -> bool:
        if status in _BODILESS:
            return self.start(status, lines, close=close)
        lines.append(f"content-length: {len(body) if length is None or not self._bodiless else length}")
        head = self._head(status, lines, close)
        return self._outlet.send(head if self._bodiless else head + body)

    def switch(self, lines: list[str], heir: asyncio.Protocol) -> asyncio.Transport:
        """The head of a 101, and the connection is another protocol's. Errors: InvalidCall where the client spoke it before its time."""
        self.keep_alive = False
        transport = self._line.hand_over(heir)
        if transport is None:
            raise InvalidCall("bad_request", "Something was sent before the upgrade was agreed to.", close=True)
        self._outlet.send(self._bytes(101, [*lines, "connection: upgrade", "upgrade: websocket"]))
        return transport

    def lost(self, exc: Exception | None) -> None:
        """The socket that was switched is closed."""
        self._line.lost(exc)

    def abort(self) -> None:
        self.keep_alive = False
        self._line.abort()

    def _framed(self, piece: bytes) -> bytes:
        """A piece of the body, which is not empty, as it is sent."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece

    def _head(self, status: int, lines: list[str], close: bool) -> bytes:
        """The head's bytes, once. Errors: ValueError for a line that would be two, which none that reaches this is."""
        if close or self._line.closing():
            self.keep_alive = False
        if not self.keep_alive:
            lines.append("connection: close")
        elif not self._modern:
            lines.append("connection: keep-alive")  # what HTTP/1.0 takes silence for is the opposite
        return self._bytes(status, lines)

    def _bytes(self, status: int, lines: list[str]) -> bytes:
        """Start line and fields, as they are. Errors as in `_head`."""
        assert not self.head_sent, "a second head would stand in the first one's body"
        bare, fields = "".join(lines), "\r\n".join(lines)
        if "\n" in bare or "\r" in bare:
            raise ValueError("a header value holds a line break")
        start = _STARTS.get(status) or f"HTTP/1.1 {status} "
        text = f"{start}\r\n{fields}\r\nserver: tollhouse\r\ndate: {self._line.date()}\r\n\r\n"
        data = text.encode("utf-8", "surrogateescape")
        self.head_sent = True
        return data
