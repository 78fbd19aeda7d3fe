"""The money of a session: each turn is a call of its own, held before the upstream sees it, settled once, and told of.

    begin ─► hold ──────► (sent) ─► settle      asked for by the client: refused before anything is sent
        └──► take_on ─────────────► settle      begun by the upstream: held all the same, and the refusal is the session's to act on

The rule a reader could break: a turn lives under the policies that are in force when it begins, as any call does; only who calls was
found out when the session was opened.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.admission import Admission
from proxy.call import Call, Surface
from proxy.entry import Entry
from proxy.errors import NotAdmitted, ProxyError, Refusal
from proxy.policy.contract import Unit
from proxy.policy.policyset import PolicySet
from proxy.settlement import Settlement
from proxy.trip import Observer, Trip
from proxy.worst import MOST_CONTEXT, MOST_OUTPUT


@dataclass(eq=False, slots=True)
class Ledger:
    """opening: the call that opened the session. spares: what a turn is not charged for, since the opening was."""

    opening: Trip
    admission: Admission
    settlement: Settlement
    observer: Observer
    policies: Callable[[], PolicySet]
    spares: frozenset[Unit]
    _entry: Entry | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)

    def __repr__(self) -> str:
        return f"<Ledger {self.opening.call.id} turns={self._count}>"

    def begin(self, surface: Surface, *, model: str | None = None) -> Trip:
        """A turn of which nothing is known but who calls. model: asked for, None where that is yet to be found out."""
        opening, policies = self.opening, self.policies()
        call = Call(opening.call.id, opening.call.method, path=opening.call.path, surface=surface)
        call.principal, call.stream = opening.call.principal, True
        call.model_asked = call.model = model
        trip = Trip(call, opening.traceparent, policies, opening.now_ns, opening.now_ns())
        trip.entry = self._entry_of(policies, surface)
        trip.upstream = opening.upstream
        return trip

    def admit(self, trip: Trip) -> None:
        """Who opened the session may still call. Errors: NotAdmitted."""
        keys, key = trip.set.keys, trip.call.principal.key
        if not keys.declares(key):
            raise NotAdmitted("invalid_api_key", "This key is not known here any more.")
        if self.admission.clock.wall_s() >= keys.expires_s(key):
            raise NotAdmitted("expired_api_key", "This key has expired. Ask the operator for a new one.")

    async def hold(self, trip: Trip) -> None:
        """Hold what a shaped turn can use. Errors: Refusal, StateUnavailable."""
        if self.opening.upstream not in trip.set.route(trip.call.model):
            raise Refusal("model_not_allowed", "The session's upstream does not take this model.", param="model", clause="routes")
        await self.admission.reserve(trip)
        self._number(trip)
        trip.admitted_ns = trip.now_ns()
        trip.sent = True

    async def take_on(self, trip: Trip, *, units: bool = False) -> ProxyError | None:
        """Hold what a turn can use that the upstream has begun, whether or not it may. Returns why it may not."""
        call, refused = trip.call, None
        self._number(trip)
        trip.sent = True
        try:
            self.admit(trip)
            self.admission.meet(trip, units=units)
            await self.admission.reserve(trip)
        except ProxyError as error:
            refused = error
            trip.failed(error)
            trip.plan = trip.plan or trip.set.plan(call.principal, call.path, call.model)
            call.price = call.price or self.opening.call.price
            await self.admission.reserve_anyway(trip)
        trip.admitted_ns = trip.now_ns()
        return refused

    def window(self, trip: Trip) -> int:
        """How many tokens the turn's model can read."""
        return trip.set.prices.context(trip.call.model) or MOST_CONTEXT

    def most_output(self, trip: Trip) -> int:
        return trip.set.prices.most_output(trip.call.model) or MOST_OUTPUT

    def refused(self, trip: Trip, error: ProxyError) -> None:
        """The turn is over before it was sent."""
        self._number(trip)
        trip.failed(error)
        trip.status = error.status
        self._tell(trip)

    def _number(self, trip: Trip) -> None:
        """Its own id, by which it is told of."""
        self._count += 1
        trip.call.id = f"{self.opening.call.id}.{self._count}"

    async def settle(self, trip: Trip, error: ProxyError | None = None) -> None:
        """The turn is over. Settled once, also if whoever waits for it is cancelled. error: what went wrong, unless that was said."""
        if error is not None and trip.error is None:
            trip.failed(error)
        trip.status = trip.error.status if trip.error is not None else 200
        try:
            await self.settlement.settle(trip)
        finally:
            if trip.counting is None or trip.counting.done():
                self._tell(trip)
            else:
                trip.counting.add_done_callback(lambda _: self._tell(trip))

    async def settle_all(self, trips: Sequence[Trip], error: ProxyError | None) -> None:
        """The session is over, and with it these turns. error: why, None where the client has left. Errors: the last, once all are."""
        fault: ProxyError | None = None
        for trip in trips:
            if error is None and trip.error is None:
                trip.ending = "client_gone"
            try:
                await self.settle(trip, error)
            except ProxyError as failed:
                fault = failed
        if fault is not None:
            raise fault

    def _tell(self, trip: Trip) -> None:
        trip.ended_ns = trip.now_ns()
        trip.call.fields = None
        self.observer.finished(trip)

    def _entry_of(self, policies: PolicySet, surface: Surface) -> Entry:
        entry, opened = self._entry, self.opening.entry
        if entry is not None and entry.set is policies:
            return entry
        assert opened is not None
        self._entry = Entry(
            set=policies,
            loopback=opened.loopback,
            until_s=opened.until_s,
            path=opened.path,
            target=opened.target,
            principal=opened.principal,
            surface=surface,
            boundary=None,
            most_bytes=opened.most_bytes,
            small_bytes=opened.small_bytes,
            bounded_by=opened.bounded_by,
            spares=self.spares,
        )
        return self._entry
