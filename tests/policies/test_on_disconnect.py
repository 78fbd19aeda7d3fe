"""The clause `on_disconnect`: what becomes of an answer whose client has left."""

from itertools import permutations
from typing import Any

import pytest

from policies.on_disconnect import OnDisconnect
from proxy.policy.scalar import Wrong
from proxy.timeouts import Drain
from tests.policies.calls import a_call


def clause(**fields: Any) -> OnDisconnect:
    return OnDisconnect(**{"policy": "one", **fields})


def test_nobody_says_anything_until_a_clause_does() -> None:
    assert a_call().drain is None


@pytest.mark.parametrize(
    ("fields", "drain"),
    [
        ({"do": "drain"}, Drain(10.0, 1 << 20)),
        ({"do": "drain", "for_at_most": 2.5}, Drain(2.5, 1 << 20)),
        ({"do": "drain", "most_bytes": 4096}, Drain(10.0, 4096)),
        ({"do": "cancel"}, Drain(0.0, 0)),
    ],
)
def test_what_a_clause_asks(fields: dict[str, Any], drain: Drain) -> None:
    call = a_call()
    clause(**fields).prepare(call)
    assert call.drain == drain


def test_cancel_wins_over_drain_and_the_shorter_bound_over_the_longer() -> None:
    long, short, small = {"for_at_most": 9.0}, {"for_at_most": 2.0}, {"most_bytes": 10}
    for several in permutations((long, short, small)):
        call = a_call()
        for fields in several:
            clause(do="drain", **fields).prepare(call)
        assert call.drain == Drain(2.0, 10)
    for words in permutations(("drain", "cancel", "drain")):
        call = a_call()
        for word in words:
            clause(do=word).prepare(call)
        assert call.drain == Drain(0.0, 0)


@pytest.mark.parametrize("field", ["for_at_most", "most_bytes"])
def test_bounds_are_of_a_drain(field: str) -> None:
    with pytest.raises(Wrong) as wrong:
        clause(do="cancel", **{field: 1})
    assert wrong.value.field == field
