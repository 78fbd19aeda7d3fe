"""Onto an upstream: which one, what it is sent, and what its refusal means. The client behind `Upstream` is not known here.

The rule a reader could break: a call goes to another upstream, or to the same one again, only while no byte of it was sent.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from proxy.call import Call
from proxy.deadlines import Watch
from proxy.errors import UpstreamError
from proxy.policy.policyset import UpstreamConfig
from proxy.trip import Arrival, Trip
from proxy.upstream.contract import Answer, Ask, Upstream
from proxy.wire import body
from proxy.wire.failure import upstream_refusal
from proxy.wire.headers import Fields, sane_request_id, towards_upstream
from proxy.wire.meter import BodyMeter, Meter, PassMeter, StreamMeter
from proxy.wire.sse import is_stream
from proxy.wire.surfaces import ROOT

_MOST_ERROR_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Dispatch:
    """upstream: the client for an upstream of the policy file; pseudonym: our name in `Via`."""

    upstream: Callable[[str, UpstreamConfig], Upstream]
    pseudonym: str

    async def open(self, trip: Trip, arrival: Arrival, watch: Watch) -> Answer:
        """The head of a successful answer, from the first upstream of the route that accepts a connection.

        Errors: UpstreamError when none does, or when the one that did refuses the call.
        """
        call = trip.call
        sent_body = body.patched(call) if call.surface.metered else self._chunks(trip, call, arrival)
        failure: UpstreamError | None = None
        for name in trip.set.route(call.model):
            config = trip.set.upstreams[name]
            trip.upstream = name
            timeouts = call.timeouts = config.timeouts.within(call.timeouts)
            fields = self._fields(trip, arrival, config)
            ask = Ask(
                method=call.method,
                target=call.path.removeprefix(ROOT) + (f"?{call.query}" if call.query else ""),
                fields=fields.text,
                field_count=fields.lines,
                body=sent_body,
                connect_timeout_s=timeouts.connect,
            )
            for _ in range(config.attempts):
                watch.bound_total(timeouts.total)
                watch.expect("first_byte", timeouts.first_byte)
                trip.sent = True
                try:
                    answer = await self.upstream(name, config).open(ask)
                except UpstreamError as error:
                    trip.sent = error.sent
                    if error.sent:
                        raise
                    failure = error
                    continue
                trip.answered = True
                call.body = b""  # thousands of streams may run, and none needs it any more
                trip.first_byte_ns = trip.now_ns()
                trip.upstream_request_id = sane_request_id(answer.headers.get("x-request-id"))
                if not 200 <= answer.status < 300:
                    raise await _refusal(trip, answer)
                return answer
        assert failure is not None, "a route names upstreams, and each was tried"
        raise failure

    def _fields(self, trip: Trip, arrival: Arrival, config: UpstreamConfig) -> Fields:
        ours = [
            "accept-encoding: identity",  # usage can only be read in a body that is not compressed
            f"x-request-id: {trip.call.id}",
            f"traceparent: {trip.trace.header()}",
            f"via: 1.1 {self.pseudonym}",
        ]
        if config.api_key is not None:
            ours.append(f"authorization: Bearer {config.api_key}")
        return towards_upstream(arrival.head.headers, extra=config.forward_headers, ours=ours)

    @staticmethod
    def _chunks(trip: Trip, call: Call, arrival: Arrival) -> AsyncIterator[bytes] | bytes:
        """The body of an unmetered call, passed on as it comes."""
        most, _ = trip.set.body_limit(call.principal, call.path)
        return b"" if call.method in ("GET", "HEAD", "DELETE") else arrival.chunks(most)


async def _refusal(trip: Trip, answer: Answer) -> UpstreamError:
    """What an answer says that is no success, by its first bytes. The answer is closed."""
    try:
        said = bytearray()
        while len(said) < _MOST_ERROR_BYTES and (chunk := await answer.read()):
            said += chunk
        return upstream_refusal(answer.status, bytes(said), answer.headers, secrets=trip.secrets())
    finally:
        answer.close()


def meter_for(call: Call, answer: Answer) -> Meter:
    """Who reads this answer: by what it is, not by what was asked. A JSON answer to `stream: true` is a JSON answer."""
    streams = is_stream(answer.headers.get("content-type"))
    if not call.surface.metered or "content-encoding" in answer.headers:
        return PassMeter(streams=streams or not call.surface.metered)
    if streams and call.surface.has_output:
        return StreamMeter(hide_usage="stream_options" in call.edits)
    return BodyMeter()
