"""The data port: aiohttp's low-level server, with nothing of its own in the answers. The only place where errors are rendered.

The rule a reader could break: after the head is sent there is no second head. `HttpSink` knows; so errors go through `Edge.fail` and
are never returned as a new response.
"""

import asyncio
import socket
from email.utils import formatdate
from ipaddress import ip_address
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy.client_socket import Answered, HttpArrival, HttpSink
from proxy.errors import InvalidCall, ProxyError
from proxy.pipeline import Pipeline, response_headers
from proxy.relay import Sink
from proxy.trip import Trip
from proxy.wire.failure import public_body, stream_event
from proxy.wire.meter import StreamMeter

KEEPALIVE_S = 75.0
BACKLOG = 4096  # a burst that overflows the backlog waits for SYN retries of seconds
_READ_BUFFER_BYTES = 64 << 10
_GOODBYE_S = 0.2  # what is still open by then was told to end long before


class Edge:
    """Serves the data port."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._server: asyncio.Server | None = None
        self._web: _Server | None = None
        self._date = (0, "")

    def __repr__(self) -> str:
        return f"<Edge listening={self._server is not None} inflight={self._pipeline.inflight}>"

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept connections. Returns where, which tells the port that 0 picked. Errors: OSError when the address is taken."""
        self._web = _Server(self._answer)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._web, host, port, backlog=BACKLOG, reuse_address=True)
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    def stop_accepting(self) -> None:
        """No new connections, and idle ones are closed. Running calls go on."""
        if self._server is not None:
            self._server.close()
        if self._web is not None:
            self._web.pre_shutdown()

    async def close(self) -> None:
        """End what is left: handlers still running are cancelled, which settles their calls as those of clients that left."""
        self.stop_accepting()
        if self._web is not None:
            await self._web.shutdown(_GOODBYE_S)

    def close_slow(self, *, header_s: float) -> None:
        """Close connections that have been sending one head for longer than `header_s` seconds."""
        late = asyncio.get_running_loop().time() - header_s
        for connection in self._web.connections if self._web is not None else ():
            if isinstance(connection, _Connection) and connection.head_since is not None and connection.head_since < late:
                connection.force_close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        sink = HttpSink(request, date=self._now())
        arrival = HttpArrival(request, loopback=cast(_Connection, request.protocol).loopback)

        async def fail(trip: Trip, error: ProxyError) -> None:
            await self.fail(trip, error, sink)

        await self._pipeline.run(arrival, sink, fail)
        return cast(web.StreamResponse, Answered(keep_alive=sink.keep_alive and sink.head_sent))

    def _now(self) -> str:
        """The Date header's value, made once a second."""
        second = int(self._pipeline.clock.wall_s())
        if second != self._date[0]:
            self._date = second, formatdate(second, usegmt=True)
        return self._date[1]

    async def fail(self, trip: Trip, error: ProxyError, sink: Sink) -> None:
        """Tell the client: as JSON while no head was sent, as a last event within a stream of events, else by breaking the connection."""
        if not sink.head_sent:
            trip.status = error.status
            headers = {**response_headers(trip), **_hints(error), "content-type": "application/json"}
            if trip.upstream_request_id is not None:
                headers["x-upstream-request-id"] = trip.upstream_request_id
            if error.close:
                headers["connection"] = "close"
            await sink.whole(error.status, headers, public_body(error))
            return
        if not isinstance(trip.meter, StreamMeter) or error.code == "client_stalled":
            sink.abort()
            return
        await sink.write(stream_event(trip.call.surface.name, error, sequence=trip.meter.sequence + 1))
        await sink.end()


def _hints(error: ProxyError) -> dict[str, str]:
    """When to come back: whole seconds for everyone, milliseconds and a plain yes or no for the official SDKs."""
    hints = dict(error.headers)
    if error.retry_after_s is not None:
        millis = max(1, round(error.retry_after_s * 1000))
        hints["retry-after"] = str(-(-millis // 1000))
        hints["retry-after-ms"] = str(millis)
    if error.should_retry is not None:
        hints["x-should-retry"] = "true" if error.should_retry else "false"
    return hints


def is_loopback(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the peer is this machine (in a pod: any of its containers)."""
    if transport is None:
        return False
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        sock = transport.get_extra_info("socket")
        return sock is not None and sock.family == socket.AF_UNIX
    host = peer[0]
    return bool(host == "127.0.0.1" or ip_address(host.partition("%")[0]).is_loopback)


class _Connection(RequestHandler):
    """aiohttp's connection, with error pages of ours (its own quote what the client sent) and a deadline for the head (it has none).

    head_since: loop time at which the head that is being read began, None between heads. loopback: the peer is this machine.
    """

    head_since: float | None = None
    loopback = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.loopback = is_loopback(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._request_in_progress:
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self._loop.time()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:  # the pipeline answers its own faults, so this one came in mid-answer
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionError("an answer was under way") from exc
        error = InvalidCall("bad_request", "The HTTP request is malformed.")
        response = web.Response(
            status=error.status, headers={"content-type": "application/json", "server": "tollhouse"}, body=public_body(error)
        )
        response.force_close()
        return response


class _Server(web.Server):
    """aiohttp's low-level server, making our connections."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler, handler_cancellation=True)

    def __call__(self) -> RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # None is how it is turned off
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            lingering_time=2.0,
        )
