"""Into the toll road: who calls, what is asked, what every policy makes of it, and the hold. Nothing here touches an upstream.

    enter ─ read ─ shape: prepare ─ check ─ reserve

The rule a reader could break: a body is read only after its caller is known, and nothing is held before every check has passed.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from proxy.allowance import denial_message
from proxy.call import Call, Principal, Surface
from proxy.clock import Clock
from proxy.counting import count_input
from proxy.deadlines import Watch
from proxy.entry import Entry, Order
from proxy.errors import InvalidCall, NotAdmitted, Refusal
from proxy.fitting import hold_less
from proxy.grant import granted
from proxy.guesses import Guesses
from proxy.overload import SMALL_BYTES, Overload
from proxy.policy.contract import NANOUSD, TOKENS, Unit
from proxy.policy.policyset import Plan, PolicySet, charges
from proxy.state.contract import Denial, Reservation, StateStore
from proxy.tokens import Tokenizer
from proxy.trip import Arrival, Observer, Trip
from proxy.wire import body, units
from proxy.wire.form import boundary_of, parse_form, patched_form
from proxy.wire.glance import Glance
from proxy.wire.headers import presented_key, refuse_ambiguous
from proxy.wire.hosted import offered
from proxy.wire.request import RequestHead
from proxy.wire.surfaces import PASSTHROUGH, RECORDED, ROOT, SOCKETS, TASKS, canonical, surface_of, why_unmetered
from proxy.wire.upgrade import is_opening, key_among, protocols_of, read_query
from proxy.wire.weight import LIGHT_BYTES, weigh
from proxy.worst import MOST_CONTEXT, bound, hold_tools, unpriced

_MOST_ENTRIES = 512
_SOON_S = 10.0
_TELLING = frozenset({"upgrade", "via"})


@dataclass(frozen=True, slots=True)
class Admission:
    """body_s: how long a client may take to send a body; pseudonym: our name in `Via`, by which a loop is known."""

    store: StateStore
    tokenizer: Tokenizer
    clock: Clock
    observer: Observer
    guesses: Guesses
    overload: Overload
    body_s: float
    pseudonym: str
    _entries: dict[RequestHead, Entry] = field(default_factory=dict, init=False, repr=False)
    _glance: Glance = field(default_factory=Glance, init=False, repr=False)

    def enter(self, trip: Trip, arrival: Arrival) -> Entry:
        """Who calls, and on which surface. Errors: InvalidCall, NotAdmitted."""
        call, policies, now_s = trip.call, trip.set, self.clock.wall_s()
        entry = self._entries.get(arrival.head)
        if entry is None or not entry.holds(policies, arrival.loopback, now_s):
            entry = self._enter(policies, call, arrival, now_s)
        else:
            call.path, call.principal, call.surface = entry.path, entry.principal, entry.surface
        trip.entry = entry
        return entry

    async def read(self, entry: Entry, arrival: Arrival, watch: Watch) -> tuple[bytes, int]:
        """The body of a metered call that is not small, or not here yet, as of `at_hand`. Errors: InvalidCall, Overloaded."""
        watch.expect("body_read", self.body_s)
        received = await self._receive(arrival, entry.most_bytes)
        watch.expect_nothing()
        if received is None:
            whose = f"Policy '{entry.bounded_by}' accepts" if entry.bounded_by else "The proxy accepts"
            raise InvalidCall("request_too_large", f"{whose} bodies of up to {entry.most_bytes} bytes.", close=True)
        if len(received[0]) > LIGHT_BYTES and entry.boundary is None:
            for _ in weigh(received[0], received[1]):
                await asyncio.sleep(0)
        return received

    async def _receive(self, arrival: Arrival, most_bytes: int) -> tuple[bytes, int] | None:
        """A body for which there is room, None when it is longer than `most_bytes`. One that does not say how long it is gets more room as
        it grows.
        """
        room = SMALL_BYTES if arrival.length is None else arrival.length
        if room > most_bytes:
            return None
        held = 0
        try:
            while True:
                self.overload.hold(room - held)
                held = room
                if (here := arrival.at_hand(room)) is not None:
                    return here
                received = await arrival.read(room)
                if received is not None:
                    return received, 0
                if room == most_bytes or arrival.length is not None:
                    return None
                room = min(2 * room, most_bytes)
        finally:
            self.overload.received(held)

    def shape(self, trip: Trip, received: tuple[bytes, int] | None) -> None:
        """The call as every policy wants it: all rewrites, then all refusals of what came of them; nothing is held yet.

        received: bytes that end with the body, and where it begins; None for a surface without a meter. Errors: InvalidCall, Refusal.
        """
        call, entry = trip.call, trip.entry
        assert entry is not None
        if entry.query is not None and entry.query.model is not None and call.surface.model_required:
            # One token is held for as long as the session lasts, so that one whose money is spent is not opened.
            call.model_asked = call.model = entry.query.model
            call.cap = 1
            self.meet(trip)
            return
        known = None
        if received is not None:
            data, at = received
            call.size = call.input_bound = len(data) - at  # a byte-level tokenizer never makes more tokens than there are bytes
            known = entry.outlines.fill(call, data, at, self._glance)
        plan = trip.plan = known or _prepare(trip.set, entry, call, received, now_s=self.clock.wall_s())
        if known is None and received is not None:
            entry.outlines.learn(call, plan)
        self._check(call, plan)
        if received is not None:
            if call.price is None:
                raise unpriced(trip.set, call)
            if not call.units:
                bound(trip.set, call)

    def meet(self, trip: Trip, *, units: bool = False) -> None:
        """`shape` for a call that has no body, and whose facts are filled in: a turn of a session, or its opening that names a model.

        units: what it uses may be sold by its length instead of the token. Errors: Refusal.
        """
        call, policies = trip.call, trip.set
        plan = trip.plan = _met(policies, call)
        call.price = policies.prices.at(self.clock.wall_s()).find(call.model)
        self._check(call, plan)
        price = call.price
        if price is None or not (price.by_tokens or price.free or units):
            raise unpriced(policies, call)

    def _check(self, call: Call, plan: Plan) -> None:
        for clause in plan.check:
            clause.check(call)
        for clause in plan.shadow_check:
            try:
                clause.check(call)
            except Refusal:
                self.observer.would_refuse(clause.policy, clause.clause)

    def _enter(self, policies: PolicySet, call: Call, arrival: Arrival, now_s: float) -> Entry:
        """All that the head decides, noted in the call as soon as it is known. Errors: InvalidCall, NotAdmitted."""
        head = arrival.head
        headers = head.headers
        if head.repeated:
            refuse_ambiguous(head.repeated)
        call.path, query = canonical(head.target)
        opening = "upgrade" in headers and call.path in SOCKETS and is_opening(head)
        call.principal = self._identify(policies, arrival, now_s, opening=opening)
        call.surface = SOCKETS[call.path] if opening else _surface(policies, call.path, head.method)
        if not _TELLING.isdisjoint(headers):
            self._refuse_odd(headers, opening=opening)
        if opening and "origin" in headers and policies.keys.is_anonymous(call.principal.key):
            # A browser lets any page open a WebSocket to this machine, and asks nobody.
            raise NotAdmitted("missing_api_key", "A page in a browser needs a key of its own to open a WebSocket.")
        boundary = _boundary(call.surface, headers) if call.surface.metered else None
        wish, terms = granted(policies, call, headers)
        most_bytes, bounded_by = policies.body_limit(call.principal, call.path)
        entry = Entry(
            set=policies,
            loopback=arrival.loopback,
            until_s=min(policies.keys.expires_s(call.principal.key), policies.prices.holds_until_s(now_s)),
            path=call.path,
            target=call.path.removeprefix(ROOT) + (f"?{query}" if query else ""),
            principal=call.principal,
            surface=call.surface,
            boundary=boundary,
            most_bytes=most_bytes,
            small_bytes=min(most_bytes, SMALL_BYTES),
            bounded_by=bounded_by,
            query=read_query(query, model_required=call.surface.model_required) if opening else None,
            wish=wish,
            terms=terms,
        )
        if head.known:
            self._remember(head, entry)
        return entry

    def _identify(self, policies: PolicySet, arrival: Arrival, now_s: float, *, opening: bool) -> Principal:
        """Who calls. Errors: NotAdmitted, also for a key that is not looked at because too many were wrong; InvalidCall."""
        headers = arrival.head.headers
        presented = presented_key(headers.get("authorization"), headers.get("api-key"))
        if opening:
            presented = key_among(protocols_of(headers), presented)
        if presented:
            self.guesses.look(presented, policies.keys, arrival.source)
        try:
            principal = policies.identify(presented=presented, header=headers.get, loopback=arrival.loopback, now_s=now_s)
        except NotAdmitted as error:
            if error.code == "invalid_api_key":
                self.guesses.wrong(arrival.source)
            raise
        if presented:
            self.guesses.right(presented, policies.keys)
        return principal

    def _remember(self, head: RequestHead, entry: Entry) -> None:
        """All go together, when they are too many or no longer hold, and come back one by one."""
        first = next(iter(self._entries.values()), entry)
        if first.set is not entry.set or len(self._entries) >= _MOST_ENTRIES:
            self._entries.clear()
        self._entries[head] = entry

    def _refuse_odd(self, headers: Mapping[str, str], *, opening: bool) -> None:
        """What a request's framing and way may not be. Errors: InvalidCall."""
        if "upgrade" in headers and not opening:
            raise InvalidCall("upgrade_not_supported", "Connections cannot be upgraded here.", close=True)
        if self.pseudonym in headers.get("via", ""):
            raise InvalidCall("bad_request", "The call came back to the proxy that sent it: an upstream points at this proxy.")

    async def reserve(self, trip: Trip) -> None:
        """Hold every charge, or as much as is left of tokens and money where the call can be made to fit, or refuse."""
        call, plan, entry = trip.call, trip.plan, trip.entry
        assert plan is not None
        assert entry is not None
        order = entry.orders.get(plan) or entry.order(call, plan)
        held = await self.store.reserve(charges(call, plan.varying, order.steady), order.holder, lasts_s=trip.set.longest_s)
        if isinstance(held, Denial):
            held = await self._reserve_less(trip, held, order)
        if isinstance(held, Denial):
            trip.balances = (held.balance,)
            raise _refusal(held)
        if held.shadowed:  # alarms are among them: those were never going to refuse
            shadowed = {(clause.policy, clause.clause) for clause, shadow in plan.charges if shadow}
            for denial in held.shadowed:
                if (denial.charge.limit.policy, denial.charge.limit.clause) in shadowed:
                    self.observer.would_refuse(denial.charge.limit.policy, denial.charge.limit.clause)
        trip.reservation = held

    async def reserve_anyway(self, trip: Trip) -> None:
        """Hold what a call takes that nobody can refuse any more: the upstream has begun it by itself."""
        call, plan, entry = trip.call, trip.plan, trip.entry
        assert plan is not None
        assert entry is not None
        order = entry.orders.get(plan) or entry.order(call, plan)
        asked = [replace(charge, enforced=False) for charge in charges(call, plan.varying, order.steady)]
        held = await self.store.reserve(asked, order.holder, lasts_s=trip.set.longest_s)
        assert not isinstance(held, Denial), "a charge that is not enforced is never denied"
        trip.reservation = held

    async def _reserve_less(self, trip: Trip, denial: Denial, order: Order) -> Reservation | Denial:
        """Hold what is left of tokens and money, where the call can do with it: its input counted, its output cap lowered to fit."""
        call, plan = trip.call, trip.plan
        assert plan is not None
        if not _is_short(denial) or call.fields is None:
            return denial
        if call.cap is None:  # what is held for its output is so much that its input is only counted where that makes a difference
            held = await hold_less(self.store, trip.set, call, plan, denial, order=order, least=call.input_bound)
            if not isinstance(held, Denial):
                return held
        counted = await count_input(call, self.tokenizer)
        likely = counted.tokens + counted.tokens // 32 + 16  # framing is not published to the token, so a little on top
        if counted.exact and likely < call.input_bound:
            call.input_bound = likely
            again = await self.store.reserve(charges(call, plan.varying, order.steady), order.holder, lasts_s=trip.set.longest_s)
            if not isinstance(again, Denial) or not _is_short(again):
                return again
            denial = again
        return await hold_less(self.store, trip.set, call, plan, denial, order=order)


def _is_short(denial: Denial) -> bool:
    """Whether a smaller call might pass."""
    return denial.charge.limit.unit in (TOKENS, NANOUSD)


def _boundary(surface: Surface, headers: Mapping[str, str]) -> bytes | None:
    """The boundary of a metered call's body where it is a form, None where it is JSON. Errors: InvalidCall for any other."""
    kind = headers.get("content-type", "")
    if headers.get("content-encoding", "identity") == "identity":
        if kind.partition(";")[0].strip().lower() == "application/json":
            return None
        if surface.form and (boundary := boundary_of(kind)) is not None:
            return boundary
    what = "'multipart/form-data' or " if surface.form else ""
    raise InvalidCall("unsupported_media_type", f"Send the body as {what}'content-type: application/json', without an encoding.")


def _surface(policies: PolicySet, path: str, method: str) -> Surface:
    """The surface of a canonical path, metered or let pass. Errors: InvalidCall, NotAdmitted."""
    surface = surface_of(path)
    if surface is not None and method in surface.methods:
        return surface
    if policies.is_unmetered(path):
        if method in PASSTHROUGH.methods:
            return PASSTHROUGH
        raise _other_method(PASSTHROUGH)
    if surface is not None:
        raise _other_method(surface)
    if path.startswith(TASKS + "/"):
        if method in RECORDED.methods:
            return RECORDED
        raise _other_method(RECORDED)
    if not path.startswith(ROOT + "/"):
        raise InvalidCall("not_found", f"There is no such path; the API is below {ROOT}.")
    why = why_unmetered(path) or "This path has no meter."
    raise NotAdmitted("path_not_metered", f"{why} The operator can let it pass by listing it under 'unmetered'.")


def _other_method(surface: Surface) -> InvalidCall:
    """The refusal of a method that a path does not take. Source for `allow`: RFC 9110, section 15.5.6."""
    methods = ", ".join(surface.methods)
    return InvalidCall("method_not_allowed", f"This path accepts {methods}.", headers=(("allow", methods),))


def _prepare(policies: PolicySet, entry: Entry, call: Call, received: tuple[bytes, int] | None, *, now_s: float) -> Plan:
    """Which clauses the call meets, what they make of it, and what its model costs. Errors: InvalidCall, Refusal."""
    form = None
    if received is not None:
        call.body = received[0][received[1] :]
        if entry.boundary is not None:
            form = parse_form(call.body, entry.boundary)
        call.fields = form.fields if form is not None else body.parse(call.body)
        body.check(call.surface, call.fields)  # every field that costs money is sane from here on
        body.shape(call)
    plan = _met(policies, call)
    if received is not None and call.fields is not None:
        tier = call.fields.get("service_tier")
        prices = policies.prices.at(now_s)
        call.price = prices.find(call.model or call.surface.default_model, tier)
        body.ask_for_usage(call)
        if form is not None:
            call.parts = patched_form(call.body, form, call.edits)
        if call.price is not None and call.surface.name in units.SURFACES:
            units.bound(
                call,
                call.price,
                context=prices.context(call.model) or MOST_CONTEXT,
                most_output=prices.most_output(call.model),
                files=form.files if form is not None else 0,
                file_bytes=form.file_bytes if form is not None else len(call.body),
            )
        elif offers := offered(call.surface.name, call.fields):
            hold_tools(prices, call, offers)
    return plan


def _met(policies: PolicySet, call: Call) -> Plan:
    """Which clauses the call meets, and what they make of it."""
    plan = policies.plan(call.principal, call.path, call.model)
    for clause in plan.prepare:
        clause.prepare(call)
    for clause in plan.shadow_prepare:
        clause.prepare(call.scratch())
    return plan


def _refusal(denial: Denial) -> Refusal:
    """The 429 of a denied charge: it says when to come back, or that coming back is no use before the window turns.

    Money that running calls hold may be free again in a moment; then a retry is welcome.
    """
    limit = denial.charge.limit
    money = limit.unit is Unit.NANOUSD
    retry_after_s = 1.0 if limit.unit is Unit.SLOTS else denial.retry_after_s
    return Refusal(
        limit.error,
        denial_message(denial),
        retry_after_s=retry_after_s,
        should_retry=False if retry_after_s is None or (money and retry_after_s > _SOON_S) else None,
        policy=limit.policy,
        clause=limit.clause,
    )
