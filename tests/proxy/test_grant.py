"""What is granted of what a head asks for: it is granted or refused, never dropped."""

from typing import Any

import pytest

from proxy.errors import InvalidCall
from proxy.grant import granted
from proxy.wire.surfaces import PASSTHROUGH, RECORDED
from proxy.wire.wish import Wish
from tests.policies.calls import a_call
from tests.proxy.policy.files import with_policies

ID = "task_" + "a" * 32
NONE = with_policies("{name: one, max_tokens: {cap: 5}}")
ALL = with_policies("{name: one, record: {}}")
ELSEWHERE = with_policies("{name: one, match: {paths: [/v1/embeddings]}, record: {}}")
ONLY_TASKS = with_policies("{name: one, record: {allow: [tasks]}}")


def wish(policies: Any, headers: dict[str, str], **fields: Any) -> Wish | None:
    return granted(policies, a_call(**fields), headers)[0]


def test_a_head_that_asks_for_nothing_gets_nothing() -> None:
    for policies in (NONE, ALL, ELSEWHERE):
        assert wish(policies, {"x-user": "ada"}) is None


@pytest.mark.parametrize(
    ("headers", "granted"),
    [
        ({"idempotency-key": '"k"'}, Wish(key="k")),
        ({"prefer": "respond-async"}, Wish(task=True)),
        ({"prefer": "respond-async, wait=7"}, Wish(task=True, wait_s=7.0)),
        ({"prefer": "event-ids"}, Wish(event_ids=True)),
        ({"last-event-id": f"{ID}.3"}, Wish(after=(ID, 3))),
        ({"prefer": "handling=lenient"}, None),
        ({"prefer": "wait=10"}, None),
    ],
)
def test_with_a_clause_what_is_asked_is_granted(headers: dict[str, str], granted: Wish | None) -> None:
    assert wish(ALL, headers) == granted


@pytest.mark.parametrize(
    ("headers", "purpose", "policies"),
    [
        ({"idempotency-key": "k"}, "idempotency", [NONE, ELSEWHERE, ONLY_TASKS]),
        ({"idempotency-key": ""}, "idempotency", [NONE]),
        ({"last-event-id": f"{ID}.3"}, "resume", [NONE, ELSEWHERE, ONLY_TASKS]),
        ({"prefer": "respond-async"}, "tasks", [NONE, ELSEWHERE]),
        ({"prefer": "return=minimal, respond-async, wait=5"}, "tasks", [NONE]),
        ({"prefer": "event-ids"}, "resume", [NONE, ELSEWHERE, ONLY_TASKS]),
    ],
)
def test_what_no_policy_allows_is_refused_and_the_answer_says_what_would_allow_it(
    headers: dict[str, str], purpose: str, policies: list[Any]
) -> None:
    for some in policies:
        with pytest.raises(InvalidCall) as error:
            wish(some, headers)
        assert error.value.code == "not_recorded"
        assert f"record: {{allow: [{purpose}]}}" in error.value.message


def test_other_preferences_are_hints() -> None:
    for some in (NONE, ELSEWHERE, ALL):
        assert wish(some, {"prefer": "return=minimal, wait=10"}) is None


def test_a_call_without_a_meter_is_not_recorded() -> None:
    call = a_call()
    call.surface = PASSTHROUGH
    with pytest.raises(InvalidCall):
        granted(ALL, call, {"idempotency-key": "k"})


def test_only_a_post_is_recorded() -> None:
    assert wish(ALL, {"idempotency-key": "k"}, method="GET") is None


def test_the_pages_of_a_task_need_no_clause() -> None:
    call = a_call()
    call.surface, call.method = RECORDED, "GET"
    assert granted(NONE, call, {}) == (Wish(), None)
