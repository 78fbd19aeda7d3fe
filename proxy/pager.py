"""Takes notices from the hot path and sees to it that every sink hears of each once, whatever happens in between.

    notify ─► queue (memory, bounded) ─► Outbox (durable, one row for each page and sink) ─► one lane a sink ─► send
                                            ▲                                                  │
                                            └────── its resolve, when the window turns ◄─ taken ┘

What the queue loses in a crash comes again: a policy raises its notices at every settled call over the threshold, the next start asks
which alarms stand (`standing`), and the outbox knows which it has had. Each lane has one task and its own share of the outbox; a dead or
slow sink is skipped, not waited for.

A budget that a reload raised above what is spent has its pages resolved at once, and may be crossed again: then the page is a new one.
The rule a reader could break: `notify` is called while a client waits, so it never awaits and never writes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from math import inf
from typing import Protocol

from proxy.clock import Clock
from proxy.lane import PACES, EventLog, Lane, Means, Send
from proxy.outage import PREFIX, Outage
from proxy.outage_page import AnyPage, OutagePage, read_page
from proxy.page import Page
from proxy.policy.contract import Notice
from proxy.sinks import LEAST_ALERT_S, Kind, Sink
from proxy.spenders import Top
from proxy.state.contract import Delivery, Outbox

# How often the outbox is looked at when nothing happened: retries are late by at most this.
POLL_S = 5.0
# Between two tries to reach an outbox that fails. Shorter than for a sink: all pages wait for it.
MOST_PAUSE_S = 60.0
# A stop waits so long for the outbox and for answers on their way. What is not done then is done after the next start.
CLOSE_S = 2.0
MOST_QUEUED = 1024
# Notices remembered, about 400 bytes each. A forgotten one costs a question to the outbox.
MOST_SEEN = 8192
_BATCH = 64  # notices put into the outbox in one transaction
# Deliveries looked at after a reload: those due first. What is beyond them is resolved when its window turns.
MOST_REVIEWED = 4096

Alarm = Notice | Outage
Notify = Callable[[Iterable[Alarm]], None]

# Every crossing stands in the log, whoever else is told. No name under `pages` is empty, so this one is nobody's.
LOG = Sink("", kind="log")


class Alarms(Protocol):
    """Which alarms stand, as the policies in force have it: see `Standing`."""

    def notices(self) -> AsyncIterator[Iterable[Notice]]: ...

    def outages(self) -> Iterable[Outage]: ...

    def lifted(self, page: AnyPage, now_s: float) -> AnyPage | None: ...


class Pager:
    """Queue, outbox and lanes of one process."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        clock: Clock,
        send: Send,
        log: EventLog,
        count: Callable[[str, str], None],
        random: Callable[[int], bytes],
        alarms: Alarms,
        top: Callable[[Notice], Top | None],
        least_alert_s: float = LEAST_ALERT_S,
        paces: Mapping[Kind, float] = PACES,
    ) -> None:
        """count, random, least_alert_s, paces: as in `Means`. top: who spent. Nobody but the log is paged before `configure`."""
        self._outbox = outbox
        self._clock = clock
        self._alarms = alarms
        self._top = top
        self._means = Means(
            outbox,
            clock=clock,
            send=send,
            log=log,
            count=count,
            random=random,
            finished={},
            lifted=alarms.lifted,
            reopened=self._reopened,
            least_alert_s=least_alert_s,
            paces=paces,
        )
        self._seen: dict[tuple[str, tuple[str, ...]], None] = {}  # a set that knows its oldest
        self._queue: dict[tuple[str, tuple[str, ...]], AnyPage] = {}
        self._lanes: dict[str, Lane] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}  # by the name of the sink
        self._wake = asyncio.Event()
        self._closing = False
        self._review_due = False
        self._outages_due = False
        self.configure({})
        self._review_due = False  # not before there are policies

    def __repr__(self) -> str:
        resting = [name for name, lane in self._lanes.items() if lane.resting]
        counts = f"{len(self._seen)} remembered, {len(self._queue)} to store"
        return f"<Pager {counts}, sending to {list(self._sending)}, resting {resting}>"

    def configure(self, sinks: Mapping[str, Sink]) -> None:
        """Page these from now on, by name. A sink that did not change keeps its pace and its rest."""
        known = self._lanes
        self._lanes = {}
        for name, sink in {**sinks, LOG.name: LOG}.items():
            lane = known.get(name)
            self._lanes[name] = lane if lane is not None and lane.sink == sink else Lane(sink, means=self._means)
        self._review_again()

    def notify(self, notices: Iterable[Alarm]) -> None:
        """Take notices, new or not. With a full queue they are forgotten, to be raised again by the next settled call."""
        for notice in notices:
            key = (notice.dedup, notice.to)
            if key in self._seen or len(self._queue) >= MOST_QUEUED:
                continue
            if len(self._seen) >= MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = None
            now_s = self._clock.wall_s()
            if isinstance(notice, Outage):
                self._queue[key] = OutagePage.of(notice, crossed_s=now_s)
            else:
                self._queue[key] = Page.of(notice, crossed_s=now_s, top=self._top(notice))
            self._wake.set()

    def outage_over(self) -> None:
        """Something that was wrong with an upstream, or may have been, is not any more: see what was paged of it."""
        self._outages_due = True
        self._wake.set()

    async def run(self) -> None:
        """Store and deliver until cancelled; `close` comes after that. Nothing else ends it."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                await self._review()
                await self._store()
                await self._start_due()
                failures = 0
            except Exception as error:  # a last line of defence: pages wait in the queue and in the outbox
                self._means.report(error)
                failures += 1
                await asyncio.sleep(min(self._means.backoff_s(failures), MOST_PAUSE_S))
                continue
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def deliver_due(self) -> None:
        """One turn of `run`, over when every page it found due was tried. Errors: StateUnavailable."""
        await self._review()
        await self._store()
        await self._start_due()
        await asyncio.gather(*self._sending.values())

    async def close(self, *, within_s: float = CLOSE_S) -> None:
        """Write what is queued, wait for answers on their way, start nothing new. For when `run` was cancelled."""
        self._closing = True
        deadline = asyncio.get_running_loop().time() + within_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._store()
        except Exception as error:  # a stop goes on, whatever the outbox says
            self._means.report(error)
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.gather(*self._sending.values())
        except TimeoutError:
            pass  # still in the outbox, and due

    def _reopened(self, page: AnyPage) -> None:
        """The same may be paged anew, and is if it stands."""
        if isinstance(page, Page):
            self._review_again()
            return
        for key in [key for key in self._seen if key[0] == page.id]:
            del self._seen[key]
        self.notify(self._alarms.outages())

    def _review_again(self) -> None:
        self._outages_due = True
        self._seen.clear()
        self._review_due = True
        self._wake.set()

    async def _review(self) -> None:
        """After a start, a reload or a lifted alarm: raise what stands, lift what does not. Errors: StateUnavailable."""
        if self._outages_due:
            self._outages_due = False
            for key in [key for key in self._seen if key[0].startswith(PREFIX)]:
                del self._seen[key]  # the next of the kind is to be asked about in the outbox
            try:
                self.notify(self._alarms.outages())
                for delivery in await self._outbox.under(PREFIX):
                    await self._lift(delivery)
            except BaseException:
                self._outages_due = True
                raise
        if not self._review_due:
            return
        self._review_due = False
        try:
            number = 0
            async for notices in self._alarms.notices():
                self.notify(notices)
                number += 1
                if len(self._queue) >= _BATCH:
                    await self._store()
                elif not number % _BATCH:
                    await asyncio.sleep(0)
            for delivery in await self._outbox.due(inf, most=MOST_REVIEWED):
                await self._lift(delivery)
        except BaseException:
            self._review_due = True
            raise

    async def _lift(self, delivery: Delivery) -> None:
        """Resolve a page of what is over. Errors: StateUnavailable."""
        try:
            page = read_page(delivery.body)
        except ValueError:
            return  # its lane gives it up
        if page.resolved_s is None or page.reopens or delivery.id in self._means.finished:
            return
        lifted = self._alarms.lifted(page, self._clock.wall_s())
        if lifted is not None:
            await self._outbox.replace(Delivery(delivery.id, delivery.sink, lifted.write(), due_s=lifted.since_s))

    async def _store(self) -> None:
        """Move the queue into the outbox. A notice leaves the queue when it is durable. Errors: StateUnavailable."""
        while self._queue:
            batch = dict(islice(self._queue.items(), _BATCH))
            await self._outbox.put([d for (_, to), page in batch.items() for d in self._deliveries(page, to)])
            for key in batch:
                self._queue.pop(key, None)

    def _deliveries(self, page: AnyPage, to: tuple[str, ...]) -> Iterator[Delivery]:
        body = page.write()
        for name in (LOG.name, *to):
            lane = self._lanes.get(name)
            if name == LOG.name or lane is None or lane.kind != "log":  # a target of kind log gets what is logged anyway
                yield Delivery(f"{page.id}/{name}", sink=name, body=body, due_s=page.crossed_s)

    async def _start_due(self) -> None:
        """Give what is due to the lanes that are free. Ends, as every turn makes one more of them busy. Errors: StateUnavailable."""
        while True:
            skip = {name for name, lane in self._lanes.items() if lane.resting} | self._sending.keys()
            batches: dict[str, list[Delivery]] = {}
            for delivery in await self._outbox.due(self._clock.wall_s(), skip=skip):
                batches.setdefault(delivery.sink, []).append(delivery)
            if not batches:
                return
            for name, batch in batches.items():
                task = asyncio.create_task(self._deliver(name, batch), name=f"pages to {name or 'the log'}")
                self._sending[name] = task
                task.add_done_callback(partial(self._sent, name))

    async def _deliver(self, name: str, batch: list[Delivery]) -> None:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(None, means=self._means)
        # A reload in between brings another lane: what is left of the batch stays due, and is the new lane's.
        await lane.deliver(batch, stop=lambda: self._closing or self._lanes.get(name) is not lane)

    def _sent(self, name: str, task: asyncio.Task[None]) -> None:
        del self._sending[name]
        self._wake.set()
