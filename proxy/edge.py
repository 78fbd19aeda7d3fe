"""The data port: what it answers, and how errors are told. The only place where errors are rendered.

The rule a reader could break: after the head is sent there is no second head. The sink knows; so errors go through `Edge.fail` and
are never written by anybody else.
"""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from proxy.downstream.listener import Listener
from proxy.downstream.rules import Rejection
from proxy.downstream.sink import HttpSink
from proxy.errors import Overloaded, ProxyError
from proxy.pipeline import Pipeline, response_lines
from proxy.relay import Sink
from proxy.trip import Trip
from proxy.wire.failure import public_body, stream_event
from proxy.wire.meter import StreamMeter

_JSON = "content-type: application/json"


class Edge:
    """Serves the data port. rejected: told of what was no request. listener: its port and connections; most_connections: at once."""

    def __init__(self, pipeline: Pipeline, *, rejected: Callable[[Rejection], None], most_connections: int) -> None:
        self._pipeline = pipeline
        self._rejected = rejected
        answer = partial(pipeline.run, fail=self.fail)
        self.listener = Listener(
            answer=answer,
            reject=self._reject,
            wall_s=pipeline.clock.wall_s,
            most=most_connections,
            crowded=self._crowded,
        )

    def __repr__(self) -> str:
        return f"<Edge {self.listener!r} inflight={self._pipeline.inflight}>"

    async def _reject(self, sink: HttpSink, rejection: Rejection) -> None:
        self._rejected(rejection)
        error = rejection.error
        sink.whole(public_body(error), error.status, [*_hints(error), _JSON])
        await sink.room()

    def _crowded(self) -> bytes:
        """What is told on a connection that is one too many, before anything is asked on it."""
        wait_s = self._pipeline.overload.turned_away()
        error = Overloaded("overloaded", "Too many connections are open; call again.", retry_after_s=wait_s)
        body = public_body(error)
        status = HTTPStatus(error.status)
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            *_hints(error),
            _JSON,
            f"content-length: {len(body)}",
            "connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def fail(self, trip: Trip, error: ProxyError, sink: Sink) -> None:
        """Tell the client: as JSON while no head was sent, as a last event within a stream of events, else by breaking the connection."""
        if not sink.head_sent:
            trip.status = error.status
            lines = [*response_lines(trip), *_hints(error), _JSON]
            if trip.upstream_request_id is not None:
                lines.append(f"x-upstream-request-id: {trip.upstream_request_id}")
            sink.whole(public_body(error), error.status, lines, close=error.close)
        elif not (trip.early or isinstance(trip.meter, StreamMeter)) or error.code == "client_stalled":
            sink.abort()
            return
        else:
            sequence = trip.meter.sequence + 1 if trip.meter is not None else 0
            sink.write(stream_event(trip.call.surface.name, error, sequence=sequence))
            sink.end()
        await sink.room()


def _hints(error: ProxyError) -> list[str]:
    """When to come back: whole seconds for everyone, milliseconds and a plain yes or no for the official SDKs."""
    lines = [f"{name}: {value}" for name, value in error.headers]
    if error.status == 401:
        lines.append("www-authenticate: Bearer")  # RFC 9110, section 15.5.2
    if error.retry_after_s is not None:
        millis = max(1, round(error.retry_after_s * 1000))
        lines += (f"retry-after: {-(-millis // 1000)}", f"retry-after-ms: {millis}")
    if error.should_retry is not None:
        lines.append(f"x-should-retry: {'true' if error.should_retry else 'false'}")
    return lines
