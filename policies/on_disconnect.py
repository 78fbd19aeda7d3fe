"""What becomes of an answer whose client has left before its end."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from proxy.call import Call
from proxy.policy.contract import Clause, Stage, option
from proxy.policy.scalar import Wrong
from proxy.policy.values import Duration, Size, words
from proxy.timeouts import Drain

WhenGone = Annotated[Literal["cancel", "drain"], words("cancel", "drain")]

_SECONDS = 10.0
_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDisconnect(Clause):
    """The upstream is stopped at once, or read on for the usage it reports. Cancel wins over drain, and a shorter drain over a longer."""

    clause: ClassVar[str] = "on_disconnect"
    stage: ClassVar[Stage] = Stage.SHAPE

    do: WhenGone = option(
        "cancel stops the upstream and counts what came; drain reads on to the usage (cancel without this clause)"
    )
    for_at_most: Duration | None = option("how long a drain may take (10s)", default=None)
    most_bytes: Size | None = option("how much of an answer a drain reads (1MiB)", default=None)

    def __post_init__(self) -> None:
        for name in ("for_at_most", "most_bytes"):
            if self.do == "cancel" and getattr(self, name) is not None:
                raise Wrong("bounds a drain, and `do: cancel` is none", field=name)

    def prepare(self, call: Call) -> None:
        mine = Drain(self.for_at_most or _SECONDS, self.most_bytes or _BYTES) if self.do == "drain" else Drain(0.0, 0)
        known = call.drain
        call.drain = mine if known is None else Drain(min(known.seconds, mine.seconds), min(known.size, mine.size))
