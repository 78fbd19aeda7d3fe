"""How many calls may run at the same time."""

from dataclasses import dataclass, field
from typing import ClassVar

from proxy.call import Call
from proxy.policy.contract import Charge, Clause, Limit, Slots, Stage, Toll, Unit, option
from proxy.policy.values import By, Count, check_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency(Clause):
    """Calls at the same time; one counts until its answer has ended, a session over a WebSocket until it has."""

    clause: ClassVar[str] = "concurrency"
    stage: ClassVar[Stage] = Stage.ADMIT
    steady: ClassVar[bool] = True

    calls: Count = option("calls that may run at once")
    by: By = option("who shares one limit: user, key, tag, model, everyone, or a list of these (user)", default=("user",))
    _toll: Toll = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_by(self.by)
        limit = Limit(self.policy, self.clause, Unit.SLOTS, Slots(self.calls), error="concurrency_limit_exceeded")
        # Once, not for every call: the value is frozen from here on.
        object.__setattr__(self, "_toll", Toll(limit, self.by))

    def charges(self, call: Call) -> tuple[Charge, ...]:
        return self._toll.charges(call, 1)
