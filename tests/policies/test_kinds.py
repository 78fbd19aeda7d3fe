"""What holds for every kind of policy."""

from dataclasses import fields
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import KINDS
from policies.budget import Budget
from policies.concurrency import Concurrency
from policies.heartbeat import Heartbeat
from policies.max_tokens import MaxTokens
from policies.models import Models
from policies.on_disconnect import OnDisconnect
from policies.rate_limit import RateLimit
from policies.request_size import RequestSize
from policies.timeouts import Timeouts
from policies.token_limit import TokenLimit
from proxy.call import Call
from proxy.errors import Refusal
from proxy.policy.contract import Clause, Stage
from tests.policies.calls import a_call


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_word_a_stage_and_a_line_of_documentation(kind: type[Clause]) -> None:
    assert kind.clause
    assert isinstance(kind.stage, Stage)
    assert kind.__doc__
    assert kind.__doc__.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_every_yaml_word_of_a_clause_has_a_line_of_documentation(kind: type[Clause]) -> None:
    own = [f for f in fields(kind) if f.init and f.name != "policy"]
    assert own
    assert all(f.metadata.get("doc") for f in own), "declare YAML fields with option(...)"
    assert all("\n" not in f.metadata["doc"] for f in own)


def test_no_two_kinds_share_a_word() -> None:
    assert len({kind.clause for kind in KINDS}) == len(KINDS)


counts = st.integers(1, 5000)
clauses = st.one_of(
    st.builds(MaxTokens, policy=st.just("p"), cap=counts, when_over=st.sampled_from(["clamp", "reject"])),
    st.builds(
        Models,
        policy=st.just("p"),
        allow=st.sampled_from([None, ("gpt-4.1",), ("gpt-*",), ("o3",)]),
        alias=st.just({"gpt-4": "gpt-4.1"}),
    ),
    st.builds(Timeouts, policy=st.just("p"), total=st.floats(0.001, 1000), idle=st.none() | st.floats(0.001, 1000)),
    st.builds(RequestSize, policy=st.just("p"), max=counts),
    st.builds(RateLimit, policy=st.just("p"), requests=counts, per=st.just("minute")),
    st.builds(TokenLimit, policy=st.just("p"), tokens=counts, per=st.just("minute"), by=st.sampled_from([("user",), ("model",)])),
    st.builds(Concurrency, policy=st.just("p"), calls=counts),
    st.builds(Budget, policy=st.just("p"), usd=counts, per=st.just("day")),
    st.builds(Heartbeat, policy=st.just("p"), every=st.floats(1, 1000)),
    st.just(OnDisconnect(policy="p", do="cancel")),
    st.builds(
        OnDisconnect, policy=st.just("p"), do=st.just("drain"), for_at_most=st.none() | st.floats(0.001, 1000), most_bytes=counts
    ),
)
asked_caps = st.dictionaries(st.sampled_from(["max_tokens", "max_completion_tokens"]), st.integers(1, 9000), max_size=2)


def outcome(call: Call, order: tuple[Clause, ...]) -> object:
    """What a set of clauses makes of a call: how it is sent, which refuse it, what is charged."""
    for clause in order:
        clause.prepare(call)
    refusals = set()
    for clause in order:
        try:
            clause.check(call)
        except Refusal as refusal:
            refusals.add((refusal.code, refusal.message))
    charges = {(c.limit, c.subject, c.amount, c.enforced) for clause in order for c in clause.charges(call)}
    edits, clamps = tuple(sorted(call.edits.items())), tuple(sorted(map(str, call.clamps.values())))
    shaped = (call.model, call.cap, call.timeouts, call.drain, call.heartbeat, edits, clamps)
    return shaped, refusals, charges


@given(st.lists(clauses, min_size=2, max_size=4), asked_caps, st.sampled_from(["gpt-4", "gpt-4.1", "o3"]))
def test_any_order_of_policies_sends_refuses_and_charges_the_same(some: list[Clause], caps: dict[str, int], model: str) -> None:
    first, *others = (outcome(a_call(model=model, asked_caps=dict(caps), body=b"x" * 1000), order) for order in permutations(some))
    assert all(other == first for other in others)


@given(st.lists(clauses, min_size=1, max_size=4), clauses, asked_caps)
def test_one_more_policy_never_allows_more(some: list[Clause], another: Clause, caps: dict[str, int]) -> None:
    call, stricter = (a_call(asked_caps=dict(caps), body=b"x" * 1000) for _ in range(2))
    _, refusals, charges = outcome(call, tuple(some))  # type: ignore[misc]
    _, more_refusals, more_charges = outcome(stricter, (*some, another))  # type: ignore[misc]
    assert (stricter.cap or 10**9) <= (call.cap or 10**9)
    assert stricter.timeouts.total <= call.timeouts.total
    assert {code for code, _ in refusals} <= {code for code, _ in more_refusals}
    assert {charge[:2] for charge in charges} <= {charge[:2] for charge in more_charges}


@given(some=clauses, said=st.text(max_size=50), size=st.integers(1, 10**6), caps=st.dictionaries(st.just("max_tokens"), counts))
def test_what_a_clause_makes_of_a_call_depends_neither_on_the_messages_nor_on_the_size(
    some: Clause, said: str, size: int, caps: dict[str, int]
) -> None:
    """It is remembered for the next body that differs in these (`proxy/outline.py`)."""
    made = []
    for messages, length in (([], 0), ([{"role": "user", "content": said}], size)):
        call = a_call(
            asked_caps=dict(caps), fields={"messages": messages}, size=length, input_bound=length, body=b"x" * min(length, 99)
        )
        some.prepare(call)
        made.append((call.model, call.cap, call.edits, call.clamps, call.timeouts, call.choices, call.stream, call.price))
    assert made[0] == made[1]
