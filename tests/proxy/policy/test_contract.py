"""What a clause charges does not depend on whom it charged before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Call, Principal
from proxy.policy.contract import MOST_REMEMBERED, Limit, Rate, Toll, Unit, subjects
from tests.policies.calls import a_call

LIMIT = Limit("everyone", "token_limit", Unit.TOKENS, Rate(amount=10, per_s=60, burst=20), error="token_limit_exceeded")
BYS = [
    ("user",),
    ("key",),
    ("tag",),
    ("model",),
    ("everyone",),
    ("user", "model"),
    ("tag", "model"),
    ("key", "tag"),
    ("key", "user"),
]
TAGS = {"web": ("x", "y"), "cli": ("x",), "bare": ()}
CALLERS = st.builds(
    lambda key, user, model: a_call(model=model, principal=Principal(key, user, TAGS[key])),
    st.sampled_from(sorted(TAGS)),
    st.sampled_from(["ada", "bob", "web"]),
    st.sampled_from(["gpt-4.1", "o3", None]),
)


@given(st.sampled_from(BYS), st.lists(st.tuples(CALLERS, st.integers(0, 3)), max_size=20), st.booleans())
def test_a_toll_that_remembers_charges_as_a_new_one(by: tuple[str, ...], calls: list[tuple[Call, int]], enforced: bool) -> None:
    toll = Toll(LIMIT, by, enforced=enforced)
    for call, amount in calls:
        charges = toll.charges(call, amount)
        assert charges == Toll(LIMIT, by, enforced=enforced).charges(call, amount)
        assert [(c.limit, c.amount, c.enforced) for c in charges] == [(LIMIT, amount, enforced)] * len(charges)
        assert tuple(c.subject for c in charges) == subjects(call, by)


@pytest.mark.parametrize("by", BYS)
def test_a_toll_remembers_a_bounded_number_of_callers(by: tuple[str, ...]) -> None:
    toll = Toll(LIMIT, by)
    for n in range(3 * MOST_REMEMBERED):
        call = a_call(model=f"m{n}", principal=Principal("web", f"user{n}", ("x",)))
        assert toll.charges(call, 1) == toll.charges(call, 1)
    remembered = int(repr(toll).split()[-2])
    assert remembered == (MOST_REMEMBERED if set(by) & {"user", "model", "key", "tag"} else 1)


def test_a_limit_says_what_can_be_held_at_once() -> None:
    assert LIMIT.amount == 20
