"""The clause `token_limit`: tokens in a time."""

from policies.token_limit import TokenLimit
from proxy.policy.contract import Rate, Unit
from tests.policies.calls import a_call


def test_the_most_a_call_can_use_is_held() -> None:
    clause = TokenLimit(policy="interactive", tokens=40_000, per="minute", by=("key",))
    (charge,) = clause.charges(a_call(input_bound=300, cap=1000, choices=2))
    assert (charge.subject, charge.amount, charge.enforced) == ("key=web", 2300, True)
    assert charge.limit.rule == Rate(amount=40_000, per_s=60, burst=40_000)
    assert (charge.limit.unit, charge.limit.error) == (Unit.TOKENS, "token_limit_exceeded")


def test_a_burst_of_its_own_bounds_the_largest_call() -> None:
    (charge,) = TokenLimit(policy="p", tokens=600, per="hour", burst=50).charges(a_call())
    assert charge.limit.rule == Rate(amount=600, per_s=3600, burst=50)
    assert charge.limit.amount == 50


def test_a_call_that_carries_no_tokens_has_nothing_to_wait_for() -> None:
    clause = TokenLimit(policy="p", tokens=600, per="hour")
    assert clause.charges(a_call("models", model=None, input_bound=0, price=None)) == ()
