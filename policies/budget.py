"""How much money may be spent in a calendar window, and who is told on the way there."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from proxy.call import Call
from proxy.policy.contract import Balance, Charge, Clause, Limit, Notice, Quota, Stage, Toll, Unit, option
from proxy.policy.scalar import Wrong
from proxy.policy.values import By, Count, Holds, Name, Percent, Usd, Window, Zone, check_by, words

WhenSpent = Annotated[Literal["alarm", "reject"], words("alarm", "reject")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Clause):
    """Money in a calendar window: alarms on the way, and a stop at the end if it is to be one."""

    clause: ClassVar[str] = "budget"
    stage: ClassVar[Stage] = Stage.SPEND

    usd: Usd = option("US dollars for each window")
    per: Window = option("minute, hour, day, week (from Monday) or month")
    by: By = option("who shares one budget: user, key, tag, model, everyone, or a list of these (everyone)", default=("everyone",))
    timezone: Zone = option("IANA time zone in which the window turns (UTC)", default="UTC")
    alarm_at: tuple[Percent, ...] = option("percentages of the budget that raise an alarm ([50, 80, 100])", default=(50, 80, 100))
    page: tuple[Name, ...] = option("names under `pages` that are told; left out: the log only", default=())
    when_spent: WhenSpent = option("alarm lets calls pass, reject refuses what could exceed the budget (alarm)", default="alarm")
    holds: Holds | None = option(
        "what a running call takes of what is left: strict = the most it can cost, so nothing overshoots; optimistic = its input and 256 "
        "tokens a choice, so more calls run at once, and overshoot by what they use beyond (strict with reject, optimistic with alarm)",
        default=None,
    )
    least_cap: Count = option(
        "when less is left than a call may cost, its output cap is lowered to fit, and not below this: then it is refused (16)",
        default=16,
    )
    _toll: Toll = field(init=False, repr=False, compare=False)
    _strict: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_by(self.by)
        if not self.alarm_at and self.when_spent == "alarm":
            raise Wrong("without a percentage this budget neither alarms nor rejects", field="alarm_at")
        if not self.alarm_at and self.page:
            raise Wrong("nobody is ever told: alarm_at is empty", field="page")
        rule = Quota(self.usd, self.per, self.timezone)
        first = -(-self.usd * min(self.alarm_at) // 100) if self.alarm_at else None  # nanodollars that raise the first alarm
        traced = bool(self.page)
        limit = Limit(self.policy, self.clause, Unit.NANOUSD, rule, error="budget_exceeded", told_from=first, traced=traced)
        # Once, not for every call: the value is frozen from here on.
        object.__setattr__(self, "_strict", (self.holds or ("strict" if self.when_spent == "reject" else "optimistic")) == "strict")
        object.__setattr__(self, "_toll", Toll(limit, self.by, enforced=self.when_spent == "reject"))

    def counts(self) -> bool:
        return self.when_spent == "reject"

    def charges(self, call: Call) -> tuple[Charge, ...]:
        # A call that can cost nothing is not held up by a budget that others have spent.
        if call.price is None or (call.price.free and not call.tools):
            return ()
        return self._toll.charges(call, call.held_nanousd if self._strict else call.typical_nanousd)

    def lowered(self, call: Call, left: int) -> tuple[int, int] | None:
        price = call.price
        if price is None or not price.dearest_output:
            return None
        return price.output_within(left, input_tokens=call.input_bound) // call.choices, self.least_cap

    def settled(self, balance: Balance) -> tuple[Notice, ...]:
        window, charge = balance.window, balance.charge
        if window is None:
            return ()
        return tuple(
            Notice(
                policy=self.policy,
                subject=charge.subject,
                threshold=threshold,
                spent_nanousd=balance.spent,
                limit_nanousd=self.usd,
                window=window,
                to=self.page,
                refuses=charge.enforced,
                zone=self.timezone,
            )
            for threshold in self.alarm_at
            if balance.spent * 100 >= self.usd * threshold
        )

    def watched(self, subject: str) -> Charge:
        return Charge(self._toll.limit, subject, 0, enforced=self.when_spent == "reject")
