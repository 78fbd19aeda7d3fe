"""Onto an upstream: which one, what it is sent, and what its refusal means. The client behind `Upstream` is not known here.

    for each upstream of the route ─► asked? ─► sent ─► head ─┬─ 2xx ─────────────────────────────► the answer
                                       │ ▲                    ├─ refused unread, or not sent ─► again there, else the next
                                       │ └── a pause ◄────────┘
                                       └─ its breaker is open ─► the next

The rule a reader could break: a call is made once more, there or elsewhere, only if no byte of it was sent or the upstream says that it
did nothing, and only while all of its body is still at hand. Whatever may be on a bill is not made twice.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from proxy.call import Call
from proxy.clock import Clock
from proxy.deadlines import Watch
from proxy.entry import Entry, Way
from proxy.errors import UpstreamError
from proxy.health import Health
from proxy.policy.policyset import UpstreamConfig
from proxy.timeouts import Timeouts
from proxy.trip import Arrival, Trip
from proxy.upload import upload
from proxy.upstream.contract import Answer, Ask, Body, Upstream
from proxy.wire import body
from proxy.wire.comeback import unprocessed, wait_s, worth_repeating
from proxy.wire.failure import upstream_refusal
from proxy.wire.headers import sane_request_id, towards_upstream
from proxy.wire.meter import BodyMeter, Meter, PassMeter, StreamMeter
from proxy.wire.request import BODILESS
from proxy.wire.sse import is_stream

# An app waits longer by itself, and knows why; and a slot is not held for an upstream that wants to be left alone.
MOST_PAUSE_S = 2.0
# Where an upstream does not say when to come: 0.25 s, 0.5 s, 1 s … each cut by up to half at random.
FIRST_PAUSE_S = 0.25
_SPREAD = 8  # a wait that an upstream names is lengthened by up to an eighth: it told others the same
_MOST_ERROR_BYTES = 64 << 10
_OWN = ("x-request-id", "traceparent")  # of each call; everything else is the same in every call with the same head
_REASONS = {429: "rate_limited", 503: "overloaded", 529: "overloaded"}


@dataclass(frozen=True, slots=True)
class Dispatch:
    """upstream: the client for an upstream of the policy file; health: how it does; pseudonym: our name in `Via`.

    random: n → n random bytes, for the jitter. body_s: a client's time for a body that is passed on as it comes.
    """

    upstream: Callable[[str, UpstreamConfig], Upstream]
    health: Callable[[str, UpstreamConfig], Health]
    pseudonym: str
    clock: Clock
    random: Callable[[int], bytes]
    body_s: float

    async def open(self, trip: Trip, arrival: Arrival, watch: Watch) -> Answer:
        """The head of a successful answer, from the first upstream of the route that takes the call.

        Errors: UpstreamError when none does: the last refusal, else why the last could not be reached. May be cancelled at any point.
        """
        call, entry = trip.call, trip.entry
        assert entry is not None
        own = self.own(trip)
        sent_body = (call.parts or body.patched(call)) if call.surface.metered else self._upload(entry, call, arrival, watch)
        asked, trouble = call.timeouts, None
        for name in trip.set.route(call.model):
            way = entry.ways.get(name) or self.way(name, entry, arrival)
            health = way.health
            tries = 0
            while True:
                probe = 0
                if health.shut:
                    admitted = health.admit(way.config)
                    if admitted is None:
                        trouble = trouble or _Trouble()
                        trouble.passed_over(name, health)
                        break
                    probe = admitted
                if not tries:
                    health.calls += 1
                    trip.upstream = name
                    timeouts = call.timeouts = way.timeouts.within(asked)
                tries += 1
                trip.tries += 1
                watch.bound(timeouts.total, "first_byte", timeouts.first_byte)
                trip.sent = True
                opening = None
                try:
                    opening = way.upstream.send(way.ask, own, sent_body)
                    if opening is None:
                        watch.expect_nothing()  # connecting has a deadline of its own
                        trip.sent = False
                        answer = await way.upstream.open(
                            way.ask,
                            own,
                            sent_body,
                            connect_timeout_s=timeouts.connect,
                            progress=partial(_being_sent, trip, watch, timeouts.first_byte),
                        )
                    else:
                        # What `open` does; without its coroutine, as nearly every call finds a connection.
                        answer = opening
                        while not opening.status:
                            await opening.more()
                except UpstreamError as error:
                    if opening is not None:
                        opening.close()
                    not_answered(error, way, timeouts, probe)
                    trip.sent = error.sent
                    if error.sent:
                        raise
                    failure, pause_s, reason = error, None if error.ours else 0.0, "unreachable"
                except BaseException:
                    if opening is not None:
                        opening.close()
                    given_up(way, timeouts, watch, probe)
                    raise
                else:
                    status = answer.status
                    trip.answered = True
                    trip.first_byte_ns = trip.now_ns()
                    trip.upstream_request_id = sane_request_id(answer.headers.get("x-request-id"))
                    if 200 <= status < 300:
                        if health.uneasy:
                            health.succeeded(probe=probe)
                        call.body, call.parts, sent_body = b"", (), ()  # thousands of streams may run, and none needs it any more
                        return answer
                    if status >= 500:
                        health.failed(way.config, probe=probe)
                    else:
                        health.answered(probe=probe)
                    if status == 401:
                        health.refused_us(way.config)
                    failure = await _refusal(trip, answer)
                    if not isinstance(sent_body, tuple) or not unprocessed(status, call.method):
                        raise failure
                    pause_s = self._pause_s(answer, failure, tries, watch)
                    reason = _REASONS.get(status, "failed")
                if trip.unwanted:
                    raise failure
                trouble = trouble or _Trouble()
                trouble.met(failure, trip)
                if pause_s is None or tries >= way.config.attempts or health.shut or not health.again(way.config, reason):
                    break
                if pause_s:
                    await asyncio.sleep(pause_s)
        assert trouble is not None, "a route names upstreams, and each was tried or passed over"
        raise trouble.told(trip)

    def _pause_s(self, answer: Answer, failure: UpstreamError, tries: int, watch: Watch) -> float | None:
        """How long to wait before the same upstream is asked again; None for not at all."""
        if not worth_repeating(answer.headers, code=failure.code, type=failure.type):
            return None
        fraction = int.from_bytes(self.random(2)) / 2**16
        told_s = wait_s(answer.headers, now_s=self.clock.wall_s())
        if told_s:
            pause_s = told_s * (1 + fraction / _SPREAD)
        else:
            pause_s = min(FIRST_PAUSE_S * 2.0 ** (tries - 1), MOST_PAUSE_S) * (1 - fraction / 2)
        return pause_s if (told_s or 0.0) <= MOST_PAUSE_S and pause_s < watch.left_s() else None

    def _upload(self, entry: Entry, call: Call, arrival: Arrival, watch: Watch) -> Body:
        """The body of an unmetered call, passed on as it comes."""
        return () if call.method in BODILESS else upload(arrival.chunks(entry.most_bytes), watch, self.body_s)

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
        way = entry.ways[name] = Way(self.upstream(name, config), ask, config.timeouts, self.health(name, config), config)
        return way


def _being_sent(trip: Trip, watch: Watch, first_byte_s: float) -> None:
    """The upstream has some of the call, or more of it: so long after the last of it its answer is due."""
    trip.sent = True
    watch.expect("first_byte", first_byte_s)


async def _refusal(trip: Trip, answer: Answer) -> UpstreamError:
    """What an answer says that is no success, by its first bytes, or by what came of them. The answer is closed."""
    try:
        said = bytearray()
        with suppress(UpstreamError):  # the status says enough
            while len(said) < _MOST_ERROR_BYTES and (chunk := await answer.read()):
                said += chunk
        return upstream_refusal(answer.status, bytes(said), answer.headers, secrets=trip.secrets())
    finally:
        answer.close()


def not_answered(error: UpstreamError, way: Way, timeouts: Timeouts, probe: int) -> None:
    """Tell an upstream's health of a try that got no head. A deadline that a policy shortened is not the upstream's fault."""
    if error.ours or (error.code == "upstream_timeout" and timeouts.connect < way.timeouts.connect):
        way.health.left(probe=probe)
    else:
        way.health.failed(way.config, probe=probe)


def given_up(way: Way, timeouts: Timeouts, watch: Watch, probe: int) -> None:
    """The same of a try that was cancelled: by the deadline for its head, or for a reason that is not the upstream's."""
    if watch.missed == "first_byte" and timeouts.first_byte == way.timeouts.first_byte:
        way.health.failed(way.config, probe=probe)
    else:
        way.health.left(probe=probe)


class _Trouble:
    """What a call met on its way that did not end it. A refusal tells the app more than that something else could not be reached."""

    __slots__ = ("_failure", "_known", "_open")

    def __init__(self) -> None:
        self._failure: UpstreamError | None = None
        self._known: tuple[str | None, str | None, bool, int | None] = (None, None, False, None)  # of the trip, when it failed so
        self._open: list[tuple[str, Health]] = []

    def met(self, failure: UpstreamError, trip: Trip) -> None:
        """A try failed, of which nobody has to pay. The trip forgets it, and is as if it had not been sent."""
        if failure.sent or self._failure is None or not self._failure.sent:
            self._failure = failure
            self._known = (trip.upstream, trip.upstream_request_id, trip.answered, trip.first_byte_ns)
        trip.sent, trip.answered, trip.first_byte_ns, trip.upstream_request_id = False, False, None, None

    def passed_over(self, name: str, health: Health) -> None:
        """An upstream's breaker is open."""
        self._open.append((name, health))

    def told(self, trip: Trip) -> UpstreamError:
        """What the app is to hear."""
        if self._failure is None:
            trip.upstream, soonest = min(self._open, key=lambda one: one[1].wait_s)
            return soonest.unavailable()
        trip.upstream, trip.upstream_request_id, trip.answered, trip.first_byte_ns = self._known
        return self._failure


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
