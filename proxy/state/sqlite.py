"""Limits in memory; money, usage and pages on disk: what a restart must find again, however it came about.

A MemoryStore decides. What a call holds is in the journal before the call goes on, in memory that is the kernel's;
one thread makes it safe from a loss of power within moments, and gives the database the sums now and then. The rule a reader could
break: nothing here waits for the disk on a call's way.

    held, settled ─► journal ──20 ms──► synced
                        └───── 30 s, or 1 MiB ─► sums to the database, a new journal ── failed: again a second later
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from proxy.clock import Clock
from proxy.errors import StateUnavailable
from proxy.policy.contract import Balance, Charge, Limit, Quota
from proxy.state.arithmetic import window
from proxy.state.bookkeeper import Bookkeeper
from proxy.state.contract import NOBODY, Delivery, Denial, Holder, Spend
from proxy.state.counters import Window
from proxy.state.database import Database, Recovery, disk_failed, unusable
from proxy.state.journal import ROOM_BYTES
from proxy.state.memory import MemoryReservation, MemoryStore
from proxy.state.past import Past

P = ParamSpec("P")
R = TypeVar("R")

GROUP_S = 30.0  # how long sums wait in the journal: reading it back takes as long as it is
MOST_JOURNAL_BYTES = 1 << 20  # some ten thousand calls, read back in a tenth of a second
MOST_SUMS = 5_000
SYNC_S = 0.02  # what a loss of power may cost
RETRY_S = 1.0  # after a failed write, for a disk that may be full


class SqliteStore:
    """A StateStore and an Outbox for one process on one directory. recovery: what it found there."""

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        database: Database,
        recovery: Recovery,
        thread: ThreadPoolExecutor,
        group_s: float,
        room: int,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._past = Past(directory)
        self._books = Bookkeeper(directory, clock, past=self._past, generation=recovery.generation, room=room, wrote=self._wrote)
        self._memory = MemoryStore(clock, keeper=self._books)
        self._database = database
        self._thread = thread
        self._group_s = group_s
        self._loop = asyncio.get_running_loop()
        self._tick: asyncio.TimerHandle | None = None  # of the next sync
        self._syncing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the next writing
        self._writer: asyncio.Task[None] | None = None
        self._turning = asyncio.Lock()
        self._turns: set[asyncio.Task[None]] = set()
        self._closed = False
        self.recovery = recovery

    @classmethod
    async def open(cls, directory: Path, clock: Clock, *, group_s: float = GROUP_S, room: int = ROOM_BYTES) -> "SqliteStore":
        """Make or take over a directory. group_s: how long sums wait in the journal; room: bytes of disk for it.

        Errors: StateUnavailable when another process uses it, when a newer version wrote it, or when it cannot be read or written.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tollhouse-state")
        try:
            database, recovery = await _on_disk(thread, directory, _recover, directory, clock.wall_s())
            try:
                return cls(directory, clock, database=database, recovery=recovery, thread=thread, group_s=group_s, room=room)
            except BaseException:
                await _on_disk(thread, directory, database.close)
                raise
        except BaseException:
            thread.shutdown()
            raise

    @property
    def failures(self) -> int:
        """Writes that failed so far; each is made good or tried again."""
        return self._books.failures

    @property
    def last_failure(self) -> str | None:
        return self._books.last_failure

    @property
    def asked(self) -> int:
        """How often the database was asked what was spent before."""
        return self._past.asked

    def reserve(
        self, charges: Sequence[Charge], holder: Holder = NOBODY, *, lasts_s: int = 3600
    ) -> Coroutine[Any, Any, MemoryReservation | Denial]:
        if self._closed:
            self._check_open()
        return self._memory.reserve(charges, holder, lasts_s=lasts_s)

    def peek(self, charge: Charge) -> Balance:
        return self._memory.peek(charge)

    def quotas(self, *, most: int = 1000) -> Iterator[tuple[Limit, str, int, int, Window]]:
        """As MemoryStore.quotas."""
        return self._memory.quotas(most=most)

    async def reached(self, limits: Sequence[Limit]) -> AsyncIterator[Spend]:
        """The subjects that spent so much of these quotas in their current windows that a clause wants to hear of it (`told_from`).

        What is spent meanwhile may be in it or not. Errors: StateUnavailable.
        """
        await self._write_sums()
        for limit in limits:
            current = self._open_window(limit)
            after: int | None = 0
            while after is not None:
                found, after = await self._run(self._database.reached, limit, current, after=after)
                for spend in found:
                    yield spend

    async def highest(self, limits: Sequence[Limit]) -> AsyncIterator[Balance]:
        """Of each of these quotas where the subject stands that spent most in the current window, if any did; it is not named.

        What is spent meanwhile may be in it or not. Errors: StateUnavailable.
        """
        await self._write_sums()
        for limit in limits:
            current, most = self._open_window(limit), 0
            after: int | None = 0
            while after is not None:
                found, after = await self._run(self._database.highest, limit, current, after=after)
                most = max(most, found)
            if most:
                left, reset_s = max(0, limit.amount - most), current[1] - self._clock.wall_s()
                yield Balance(Charge(limit, "", 0), left, reset_s, most, window=current)

    async def _write_sums(self) -> None:
        """Have the database know what was spent by now. Errors: StateUnavailable."""
        self._check_open()
        if self._books.unwritten or self._turning.locked():  # whose sums are under way, and may come back
            await self.flush()

    def _open_window(self, limit: Limit) -> Window:
        assert isinstance(limit.rule, Quota)
        return window(limit.rule.period, limit.rule.zone, self._clock.wall_s())

    def changed(self) -> tuple[Balance, ...]:
        """As MemoryStore.changed."""
        return self._memory.changed()

    async def flush(self) -> None:
        """Give the database all that was written down so far, and begin a new journal. Errors: StateUnavailable; nothing is lost."""
        # Whoever waits may be cancelled; what the database took or did not take must be known all the same.
        turning = self._loop.create_task(self._turn())
        self._turns.add(turning)
        turning.add_done_callback(self._turns.discard)
        await asyncio.shield(turning)

    async def _turn(self) -> None:
        async with self._turning:
            try:
                totals, holds, before = self._books.turn()
            except OSError as error:
                raise disk_failed(self._directory, error) from error
            try:
                await self._run(self._database.take, totals, holds, before.generation + 1, self._clock.wall_s())
            except StateUnavailable:
                self._books.take_back(totals)
                raise
            else:
                self._books.written()
            finally:
                await self._run(before.close)  # behind a sync that may be under way

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = self._books.closed = True
        for timer in (self._timer, self._tick):
            if timer is not None:
                timer.cancel()
        try:
            if self._writer is not None:
                await self._writer
            await self.flush()
        finally:
            self._past.close()
            await self._run(self._books.close)
            await self._run(self._database.close)
            self._thread.shutdown()

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        self._check_open()
        return await self._run(self._database.put, deliveries, self._clock.wall_s())

    async def due(self, now_s: float, *, most: int = 32, skip: Collection[str] = ()) -> tuple[Delivery, ...]:
        self._check_open()
        return await self._run(self._database.due, now_s, most, tuple(skip))

    async def under(self, prefix: str) -> tuple[Delivery, ...]:
        self._check_open()
        return await self._run(self._database.under, prefix)

    async def retry(self, id: str, *, due_s: float) -> None:
        self._check_open()
        await self._run(self._database.retry, id, due_s)

    async def replace(self, delivery: Delivery) -> None:
        self._check_open()
        await self._run(self._database.replace, delivery)

    async def done(self, id: str, *, then: Delivery | None = None, forget: Collection[str] = ()) -> None:
        self._check_open()
        await self._run(self._database.done, id, self._clock.wall_s(), then, tuple(forget))

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        failed = f"{self.failures} failed writes" + (f", the last: {self.last_failure}" if self.last_failure else "")
        return f"<SqliteStore {self._directory} {state}: {self._books.unwritten} sums unwritten, {failed}; {self._memory!r}>"

    def _check_open(self) -> None:
        if self._closed:
            raise unusable(f"the state in {self._directory} is closed")

    # ── in the background ────────────────────────────────────────────────────────────────────────────────────────────

    def _wrote(self) -> None:
        if self._tick is None and not self._closed:
            self._tick = self._loop.call_later(SYNC_S, self._sync)
            self._write_in(self._group_s)

    def _sync(self) -> None:
        """Make the journal safe from a loss of power, in the thread; and have the sums written when it has become long."""
        self._tick = None
        books = self._books
        books.flush()
        if books.journal.size > MOST_JOURNAL_BYTES or books.unwritten > MOST_SUMS:
            self._write_now()
        elif books.journal.dirty and self._syncing is None:
            self._syncing = asyncio.ensure_future(self._run(books.journal.sync))
            self._syncing.add_done_callback(self._synced)

    def _synced(self, done: "asyncio.Future[None]") -> None:
        self._syncing = None
        if not done.cancelled() and isinstance(error := done.exception(), StateUnavailable):
            self._books.failed(error)
        if self._books.journal.dirty:
            self._wrote()
        elif not self._closed:
            self._books.journal.make_ready()

    def _write_in(self, delay_s: float) -> None:
        if self._timer is None and self._writer is None and not self._closed:
            self._timer = self._loop.call_later(delay_s, self._write_now)

    def _write_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is None and not self._closed:
            self._writer = self._loop.create_task(self._write())

    async def _write(self) -> None:
        """A failure is counted and tried again: the calls it belongs to are long over."""
        delay_s = self._group_s
        try:
            await self.flush()
        except StateUnavailable as error:
            self._books.failed(error)
            delay_s = RETRY_S
        finally:
            self._writer = None
        if self._books.unwritten:
            self._write_in(delay_s)

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _on_disk(self._thread, self._directory, work, *args, **kwargs)


def _recover(directory: Path, now_s: float) -> tuple[Database, Recovery]:
    database = Database(directory)
    try:
        return database, database.recover(now_s)
    except BaseException:
        database.close()
        raise


async def _on_disk(thread: ThreadPoolExecutor, directory: Path, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Work on the one thread that may touch the file. The only place where SQLite's errors, and the disk's, become ours."""
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, partial(work, *args, **kwargs))
    except (sqlite3.Error, OSError) as error:
        raise disk_failed(directory, error) from error
