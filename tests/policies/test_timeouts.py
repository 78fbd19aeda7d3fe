"""The clause `timeouts`: deadlines that can only get shorter."""

from itertools import permutations

import pytest

from policies.timeouts import Timeouts
from proxy.policy.scalar import Wrong
from proxy.timeouts import Timeouts as Deadlines
from tests.policies.calls import a_call


def test_a_deadline_is_shortened_and_never_lengthened() -> None:
    call = a_call(timeouts=Deadlines(connect=5, total=900, idle=60))
    Timeouts(policy="p", total=120.0, idle=3600.0).prepare(call)
    assert (call.timeouts.total, call.timeouts.idle, call.timeouts.connect) == (120.0, 60, 5)


def test_any_order_ends_at_the_shortest() -> None:
    clauses = [Timeouts(policy="p", total=120.0), Timeouts(policy="q", total=60.0, first_token=9.0), Timeouts(policy="r", idle=1.0)]
    ends = set()
    for order in permutations(clauses):
        call = a_call()
        for clause in order:
            clause.prepare(call)
        ends.add(call.timeouts)
    (end,) = ends
    assert (end.total, end.first_token, end.idle) == (60.0, 9.0, 1.0)


def test_a_clause_that_says_nothing_is_a_mistake() -> None:
    with pytest.raises(Wrong):
        Timeouts(policy="p")
