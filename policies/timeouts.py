"""How long a call and its parts may take."""

from dataclasses import dataclass
from typing import ClassVar

from proxy.call import Call
from proxy.policy.contract import Clause, Stage, option
from proxy.policy.scalar import Wrong
from proxy.policy.values import Duration

_FIELDS = ("connect", "first_byte", "first_token", "idle", "total", "write_stall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts(Clause):
    """Deadlines; they can only shorten what the upstream's own are."""

    clause: ClassVar[str] = "timeouts"
    stage: ClassVar[Stage] = Stage.SHAPE

    connect: Duration | None = option("to reach the upstream", default=None)
    first_byte: Duration | None = option("from the call sent to the head of its answer", default=None)
    first_token: Duration | None = option("from the call sent to the first token of a stream", default=None)
    idle: Duration | None = option("the longest silence within an answer, not between those of a session", default=None)
    total: Duration | None = option("the whole call, or the whole session", default=None)
    write_stall: Duration | None = option("how long the client may stop reading", default=None)

    def __post_init__(self) -> None:
        if all(getattr(self, name) is None for name in _FIELDS):
            raise Wrong("says nothing: it has no deadline such as `total: 2m`")

    def prepare(self, call: Call) -> None:
        call.timeouts = call.timeouts.strictest({name: getattr(self, name) for name in _FIELDS})
