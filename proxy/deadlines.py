"""Deadlines of calls: one sweep for all of them, and a cancellation that says which deadline it was.

A Watch belongs to the task that runs a call. Setting a deadline is an assignment; nothing is scheduled per call or per event.
The rule a reader could break: a CancelledError is turned into `upstream_timeout` only where `watch.expired` is set, everywhere else
it is a client that left and passes on.
"""

import asyncio
from collections.abc import Callable
from math import inf

from proxy.errors import InvalidCall, Overloaded, ProxyError, UpstreamError

TICK_S = 0.1
_BREATH_S = 0.0025  # after each call that was ended: that is work, and a thousand at once would hold up all others
_PAUSE_S = 1.0  # a look that is so late was held up, as all else was
TOO_LARGE = "too large"  # what a watch expires of, beside its deadlines, where an answer has no end
DRAIN = "drain"
CANCELLED, ABANDONED = "cancelled", "abandoned"  # what ends a recorded call early


class Watch:
    """One call's next deadline. stage: the word for the log and the error; at: loop time, or inf for none; total_at: never moves.

    expired: the deadline that passed and is yet to be told of; missed: the first one that passed, for good.

    beat: set whenever the stage begins anew; its time then counts from the next look of the sweep, a tick later at most. Where that
    happens for every event, looking at a clock would cost more than all the rest.
    pulses: called at every look, with the loop's time, for as long as no deadline has passed. They wait for nothing and raise nothing.
    """

    __slots__ = ("_loop", "_seconds", "_task", "at", "beat", "expired", "missed", "pulses", "stage", "total_at")

    def __init__(self, task: "asyncio.Task[object]", loop: asyncio.AbstractEventLoop) -> None:
        self._task = task
        self._loop = loop
        self._seconds = self.at = self.total_at = inf
        self.stage = ""
        self.beat = False
        self.expired: str | None = None
        self.missed: str | None = None
        self.pulses: tuple[Callable[[float], None], ...] = ()

    def __repr__(self) -> str:
        return f"<Watch stage={self.stage!r} expired={self.expired!r}>"

    @property
    def since(self) -> float:
        """When the stage began, loop time; said of one that was set by `expect` or `bound`, and had no beat."""
        return self.at - self._seconds

    @property
    def stage_left_s(self) -> float:
        """Seconds until the deadline of the stage."""
        return self.at - self._loop.time()

    def expect(self, stage: str, seconds: float) -> None:
        """From now on `stage` may take so long."""
        self.stage = stage
        self.beat = False
        self._seconds = seconds
        self.at = self._loop.time() + seconds

    def expect_at(self, stage: str, at: float) -> None:
        """From now on `stage` may take until `at`, loop time: goes on with a deadline that began earlier."""
        self.stage = stage
        self.beat = False
        self.at = at

    def expect_nothing(self) -> None:
        """No stage is running; only the total still counts."""
        self.beat = False
        self.at = inf

    def expect_no_more(self) -> None:
        """The upstream's part is over, and none of its deadlines counts any more: what takes time now is ours, or the client's."""
        self.beat = False
        self.at = self.total_at = inf

    def bound(self, total_s: float, stage: str, seconds: float) -> None:
        """From now on the whole call may take `total_s`, and `stage` so many seconds. A second try has what the first one left of it."""
        now = self._loop.time()
        total_at = now + total_s
        if total_at < self.total_at:
            self.total_at = total_at
        self.stage = stage
        self.beat = False
        self._seconds = seconds
        self.at = now + seconds

    def left_s(self) -> float:
        """Seconds until the next deadline."""
        return min(self.at, self.total_at) - self._loop.time()

    def expire_if_due(self, now: float) -> bool:
        """Cancel the task if its time is over, else let its pulses beat. Called by the sweep. Whether it was cancelled now."""
        if self.beat:
            self.beat = False
            self.at = now + self._seconds
        if now >= self.at or now >= self.total_at:
            late = self.expired is None
            self.expire(self.stage if self.at <= self.total_at else "total")
            return late
        if self.expired is None:
            for pulse in self.pulses:
                pulse(now)
        return False

    def expire(self, stage: str) -> None:
        """Cancel the task, once."""
        if self.expired is None:
            self.expired = stage
            self.missed = self.missed or stage
            self._task.cancel()

    def absorb(self) -> bool:
        """Whether the CancelledError just caught is this watch's own and the only one; if so the task goes on as if uncancelled."""
        return self.expired is not None and self._task.uncancel() == 0

    def rearm(self, stage: str, seconds: float) -> None:
        """After an absorbed expiry: one more stage, such as sending the error, with a deadline of its own."""
        self.expired = None
        self.pulses = ()
        self.total_at = inf
        self.expect(stage, seconds)


class Sweep:
    """Looks at every watch a few times a second. An idle sweep costs nothing: its timer runs only while there are watches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watches: set[Watch] = set()
        self._unseen: list[Watch] = []  # of the look that is under way
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def __repr__(self) -> str:
        return f"<Sweep watches={len(self._watches)}>"

    def watch(self) -> Watch:
        """A watch over the current task. `forget` it on every way out."""
        task = asyncio.current_task()
        assert task is not None
        watch = Watch(task, self._loop)
        self._watches.add(watch)
        if self._timer is None:
            self._look_later(self._loop.time())
        return watch

    def forget(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def expire_all(self, stage: str) -> None:
        """End every call that is watched, now: its deadline is called `stage`."""
        for watch in tuple(self._watches):
            watch.expire(stage)

    def _look_later(self, now: float, seconds: float = TICK_S) -> None:
        self._due = now + seconds
        self._timer = self._loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        """After a pause (a stopped process, a frozen machine) what has come in it is read before anybody is judged."""
        now = self._loop.time()
        if now - self._due >= _PAUSE_S:
            self._unseen.clear()
        elif not self._unseen:
            self._unseen.extend(self._watches)
        while self._unseen:
            watch = self._unseen.pop()
            if watch in self._watches and watch.expire_if_due(now):
                break
        if self._watches:
            self._look_later(now, _BREATH_S if self._unseen else TICK_S)
        else:
            self._timer = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def deadline_error(watch: Watch) -> ProxyError:
    """The error for the deadline that passed."""
    passed = watch.expired
    if passed == "body_read":
        return InvalidCall("request_timeout", "The body was not sent in time (deadline: body_read).", deadline=passed, close=True)
    if passed == DRAIN:
        message = "The proxy is shutting down and its grace is over (deadline: drain)."
        return Overloaded("draining", message, deadline=passed, close=True)
    if passed in (CANCELLED, ABANDONED):
        why = "was cancelled" if passed == CANCELLED else "was ended, since nobody read it"
        return InvalidCall("call_cancelled", f"The recorded call {why}.", should_retry=False)
    if passed == "write_stall":
        return InvalidCall("client_stalled", "The client stopped reading (deadline: write_stall).", deadline=passed, close=True)
    if passed == TOO_LARGE:
        return UpstreamError("answer_too_large", "The upstream's answer is larger than the operator allows.")
    return UpstreamError("upstream_timeout", f"The upstream was too slow (deadline: {passed}).", deadline=passed)
