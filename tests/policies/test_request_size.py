"""The clause `request_size`: how large a body may be."""

import pytest

from policies.request_size import RequestSize
from proxy.errors import Refusal
from tests.policies.calls import a_call


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    clause = RequestSize(policy="small", max=10)
    clause.check(a_call(size=10))
    with pytest.raises(Refusal) as refusal:
        clause.check(a_call(size=11))
    assert (refusal.value.code, refusal.value.status, refusal.value.policy) == ("request_too_large", 413, "small")
    assert refusal.value.message == "Policy 'small' accepts bodies of up to 10 bytes; this one has 11."


def test_the_limit_is_known_before_a_body_is_read() -> None:
    assert RequestSize(policy="small", max=10).body_limit() == 10
