"""The clause `heartbeat`: how long a stream may be silent."""

from itertools import permutations

import pytest

from policies.heartbeat import Heartbeat
from proxy.policy.scalar import Wrong
from tests.policies.calls import a_call


def test_nobody_asks_for_any_until_a_clause_does() -> None:
    assert a_call().heartbeat is None


def test_the_shortest_time_wins() -> None:
    for several in permutations((15.0, 1.0, 60.0)):
        call = a_call()
        for every in several:
            Heartbeat(policy="one", every=every).prepare(call)
        assert call.heartbeat == 1.0


def test_more_than_one_a_second_would_be_no_sign_of_life_but_noise() -> None:
    with pytest.raises(Wrong) as wrong:
        Heartbeat(policy="one", every=0.999)
    assert wrong.value.field == "every"
