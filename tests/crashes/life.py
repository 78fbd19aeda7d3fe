"""One life of a process that pages, from its start to its end or to the kill: real store, policies, pager and HTTP; calls without a proxy.

The rule a reader could break: everything that a life knows of those before it stands in its folder.
"""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic_ns
from typing import Any

from proxy.call import Call, Principal
from proxy.courier import Courier
from proxy.lane import PACES, RESOLVED
from proxy.pager import Pager
from proxy.policy.policyset import PolicySet
from proxy.sinks import Sink
from proxy.spenders import Spenders
from proxy.standing import Standing
from proxy.state.contract import Delivery, Denial
from proxy.state.sqlite import SqliteStore
from proxy.telemetry.logs import Level
from tests.pages import NoUpstreams
from tests.policies.calls import a_call

USD = 10**9
LIMIT_USD = 50
DONE, WAITING = 0, 3  # how a life ends that was not killed: all pages are with their sinks, or some wait for another try


@dataclass(frozen=True, slots=True)
class Orders:
    """What one life is to do. As JSON on the nursery's standard input.

    policies: name of the file in force; now_s: epoch seconds at its start; over: the window has turned or the budget was raised, and
    no calls come any more. sinks: (name, kind, url, secret). kill_at: it kills itself at so many steps of its paging, None = never.
    kill_after_s: the nursery kills it after so long, None = never.
    """

    folder: str
    user: str
    policies: str
    now_s: float
    over: bool
    sinks: Sequence[tuple[str, Any, str, str | None]]
    seed: int
    kill_at: int | None = None
    kill_after_s: float | None = None


class Now:
    """A clock that runs from the moment it was told."""

    def __init__(self, now_s: float) -> None:
        self._ahead_s = now_s - monotonic_ns() / 1e9

    def monotonic_ns(self) -> int:
        return monotonic_ns()

    def wall_s(self) -> float:
        return self._ahead_s + monotonic_ns() / 1e9


@dataclass
class Fate:
    """Kills this process, as nothing could prevent, at a step that was chosen for it."""

    at: int | None
    steps: int = 0

    def step(self) -> None:
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1


@dataclass
class MortalOutbox:
    """The store's outbox, with a chance to die before and after everything that is asked of it."""

    store: SqliteStore
    fate: Fate

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        self.fate.step()
        queued = await self.store.put(deliveries)
        self.fate.step()
        return queued

    async def due(self, now_s: float, *, most: int = 32, skip: Collection[str] = ()) -> tuple[Delivery, ...]:
        return await self.store.due(now_s, most=most, skip=skip)

    async def retry(self, id: str, *, due_s: float) -> None:
        self.fate.step()
        await self.store.retry(id, due_s=due_s)

    async def under(self, prefix: str) -> tuple[Delivery, ...]:
        self.fate.step()
        return await self.store.under(prefix)

    async def replace(self, delivery: Delivery) -> None:
        self.fate.step()
        await self.store.replace(delivery)
        self.fate.step()

    async def done(self, id: str, *, then: Delivery | None = None, forget: Collection[str] = ()) -> None:
        self.fate.step()
        await self.store.done(id, then=then, forget=forget)
        self.fate.step()


class Silent:
    def event(self, name: str, /, *, level: Level = "info", **fields: Any) -> None:
        pass


@dataclass
class Life:
    orders: Orders
    policies: PolicySet
    fate: Fate = field(init=False)

    def __post_init__(self) -> None:
        self.fate = Fate(self.orders.kill_at)
        self.random = random.Random(self.orders.seed)

    async def run(self) -> int:
        orders, clock = self.orders, Now(self.orders.now_s)
        store = await SqliteStore.open(Path(orders.folder), clock, group_s=0.002)
        courier, spenders = Courier(clock), Spenders(clock)
        outbox = MortalOutbox(store, self.fate)
        pager = Pager(
            outbox,
            clock=clock,
            send=self._mortal(courier.post),
            log=Silent(),
            count=lambda kind, result: None,
            random=self.random.randbytes,
            alarms=Standing(lambda: self.policies, store, NoUpstreams()),
            top=spenders.top,
            least_alert_s=0.0,  # the receiver is asked whether it has heard
            paces=dict.fromkeys(PACES, 1000.0),
        )
        pager.configure({name: Sink(name, kind, url, secret) for name, kind, url, secret in orders.sinks})
        if not orders.over:
            await self._spend(store, spenders, pager)
        for _ in range(4):
            await pager.deliver_due()
        now_s = clock.wall_s()
        left = [
            d for d in await store.due(inf, most=1000) if not d.id.endswith(RESOLVED) or (orders.over and d.due_s <= now_s + 3600)
        ]
        await pager.close()
        await store.close()
        await courier.close()
        return WAITING if left else DONE

    async def _spend(self, store: SqliteStore, spenders: Spenders, pager: Pager) -> None:
        """Calls until the budget is spent; some are told of before the next, some together."""
        call: Call = a_call(principal=Principal("web", self.orders.user))
        plan = self.policies.plan(call.principal, call.path, call.model_asked)
        charges = self.policies.charges(call, plan)
        while store.peek(charges[0]).spent < LIMIT_USD * USD:
            cost = self.random.randint(1, 20) * USD
            reservation = await store.reserve(charges)
            assert not isinstance(reservation, Denial)
            balances = await reservation.settle({charges[0].limit.unit: cost})
            spenders.add(reservation.quotas, call, cost)
            self.fate.step()
            for balance in balances:
                pager.notify(plan.notices(balance))
            self.fate.step()
            if self.random.random() < 0.5:
                await pager.deliver_due()

    def _mortal(self, post: Callable[[str, Mapping[str, str], bytes], Any]) -> Any:
        async def send(url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None]:
            self.fate.step()
            answer: tuple[int, float | None] = await post(url, headers, body)
            self.fate.step()
            return answer

        return send


def live(orders: Orders, policies: PolicySet) -> int:
    """The exit code, for whoever is not killed."""
    return asyncio.run(Life(orders, policies).run())
