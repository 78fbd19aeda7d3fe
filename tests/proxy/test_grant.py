"""What is granted of what a head asks for: a promise is kept or refused, a hint may be passed over."""

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


def refused(policies: Any, headers: dict[str, str], **fields: Any) -> str:
    with pytest.raises(InvalidCall) as error:
        wish(policies, headers, **fields)
    return error.value.code


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


def test_without_any_clause_a_key_means_nothing_as_before() -> None:
    """An app that sends one today to an upstream that passes it over goes on."""
    assert wish(NONE, {"idempotency-key": "k"}) is None
    assert wish(NONE, {"idempotency-key": ""}) is None


def test_where_keys_are_kept_for_others_one_that_is_not_is_refused() -> None:
    for policies in (ELSEWHERE, ONLY_TASKS):
        assert refused(policies, {"idempotency-key": "k"}) == "not_recorded"


def test_a_call_without_a_meter_is_not_recorded() -> None:
    call = a_call()
    call.surface = PASSTHROUGH
    with pytest.raises(InvalidCall):
        granted(ALL, call, {"idempotency-key": "k"})


def test_a_preference_that_is_not_granted_is_passed_over() -> None:
    for policies in (NONE, ELSEWHERE):
        assert wish(policies, {"prefer": "respond-async, event-ids"}) is None


def test_an_answer_is_never_begun_anew_for_who_wants_the_rest_of_one() -> None:
    for policies in (NONE, ELSEWHERE, ONLY_TASKS):
        assert refused(policies, {"last-event-id": f"{ID}.3"}) == "not_recorded"


def test_only_a_post_is_recorded() -> None:
    assert wish(ALL, {"idempotency-key": "k"}, method="GET") is None


def test_the_pages_of_a_task_need_no_clause() -> None:
    call = a_call()
    call.surface, call.method = RECORDED, "GET"
    assert granted(NONE, call, {}) == (Wish(), None)
