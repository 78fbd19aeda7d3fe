"""How many output tokens one answer may have."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from proxy.call import Call
from proxy.policy.contract import Clause, Stage, option
from proxy.policy.values import Count, words

WhenOver = Annotated[Literal["clamp", "reject"], words("clamp", "reject")]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxTokens(Clause):
    """The most output tokens of one answer; a call that names none gets this cap. So do the events of a WebSocket that carry caps."""

    clause: ClassVar[str] = "max_tokens"
    stage: ClassVar[Stage] = Stage.SHAPE

    cap: Count = option("output tokens of one choice, whichever field the call uses")
    when_over: WhenOver = option("a call that asks for more: clamp lowers it, reject refuses it (clamp)", default="clamp")

    def prepare(self, call: Call) -> None:
        call.limit_output(self.cap)

    def check(self, call: Call) -> None:
        if self.when_over != "reject" or call.asked_cap is None:
            return
        # What the API itself takes at least is never too much: `prepare` does not go below it either.
        cap = max(self.cap, call.surface.least_cap)
        if call.asked_cap > cap:
            name = max(call.asked_caps, key=lambda n: call.asked_caps[n])
            raise self.refuse(
                "max_tokens_exceeded",
                f"Policy '{self.policy}' allows {cap} output tokens; the call asks for {call.asked_cap}.",
                param=name,
            )
