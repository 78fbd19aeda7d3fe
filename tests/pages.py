"""What the tests of pages share: an outbox, a world of sinks and a log that are all in memory and do what they are told."""

import asyncio
import selectors
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from proxy.clock import Clock
from proxy.errors import StateUnavailable
from proxy.lane import RESOLVED
from proxy.outage import Outage, What
from proxy.outage_page import AnyPage, OutagePage
from proxy.pager import Pager
from proxy.policy.contract import Notice
from proxy.policy.policyset import UpstreamConfig
from proxy.sinks import Kind, Sink
from proxy.spenders import Top
from proxy.state.contract import Delivery, Outbox
from proxy.state.memory import MemoryStore
from tests.clock import FakeClock

DAY = (1_799_971_200, 1_800_057_600)  # around FakeClock's first moment
SECRET = "a canary that signs webhooks"


def notice(**changes: Any) -> Notice:
    crossed = Notice(
        policy="everyone",
        subject="everyone",
        threshold=80,
        spent_nanousd=40_000_000_000,
        limit_nanousd=50_000_000_000,
        window=DAY,
        to=("bot",),
        refuses=False,
    )
    return crossed._replace(**changes)


def sink(name: str, *, kind: Kind = "webhook", path: str = "") -> Sink:
    secret = {"pagerduty": "0123456789abcdef0123456789abcdef", "webhook": SECRET}.get(kind)
    return Sink(name, kind=kind, url=f"https://{name}.canary.test{path}", secret=secret)


class NoUpstreams:
    """Upstreams of which nothing is known."""

    def outages(self, upstreams: Mapping[str, UpstreamConfig]) -> Iterator[Outage]:
        return iter(())

    def stands(self, name: str, config: UpstreamConfig, what: What) -> bool | None:
        return None


class FailingOutbox:
    """A real outbox in memory that fails when told to. broken: names of operations that raise StateUnavailable and do nothing."""

    def __init__(self, clock: Clock) -> None:
        self._store = MemoryStore(clock)
        self.broken: set[str] = set()

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        self._check("put")
        return await self._store.put(deliveries)

    async def due(self, now_s: float, *, most: int = 32, skip: Collection[str] = ()) -> tuple[Delivery, ...]:
        self._check("due")
        return await self._store.due(now_s, most=most, skip=skip)

    async def under(self, prefix: str) -> tuple[Delivery, ...]:
        self._check("under")
        return await self._store.under(prefix)

    async def replace(self, delivery: Delivery) -> None:
        self._check("replace")
        await self._store.replace(delivery)

    async def retry(self, id: str, *, due_s: float) -> None:
        self._check("retry")
        await self._store.retry(id, due_s=due_s)

    async def done(self, id: str, *, then: Delivery | None = None, forget: Collection[str] = ()) -> None:
        self._check("done")
        await self._store.done(id, then=then, forget=forget)

    async def waiting(self) -> list[Delivery]:
        """Every page of a crossing that is not delivered, whenever it is due."""
        return [delivery for delivery in await self._store.due(inf, most=100_000) if not delivery.id.endswith(RESOLVED)]

    async def resolving(self) -> list[Delivery]:
        """Every resolve that is not delivered, whenever it is due."""
        return [delivery for delivery in await self._store.due(inf, most=100_000) if delivery.id.endswith(RESOLVED)]

    def _check(self, operation: str) -> None:
        if operation in self.broken:
            raise StateUnavailable("state_unavailable", "The state store does not answer.")


Answer = int | tuple[int, float] | Exception | asyncio.Event


@dataclass(frozen=True, slots=True)
class Sent:
    """One request that reached a sink. sink: the first label of its host. at_s: monotonic seconds."""

    sink: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float


class FakeWorld:
    """Every sink there is. A sink answers what its script says, one entry a request, and 200 after that.

    An Event is waited for first, and the entry after it is the answer. always: what a sink answers when its script is at its end.
    chokes_on: bytes in a body that make every sink answer 500.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.script: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self.always: dict[str, Answer] = {}
        self.chokes_on: bytes | None = None
        self.sent: list[Sent] = []
        self.arrived = asyncio.Event()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None]:
        name = url.removeprefix("https://").partition(".")[0]
        self.sent.append(Sent(name, url, headers, body, self._clock.monotonic_ns() / 1e9))
        self.arrived.set()
        if self.chokes_on is not None and self.chokes_on in body:
            return 500, None
        answer = self._next(name)
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = self._next(name)
        assert not isinstance(answer, asyncio.Event)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, tuple) else (answer, None)

    def to(self, name: str) -> list[Sent]:
        return [sent for sent in self.sent if sent.sink == name]

    async def reached(self, name: str, times: int) -> None:
        """Wait until a sink was sent so many requests."""
        while len(self.to(name)) < times:
            self.arrived.clear()
            await self.arrived.wait()

    def _next(self, name: str) -> Answer:
        return self.script[name].popleft() if self.script[name] else self.always.get(name, 200)


@dataclass
class FakeLog:
    """Events and counts as they were told."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    counts: list[tuple[str, str]] = field(default_factory=list)

    def event(self, name: str, /, *, level: str = "info", **fields: Any) -> None:
        self.events.append((name, {"level": level, **{key: value for key, value in fields.items() if value is not None}}))

    def count(self, kind: str, result: str) -> None:
        self.counts.append((kind, result))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]


@dataclass
class FakeAlarms:
    """Alarms that stand as a test says.

    standing: what is raised after a start or a reload; limit: what budgets were raised to. wrong: with upstreams; over: what was is over.
    """

    standing: list[Notice] = field(default_factory=list)
    limit: int | None = None
    wrong: list[Outage] = field(default_factory=list)
    over: bool = False

    async def notices(self) -> AsyncIterator[list[Notice]]:
        for one in self.standing:
            yield [one]

    def outages(self) -> list[Outage]:
        return self.wrong

    def lifted(self, page: AnyPage, now_s: float) -> AnyPage | None:
        if isinstance(page, OutagePage):
            return page.ended(now_s=now_s, removed=False) if self.over else None
        return None if self.limit is None else page.lifted(raised_nanousd=self.limit, now_s=now_s)


def pager(
    outbox: Outbox,
    world: FakeWorld,
    log: FakeLog,
    clock: Clock,
    *sinks: Sink,
    random: bytes = b"\0\0\0\0",
    alarms: FakeAlarms | None = None,
    top: Top | None = None,
) -> Pager:
    """A pager for these sinks. random: what the jitter is made of; zeros leave every wait at its longest. top: who spent, always."""
    made = Pager(
        outbox,
        clock=clock,
        send=world.send,
        log=log,
        count=log.count,
        random=lambda size: random[:size],
        alarms=alarms or FakeAlarms(),
        top=lambda notice: top,
    )
    made.configure({sink.name: sink for sink in sinks})
    return made


class _Leap(selectors.DefaultSelector):
    """A selector that does not wait for a timer but moves the clock to it."""

    clock: FakeClock

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else 10)
        assert ready or timeout is not None, "nothing is left that could ever happen"
        # A turn takes a microsecond at least: a timer set for the very next instant must find that it has passed.
        self.clock.advance(1e-6 if ready else max(timeout or 0.0, 1e-6))
        return ready


def leap(scenario: Coroutine[Any, Any, None], clock: FakeClock) -> None:
    """Run a scenario on a loop whose time is the fake clock's: hours pass while it has nothing to do, and none while it has."""
    selector = _Leap()
    selector.clock = clock

    class Loop(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return clock.monotonic_ns() / 1e9

    with asyncio.Runner(loop_factory=lambda: Loop(selector)) as runner:
        runner.run(scenario)
