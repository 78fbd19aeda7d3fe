"""How long a call and its parts may take, and how far its answer is read on once nobody wants it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of a call, in seconds. The strictest of the upstream's and every matching policy's holds."""

    connect: float = 5.0
    first_byte: float = 60.0
    first_token: float = 120.0
    idle: float = 60.0
    total: float = 900.0
    write_stall: float = 30.0

    def strictest(self, other: Mapping[str, float | None]) -> "Timeouts":
        """These, each lowered to `other`'s where that is shorter."""
        lower = {n: v for n, v in other.items() if v is not None and v < getattr(self, n)}
        return replace(self, **lower) if lower else self

    def within(self, bounds: "Timeouts") -> "Timeouts":
        """The shorter of each."""
        if bounds is UNBOUNDED:
            return self
        return Timeouts(
            connect=min(self.connect, bounds.connect),
            first_byte=min(self.first_byte, bounds.first_byte),
            first_token=min(self.first_token, bounds.first_token),
            idle=min(self.idle, bounds.idle),
            total=min(self.total, bounds.total),
            write_stall=min(self.write_stall, bounds.write_stall),
        )


# The deadlines that have a name: in an error's message, in the log and in the metrics. The first six are a policy's to set; the next two
# are for what a client sends, `drain` is the grace of a shutdown.
DEADLINES = (*Timeouts.__dataclass_fields__, "header_read", "body_read", "drain")


class Drain(NamedTuple):
    """How far an answer is read on once its client has left: so many seconds or bytes, whichever are over first; 0 = not at all."""

    seconds: float
    size: int


# What a call starts with, for policies to lower; the upstream's own deadlines come to it when one is chosen.
UNBOUNDED = Timeouts(**{name: float("inf") for name in Timeouts.__dataclass_fields__})
