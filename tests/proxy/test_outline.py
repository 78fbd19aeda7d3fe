"""A body in a known outline makes the same call as one that is read from scratch, and one that only looks like it does not pass."""

from dataclasses import fields as fields_of
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admission import Admission
from proxy.call import Call
from proxy.errors import ProxyError
from proxy.outline import MOST_OUTLINES, Outlines
from proxy.policy.policyset import PolicySet
from proxy.state.memory import MemoryStore
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.trip import Trip
from proxy.wire.body import all_fields, patched
from proxy.wire.request import RequestHead
from tests.clock import FakeClock
from tests.proxy.policy.files import HEAD, compiled, with_policies

RULES = with_policies(
    "{name: caps, max_tokens: {cap: 100, when_over: clamp}}",
    "{name: names, models: {alias: {fast: gpt-4.1-mini}}}",
    "{name: sizes, request_size: {max: 3KiB}}",
    "{name: deadlines, timeouts: {idle: 7s}}",
)


class Door:
    """What the arrivals of one head go through. fresh: nothing is remembered between them."""

    def __init__(self, policies: PolicySet = RULES, *, fresh: bool = False, path: str = "/v1/chat/completions") -> None:
        self._policies = policies
        self._fresh = fresh
        unused: Any = None
        clock = self.clock = FakeClock()
        self._admission = Admission(
            MemoryStore(clock), unused, clock, unused, guesses=unused, overload=unused, body_s=1.0, pseudonym="tollhouse"
        )
        self._head = RequestHead(method="POST", target=path, headers={"content-type": "application/json"}, keep=True, modern=True)
        self._head.known = True
        self._random = continue_trace(None, random="01" * TRACE_BYTES)

    def admit(self, body: bytes) -> Call:
        trip = Trip(Call("req_1", "POST"), self._random, self._policies, lambda: 0, 0)
        arrival: Any = type("Arrival", (), {"head": self._head, "loopback": True})()
        entry = self._admission.enter(trip, arrival)
        if self._fresh:
            object.__setattr__(entry, "outlines", Outlines())
        self.outlines = entry.outlines
        self._admission.shape(trip, (b"what came before it" + body, 19))
        return trip.call

    def told(self, body: bytes) -> object:
        """The call that is made of a body, but for how it is kept, and what is sent; or why it is refused."""
        try:
            call = self.admit(body)
        except ProxyError as error:
            return error.code, error.param, error.message
        values = {f.name: getattr(call, f.name) for f in fields_of(call) if f.name not in ("body", "parts", "fields", "unread")}
        return values, list((all_fields(call) or {}).items()), b"".join(bytes(part) for part in call.parts or patched(call))


def chat(messages: object, **more: object) -> bytes:
    return orjson.dumps({"messages": messages, "model": "gpt-4.1-mini", **more})


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_body_in_a_known_outline_is_not_shaped_again() -> None:
    door = Door()
    first = door.admit(chat(said("one"), max_tokens=500))
    second = door.admit(chat(said('an"other \\ é'), max_tokens=500))
    assert first.parts == ()
    assert b"".join(bytes(part) for part in second.parts) == chat(said('an"other \\ é'), max_tokens=100)
    assert second.fields is not None
    assert second.fields["messages"] is None, "plain texts are not kept as read"
    assert ((all_fields(second) or {})["messages"], second.edits) == (said('an"other \\ é'), {"max_tokens": 100})
    assert second.input_bound == second.size == len(chat(said('an"other \\ é'), max_tokens=500))


PIECES = st.one_of(
    st.sampled_from(
        [
            *("[]", "null", '"x"', "{}", "[[]]", "[1]", '[{"role":"user","content":"hi"}]', '[{"role":"user","content":null}]', ""),
            *(
                '[],"model":"gpt-4.1"',
                '[],"messages":[]',
                '[],"messages":[],"n":2',
                "[",
                "]",
                '[{"content":[{"type":"image_url"}]}]',
            ),
            *(
                '[],"mod\\u0065l":"gpt-4.1"',
                '["' + "x" * 4000 + '"]',
                "[" * 300 + "]" * 300,
                '[{"a":' + "[" * 130 + "]" * 130 + "}]",
            ),
            *(
                '[{"role":"user","content":"\\ud800"}]',
                '[{"role":"user","content":"' + chr(0x7F) + "é" + '"}]',
                '["\n"]',
                "[1e999]",
                "[NaN]",
            ),
        ]
    ),
    st.text(max_size=8),
)
FRAMES = [
    ('{"messages":', ',"model":"gpt-4.1-mini"}'),
    ('{"messages":', ',"model":"gpt-4.1-mini","max_tokens":500}'),
    ('{"model":"fast","n":3,"messages":', "}"),
    ('{ "model" : "gpt-4.1-mini", "messages": ', ' , "stream": true, "user": "a-text-that-no-body-holds" }\n'),
    ('{"model":"gpt-4.1-mini","max_tokens":null,"stop":["a","b"],"messages":', ',"stream":true,"max_completion_tokens":7}'),
    ('{"model":"nobody-sells-this","messages":', "}"),
    ('{"max_tokens":-1,"model":"gpt-4.1-mini","messages":', "}"),
    ('{"messages":', "}"),
    ("", ""),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FRAMES), PIECES), min_size=1, max_size=8))
def test_whatever_came_before_a_body_makes_the_call_that_it_makes_alone(bodies: list[tuple[tuple[str, str], str]]) -> None:
    door = Door()
    for (before, behind), piece in [*bodies, *bodies]:
        body = (before + piece + behind).encode("utf-8", "surrogatepass")
        assert door.told(body) == Door(fresh=True).told(body), body


def test_calls_in_one_outline_leave_nothing_in_each_other() -> None:
    door = Door()
    calls = [door.admit(chat(said(text), max_tokens=500)) for text in ("one", "two", "three")]
    assert [(all_fields(call) or {})["messages"] for call in calls] == [said("one"), said("two"), said("three")]
    assert [call.asked_cap for call in calls] == [500, 500, 500]


def test_a_size_that_is_refused_is_refused_in_a_known_outline_too() -> None:
    door = Door()
    door.admit(chat(said("small")))
    with pytest.raises(ProxyError) as refused:
        door.admit(chat(said("x" * 4000)))
    assert refused.value.code == "request_too_large"


def test_few_outlines_are_remembered_and_an_app_without_any_is_left_alone() -> None:
    door = Door()
    for n in range(100):
        door.admit(chat(said("hi"), seed=n))
    assert repr(door.outlines) == f"<Outlines {MOST_OUTLINES}/{MOST_OUTLINES} tries=0>"
    assert door.admit(chat(said("hi"), seed=99)).parts == (), "learnt before the tries were used up, and forgotten since"


def test_other_surfaces_are_read_from_scratch() -> None:
    door = Door(path="/v1/completions")
    body = b'{"prompt":["a","b"],"messages":["x"],"model":"gpt-3.5-turbo-instruct"}'
    assert [door.admit(body).choices for _ in range(3)] == [2, 2, 2]
    assert door.admit(body).parts == ()


def test_a_large_body_is_not_learnt_from_and_meets_what_a_small_one_taught() -> None:
    door = Door(with_policies("{name: caps, max_tokens: {cap: 100, when_over: clamp}}"))
    assert [door.admit(chat(said("x" * 100_000))).parts for _ in range(3)] == [(), (), ()]
    door.admit(chat(said("small")))
    assert len(door.admit(chat(said("x" * 100_000))).parts) == 3


def test_a_service_tier_decides_the_price_in_a_known_outline_too() -> None:
    door, fresh = Door(), Door(fresh=True)
    for text in ("one", "two"):
        for tier in ("default", "priority", "flex"):
            body = orjson.dumps({"model": "gpt-5-mini", "messages": said(text), "service_tier": tier})
            call = door.admit(body)
            assert call.price == fresh.admit(body).price == RULES.prices.find("gpt-5-mini", tier)
            assert (call.parts != ()) is (text == "two")
    plain = orjson.dumps({"model": "gpt-5-mini", "messages": said("three")})
    assert door.admit(plain).price == RULES.prices.find("gpt-5-mini")


def test_what_hosted_tools_may_cost_is_found_out_for_each_body() -> None:
    policies = compiled(HEAD + "prices: {tools: {web_search: 0.01}}\n")
    door, fresh = Door(policies), Door(policies, fresh=True)
    for text in ("one", "two"):
        body = chat(said(text), web_search_options={})
        assert door.told(body) == fresh.told(body)
        assert door.admit(body).tools == (("web_search", 10_000_000),)


def test_a_price_that_begins_to_hold_is_no_longer_the_one_that_was_remembered() -> None:
    policies = compiled(
        HEAD + "prices: {models: {gpt-4.1-mini: [{input: 1, output: 1}, {input: 2, output: 2, from: 2027-01-16}]}}\n"
    )
    door = Door(policies)  # its clock stands at 2027-01-15 08:00 UTC
    prices = []
    for text in ("one", "two"):
        prices.append(door.admit(chat(said(text))).price)
    door.clock.advance(16 * 3600)
    for text in ("three", "four"):
        prices.append(door.admit(chat(said(text))).price)
    assert [price.input for price in prices if price is not None] == [10**9, 10**9, 2 * 10**9, 2 * 10**9]
