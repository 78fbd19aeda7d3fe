"""Onto an upstream: which one, what it is sent, and what its refusal means. The client behind `Upstream` is not known here.

The rule a reader could break: a call goes to another upstream, or to the same one again, only while no byte of it was sent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from proxy.call import Call
from proxy.deadlines import Watch
from proxy.entry import Entry, Way
from proxy.errors import UpstreamError
from proxy.policy.policyset import UpstreamConfig
from proxy.trip import Arrival, Trip
from proxy.upstream.contract import Answer, Ask, Body, Upstream
from proxy.wire import body
from proxy.wire.failure import upstream_refusal
from proxy.wire.headers import sane_request_id, towards_upstream
from proxy.wire.meter import BodyMeter, Meter, PassMeter, StreamMeter
from proxy.wire.sse import is_stream

_MOST_ERROR_BYTES = 64 << 10
_OWN = ("x-request-id", "traceparent")  # of each call; everything else is the same in every call with the same head


@dataclass(frozen=True, slots=True)
class Dispatch:
    """upstream: the client for an upstream of the policy file; pseudonym: our name in `Via`."""

    upstream: Callable[[str, UpstreamConfig], Upstream]
    pseudonym: str

    async def open(self, trip: Trip, arrival: Arrival, watch: Watch) -> Answer:
        """The head of a successful answer, from the first upstream of the route that accepts a connection.

        Errors: UpstreamError when none does, or when the one that did refuses the call.
        """
        call, entry = trip.call, trip.entry
        assert entry is not None
        own = self.own(trip)
        sent_body = (call.parts or body.patched(call)) if call.surface.metered else _chunks(entry, call, arrival)
        failure: UpstreamError | None = None
        for name in trip.set.route(call.model):
            way = entry.ways.get(name) or self.way(name, entry, arrival)
            trip.upstream = name
            timeouts = call.timeouts = way.timeouts.within(call.timeouts)
            for _ in range(way.attempts):
                watch.bound(timeouts.total, "first_byte", timeouts.first_byte)
                trip.sent = True
                try:
                    opening = way.upstream.send(way.ask, own, sent_body)
                    if opening is None:
                        answer = await way.upstream.open(way.ask, own, sent_body, connect_timeout_s=timeouts.connect)
                    else:
                        # What `open` does; without its coroutine, as nearly every call finds a connection.
                        answer = opening
                        try:
                            while not opening.status:
                                await opening.more()
                        except BaseException:
                            opening.close()
                            raise
                except UpstreamError as error:
                    trip.sent = error.sent
                    if error.sent:
                        raise
                    failure = error
                    continue
                trip.answered = True
                call.body, call.parts, sent_body = b"", (), ()  # thousands of streams may run, and none needs it any more
                trip.first_byte_ns = trip.now_ns()
                trip.upstream_request_id = sane_request_id(answer.headers.get("x-request-id"))
                if not 200 <= answer.status < 300:
                    raise await _refusal(trip, answer)
                return answer
        assert failure is not None, "a route names upstreams, and each was tried"
        raise failure

    def own(self, trip: Trip) -> tuple[str, str]:
        """The lines of a head that are a call's own (_OWN)."""
        return f"x-request-id: {trip.call.id}", f"traceparent: {trip.traceparent}"

    def way(self, name: str, entry: Entry, arrival: Arrival) -> Way:
        """What is the same in every call with this head that goes to an upstream."""
        config = entry.set.upstreams[name]
        ours = [
            "accept-encoding: identity",  # usage can only be read in a body that is not compressed
            f"via: 1.1 {self.pseudonym}",
        ]
        if config.api_key is not None:
            ours.append(f"authorization: Bearer {config.api_key}")
        head = arrival.head
        fields = towards_upstream(head.headers, extra=config.forward_headers, ours=ours, own=_OWN)
        ask = Ask(head.method, entry.target, tuple(fields))
        way = entry.ways[name] = Way(self.upstream(name, config), ask, config.timeouts, config.attempts)
        return way


def _chunks(entry: Entry, call: Call, arrival: Arrival) -> Body:
    """The body of an unmetered call, passed on as it comes."""
    return () if call.method in ("GET", "HEAD", "DELETE") else arrival.chunks(entry.most_bytes)


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
    content_type = answer.headers.get("content-type")
    streams = is_stream(content_type)
    if not call.surface.metered or "content-encoding" in answer.headers:
        return PassMeter(streams=streams or not call.surface.metered)
    if call.units and not streams and "json" not in (content_type or ""):
        return PassMeter(streams=True)  # a sound, or a text without anything about it
    if streams and call.surface.has_output:
        return StreamMeter(hide_usage="stream_options" in call.edits)
    return BodyMeter()
