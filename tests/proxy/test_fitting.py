"""A call is made to fit what is left of tokens and money, or refused; whatever happens at once, no more is held than there is."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admission import Admission
from proxy.call import Call
from proxy.errors import Refusal
from proxy.policy.contract import NANOUSD, TOKENS, Limit
from proxy.policy.policyset import PolicySet
from proxy.state.memory import MemoryStore
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.tokens import Count
from proxy.trip import Trip
from proxy.wire.body import patched
from proxy.wire.request import RequestHead
from tests.clock import FakeClock
from tests.proxy.policy.files import with_policies

# Rounds of 200 calls at once for each unit.
ROUNDS = int(os.environ.get("TOLLHOUSE_TEST_ROUNDS", "100"))
TRACE = continue_trace(None, random="01" * TRACE_BYTES)


class Scales:
    """As much of a Tokenizer as admission asks: a token for every four characters. exact: False leaves every bound as it is."""

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact

    async def count(self, texts: Sequence[str], *, model: str) -> Count:
        await asyncio.sleep(0)  # whoever else wants what is left gets the chance to take it
        return Count(sum(map(len, texts)) // 4, self._exact)


class Shadows:
    """An observer that only hears of shadowed refusals."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def would_refuse(self, policy: str, clause: str) -> None:
        self.heard.append((policy, clause))


class Gate:
    """Admission on a store in memory, for callers with one head."""

    def __init__(self, policies: PolicySet, *, exact: bool = False) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.policies = policies
        self.shadows = Shadows()
        scales: Any = Scales(exact=exact)
        observer: Any = self.shadows
        unused: Any = None
        self._admission = Admission(
            self.store, scales, self.clock, observer, guesses=unused, overload=unused, body_s=1.0, pseudonym="tollhouse"
        )
        self._heads: dict[str, RequestHead] = {}

    def shaped(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> Trip:
        data = orjson.dumps(body)
        trip = Trip(Call("req_1", "POST"), TRACE, self.policies, lambda: 0, 0)
        head = self._heads.get(path)
        if head is None:
            fields = {"content-type": "application/json"}
            head = self._heads[path] = RequestHead(method="POST", target=path, headers=fields, keep=True, modern=True)
            head.known = True
        arrival: Any = type("Arrival", (), {"head": head, "loopback": True})()
        self._admission.enter(trip, arrival)
        self._admission.shape(trip, (data, 0))
        return trip

    async def admit(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> Trip:
        trip = self.shaped(body, path)
        await self._admission.reserve(trip)
        return trip

    async def tried(self, trip: Trip) -> bool:
        """Whether a shaped call was let in."""
        try:
            await self._admission.reserve(trip)
        except Refusal:
            return False
        return True


def chat(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "model": "gpt-4.1-mini", **more}


def sent(trip: Trip) -> dict[str, Any]:
    """What the upstream is given."""
    parts = trip.call.parts or patched(trip.call)
    fields: dict[str, Any] = orjson.loads(b"".join(bytes(part) for part in parts))
    return fields


def bound(body: dict[str, Any]) -> int:
    """What is held for the input of a call that nobody counts: a token a byte."""
    return len(orjson.dumps(body))


THOUSAND = with_policies("{name: narrow, token_limit: {tokens: 1000, per: hour, by: key}}")


@pytest.mark.parametrize(
    ("path", "body", "field", "each"),
    [
        ("/v1/chat/completions", chat(max_tokens=5000), "max_tokens", 1),
        ("/v1/chat/completions", chat(max_completion_tokens=5000, n=3), "max_completion_tokens", 3),
        (
            "/v1/completions",
            {"model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b"], "best_of": 2, "max_tokens": 900},
            "max_tokens",
            4,
        ),
        ("/v1/responses", {"model": "gpt-4.1", "input": "Hello", "max_output_tokens": 5000}, "max_output_tokens", 1),
    ],
)
async def test_a_cap_is_lowered_to_what_is_left_and_the_client_is_told(
    path: str, body: dict[str, Any], field: str, each: int
) -> None:
    gate = Gate(THOUSAND)
    trip = await gate.admit(body, path)
    left = (1000 - bound(body)) // each
    assert sent(trip) == {**body, field: left}
    assert trip.call.clamped == f"{field}={body[field]}->{left}"
    assert trip.reservation is not None
    [balance] = trip.reservation.balances(TOKENS)
    assert balance.remaining < each, "all that is left is held, but for what makes no token for every choice"


async def test_a_call_without_a_cap_is_given_what_is_left() -> None:
    gate = Gate(THOUSAND)
    body = chat()
    trip = await gate.admit(body)
    left = 1000 - bound(body)
    assert trip.call.clamped == f"max_completion_tokens=none->{left}"
    assert sent(trip) == {**body, "max_completion_tokens": left}


async def test_a_call_without_a_cap_passes_as_it_is_where_the_models_own_bound_is_left() -> None:
    gate = Gate(with_policies("{name: wide, budget: {usd: 50, per: day, when_spent: reject}}"))
    body = chat()
    trip = await gate.admit(body)
    assert (sent(trip), trip.call.clamped) == (body, None)
    assert trip.reservation is not None
    [balance] = trip.reservation.balances(NANOUSD)
    assert balance.held > 32_768 * 1600, "all that the model can write: nothing overshoots"


async def test_each_of_two_caps_is_lowered() -> None:
    gate = Gate(THOUSAND)
    body = chat(max_tokens=300, max_completion_tokens=5000)
    trip = await gate.admit(body)
    assert sent(trip) == {**body, "max_completion_tokens": 1000 - bound(body)}


async def test_money_is_cut_to_what_is_left_to_the_nanodollar() -> None:
    gate = Gate(with_policies("{name: purse, budget: {usd: 0.001, per: day, when_spent: reject}}"))
    body = chat(max_tokens=5000)
    trip = await gate.admit(body)
    call = trip.call
    assert call.cap is not None
    assert call.price is not None
    assert call.held_nanousd <= 1_000_000
    assert call.price.worst_nanousd(input_tokens=call.input_bound, output_tokens=call.cap + 1) > 1_000_000


async def test_the_tightest_of_several_limits_decides() -> None:
    rules = (
        "{name: a, token_limit: {tokens: 900, per: hour, by: key}}",
        "{name: b, token_limit: {tokens: 600, per: hour, by: user}}",
    )
    for order in (rules, rules[::-1]):
        body = chat(max_tokens=5000)
        trip = await Gate(with_policies(*order)).admit(body)
        assert trip.call.cap == 600 - bound(body)


async def test_the_input_is_counted_before_an_asked_cap_is_lowered() -> None:
    gate = Gate(THOUSAND, exact=True)
    body = chat("x" * 800, max_tokens=700)
    trip = await gate.admit(body)
    assert (trip.call.clamped, sent(trip)) == (None, body), "800 characters are 200 tokens"


async def test_what_one_call_was_left_is_not_taught_to_the_next() -> None:
    """The three ways a body is shaped: not known, learnt from, and known by what stands around its messages."""
    gate = Gate(with_policies("{name: narrow, max_tokens: {cap: 400}, token_limit: {tokens: 800, per: hour, by: key}}"))
    caps = []
    for text in ("one", "two", "three", "four"):
        await gate.admit(chat(max_tokens=330))  # of 800
        trip = await gate.admit(chat(text, max_tokens=5000))
        caps.append((trip.call.cap, sent(trip)["max_tokens"], sent(trip)["messages"][0]["content"]))
        gate.clock.advance(3600)  # nothing settled, and everything has drained
        fresh = await gate.admit(chat(text, max_tokens=5000))
        assert (fresh.call.cap, fresh.call.clamped, sent(fresh)["max_tokens"]) == (400, "max_tokens=5000->400", 400)
        gate.clock.advance(3600)
    left = [
        800 - 330 - bound(chat(max_tokens=330)) - bound(chat(text, max_tokens=5000)) for text in ("one", "two", "three", "four")
    ]
    assert caps == [(cap, cap, text) for cap, text in zip(left, ("one", "two", "three", "four"), strict=True)]


@pytest.mark.parametrize(
    "clause", ["budget: {usd: 0.0001, per: day}", "budget: {usd: 0.0001, per: day, when_spent: alarm, holds: strict}"]
)
async def test_an_alarm_clamps_nothing(clause: str) -> None:
    trip = await Gate(with_policies(f"{{name: a, {clause}}}")).admit(chat(max_tokens=5000))
    assert (trip.call.cap, trip.call.clamped) == (5000, None)


async def test_a_shadowed_limit_clamps_nothing_and_is_told_of() -> None:
    gate = Gate(with_policies("{name: s, mode: shadow, token_limit: {tokens: 1000, per: hour}}"))
    trip = await gate.admit(chat(max_tokens=5000))
    assert (trip.call.cap, trip.call.clamped) == (5000, None)
    assert gate.shadows.heard == [("s", "token_limit")]


async def test_no_cap_is_lowered_below_what_is_of_use() -> None:
    body = chat(max_tokens=5000)
    enough = bound(body) + 100
    for least, passes in ((100, True), (101, False)):
        gate = Gate(with_policies(f"{{name: a, token_limit: {{tokens: {enough}, per: hour, least_cap: {least}}}}}"))
        trip = gate.shaped(body)
        assert await gate.tried(trip) is passes
        assert trip.call.clamped == ("max_tokens=5000->100" if passes else None), "who is refused was not clamped"


async def test_the_least_cap_of_one_limit_is_kept_where_another_asks_for_less() -> None:
    body = chat(max_tokens=5000)
    rules = (
        f"{{name: a, token_limit: {{tokens: {bound(body) + 500}, per: hour, by: key, least_cap: 400}}}}",
        f"{{name: b, token_limit: {{tokens: {bound(body) + 300}, per: hour, by: user}}}}",
    )
    gate = Gate(with_policies(*rules))
    with pytest.raises(Refusal) as refused:
        await gate.admit(body)
    assert refused.value.policy == "b"


async def test_a_call_that_does_not_fit_hears_when_a_smaller_one_will() -> None:
    gate = Gate(THOUSAND)
    body = chat(max_tokens=900)
    first = await gate.admit(body)
    assert first.reservation is not None
    with pytest.raises(Refusal) as refused:
        await gate.admit(body)
    wait_s = refused.value.retry_after_s
    assert wait_s is not None
    assert "may use up to" in refused.value.message
    gate.clock.advance(wait_s - 1)
    assert not await gate.tried(gate.shaped(body))
    gate.clock.advance(1)
    assert await gate.tried(gate.shaped(body)), "the hint is the truth"


async def test_an_input_that_does_not_fit_is_never_let_in() -> None:
    with pytest.raises(Refusal):
        await Gate(THOUSAND).admit(chat("x" * 2000, max_tokens=5000))


async def test_what_has_no_cap_to_lower_is_refused() -> None:
    gate = Gate(THOUSAND)
    trip = gate.shaped({"model": "text-embedding-3-small", "input": "x" * 1200}, "/v1/embeddings")
    assert not await gate.tried(trip)


@pytest.mark.parametrize(("holds", "fit"), [("strict", 1), ("optimistic", 3)])
async def test_optimistic_holds_let_more_calls_run_side_by_side(holds: str, fit: int) -> None:
    gate = Gate(with_policies(f"{{name: a, token_limit: {{tokens: 1200, per: hour, holds: {holds}, least_cap: 100}}}}"))
    trips = [gate.shaped(chat(max_tokens=1000)) for _ in range(6)]
    let_in = [trip for trip in trips if await gate.tried(trip)]
    assert len(let_in) == fit
    assert {trip.call.cap for trip in let_in} == {1000}, "what is held is no promise of less"


UNITS = {
    "requests": ("rate_limit: {requests: 1, per: hour, by: everyone}", {}),
    "slots": ("concurrency: {calls: 1, by: everyone}", {}),
    "tokens": ("token_limit: {tokens: 300, per: hour, by: everyone}", {"max_tokens": 200}),
    "nanousd": ("budget: {usd: 0.0004, per: hour, by: everyone, when_spent: reject}", {"max_tokens": 200}),
}


@pytest.mark.parametrize("unit", UNITS)
async def test_of_200_calls_at_once_no_more_pass_than_fit(unit: str) -> None:
    """One unit is left in every round, and a unit is what one call needs. Its holder uses all that it holds."""
    rule, more = UNITS[unit]
    gate = Gate(with_policies(f"{{name: one, {rule}}}"))
    for _ in range(ROUNDS):
        trips = [gate.shaped(chat(**more)) for _ in range(200)]
        let_in = [trip for trip, entered in zip(trips, await asyncio.gather(*map(gate.tried, trips)), strict=True) if entered]
        limit, spent, held = _level(gate, let_in[0])
        assert spent + held <= limit.amount
        assert len(let_in) == 1 or sum(_held(trip) for trip in let_in) <= limit.amount
        for trip in let_in:
            assert trip.reservation is not None
            await trip.reservation.settle({TOKENS: trip.call.held_tokens, NANOUSD: trip.call.held_nanousd})
        _, spent, held = _level(gate, let_in[0])
        assert held == 0
        assert spent <= limit.amount
        gate.clock.advance(3600)


def _held(trip: Trip) -> int:
    assert trip.reservation is not None
    [balance] = trip.reservation.balances()
    return balance.charge.amount


def _level(gate: Gate, trip: Trip) -> tuple[Limit, int, int]:
    """A limit, what is spent of it beyond doubt, and what is held."""
    assert trip.reservation is not None
    [balance] = trip.reservation.balances()
    return balance.charge.limit, balance.spent, balance.held


CALLS = st.tuples(st.integers(0, 300), st.none() | st.integers(1, 3000), st.integers(1, 4))
MOVES = st.lists(st.one_of(CALLS, st.integers(0, 20)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(MOVES, st.integers(100, 4000), st.integers(50, 4000), st.floats(0, 1), st.booleans())
def test_with_strict_holds_spent_and_held_never_exceed_the_limit(
    moves: list[Any], tokens: int, microusd: int, share: float, exact: bool
) -> None:
    """Calls come and settle in any order, and each uses at most what it held."""
    rules = (
        f"{{name: purse, budget: {{usd: {microusd / 1_000_000:.6f}, per: day, by: key, when_spent: reject}}}}",
        f"{{name: pace, token_limit: {{tokens: {tokens}, per: hour, by: key}}}}",
    )

    async def run() -> None:
        gate = Gate(with_policies(*rules), exact=exact)
        running: list[Trip] = []
        for move in moves:
            if isinstance(move, int):
                if running:
                    trip = running.pop(move % len(running))
                    assert trip.reservation is not None
                    used = {TOKENS: int(trip.call.held_tokens * share), NANOUSD: int(trip.call.held_nanousd * share)}
                    await trip.reservation.settle(used)
            else:
                length, cap, choices = move
                trip = gate.shaped(chat("x" * length, n=choices, **({} if cap is None else {"max_tokens": cap})))
                if await gate.tried(trip):
                    running.append(trip)
                    assert sent(trip).get("max_tokens") == (None if cap is None else trip.call.cap)
            for _, _, spent, held, _ in gate.store.quotas():
                assert spent + held <= microusd * 1000
                assert held == sum(trip.call.held_nanousd for trip in running)
            assert sum(trip.call.held_tokens for trip in running) <= tokens

    asyncio.run(run())
