"""How many calls may be made in a time: a bucket that fills steadily, so that nobody waits for the turn of a clock."""

from dataclasses import dataclass, field
from typing import ClassVar

from proxy.call import Call
from proxy.policy.contract import Charge, Clause, Limit, Rate, Stage, Toll, Unit, option
from proxy.policy.values import PERIOD_S, By, Count, RatePeriod, check_by


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit(Clause):
    """Calls in a time: `burst` at once, then steadily `requests` per `per`.

    A realtime session is one call, however many turns it has; each answer of a session of responses is one."""

    clause: ClassVar[str] = "rate_limit"
    stage: ClassVar[Stage] = Stage.ADMIT
    steady: ClassVar[bool] = True

    requests: Count = option("calls that are let through in each period")
    per: RatePeriod = option("second, minute, hour or day")
    by: By = option("who shares one limit: user, key, tag, model, everyone, or a list of these (user)", default=("user",))
    burst: Count | None = option("calls that may come at once (as requests)", default=None)
    _toll: Toll = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_by(self.by)
        rule = Rate(amount=self.requests, per_s=PERIOD_S[self.per], burst=self.burst or self.requests)
        limit = Limit(self.policy, self.clause, Unit.REQUESTS, rule, error="rate_limit_exceeded")
        # Once, not for every call: the value is frozen from here on.
        object.__setattr__(self, "_toll", Toll(limit, self.by))

    def charges(self, call: Call) -> tuple[Charge, ...]:
        return self._toll.charges(call, 1)
