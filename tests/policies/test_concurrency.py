"""The clause `concurrency`: calls at the same time."""

from policies.concurrency import Concurrency
from proxy.policy.contract import Slots, Unit
from tests.policies.calls import a_call


def test_each_call_takes_one_slot_of_its_user() -> None:
    (charge,) = Concurrency(policy="everyone", calls=4).charges(a_call(choices=5))
    assert (charge.subject, charge.amount, charge.limit.rule) == ("user=web/ada", 1, Slots(4))
    assert (charge.limit.unit, charge.limit.error) == (Unit.SLOTS, "concurrency_limit_exceeded")
    assert (charge.limit.policy, charge.limit.clause) == ("everyone", "concurrency")
