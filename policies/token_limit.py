"""How many tokens may be used in a time, input and output together."""

from dataclasses import dataclass, field
from typing import ClassVar

from proxy.call import Call
from proxy.policy.contract import Charge, Clause, Limit, Rate, Stage, Toll, Unit, option
from proxy.policy.values import PERIOD_S, By, Count, Holds, RatePeriod, check_by


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimit(Clause):
    """Tokens in a time: the most a call can use is held before it runs, and what it did not use is given back."""

    clause: ClassVar[str] = "token_limit"
    stage: ClassVar[Stage] = Stage.ADMIT

    tokens: Count = option("input and output tokens that are let through in each period")
    per: RatePeriod = option("second, minute, hour or day")
    by: By = option("who shares one limit: user, key, tag, model, everyone, or a list of these (user)", default=("user",))
    burst: Count | None = option("tokens that may be used at once, and so the largest call (as tokens)", default=None)
    holds: Holds = option(
        "what a running call takes of what is left: strict = the most it can use, so nothing overshoots; optimistic = its input and 256 "
        "tokens a choice, so more calls run at once, and overshoot by what they use beyond (strict)",
        default="strict",
    )
    least_cap: Count = option(
        "when less is left than a call may use, its output cap is lowered to fit, and not below this: then it is refused (16)",
        default=16,
    )
    _toll: Toll = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_by(self.by)
        rule = Rate(amount=self.tokens, per_s=PERIOD_S[self.per], burst=self.burst or self.tokens)
        limit = Limit(self.policy, self.clause, Unit.TOKENS, rule, error="token_limit_exceeded")
        # Once, not for every call: the value is frozen from here on.
        object.__setattr__(self, "_toll", Toll(limit, self.by))

    def counts(self) -> bool:
        return True

    def charges(self, call: Call) -> tuple[Charge, ...]:
        held = call.held_tokens if self.holds == "strict" else call.typical_tokens
        if not held:
            return ()  # a call that carries no tokens, such as GET /v1/models, has nothing to wait for
        return self._toll.charges(call, held)

    def lowered(self, call: Call, left: int) -> tuple[int, int] | None:
        return (left - call.input_bound) // call.choices, self.least_cap
