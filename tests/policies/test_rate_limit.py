"""The clause `rate_limit`: calls in a time."""

import pytest

from policies.rate_limit import RateLimit
from proxy.call import Principal
from proxy.policy.contract import Rate, Unit
from proxy.policy.scalar import Wrong
from tests.policies.calls import a_call


@pytest.mark.parametrize(("per", "seconds"), [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400)])
def test_the_bucket_is_what_the_words_say(per: str, seconds: int) -> None:
    (charge,) = RateLimit(policy="everyone", requests=10, per=per).charges(a_call())  # type: ignore[arg-type]
    assert charge.limit.rule == Rate(amount=10, per_s=seconds, burst=10)
    assert (charge.limit.policy, charge.limit.clause, charge.limit.unit) == ("everyone", "rate_limit", Unit.REQUESTS)
    assert (charge.amount, charge.enforced, charge.limit.error) == (1, True, "rate_limit_exceeded")


def test_a_burst_of_its_own_bounds_what_comes_at_once() -> None:
    (charge,) = RateLimit(policy="p", requests=30, per="minute", burst=5).charges(a_call())
    assert charge.limit.rule == Rate(amount=30, per_s=60, burst=5)


ADA = Principal(key="web", user="ada", tags=("x", "y"))


@pytest.mark.parametrize(
    ("by", "principal", "subjects"),
    [
        (("user",), ADA, ["user=web/ada"]),
        (("key",), ADA, ["key=web"]),
        (("tag",), ADA, ["tag=x", "tag=y"]),
        (("tag",), Principal(key="web", user="ada"), ["tag="]),
        (("model",), ADA, ["model=gpt-4.1"]),
        (("everyone",), ADA, ["everyone"]),
        (("user", "model"), ADA, ["user=web/ada,model=gpt-4.1"]),
        (("tag", "model"), ADA, ["tag=x,model=gpt-4.1", "tag=y,model=gpt-4.1"]),
    ],
)
def test_each_subject_has_a_limit_of_its_own(by: tuple[str, ...], principal: Principal, subjects: list[str]) -> None:
    clause = RateLimit(policy="p", requests=1, per="minute", by=by)  # type: ignore[arg-type]
    assert [charge.subject for charge in clause.charges(a_call(principal=principal))] == subjects


def test_the_same_user_of_another_key_is_someone_else() -> None:
    clause = RateLimit(policy="p", requests=1, per="minute")
    of_web, of_cli = (clause.charges(a_call(principal=Principal(key=key, user="ada"))) for key in ("web", "cli"))
    assert of_web[0].subject != of_cli[0].subject


def test_everyone_stands_alone() -> None:
    with pytest.raises(Wrong):
        RateLimit(policy="p", requests=1, per="minute", by=("everyone", "user"))
