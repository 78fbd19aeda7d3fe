"""Whether one more call can be taken: memory, calls that run, and how late the event loop is, looked at ten times a second.

A look makes one number of all of it, `most_calls`; a call compares how many run with that, and nothing else. So what is looked at costs no
call anything, and what happens between two looks is bounded: by as many calls as there is room for, and by the bytes of large bodies,
which are held before they are read.

The rule a reader could break: whatever the grounds, a few calls are always let in. Memory that the allocator keeps may never go down,
and a proxy that refuses until it does would refuse for ever.
"""

from collections.abc import Callable
from typing import Literal

from proxy.errors import InvalidCall, Overloaded
from proxy.memory import HIGH, LOW, Memory
from proxy.telemetry.instruments import Counter, Family, Gauge
from proxy.telemetry.logs import Log

Reason = Literal["memory", "calls", "loop", "connections"]
REASONS: tuple[Reason, ...] = ("memory", "calls", "loop", "connections")

LOOK_S = 0.1
FEW = 4  # calls that are let in whatever happens
SMALL_BYTES = 64 << 10  # of body: a call whose body is not larger is counted as this much until it shows in what the process uses
_TIMES = 4  # a body is there as it came, as it is read, as it is sent, and as it waits to be written: measured, 2.2 to 5
_LATE_S = 1.0  # the loop is overloaded when it was this late twice in a row: once is a pause, of the process or of the machine
_ON_TIME_S = 0.25
_SOON_S, _LATER_S = 1.0, 10.0  # when to come back: after as long again as it has lasted, within these


class Overload:
    """most_calls: how many may run now. reason: why that are fewer than usual; None most of the time."""

    __slots__ = (
        "_arrived",
        "_began",
        "_closed",
        "_coming",
        "_full",
        "_gauge",
        "_late",
        "_log",
        "_max_calls",
        "_memory",
        "_most_body",
        "_now",
        "_random",
        "_refused",
        "_refused_before",
        "_shed",
        "_why",
        "most_calls",
        "reason",
    )

    def __init__(
        self,
        *,
        memory: Memory,
        max_calls: int,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        log: Log,
        shed: Family[Counter],
        gauge: Gauge,
    ) -> None:
        """max_calls: that may run at once whatever the memory. now: a clock in seconds; random: n → n random bytes."""
        self._memory = memory
        self._max_calls = self.most_calls = max_calls
        self._now = now
        self._random = random
        self._log = log
        self._shed = {reason: shed.child(reason) for reason in REASONS}
        self._gauge = gauge
        self.reason: Reason | None = None  # of memory and the loop
        self._why: Reason | None = None  # that was told of when it began
        self._began = 0.0
        self._closed = self._full = False
        self._late = False  # at the last look
        self._coming = self._arrived = 0  # bytes of large bodies: being received; received, and not yet in what the process uses
        self._refused = self._refused_before = 0
        self._most_body = memory.room // _TIMES if memory.limited else None
        self.look(late_s=0.0, running=0)

    def __repr__(self) -> str:
        return f"<Overload {self.reason or 'none'} most_calls={self.most_calls} coming={self._coming} {self._memory!r}>"

    def look(self, *, late_s: float, running: int) -> None:
        """See what there is room for. late_s: how late this is. running: calls that are."""
        if self._closed:
            return
        memory = self._memory
        memory.look()
        self._arrived = 0
        most = self._max_calls
        reason: Reason | None = None
        if memory.limited:
            most = min(most, running + max(FEW, int(self._room() // (SMALL_BYTES * _TIMES))))
            self._full = memory.share >= (LOW if self._full else HIGH)
            if self._full:
                most, reason = min(most, FEW), "memory"
        late = late_s >= _LATE_S or (self.reason == "loop" and late_s > _ON_TIME_S)
        if late and self._late:
            most, reason = min(most, FEW), "loop"
        self._late = late
        self.most_calls, self.reason = most, reason
        self._tell(running)

    def close(self) -> None:
        """From here on no call is taken: the process is ending."""
        self._closed = True
        self.most_calls = -1

    @property
    def near(self) -> bool:
        """So much memory is used that giving back what is free may keep calls from being refused."""
        return self._memory.share >= LOW - 0.05

    def refusal(self, running: int) -> Overloaded:
        """What a call is told that is one too many."""
        return self._refusal("calls" if running > self._max_calls else self.reason or "memory")

    def hold(self, body_bytes: int) -> None:
        """Make room for a large body that is about to be received. Errors: Overloaded; InvalidCall for one that there never is room for."""
        if self._memory.limited and body_bytes * _TIMES > self._room():
            if self._most_body is not None and body_bytes > self._most_body:
                raise InvalidCall("request_too_large", "The proxy has no memory for a body of this size.", close=True)
            raise self._refusal("memory")
        self._coming += body_bytes

    def received(self, body_bytes: int) -> None:
        """What was held for a body is no longer needed: it is here, and the next look sees it, or it will not come."""
        self._coming -= body_bytes
        self._arrived += body_bytes

    def turned_away(self) -> float:
        """A connection was refused. Returns when to come back, in seconds."""
        self._count("connections")
        return self._retry_after_s()

    def _room(self) -> float:
        return self._memory.room - (self._coming + self._arrived) * _TIMES

    def _refusal(self, reason: Reason) -> Overloaded:
        self._count(reason)
        return Overloaded("overloaded", "The proxy has more to do than it can; call again.", retry_after_s=self._retry_after_s())

    def _count(self, reason: Reason) -> None:
        self._refused += 1
        self._shed[reason].inc()
        if self._why is None:
            self._begin(reason)

    def _begin(self, reason: Reason) -> None:
        self._why, self._began = reason, self._now()
        self._gauge.set(1)
        self._log.event("overload.began", level="warning", reason=reason)

    def _tell(self, running: int) -> None:
        """Begin and end, once each: it has ended when there are no grounds and nothing was refused since the last look."""
        if self._why is None:
            if self.reason is not None:
                self._begin(self.reason)
        elif self.reason is None and self._refused == self._refused_before:
            self._log.event(
                "overload.ended", reason=self._why, refused=self._refused, lasted_s=self._now() - self._began, running=running
            )
            self._why, self._refused = None, 0
            self._gauge.set(0)
        self._refused_before = self._refused

    def _retry_after_s(self) -> float:
        """As long again as it has lasted, and up to twice that, so that those who were refused together do not come back together."""
        lasted_s = self._now() - self._began if self._why is not None else 0.0
        share = int.from_bytes(self._random(2), "big") / 65536
        return min(max(lasted_s, _SOON_S), _LATER_S) * (1 + share)
