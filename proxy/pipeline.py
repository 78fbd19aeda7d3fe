"""What happens to a call, top to bottom.

    enter ─ read ─ shape ─ reserve ─ open ─ relay ─ settle ─ account
                              │       └───────┘       ▲
                              └─ every way out after this settles, once

A call that is recorded is read and then carried on by a task of its own (`Carried`), from `shape` to `account`; whoever sent it reads the
recording, as whoever comes later does. The rule a reader could break: from `reserve` on, whatever is raised or cancelled, `settle` runs to
its end and the observer hears of the call after it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Protocol, cast

from proxy.admission import Admission
from proxy.allowance import allowance_lines, usd
from proxy.call import Call
from proxy.clock import Clock
from proxy.deadlines import Sweep, Watch, deadline_error
from proxy.departure import Departures, hear_out
from proxy.dispatch import Dispatch, meter_for
from proxy.errors import Overloaded, ProxyError
from proxy.heartbeat import Heartbeat, no_stream
from proxy.overload import Overload
from proxy.policy.contract import REQUESTS, TOKENS
from proxy.policy.policyset import PolicySet
from proxy.relay import Head, Sink, relay
from proxy.settlement import Settlement
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.trip import Arrival, Observer, Switch, Trip
from proxy.upstream.contract import Answer
from proxy.wire.headers import sane_request_id, towards_client
from proxy.wire.meter import PassMeter, StreamMeter
from proxy.wire.sse import is_stream

if TYPE_CHECKING:  # it brings a library of its own, which only those pay who open sessions
    from proxy.realtime.opening import Openings

_ERROR_WRITE_S = 10.0
_ID_BYTES = 12  # random ones of a request id
_EVENTS = ("cache-control: no-cache", "x-accel-buffering: no")


Fail = Callable[[Trip, ProxyError, Sink], Awaitable[None]]


@dataclass(eq=False, slots=True)
class Carried:
    """A call that was entered and read. received: its body, for one to take. watch: over the task that carries it on from there."""

    trip: Trip
    received: tuple[bytes, int] | None
    watch: Watch | None = None


class CarryOn(Protocol):
    async def __call__(self, arrival: Arrival, sink: Sink, *, carried: Carried) -> None:
        """Answer a call that was read, as `Pipeline.run` does."""


class Recorder(Protocol):
    """Who answers calls whose head asks for a recording, and the pages of tasks."""

    async def answer(self, carried: Carried, arrival: Arrival, sink: Sink, watch: Watch, carry_on: CarryOn) -> None:
        """Errors: ProxyError; CancelledError and ConnectionError of a client that left, which ends nothing but its reading."""


@dataclass(slots=True)
class Pipeline:
    """The engine. policies: the set that is current now; random: n → n random bytes. It keeps nothing of a call after the call.

    recorder: asked for when a call is the first to want it, so that nobody else pays for it.
    """

    policies: Callable[[], PolicySet]
    admission: Admission
    dispatch: Dispatch
    settlement: Settlement
    sweep: Sweep
    clock: Clock
    random: Callable[[int], bytes]
    observer: Observer
    overload: Overload
    recorder: Callable[[], Recorder]
    draining: bool = False
    inflight: int = 0
    departures: Departures = field(default_factory=Departures)
    _idle: asyncio.Event | None = None  # while somebody waits for it
    _openings: "Openings | None" = None

    def __repr__(self) -> str:
        return f"<Pipeline inflight={self.inflight} draining={self.draining}>"

    async def run(self, arrival: Arrival, sink: Sink, fail: Fail, carried: Carried | None = None) -> None:
        """Answer one request. fail: how the edge renders an error, before the head or after it. carried: of a call that was read before.

        Raises nothing but CancelledError, when the client has left. Whatever happens, the call is settled and accounted for.
        """
        watch = self.sweep.watch()
        if carried is None:
            trip = self._begin(arrival)
        else:
            trip, carried.watch = carried.trip, watch
        self.inflight += 1
        try:
            error = await self._attempt(trip, arrival, sink, watch, fail, carried)
            if error is not None:
                trip.failed(error)
                watch.rearm("write_stall", _ERROR_WRITE_S)
                await (fail(trip, error, sink) if trip.fail is None else trip.fail(error))
        except (asyncio.CancelledError, ConnectionError) as gone:
            trip.ending = "client_gone"
            sink.abort()
            if isinstance(gone, asyncio.CancelledError) and not watch.absorb():
                raise
        finally:
            self.sweep.forget(watch)
            self.inflight -= 1
            if not self.inflight and self._idle is not None:
                self._idle.set()
            if trip.counting is None or trip.counting.done():
                self._account(trip)
            else:
                trip.counting.add_done_callback(lambda _: self._account(trip))

    def drain(self) -> None:
        """From here on no call is taken."""
        self.draining = True
        self.overload.close()

    def _turned_away(self) -> Overloaded:
        if self.draining:
            return Overloaded("draining", "The proxy is shutting down.", retry_after_s=1, close=True)
        return self.overload.refusal(self.inflight)

    async def idle(self) -> None:
        """Wait until no call is running."""
        while self.inflight:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def _account(self, trip: Trip) -> None:
        if trip.handed_on:
            return
        trip.ended_ns = self.clock.monotonic_ns()
        trip.call.fields = trip.call.unread = None  # what was asked need not wait for what is said of it
        self.observer.finished(trip)

    def _begin(self, arrival: Arrival) -> Trip:
        head, now_ns = arrival.head, self.clock.monotonic_ns
        random = self.random(_ID_BYTES + TRACE_BYTES).hex()
        asked = head.headers.get("x-request-id")
        request_id = (sane_request_id(asked) if asked is not None else None) or f"req_{random[: 2 * _ID_BYTES]}"
        traceparent = continue_trace(head.headers.get("traceparent"), random=random[2 * _ID_BYTES :])
        return Trip(Call(request_id, head.method), traceparent, self.policies(), now_ns, now_ns())

    async def _attempt(
        self, trip: Trip, arrival: Arrival, sink: Sink, watch: Watch, fail: Fail, carried: Carried | None
    ) -> ProxyError | None:
        """The call's way; what went wrong on it, or None. Errors: CancelledError and ConnectionError of a client that left."""
        try:
            admission = self.admission
            received = None
            if carried is None:
                if self.inflight > self.overload.most_calls:
                    raise self._turned_away()
                entry = admission.enter(trip, arrival)
                if entry.surface.metered:
                    received = arrival.at_hand(entry.small_bytes)
                    if received is None:
                        received = await admission.read(entry, arrival, watch)
                if entry.wish is not None:
                    carried = Carried(trip, received)
                    received = None  # a reader may read for long, and needs nothing of it
                    await self.recorder().answer(carried, arrival, sink, watch, partial(self.run, fail=fail))
                    return None
            else:
                received, carried.received = carried.received, None
            admission.shape(trip, received)
            received = None  # thousands of streams may run, and none needs it any more
            await admission.reserve(trip)
            try:
                trip.admitted_ns = self.clock.monotonic_ns()
                if trip.call.surface.switches:
                    await self._talk(trip, arrival, cast(Switch, sink), watch)  # of a socket: what is recorded is no opening
                    return None
                out: Sink = sink
                if (every_s := trip.call.heartbeat) is not None and trip.call.stream and carried is None:
                    out = Heartbeat(sink, trip, watch, every_s=every_s, head=partial(_early_head, trip))
                opening = self.dispatch.open(trip, arrival, watch)
                answer = await (opening if trip.call.drain is None else self.departures.opened(opening, trip, watch))
                try:
                    meter = trip.meter = meter_for(trip.call, answer)
                    if trip.early and not isinstance(meter, StreamMeter):
                        raise await no_stream(answer, meter, watch, trip.call.timeouts.idle)
                    await relay(_Course(trip, answer, self.settlement), answer, out, meter, watch, trip.call.timeouts)
                except (asyncio.CancelledError, ConnectionError):
                    await self.departures.read_on(answer, trip, watch)
                    raise
                finally:
                    if not trip.settled:
                        hear_out(answer, trip.meter)
                    answer.close()
            finally:
                if not trip.settled:
                    watch.expect_no_more()
                    await self.settlement.settle(trip)
        except asyncio.CancelledError:
            if not watch.absorb():
                raise
            return deadline_error(watch)
        except ProxyError as error:
            error.__traceback__ = None  # which leads back to itself over this frame, and would keep the body until collected
            return error
        except ConnectionError:
            raise
        except Exception as error:  # a last line of defence: a fault of ours answers 500, is logged and counted, and never hangs
            self.observer.fault(error, trip.call.id)
            return ProxyError("internal_error", "The proxy failed; the request id finds the cause in its log.", close=True)
        return None

    async def _talk(self, trip: Trip, arrival: Arrival, sink: Switch, watch: Watch) -> None:
        """A session over a WebSocket; its opening is settled as any call. The first one loads what it takes, in a thread."""
        if self._openings is None:
            module = await asyncio.to_thread(import_module, "proxy.realtime.opening")
            self._openings = self._openings or module.Openings(
                admission=self.admission,
                dispatch=self.dispatch,
                settlement=self.settlement,
                observer=self.observer,
                policies=self.policies,
                random=self.random,
            )
        assert self._openings is not None
        await self._openings.run(trip, arrival, sink, watch, response_lines)


@dataclass(eq=False, slots=True)
class _Course:
    """A call as the relay of its answer knows it."""

    trip: Trip
    answer: Answer
    settlement: Settlement

    def head(self) -> Head:
        trip, answer = self.trip, self.answer
        trip.status = answer.status
        lines = towards_client(answer.headers, request_id=trip.upstream_request_id)
        lines += response_lines(trip)
        if is_stream(answer.headers.get("content-type")):
            lines += _EVENTS
        told = answer.headers.get("content-length") if isinstance(trip.meter, PassMeter) else None
        return answer.status, lines, int(told) if told is not None else None

    def settle(self) -> Awaitable[None]:
        return self.settlement.settle(self.trip)

    def first_token(self) -> None:
        trip = self.trip
        if trip.call.surface.has_output:
            trip.first_token_ns = trip.now_ns()

    def most_bytes(self) -> float:
        trip = self.trip
        return trip.set.upstreams[trip.upstream].largest_answer if trip.upstream and trip.call.surface.metered else inf

    def secrets(self) -> tuple[str, ...]:
        return self.trip.secrets()


def _early_head(trip: Trip) -> Head:
    """The head of a stream whose upstream has not answered yet."""
    trip.status = 200
    return 200, [*response_lines(trip), "content-type: text/event-stream", *_EVENTS], None


def response_lines(trip: Trip) -> list[str]:
    """Our own header lines, on answers and errors alike."""
    call, reservation = trip.call, trip.reservation
    # A client is told of the limits that the call holds or held of, or of the one that refused it.
    balances = trip.balances if reservation is None else reservation.balances(REQUESTS, TOKENS)
    lines = [f"x-request-id: {call.id}", f"tollhouse-policy: {trip.set.version}", *allowance_lines(balances)]
    if call.clamps:
        lines.append(f"tollhouse-clamped: {call.clamped}")
    if trip.settled and trip.usage_source is not None:
        usage = trip.usage
        lines.append(f"tollhouse-tokens: input={usage.input_tokens}, output={usage.output_tokens}")
        lines.append(f"tollhouse-cost-usd: {usd(trip.cost_nanousd)}")
    if trip.admitted_ns is not None:
        lines.append(f"server-timing: {trip.timing(trip.admitted_ns)}")
    return lines
