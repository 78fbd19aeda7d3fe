"""What was found out about a head holds for the next call only as long as it would be found out again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.admission import Admission
from proxy.call import Call
from proxy.entry import MOST_ORDERS
from proxy.errors import NotAdmitted
from proxy.guesses import Guesses
from proxy.policy.policyset import PolicySet
from proxy.state.memory import MemoryReservation, MemoryStore
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.trip import Trip
from proxy.wire.request import RequestHead
from tests.clock import FakeClock
from tests.house import hash_of
from tests.proxy.policy.files import compiled

KEYS = """version: 1
keys:
  - {{id: {id}, hash: "{hash}", user: {{header: x-user}}, expires: 2027-01-20}}
  - {{id: local, anonymous: true}}
policies: []
"""
UNTIL_S = datetime(2027, 1, 20, tzinfo=UTC).timestamp()


@dataclass
class Arrival:
    """A request without a body."""

    head: RequestHead
    loopback: bool = True

    def at_hand(self, most_bytes: int) -> bytes:
        raise AssertionError("listing the models takes no body")

    def source(self) -> str:
        return "127.0.0.1"

    length = None
    read: Any = at_hand
    chunks: Any = at_hand


def head(key: str | None = "app-key", *, known: bool = True) -> RequestHead:
    headers = {"host": "x", "x-user": "ada", **({"authorization": f"Bearer {key}"} if key else {})}
    made = RequestHead(method="GET", target="/v1/models", headers=headers, keep=True, modern=True)
    made.known = known
    return made


def policies(id: str = "app", key: str = "app-key") -> PolicySet:
    return compiled(KEYS.format(id=id, hash=hash_of(key)))


class Gate:
    """Admission under a clock of the test's."""

    def __init__(self) -> None:
        self.clock = FakeClock(wall_s=UNTIL_S - 100)
        tokenizer: Any = None
        observer: Any = None
        unused: Any = None
        store = MemoryStore(self.clock)
        self.admission = Admission(
            store,
            tokenizer,
            self.clock,
            observer,
            guesses=Guesses(self.clock, print),
            overload=unused,
            body_s=1.0,
            pseudonym="tollhouse",
        )

    def admit(self, policies: PolicySet, arrival: Arrival) -> Trip:
        trip = Trip(
            call=Call(id="req_1", method="GET"),
            traceparent=continue_trace(None, random="01" * TRACE_BYTES),
            set=policies,
            now_ns=self.clock.monotonic_ns,
            started_ns=0,
        )
        self.admission.enter(trip, arrival)
        return trip


def test_what_a_known_head_decides_is_found_out_once() -> None:
    gate, rules, seen = Gate(), policies(), head()
    first, again = gate.admit(rules, Arrival(seen)), gate.admit(rules, Arrival(seen))
    assert again.entry is first.entry
    assert (again.call.principal.key, again.call.principal.user) == ("app", "ada")
    assert (again.call.path, again.call.surface.name) == ("/v1/models", "models")


def test_nothing_is_remembered_of_a_head_that_is_not_likely_to_come_again() -> None:
    gate, rules, seen = Gate(), policies(), head(known=False)
    first, again = gate.admit(rules, Arrival(seen)), gate.admit(rules, Arrival(seen))
    assert again.entry is not first.entry


def test_new_rules_are_asked_again_and_old_ones_forgotten() -> None:
    gate, seen, other = Gate(), head(), head()
    old = policies()
    gate.admit(old, Arrival(seen))
    gate.admit(old, Arrival(other))
    assert gate.admit(policies(id="renamed"), Arrival(seen)).call.principal.key == "renamed"
    assert len(gate.admission._entries) == 1, "nothing keeps the old rules in memory"
    with pytest.raises(NotAdmitted):
        gate.admit(policies(key="another-key"), Arrival(seen))


def test_a_key_expires_on_time_however_often_its_head_was_seen() -> None:
    gate, rules, seen = Gate(), policies(), head()
    gate.clock.advance(99)
    gate.admit(rules, Arrival(seen))
    gate.clock.advance(1)
    with pytest.raises(NotAdmitted) as refused:
        gate.admit(rules, Arrival(seen))
    assert refused.value.code == "expired_api_key"


def test_a_head_from_this_machine_opens_nothing_for_another() -> None:
    gate, rules, seen = Gate(), policies(), head(key=None)
    assert gate.admit(rules, Arrival(seen)).call.principal.key == "local"
    with pytest.raises(NotAdmitted):
        gate.admit(rules, Arrival(seen, loopback=False))


def test_however_many_heads_are_known_few_are_remembered() -> None:
    gate, rules = Gate(), policies()
    for _ in range(2000):
        gate.admit(rules, Arrival(head()))
    assert len(gate.admission._entries) <= 512


LIMITED = """version: 1
keys:
  - {id: web, anonymous: true, user: {header: x-user}}
policies:
  - {name: quick, rate_limit: {requests: 5, per: day, by: [user, model]}}
  - {name: alias, models: {alias: {fast: gpt-4.1}}}
  - {name: still, mode: shadow, concurrency: {calls: 1000}}
"""


async def held(gate: Gate, rules: PolicySet, seen: RequestHead, model: str) -> MemoryReservation:
    """What a call of this model holds that comes with a head."""
    trip = gate.admit(rules, Arrival(seen))
    call = trip.call
    call.model_asked = call.model = model
    trip.plan = rules.plan(call.principal, call.path, model)
    for clause in trip.plan.prepare:
        clause.prepare(call)
    await gate.admission.reserve(trip)
    assert isinstance(trip.reservation, MemoryReservation)
    return trip.reservation


async def test_what_calls_hold_alike_is_found_out_once_for_each_model_and_is_of_that_model() -> None:
    gate, rules, seen = Gate(), compiled(LIMITED), head(key=None)
    for model, sent in [("o3", "o3"), ("fast", "gpt-4.1"), ("o3", "o3"), ("gpt-4.1", "gpt-4.1")]:
        reservation = await held(gate, rules, seen, model)
        assert reservation.holder == ("web", "ada", sent, "models")
        assert [(b.charge.subject, b.charge.enforced) for b in reservation.balances()] == [
            (f"user=web/ada,model={sent}", True),
            ("user=web/ada", False),
        ]
    entry = gate.admit(rules, Arrival(seen)).entry
    assert entry is not None
    assert len(entry.orders) == 3, "one for each model asked for"


async def test_however_many_models_come_with_a_head_few_orders_are_remembered() -> None:
    gate, rules, seen = Gate(), compiled(LIMITED), head(key=None)
    for n in range(100):
        await held(gate, rules, seen, f"model-{n}")
    entry = gate.admit(rules, Arrival(seen)).entry
    assert entry is not None
    assert len(entry.orders) <= MOST_ORDERS
