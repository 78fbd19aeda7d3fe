"""The clause `record`: which answers are recorded, and how much is kept of them."""

from itertools import permutations
from typing import Any

import pytest

from policies.record import Record
from proxy.policy.policyset import PolicySet
from proxy.policy.scalar import Wrong
from tests.policies.calls import ADA
from tests.proxy.policy.files import with_policies

CHAT = "/v1/chat/completions"


def clause(**fields: Any) -> Record:
    return Record(**{"policy": "one", **fields})


def terms_of(policies: PolicySet, path: str = CHAT) -> Any:
    return policies.recording(ADA, path)


def test_nothing_is_recorded_until_a_clause_says_so() -> None:
    assert terms_of(with_policies("{name: one, max_tokens: {cap: 5}}")) is None
    terms = terms_of(with_policies("{name: one, record: {}}"))
    assert (terms.kept_s, terms.grace_s, terms.most_bytes, terms.most_total) == (600.0, 60.0, 8 << 20, 256 << 20)
    assert terms.allow == {"idempotency", "tasks", "resume"}


def test_the_strictest_of_several_wins_in_any_order() -> None:
    several = (
        "{name: one, record: {for: 1m, max_total: 100MiB, running: 3, allow: [tasks, resume]}}",
        "{name: two, record: {grace: 1s, max_bytes: 1MiB, max_total: 50MiB, allow: [idempotency, tasks]}}",
        "{name: three, record: {running: 9}}",
    )
    for some in permutations(several):
        terms = terms_of(with_policies(*some))
        assert (terms.kept_s, terms.grace_s, terms.most_bytes, terms.most_total) == (60.0, 1.0, 1 << 20, 50 << 20)
        assert (terms.policy, terms.most_running, terms.allow) == ("two", 3, {"tasks"})


def test_a_policy_records_the_calls_that_it_matches_and_none_in_shadow_mode() -> None:
    some = with_policies(f"{{name: one, match: {{paths: [{CHAT}]}}, record: {{}}}}", "{name: two, mode: shadow, record: {}}")
    assert terms_of(some) is not None
    assert terms_of(some, "/v1/embeddings") is None
    assert terms_of(with_policies("{name: two, mode: shadow, record: {}}")) is None


@pytest.mark.parametrize(("fields", "field"), [({"max_bytes": 1024}, "max_bytes"), ({"max_total": 1 << 20}, "max_total")])
def test_bounds_must_leave_room_for_a_recording(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Wrong) as wrong:
        clause(**fields)
    assert wrong.value.field == field
