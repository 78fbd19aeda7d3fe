"""The data port: who listens, which connections there are, and how errors are told. The only place where errors are rendered.

The rule a reader could break: after the head is sent there is no second head. The sink knows; so errors go through `Edge.fail` and
are never written by anybody else.
"""

import asyncio
from email.utils import formatdate

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.connection import LINGER_S, ClientConnection
from proxy.downstream.sink import HttpSink
from proxy.errors import InvalidCall, ProxyError
from proxy.pipeline import Pipeline, response_headers
from proxy.relay import Sink
from proxy.trip import Trip
from proxy.wire.failure import public_body, stream_event
from proxy.wire.meter import StreamMeter

KEEPALIVE_S = 75.0
BACKLOG = 4096  # a burst that overflows the backlog waits for SYN retries of seconds
_GOODBYE_S = 0.2  # what is still open by then was told to end long before


class Edge:
    """Serves the data port. closing: no call is begun any more."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._server: asyncio.Server | None = None
        self._connections: set[ClientConnection] = set()
        self._date = (0, "")
        self.closing = False

    def __repr__(self) -> str:
        return (
            f"<Edge listening={self._server is not None} connections={len(self._connections)} inflight={self._pipeline.inflight}>"
        )

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept connections. Returns where, which tells the port that 0 picked. Errors: OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._connect(loop), host, port, backlog=BACKLOG, reuse_address=True)
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    def stop_accepting(self) -> None:
        """No new connections, and idle ones are closed. Running calls go on."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.close_if_idle()

    async def close(self) -> None:
        """End what is left: calls still running are cancelled, which settles them as those of clients that left."""
        self.stop_accepting()
        running = {connection.task for connection in self._connections} - {None}
        for connection in tuple(self._connections):
            connection.abort()
        if running:
            await asyncio.wait([task for task in running if task is not None], timeout=_GOODBYE_S)

    def close_late(self, *, header_s: float) -> None:
        """Close connections that wait for too long: for a head that has begun, for the next request, for the rest of a body."""
        now = asyncio.get_running_loop().time()
        patience_s = {"head": header_s, "request": KEEPALIVE_S, "rest": LINGER_S, "close": LINGER_S}
        for connection in tuple(self._connections):
            connection.close_if_late(now, patience_s=patience_s)

    # ── for the connections ──────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self, loop: asyncio.AbstractEventLoop) -> ClientConnection:
        connection = ClientConnection(self, loop)
        self._connections.add(connection)
        return connection

    def lost(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)

    async def answer(self, arrival: HttpArrival, sink: HttpSink) -> None:
        await self._pipeline.run(arrival, sink, self.fail)

    async def malformed(self, sink: HttpSink) -> None:
        error = InvalidCall("bad_request", "The HTTP request is malformed.")
        await sink.whole(error.status, {"content-type": "application/json"}, public_body(error))

    def date(self) -> str:
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
        if sink.write(stream_event(trip.call.surface.name, error, sequence=trip.meter.sequence + 1)):
            await sink.room()
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
