"""The client's socket: a request as the pipeline reads it, and the sink that an answer is written to.

aiohttp parses requests and keeps connections; answers are written to its transport by us, head and framing included, because its response
objects cost more than all policies together. The rule a reader could break: one head, then its body in one framing, then the end;
`HttpSink` is the only writer, and what aiohttp asks of an answer afterwards is only whether the connection lives on.
"""

from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy

from proxy.errors import InvalidCall

_HIGH_WATER_BYTES = 64 << 10  # from here on the transport says that its reader is slow
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_SSE = "text/event-stream"


class HttpArrival:
    """A request of aiohttp as the pipeline sees it."""

    __slots__ = ("_request", "headers", "loopback", "method", "target")

    def __init__(self, request: web.BaseRequest, *, loopback: bool) -> None:
        self._request = request
        self.method: str = request.method
        self.target: str = request.raw_path
        self.headers: CIMultiDictProxy[str] = request.headers
        self.loopback = loopback

    async def read(self, most_bytes: int) -> bytes | None:
        told = self._request.content_length
        if told is not None and told > most_bytes:
            return None
        await self._invite()
        first = await self._next()
        if len(first) == told:
            return first  # it came in one piece, as nearly every prompt does
        body = bytearray(first)
        while len(body) <= most_bytes and (chunk := await self._next()):
            body += chunk
        return bytes(body) if len(body) <= most_bytes else None

    async def chunks(self, most_bytes: int) -> AsyncIterator[bytes]:
        await self._invite()
        passed = 0
        while chunk := await self._next():
            passed += len(chunk)
            if passed > most_bytes:
                raise InvalidCall("request_too_large", f"Bodies of up to {most_bytes} bytes are accepted here.", close=True)
            yield chunk

    async def _next(self) -> bytes:
        try:
            return await self._request.content.readany()
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise InvalidCall("bad_request", "The body's framing is malformed.", close=True) from error

    async def _invite(self) -> None:
        """Answer `Expect: 100-continue`, now that the caller is known. Source: RFC 9110, section 10.1.1."""
        if "expect" in self.headers and self.headers["expect"].lower() == "100-continue" and self._request.transport is not None:
            self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class HttpSink:
    """A connection of aiohttp's server as a Sink. date: the Date header's value for now.

    Writing waits while the client reads slowly. Errors of writing: ConnectionResetError when the client is gone.
    """

    __slots__ = ("_chunked", "_date", "_request", "head_sent", "keep_alive")

    def __init__(self, request: web.BaseRequest, *, date: str) -> None:
        self._request = request
        self._date = date
        self._chunked = False
        self.head_sent = False
        self.keep_alive = request.keep_alive

    def __repr__(self) -> str:
        return f"<HttpSink head_sent={self.head_sent} keep_alive={self.keep_alive}>"

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        framing = ""
        if "content-length" not in headers and self._request.method != "HEAD":
            if self._request.version >= HttpVersion11:
                self._chunked = True
                framing = "transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False
        if headers.get("content-type", "").startswith(_SSE):
            framing += "cache-control: no-cache\r\nx-accel-buffering: no\r\n"
        await self._send(self._head(status, headers, framing))

    async def write(self, chunk: bytes) -> None:
        if self._request.method != "HEAD":
            await self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    async def end(self) -> None:
        if self._chunked:
            await self._send(b"0\r\n\r\n")

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        head = self._head(status, headers, f"content-length: {len(body)}\r\n")
        await self._send(head if self._request.method == "HEAD" else head + body)

    def abort(self) -> None:
        self.keep_alive = False
        if self._request.transport is not None:
            self._request.transport.abort()

    def _head(self, status: int, headers: Mapping[str, str], framing: str) -> bytes:
        """The head, once. Errors: ValueError for a header that would end early, which none that reaches this can."""
        assert not self.head_sent, "a second head would stand in the first one's body"
        self.head_sent = True
        if headers.get("connection") == "close":
            self.keep_alive = False
        elif not self.keep_alive:
            framing += "connection: close\r\n"
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        fields = "".join(lines)
        if fields.count("\n") != len(lines) or fields.count("\r") != len(lines):
            raise ValueError("a header value holds a line break")
        reason = _REASONS.get(status, "")
        head = f"HTTP/1.1 {status} {reason}\r\n{fields}{framing}server: tollhouse\r\ndate: {self._date}\r\n\r\n"
        return head.encode("utf-8", "surrogateescape")

    async def _send(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)
        if transport.get_write_buffer_size() >= _HIGH_WATER_BYTES:
            await self._request.writer.drain()


class Answered:
    """What aiohttp gets back for an answer that is on its way: nothing to prepare, nothing to write."""

    __slots__ = ("keep_alive",)

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """It was."""

    async def write_eof(self) -> None:
        """It was."""
