"""Into the toll road: who calls, what is asked, what every policy makes of it, and the hold. Nothing here touches an upstream.

    enter ─ read ─ shape: prepare ─ check ─ reserve

The rule a reader could break: a body is read only after its caller is known, and nothing is held before every check has passed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.allowance import denial_message
from proxy.call import Call, Surface
from proxy.clock import Clock
from proxy.counting import count_input
from proxy.deadlines import Watch
from proxy.entry import Entry
from proxy.errors import InvalidCall, NotAdmitted, Refusal
from proxy.fitting import hold_less
from proxy.policy.contract import NANOUSD, TOKENS, Unit
from proxy.policy.policyset import Plan, PolicySet, charges
from proxy.policy.prices import PriceTable
from proxy.state.contract import Denial, Holder, Reservation, StateStore
from proxy.tokens import Tokenizer
from proxy.trip import Arrival, Observer, Trip
from proxy.wire import body, units
from proxy.wire.form import boundary_of, parse_form, patched_form
from proxy.wire.glance import Glance
from proxy.wire.headers import presented_key, refuse_ambiguous
from proxy.wire.hosted import ANY_TOOL, UNPAID, offered
from proxy.wire.inputs import hides_input
from proxy.wire.request import RequestHead
from proxy.wire.surfaces import PASSTHROUGH, ROOT, canonical, surface_of, why_unmetered

# What a model reads and writes at most, when a call does not show it and the price table does not know the model.
MOST_CONTEXT = 1_000_000
MOST_OUTPUT = 131_072
MOST_TOOL_CALLS = 8  # of the upstream's own tools, in a call that names no bound
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

    async def read(self, entry: Entry, arrival: Arrival, watch: Watch) -> bytes:
        """The body of a metered call, which is not here yet, or too large. Errors: InvalidCall."""
        watch.expect("body_read", self.body_s)
        received = await arrival.read(entry.most_bytes)
        watch.expect_nothing()
        if received is None:
            whose = f"Policy '{entry.bounded_by}' accepts" if entry.bounded_by else "The proxy accepts"
            raise InvalidCall("request_too_large", f"{whose} bodies of up to {entry.most_bytes} bytes.", close=True)
        return received

    def shape(self, trip: Trip, received: tuple[bytes, int] | None) -> None:
        """The call as every policy wants it: all rewrites, then all refusals of what came of them; nothing is held yet.

        received: bytes that end with the body, and where it begins; None for a surface without a meter. Errors: InvalidCall, Refusal.
        """
        call, entry = trip.call, trip.entry
        assert entry is not None
        known = None
        if received is not None:
            data, at = received
            call.size = call.input_bound = len(data) - at  # a byte-level tokenizer never makes more tokens than there are bytes
            known = entry.outlines.fill(call, data, at, self._glance)
        plan = trip.plan = known or _prepare(trip.set, entry, call, received, now_s=self.clock.wall_s())
        if known is None and received is not None:
            entry.outlines.learn(call, plan)
        for clause in plan.check:
            clause.check(call)
        for clause in plan.shadow_check:
            try:
                clause.check(call)
            except Refusal:
                self.observer.would_refuse(clause.policy, clause.clause)
        if received is not None:
            if call.price is None:
                raise _unpriced(trip.set, call)
            if not call.units:
                _bound(trip.set, call)

    def _enter(self, policies: PolicySet, call: Call, arrival: Arrival, now_s: float) -> Entry:
        """All that the head decides, noted in the call as soon as it is known. Errors: InvalidCall, NotAdmitted."""
        head = arrival.head
        headers = head.headers
        if head.repeated:
            refuse_ambiguous(head.repeated)
        call.path, query = canonical(head.target)
        call.principal = policies.identify(
            presented=presented_key(headers.get("authorization"), headers.get("api-key")),
            header=headers.get,
            loopback=arrival.loopback,
            now_s=now_s,
        )
        call.surface = _surface(policies, call.path, head.method)
        if not _TELLING.isdisjoint(headers):
            self._refuse_odd(headers)
        boundary = _boundary(call.surface, headers) if call.surface.metered else None
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
            bounded_by=bounded_by,
        )
        if head.known:
            self._remember(head, entry)
        return entry

    def _remember(self, head: RequestHead, entry: Entry) -> None:
        """All go together, when they are too many or no longer hold, and come back one by one."""
        first = next(iter(self._entries.values()), entry)
        if first.set is not entry.set or len(self._entries) >= _MOST_ENTRIES:
            self._entries.clear()
        self._entries[head] = entry

    def _refuse_odd(self, headers: Mapping[str, str]) -> None:
        """What a request's way may not be. Errors: InvalidCall."""
        if "upgrade" in headers:
            raise InvalidCall("upgrade_not_supported", "Connections cannot be upgraded here.", close=True)
        if self.pseudonym in headers.get("via", ""):
            raise InvalidCall("bad_request", "The call came back to the proxy that sent it: an upstream points at this proxy.")

    async def reserve(self, trip: Trip) -> None:
        """Hold every charge, or as much as is left of tokens and money where the call can be made to fit, or refuse."""
        call, plan, entry = trip.call, trip.plan, trip.entry
        assert plan is not None
        assert entry is not None
        holder, steady = entry.orders.get(plan) or entry.order(call, plan)
        held = await self.store.reserve(charges(call, plan.varying, steady), holder, lasts_s=trip.set.longest_s)
        if isinstance(held, Denial):
            held = await self._reserve_less(trip, held, holder)
        if isinstance(held, Denial):
            trip.balances = (held.balance,)
            raise _refusal(held)
        if held.shadowed:  # alarms are among them: those were never going to refuse
            shadowed = {(clause.policy, clause.clause) for clause, shadow in plan.charges if shadow}
            for denial in held.shadowed:
                if (denial.charge.limit.policy, denial.charge.limit.clause) in shadowed:
                    self.observer.would_refuse(denial.charge.limit.policy, denial.charge.limit.clause)
        trip.reservation = held

    async def _reserve_less(self, trip: Trip, denial: Denial, holder: Holder) -> Reservation | Denial:
        """Hold what is left of tokens and money, where the call can do with it: its input counted, its output cap lowered to fit."""
        call, plan = trip.call, trip.plan
        assert plan is not None
        if not _is_short(denial) or call.fields is None:
            return denial
        if call.cap is None:  # what is held for its output is so much that its input is only counted where that makes a difference
            held = await hold_less(self.store, trip.set, call, plan, denial, holder=holder, least=call.input_bound)
            if not isinstance(held, Denial):
                return held
        counted = await count_input(call, self.tokenizer)
        likely = counted.tokens + counted.tokens // 32 + 16  # framing is not published to the token, so a little on top
        if counted.exact and likely < call.input_bound:
            call.input_bound = likely
            again = await self.store.reserve(trip.set.charges(call, plan), holder, lasts_s=trip.set.longest_s)
            if not isinstance(again, Denial) or not _is_short(again):
                return again
            denial = again
        return await hold_less(self.store, trip.set, call, plan, denial, holder=holder)


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
        raise InvalidCall("method_not_allowed", "This method is not accepted here.")
    if surface is not None:
        raise InvalidCall("method_not_allowed", f"This path accepts {', '.join(surface.methods)}.")
    if not path.startswith(ROOT + "/"):
        raise InvalidCall("not_found", f"There is no such path; the API is below {ROOT}.")
    why = why_unmetered(path) or "This path has no meter."
    raise NotAdmitted("path_not_metered", f"{why} The operator can let it pass by listing it under 'unmetered'.")


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
    plan = policies.plan(call.principal, call.path, call.model)
    for clause in plan.prepare:
        clause.prepare(call)
    for clause in plan.shadow_prepare:
        clause.prepare(call.scratch())
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
            _hold_tools(prices, call, offers)
    return plan


def _hold_tools(prices: PriceTable, call: Call, offers: Mapping[str, str]) -> None:
    """What the upstream's own tools can cost, and how often it can call them. Errors: Refusal."""
    costs = {**dict.fromkeys(UNPAID, 0), **prices.tools}
    if call.price is not None and call.price.call:
        costs["web_search"] = 0  # the price of a call is that of its search
    for word, param in offers.items():
        if word not in costs and (word != ANY_TOOL or not prices.tools):
            what = "stored prompts, which may offer hosted tools" if word == ANY_TOOL else f"the hosted tool '{word}'"
            raise Refusal(
                "tool_not_priced",
                f"Calls of {what} may be charged for, and no price is known. The operator can set one under 'prices.tools'.",
                param=param,
                policy="prices",
                clause="tools",
            )
    call.tools = tuple(costs.items()) if ANY_TOOL in offers else tuple((word, costs[word]) for word in offers)
    if call.surface.name != "responses":
        call.tool_calls = 1
        return
    asked = (call.fields or {}).get("max_tool_calls")
    call.tool_calls = MOST_TOOL_CALLS if asked is None else asked
    if asked is None:
        call.edits["max_tool_calls"] = MOST_TOOL_CALLS


def _unpriced(policies: PolicySet, call: Call) -> Refusal:
    """The refusal of a call that nobody knows the price of, where the policy file says so."""
    tier = (call.fields or {}).get("service_tier")
    if call.model is None:
        param, what = "model", "The call names no model, so it has no price"
    elif tier is None or policies.prices.find(call.model, "default") is None:
        param, what = "model", "The model has no price"
    else:
        param, what = "service_tier", f"The model has no price at the service tier '{tier}'"
    return Refusal(
        "model_not_priced",
        f"{what}, and the policy file denies such calls. The operator can set one under 'prices'.",
        param=param,
        policy="prices",
        clause="unknown",
    )


def _bound(policies: PolicySet, call: Call) -> None:
    """What the call may use that its body does not show: input, and the output of one that names no cap."""
    if call.cap is None and call.surface.has_output:
        call.uncapped = policies.prices.most_output(call.model) or MOST_OUTPUT
    if call.unread is None and (call.fields is None or hides_input(call.surface.name, call.fields)):
        known = policies.prices.context(call.model) or MOST_CONTEXT
        call.input_bound = max(call.input_bound, known)
        if call.tools and call.surface.name == "responses":
            call.input_bound *= 1 + call.tool_calls  # what was read is read again after each of them


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
