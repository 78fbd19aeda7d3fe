"""Heartbeats in the silence of a stream.

The first one takes the head of the answer with it, also where the upstream has not answered yet. Such a call has the status 200 whatever
becomes of it: what goes wrong later is told as an event on which the SDKs raise, and not tried again by them. Deadlines stay as they are.
"""

from dataclasses import dataclass
from typing import ClassVar

from proxy.call import Call
from proxy.policy.contract import Clause, Stage, option
from proxy.policy.scalar import Wrong
from proxy.policy.values import Duration

_LEAST_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Clause):
    """A comment goes to the client of a stream whenever it got nothing for so long, at the latest with the head; the shortest time wins."""

    clause: ClassVar[str] = "heartbeat"
    stage: ClassVar[Stage] = Stage.SHAPE

    every: Duration = option("how long a stream may be silent, such as 15s")

    def __post_init__(self) -> None:
        if self.every < _LEAST_S:
            raise Wrong("is too often; expected 1s or more", field="every")

    def prepare(self, call: Call) -> None:
        known = call.heartbeat
        call.heartbeat = self.every if known is None else min(known, self.every)
