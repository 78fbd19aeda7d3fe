"""The clause `max_tokens`: how long an answer may get."""

from typing import Any

import pytest

from policies.max_tokens import MaxTokens
from proxy.errors import Refusal
from tests.policies.calls import a_call

CHAT, COMPLETIONS, RESPONSES = "chat/completions", "completions", "responses"


def max_tokens(cap: int, **fields: Any) -> MaxTokens:
    return MaxTokens(policy="everyone", cap=cap, **fields)


@pytest.mark.parametrize(
    ("surface", "asked", "cap", "edits"),
    [
        (CHAT, {"max_completion_tokens": 8000}, 1024, {"max_completion_tokens": 1024}),
        (CHAT, {"max_tokens": 8000}, 1024, {"max_tokens": 1024}),
        (CHAT, {"max_tokens": 8000, "max_completion_tokens": 9000}, 1024, {"max_tokens": 1024, "max_completion_tokens": 1024}),
        (CHAT, {"max_tokens": 10, "max_completion_tokens": 9000}, 1024, {"max_completion_tokens": 1024}),
        (CHAT, {"max_tokens": 1024}, 1024, {}),
        (CHAT, {"max_tokens": 1}, 1024, {}),
        (CHAT, {}, 1024, {"max_completion_tokens": 1024}),
        (COMPLETIONS, {"max_tokens": 17}, 16, {"max_tokens": 16}),
        (COMPLETIONS, {}, 8, {"max_tokens": 8}),
        (RESPONSES, {"max_output_tokens": 8000}, 1024, {"max_output_tokens": 1024}),
        (RESPONSES, {"max_output_tokens": 8000}, 5, {"max_output_tokens": 16}),
        (RESPONSES, {}, 5, {"max_output_tokens": 16}),
        ("embeddings", {}, 5, {}),
    ],
)
def test_every_spelling_is_lowered_and_a_missing_one_is_added(
    surface: str, asked: dict[str, int], cap: int, edits: dict[str, int]
) -> None:
    call = a_call(surface, asked_caps=asked)
    max_tokens(cap).prepare(call)
    assert call.edits == edits
    assert {name: clamp.after for name, clamp in call.clamps.items()} == edits
    assert {name: clamp.before for name, clamp in call.clamps.items()} == {name: asked.get(name) for name in edits}


def test_two_caps_in_any_order_end_at_the_smaller() -> None:
    for caps in ((1000, 200), (200, 1000)):
        call = a_call(asked_caps={"max_tokens": 5000})
        for cap in caps:
            max_tokens(cap).prepare(call)
        assert call.cap == 200
        assert call.edits == {"max_tokens": 200}
        assert call.clamps["max_tokens"].before == 5000


def test_what_is_held_is_bounded_by_the_cap() -> None:
    call = a_call(asked_caps={"max_tokens": 5000}, choices=3, input_bound=10)
    max_tokens(100).prepare(call)
    assert call.held_tokens == 10 + 3 * 100


@pytest.mark.parametrize(
    ("surface", "asked", "cap", "refused"),
    [
        (CHAT, {"max_tokens": 1025}, 1024, True),
        (CHAT, {"max_tokens": 1024}, 1024, False),
        (CHAT, {}, 1024, False),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 2000}, 1024, True),
        (RESPONSES, {"max_output_tokens": 16}, 5, False),
        (RESPONSES, {"max_output_tokens": 17}, 5, True),
        ("embeddings", {}, 5, False),
    ],
)
def test_reject_refuses_only_what_the_client_asked_too_much_of(
    surface: str, asked: dict[str, int], cap: int, refused: bool
) -> None:
    call = a_call(surface, asked_caps=asked)
    clause = max_tokens(cap, when_over="reject")
    clause.prepare(call)
    if not refused:
        clause.check(call)
        return
    with pytest.raises(Refusal, match="max_tokens_exceeded"):
        clause.check(call)


def test_the_refusal_names_the_policy_the_limit_and_the_field() -> None:
    with pytest.raises(Refusal) as refusal:
        max_tokens(1024, when_over="reject").check(a_call(asked_caps={"max_tokens": 5, "max_completion_tokens": 8000}))
    assert refusal.value.message == "Policy 'everyone' allows 1024 output tokens; the call asks for 8000."
    assert (refusal.value.param, refusal.value.status) == ("max_completion_tokens", 400)


def test_clamping_never_refuses() -> None:
    max_tokens(1).check(a_call(asked_caps={"max_tokens": 10**9}))
