"""The sink that an answer is written to: head, framing and body, onto the client's socket.

The rule a reader could break: one head, then its body in one framing, then the end. `HttpSink` is the only writer of an answer.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_SSE = "text/event-stream"


class Line(Protocol):
    """What a sink asks of the connection that it writes to. slow: its reader is; `room` waits until it no longer is.

    date: the Date field's value for now. closing: the connection ends with this answer, whatever the client wants.
    """

    slow: bool

    @property
    def date(self) -> str: ...

    @property
    def closing(self) -> bool: ...

    async def room(self) -> None:
        """Until the socket takes more. Errors: ConnectionResetError when the client is gone."""


class HttpSink:
    """A `Sink` as the relay has it. bodiless: the answer to HEAD. modern: the client speaks HTTP/1.1, and so knows chunks.

    Errors of writing: ConnectionResetError when the client is gone.
    """

    __slots__ = ("_bodiless", "_chunked", "_line", "_modern", "_transport", "head_sent", "keep_alive")

    def __init__(self, line: Line, transport: asyncio.Transport, bodiless: bool, modern: bool, keep_alive: bool) -> None:
        self._line = line
        self._transport = transport
        self._bodiless = bodiless
        self._modern = modern
        self._chunked = False
        self.head_sent = False
        self.keep_alive = keep_alive

    def __repr__(self) -> str:
        return f"<HttpSink head_sent={self.head_sent} keep_alive={self.keep_alive}>"

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        framing = ""
        if "content-length" not in headers and not self._bodiless:
            if self._modern:
                self._chunked = True
                framing = "transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False
        if headers.get("content-type", "").startswith(_SSE):
            framing += "cache-control: no-cache\r\nx-accel-buffering: no\r\n"
        await self._send(self._head(status, headers, framing))

    def write(self, chunk: bytes) -> bool:
        if not self._bodiless:
            self._put(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)
        return self._line.slow

    async def room(self) -> None:
        await self._line.room()

    async def end(self) -> None:
        if self._chunked:
            await self._send(b"0\r\n\r\n")

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        head = self._head(status, headers, f"content-length: {len(body)}\r\n")
        await self._send(head if self._bodiless else head + body)

    def abort(self) -> None:
        self.keep_alive = False
        self._transport.abort()

    def _head(self, status: int, headers: Mapping[str, str], framing: str) -> bytes:
        """The head, once. Errors: ValueError for a header that would end early, which none that reaches this can."""
        assert not self.head_sent, "a second head would stand in the first one's body"
        self.head_sent = True
        if headers.get("connection") == "close":
            self.keep_alive = False
        elif not self.keep_alive or self._line.closing:
            self.keep_alive = False
            framing += "connection: close\r\n"
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        fields = "".join(lines)
        if fields.count("\n") != len(lines) or fields.count("\r") != len(lines):
            raise ValueError("a header value holds a line break")
        reason = _REASONS.get(status, "")
        head = f"HTTP/1.1 {status} {reason}\r\n{fields}{framing}server: tollhouse\r\ndate: {self._line.date}\r\n\r\n"
        return head.encode("utf-8", "surrogateescape")

    async def _send(self, data: bytes) -> None:
        self._put(data)
        if self._line.slow:
            await self._line.room()

    def _put(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
