"""Limits in memory, money and pages on disk: what a clean restart must find again.

A MemoryStore decides. When a call settles, the tally of each of its quotas is noted, and a moment later one thread writes where all
that were noted stand by then, in one transaction. So no call waits for the disk, and no call is refused because of it. The rule a
reader could break: a noted tally stays noted until what it says is written, whatever happens to the write or to the tally meanwhile.

    settled ─► unwritten ──50 ms──► written
                   ▲                   │
                   └──── 1 s ── failed ┘        close() writes what is left, and says so if it cannot
"""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from proxy.clock import Clock
from proxy.errors import StateUnavailable
from proxy.policy.contract import Balance, Charge, Limit
from proxy.state.contract import Delivery, Denial
from proxy.state.counters import Tally, Window
from proxy.state.database import Database, SpendKey, unusable
from proxy.state.memory import MemoryReservation, MemoryStore, QuotaHold, Spend

P = ParamSpec("P")
R = TypeVar("R")

GROUP_S = 0.05  # a hundred balances in one transaction cost what three cost alone, and nobody reads the file in between
RETRY_GROUPS = 20  # how many of these to let pass after a failed write: a second, for a disk that may be full


class SqliteStore:
    """A StateStore and an Outbox for one process on one directory.

    failures: writes that failed so far; each is tried again. `last_failure` says why the last one did.
    """

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        database: Database,
        spends: Iterable[Spend],
        thread: ThreadPoolExecutor,
        group_s: float,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._memory = MemoryStore(clock, report=self._note)
        self._memory.restore(spends)
        self._database = database
        self._thread = thread
        self._group_s = group_s
        self._loop = asyncio.get_running_loop()
        self._unwritten: dict[Tally, Charge] = {}  # with a charge that was held of it, which says whose it is
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self.failures = 0
        self.last_failure: str | None = None

    @classmethod
    async def open(cls, directory: Path, clock: Clock, *, group_s: float = GROUP_S) -> "SqliteStore":
        """Make or take over a directory, and load what was spent. group_s: how long balances wait for each other.

        Errors: StateUnavailable when another process uses it, when a newer version wrote it, or when it cannot be read or written.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tollhouse-state")
        try:
            database, spends = await _on_disk(thread, directory, _load, directory, clock.wall_s())
        except BaseException:
            thread.shutdown()
            raise
        return cls(directory, clock, database=database, spends=spends, thread=thread, group_s=group_s)

    def reserve(self, charges: Sequence[Charge]) -> Coroutine[Any, Any, MemoryReservation | Denial]:
        self._check_open()
        return self._memory.reserve(charges)

    def peek(self, charge: Charge) -> Balance:
        return self._memory.peek(charge)

    def quotas(self, *, most: int = 1000) -> Iterator[tuple[Limit, str, int, int, Window]]:
        """As MemoryStore.quotas."""
        return self._memory.quotas(most=most)

    def spends(self) -> Iterator[Spend]:
        """As MemoryStore.spends."""
        return self._memory.spends()

    def changed(self) -> tuple[Balance, ...]:
        """As MemoryStore.changed."""
        return self._memory.changed()

    async def flush(self) -> None:
        """Write every tally noted so far. Errors: StateUnavailable; they stay noted."""
        group = [(tally, _key(charge, tally), tally.spent) for tally, charge in self._unwritten.items()]
        await self._run(self._database.write_spend, [(key, spent) for _, key, spent in group], self._clock.wall_s())
        for tally, _, spent in group:
            if tally.spent == spent:  # and not more by now
                self._unwritten.pop(tally, None)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            if self._writer is not None:
                await self._writer
            await self.flush()
        finally:
            await self._run(self._database.close)
            self._thread.shutdown()

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        self._check_open()
        return await self._run(self._database.put, deliveries, self._clock.wall_s())

    async def due(self, now_s: float, *, most: int = 32, skip: Collection[str] = ()) -> tuple[Delivery, ...]:
        self._check_open()
        return await self._run(self._database.due, now_s, most, tuple(skip))

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
        return f"<SqliteStore {self._directory} {state}: {len(self._unwritten)} balances unwritten, {failed}; {self._memory!r}>"

    def _note(self, quotas: Sequence[QuotaHold]) -> None:
        """Quotas that a call settled, to be written with the next group. Errors: StateUnavailable after close: they would be lost."""
        for charge, tally in quotas:
            if tally.spent:
                self._unwritten[tally] = charge
                if self._timer is None:  # as after close
                    self._check_open()
                    self._write_in(self._group_s)

    def _check_open(self) -> None:
        if self._closed:
            raise unusable(f"the state in {self._directory} is closed")

    def _write_in(self, delay_s: float) -> None:
        if self._timer is None and self._writer is None and not self._closed:
            self._timer = self._loop.call_later(delay_s, self._start_writing)

    def _start_writing(self) -> None:
        self._timer = None
        self._writer = self._loop.create_task(self._write())

    async def _write(self) -> None:
        """One group in the background. A failure is counted and tried again: the call it belongs to is long over."""
        delay_s = self._group_s
        try:
            await self.flush()
        except StateUnavailable as error:
            self.failures += 1
            self.last_failure = error.detail
            delay_s = RETRY_GROUPS * self._group_s
        finally:
            self._writer = None
        if self._unwritten:
            self._write_in(delay_s)

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _on_disk(self._thread, self._directory, work, *args, **kwargs)


def _load(directory: Path, now_s: float) -> tuple[Database, list[Spend]]:
    database = Database(directory)
    try:
        return database, database.open_spend(now_s)
    except BaseException:
        database.close()
        raise


def _key(charge: Charge, tally: Tally) -> SpendKey:
    limit = charge.limit
    return limit.policy, limit.clause, charge.subject, limit.unit, tally.window


async def _on_disk(thread: ThreadPoolExecutor, directory: Path, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Work on the one thread that may touch the file. The only place where SQLite's errors, and the disk's, become ours."""
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, partial(work, *args, **kwargs))
    except (sqlite3.Error, OSError) as error:
        raise unusable(f"{directory}: {type(error).__name__}: {error}") from error
