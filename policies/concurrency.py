"""How many calls may run at the same time."""

from dataclasses import dataclass, field
from typing import ClassVar

from proxy.call import Call
from proxy.policy.contract import Charge, Clause, Limit, Slots, Stage, Unit, charge_each, option
from proxy.policy.values import By, Count, check_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency(Clause):
    """Calls at the same time; one counts until its answer has ended."""

    clause: ClassVar[str] = "concurrency"
    stage: ClassVar[Stage] = Stage.ADMIT

    calls: Count = option("calls that may run at once")
    by: By = option("who shares one limit: user, key, tag, model, everyone, or a list of these (user)", default=("user",))
    _limit: Limit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_by(self.by)
        limit = Limit(self.policy, self.clause, Unit.SLOTS, Slots(self.calls), error="concurrency_limit_exceeded")
        object.__setattr__(self, "_limit", limit)  # once, not for every call: the value is frozen from here on

    def charges(self, call: Call) -> tuple[Charge, ...]:
        return charge_each(self._limit, call, self.by, 1)
