"""One sink as it is served: one page at a time, at the sink's pace, and a rest after every failure.

    due ─► try ─┬─ 2xx ──────────────────────────────► done; of a crossing, its resolve is queued in the same step, due at the
                │                                      turn of its window
                ├─ 429, 408, 425, 5xx, no answer ────► rest, due again later; a day after the crossing: given up
                └─ 3xx, other 4xx ───────────────────► given up

Two clocks run after a failure. The page waits longer with each of its own attempts, and the lane rests longer with each failure in
a row, whichever page it was, up to a minute: a dead sink with a thousand pages waiting sees one attempt a rest and is found within
a minute of its return, and a page that its sink always chokes on holds nobody else up for longer than that.

A page that a sink took just before a crash, before that was written down, is sent again under the same id: receivers of webhooks,
PagerDuty and Alertmanager tell it by that, Slack cannot. A resolve exists only once its page was taken, so it can neither overtake it
nor be lost between the two; what was given up is never resolved. The rule a reader could break: what has ended is never sent again by this
process, even when the outbox could not be told.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from proxy.clock import Clock
from proxy.errors import StateUnavailable
from proxy.outage import PREFIX
from proxy.outage_page import AnyPage, read_page
from proxy.sinks import LEAST_ALERT_S, Kind, Sink, render
from proxy.state.contract import Delivery, Outbox
from proxy.telemetry.faults import exception_types, stack_of
from proxy.telemetry.logs import Level

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

# Backoff: 5 s, 10 s, 20 s … 10 min, each cut by up to half at random, so that replicas do not come back together.
FIRST_RETRY_S = 5.0
MOST_RETRY_S = 600.0
MOST_REST_S = 60.0
# A sink may ask for more patience than that, within reason.
MOST_RETRY_AFTER_S = 3600.0
GIVE_UP_S = 86_400.0  # where the schedule ends that Standard Webhooks gives as its example
# A resolve that never comes leaves an incident open until a person closes it.
GIVE_UP_RESOLVE_S = 7 * 86_400.0

# Pages a second. Slack takes about one message a second for each channel, PagerDuty 120 events a minute for each key; for the
# receivers without a documented limit it is a bound on how hard a thousand users over their budgets can hit them.
PACES: Mapping[Kind, float] = {"log": 100, "webhook": 10, "slack": 1, "pagerduty": 2, "alertmanager": 10}

# 4xx answers that are about the moment and not about the request.
_TRY_AGAIN = frozenset((408, 425, 429))

RESOLVED = "/resolved"  # ends the id of a resolve; what stands before it is its page's

# (url, headers, body) → (status, seconds of its Retry-After or None). Errors: Unreachable.
Send = Callable[[str, Mapping[str, str], bytes], Awaitable[tuple[int, float | None]]]


class Unreachable(Exception):
    """The sink did not answer: no address, no connection, TLS, a timeout, or not HTTP. Its cause says which."""


class NotConfigured(Unreachable):
    """No sink has this name now. It may be back before the page is given up."""


class EventLog(Protocol):
    def event(self, name: str, /, *, level: Level = "info", **fields: Any) -> None:
        """Log one event. Never waits."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all lanes share.

    count: called for each attempt with the sink's kind and `delivered`, `failed` (to be tried again) or `given_up`.
    random: so many random bytes, for the jitter. finished: what has ended and of which the outbox may not know, with what is to be
    written down then. lifted: of a resolve that waits and a time, the resolve that is due now because what was paged is over, None where it
    stands. reopened: called with a resolve, when the same may be paged anew. least_alert_s: how long Alertmanager must have had an alert
    before its resolve is heard.
    paces: pages a second.
    """

    outbox: Outbox
    clock: Clock
    send: Send
    log: EventLog
    count: Callable[[str, str], None]
    random: Callable[[int], bytes]
    finished: "dict[str, Closing]"
    lifted: Callable[[AnyPage, float], AnyPage | None]
    reopened: Callable[[AnyPage], None]
    least_alert_s: float = LEAST_ALERT_S
    paces: Mapping[Kind, float] = field(default_factory=lambda: PACES)

    def backoff_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, failures ≥ 1."""
        fraction = int.from_bytes(self.random(4)) / 2**32
        return min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 16)) * (1 - fraction / 2)

    def report(self, error: Exception) -> None:
        """Log what is not a sink's failure: the outbox's, or a defect."""
        exception = exception_types(error)
        if isinstance(error, StateUnavailable | TimeoutError):
            self.log.event("state.failed", level="error", operation="outbox", exception=exception)
        else:
            self.log.event("fault.caught", level="error", where="pager", exception=exception, stack=stack_of(error.__traceback__))


@dataclass(frozen=True, slots=True)
class Closing:
    """What is written down when a delivery has ended: as in `Outbox.done`."""

    then: Delivery | None = None
    forget: tuple[str, ...] = ()


class Lane:
    """Tries pages at one sink. sink: None stands for a name that is not configured, or no longer."""

    def __init__(self, sink: Sink | None, *, means: Means) -> None:
        self.sink = sink
        self.kind: str = sink.kind if sink is not None else "none"
        self._means = means
        self._limiter: AsyncLimiter | None = None
        self._failures = 0  # in a row
        self._rests_until_ns = 0

    def __repr__(self) -> str:
        name = self.sink.name if self.sink is not None else None
        return f"<Lane {name!r} {self.kind} {'resting' if self.resting else 'open'} failures={self._failures}>"

    @property
    def resting(self) -> bool:
        return self._rests_until_ns > self._means.clock.monotonic_ns()

    async def deliver(self, batch: Iterable[Delivery], *, stop: Callable[[], bool]) -> None:
        """Try one page after the other, until the sink needs a rest or `stop` says so; what was not tried stays due. Never fails."""
        for delivery in batch:
            try:
                if self.resting:
                    await self._drop_stale(delivery)
                    continue
                await self._pace()
                if stop():
                    return
                await self._try(delivery)
            except Exception as error:  # a last line of defence: the page stays in the outbox
                self._means.report(error)
                self._rest()

    async def _pace(self) -> None:
        """Wait until one more page may go out."""
        if self._limiter is None:
            from aiolimiter import AsyncLimiter  # here and not above: most processes never page, and start sooner without

            self._limiter = AsyncLimiter(self._means.paces[self.sink.kind] if self.sink is not None else 10, 1)
        await self._limiter.acquire()

    async def _try(self, delivery: Delivery) -> None:
        """One attempt and what follows from it. Errors: StateUnavailable."""
        known = self._means.finished.get(delivery.id)
        if known is not None:
            await self._finish(delivery, known)
            return
        try:
            page = read_page(delivery.body)
        except ValueError as error:
            await self._give_up(delivery, error=error)
            return
        try:
            status, retry_after_s = await self._hand_over(page)
        except Exception as error:
            if not isinstance(error, Unreachable):  # a defect of ours; the page gets its day all the same, and no longer
                self._means.report(error)
            await self._put_off(delivery, page, error=error)
            return
        if status >= 500 or status in _TRY_AGAIN:
            await self._put_off(delivery, page, status=status, retry_after_s=retry_after_s)
            return
        self._failures = 0
        if 200 <= status < 300:
            await self._delivered(delivery, page, status)
        else:  # also a redirect: following it would take the page where the policy file does not say
            await self._give_up(delivery, status=status)

    async def _hand_over(self, page: AnyPage) -> tuple[int, float | None]:
        """The sink's status and Retry-After. Errors: Unreachable."""
        means, sink = self._means, self.sink
        if sink is None:
            raise NotConfigured
        if sink.kind == "log":
            event, level, fields = page.logged()
            means.log.event(event, level=level, **fields)
            return 200, None
        post = render(sink, page, now_s=means.clock.wall_s())
        return await means.send(post.url, post.headers, post.body)

    async def _delivered(self, delivery: Delivery, page: AnyPage, status: int) -> None:
        if self.kind != "log":  # there the event is the page
            self._means.log.event("page.delivered", status=status, **self._facts(delivery))
        self._means.count(self.kind, "delivered")
        await self._finish(delivery, self._closing(delivery, page))
        if page.reopens:
            self._means.reopened(page)

    def _closing(self, delivery: Delivery, page: AnyPage) -> Closing:
        if page.resolved_s is None:
            lasts_s = self._means.least_alert_s if self.kind == "alertmanager" else 0.0
            taken_s = self._means.clock.wall_s()
            resolve = page.resolving(taken_s=taken_s, lasts_s=lasts_s)
            resolve = self._means.lifted(resolve, taken_s) or resolve  # while it waited for its sink
            return Closing(then=Delivery(delivery.id + RESOLVED, delivery.sink, resolve.write(), due_s=resolve.since_s))
        if page.reopens:
            return Closing(forget=(delivery.id, delivery.id.removesuffix(RESOLVED)))
        return Closing()

    async def _put_off(
        self,
        delivery: Delivery,
        page: AnyPage,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        error: Exception | None = None,
    ) -> None:
        """Try again later, or never when that would be too late."""
        means = self._means
        rest_s = self._rest(least_s=min(retry_after_s or 0.0, MOST_RETRY_AFTER_S))
        due_s = means.clock.wall_s() + max(rest_s, means.backoff_s(delivery.attempts + 1))
        if due_s > _given_up_s(page, forgotten=self.sink is None):
            await self._give_up(delivery, status=status, error=error)
            return
        self._tell_failed(delivery, "warning", status=status, error=error, due_s=due_s)
        means.count(self.kind, "failed")
        await means.outbox.retry(delivery.id, due_s=due_s)

    async def _drop_stale(self, delivery: Delivery) -> None:
        """Give up a page that is too old while its sink is down, or pages would pile up there at one attempt a rest."""
        if _given_up_s(read_page(delivery.body), forgotten=self.sink is None) < self._means.clock.wall_s():
            await self._give_up(delivery)

    async def _give_up(self, delivery: Delivery, *, status: int | None = None, error: Exception | None = None) -> None:
        closing = self._means.finished.get(delivery.id)
        if closing is None:
            self._tell_failed(delivery, "error", status=status, error=error)
            self._means.count(self.kind, "given_up")
        # A budget's id is of its window; an upstream's comes again, and must then be a page anew.
        again = (delivery.id, delivery.id.removesuffix(RESOLVED)) if delivery.id.startswith(PREFIX) else ()
        await self._finish(delivery, closing or Closing(forget=again))

    async def _finish(self, delivery: Delivery, closing: Closing) -> None:
        finished = self._means.finished
        finished[delivery.id] = closing
        await self._means.outbox.done(delivery.id, then=closing.then, forget=closing.forget)
        finished.pop(delivery.id, None)

    def _rest(self, *, least_s: float = 0.0) -> float:
        """Leave the sink alone after a failure. Returns for how many seconds."""
        self._failures += 1
        rest_s = max(least_s, min(self._means.backoff_s(self._failures), MOST_REST_S))
        self._rests_until_ns = self._means.clock.monotonic_ns() + round(rest_s * 1e9)
        return rest_s

    def _tell_failed(
        self,
        delivery: Delivery,
        level: Level,
        *,
        status: int | None,
        error: Exception | None,
        due_s: float | None = None,
    ) -> None:
        exception = exception_types(error) if error is not None else None
        self._means.log.event("page.failed", level=level, status=status, exception=exception, due_s=due_s, **self._facts(delivery))

    def _facts(self, delivery: Delivery) -> dict[str, Any]:
        return {"page": delivery.id, "sink": delivery.sink, "kind": self.kind, "attempts": delivery.attempts + 1}


def _given_up_s(page: AnyPage, *, forgotten: bool) -> float:
    """Epoch seconds after which a page is tried no more. forgotten: its sink is no longer configured."""
    return page.since_s + (GIVE_UP_S if page.resolved_s is None or forgotten else GIVE_UP_RESOLVE_S)
