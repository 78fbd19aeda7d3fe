"""How large a request's body may be."""

from dataclasses import dataclass
from typing import ClassVar

from proxy.call import Call
from proxy.policy.contract import Clause, Stage, option
from proxy.policy.values import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSize(Clause):
    """The largest body. Without a condition on models it already bounds what is read."""

    clause: ClassVar[str] = "request_size"
    stage: ClassVar[Stage] = Stage.VALIDATE

    max: Size = option("bytes of body, with a unit: 512KiB, 4MB; of one message where a session is spoken over a WebSocket")

    def body_limit(self) -> int | None:
        return self.max

    def check(self, call: Call) -> None:
        if call.size > self.max:
            raise self.refuse(
                "request_too_large",
                f"Policy '{self.policy}' accepts bodies of up to {self.max} bytes; this one has {call.size}.",
            )
