"""Reserve, settle, cancel, outlive, write, crash and open again, in any order: the books balance after every step."""

import asyncio
import resource
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.call import Usage
from proxy.errors import StateUnavailable
from proxy.policy.contract import Quota, Unit
from proxy.state.arithmetic import NS
from proxy.state.books import read_books
from proxy.state.contract import Denial, Holder, Reservation
from proxy.state.journal import generations, path_of
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock
from tests.proxy.state.limits import money, requests, slot

ADA = Holder("web", "ada", "gpt-4.1", "chat")
LIMIT = 5000
QUOTA = Quota(LIMIT, "month", "UTC")  # which does not turn, however long the steps wait
NEVER_S = 1e6
SLOT = slot(most=6)


@dataclass(frozen=True)
class Reserve:
    amount: int
    lasts_s: int


@dataclass(frozen=True)
class Settle:
    """used: parts of 100 of what was held; more than that is what an upstream may report all the same."""

    which: int
    used: int


@dataclass(frozen=True)
class Cancel:
    """A call is given up before anything was sent."""

    which: int


@dataclass(frozen=True)
class Expire:
    """The clock passes the moment at which a call must be over: the next turn charges it, or the next process."""

    which: int


@dataclass(frozen=True)
class SettleLate:
    """A call settles that was charged for outliving its time."""

    which: int
    used: int


@dataclass(frozen=True)
class Crash:
    """cut: bytes missing at the end of the journal, as after a loss of power; 0 after a kill."""

    cut: int


class Flush:
    pass


class Reopen:
    pass


LASTS_S = st.sampled_from([0, 30, 600, 3600])
STEPS = st.lists(
    st.one_of(
        st.builds(Reserve, st.integers(1, 900), LASTS_S),
        st.builds(Reserve, st.integers(1, 900), LASTS_S),
        st.builds(Settle, st.integers(0, 50), st.integers(0, 130)),
        st.builds(Cancel, st.integers(0, 50)),
        st.builds(Expire, st.integers(0, 50)),
        st.builds(SettleLate, st.integers(0, 50), st.integers(0, 1000)),
        st.builds(Crash, st.sampled_from([0, 0, 1, 30, 200])),
        st.builds(Flush),
        st.builds(Reopen),
    ),
    min_size=10,
    max_size=30,
)


@dataclass
class Open:
    """A call that runs, what it holds of the budget, and when it must be over at the latest."""

    reservation: Reservation
    held: int
    ends_ns: int


class Books:
    """The store under test and what must be in it: spent is all that was. written: what of it no crash can lose.

    doubtful: how much more a crash may find, where it loses settlements and what they held stands for them. late: calls that were
    charged for outliving their time. torn: lines of a journal were lost, and so the usage of some calls.
    """

    def __init__(self, clock: FakeClock, directory: Path) -> None:
        self.clock = clock
        self.directory = directory
        self.spent = self.written = self.doubtful = 0
        self.running: list[Open] = []
        self.late: list[Reservation] = []
        self.torn = False

    async def open(self) -> None:
        self.store = await SqliteStore.open(self.directory, self.clock, group_s=NEVER_S)

    def check(self) -> None:
        balance = self.store.peek(money(0, quota=QUOTA))
        assert balance.spent == self.spent
        assert balance.held == sum(one.held for one in self.running)
        assert balance.remaining == max(0, LIMIT - balance.spent - balance.held)
        assert self.store.peek(SLOT).held == len(self.running)

    def check_usage(self) -> None:
        """What `tollhouse usage` says, once all is written."""
        books = read_books(self.directory, since_s=0)
        assert sum(hold.nanousd for hold in books.holds) == sum(one.held for one in self.running)
        if not self.torn:
            assert sum(row.cost_nanousd for row in books.rows) == self.store.peek(money(0, quota=QUOTA)).spent

    async def step(self, step: object) -> None:
        if isinstance(step, Reserve):
            fits = step.amount <= self.store.peek(money(0, quota=QUOTA)).remaining
            charges = (money(step.amount, quota=QUOTA), requests(), SLOT)
            held = await self.store.reserve(charges, ADA, lasts_s=step.lasts_s)
            if not isinstance(held, Denial):
                assert fits
                self.running.append(Open(held, step.amount, self.clock.monotonic_ns() + step.lasts_s * NS))
            else:
                assert not fits or held.charge.limit.unit is not Unit.NANOUSD
                self.clock.advance(60)
        elif isinstance(step, Settle) and self.running:
            one = self.running.pop(step.which % len(self.running))
            used = one.held * step.used // 100
            await one.reservation.settle({Unit.NANOUSD: used}, (Usage(1, 1), "reported", used))
            self.spent += used
            self.doubtful += max(0, one.held - used)
        elif isinstance(step, Cancel) and self.running:
            one = self.running.pop(step.which % len(self.running))
            await one.reservation.settle({Unit.NANOUSD: 0})
            self.doubtful += one.held
        elif isinstance(step, Expire) and self.running:
            one = self.running[step.which % len(self.running)]
            self.clock.advance(max(0, one.ends_ns - self.clock.monotonic_ns()) / NS + 1)
        elif isinstance(step, SettleLate) and self.late:
            late = self.late[step.which % len(self.late)]
            await late.settle({Unit.NANOUSD: step.used}, (Usage(1, 1), "reported", step.used))
        elif isinstance(step, Flush):
            await self.flush()
        elif isinstance(step, Reopen):
            await self.store.close()
            self.doubtful = 0
            await self.after_the_end()
        elif isinstance(step, Crash):
            await self.crash(step.cut)
        self.check()

    async def flush(self) -> None:
        """A turn: who outlived his time is charged, and nothing can be lost any more."""
        await self.store.flush()
        now_ns = self.clock.monotonic_ns()
        over = [one for one in self.running if one.ends_ns < now_ns]
        self.running = [one for one in self.running if one.ends_ns >= now_ns]
        self.late += [one.reservation for one in over]
        self.spent += sum(one.held for one in over)
        self.written, self.doubtful = self.spent, 0
        self.check_usage()

    async def crash(self, cut: int) -> None:
        """The process is gone: what is on the disk now is what there is."""
        image = self.directory.with_name(f"{self.directory.name}+")
        shutil.copytree(self.directory, image)
        await self.store.close()
        self.directory = image
        lost = b""
        if cut:  # the machine went with it, and the last lines were not safe: what they held, and nothing else, may be lost
            last = path_of(image, generations(image)[-1])
            whole = last.read_bytes().rstrip(b"\0")
            lost = whole[max(0, len(whole) - cut) :]
            last.write_bytes(whole[: len(whole) - len(lost)])
        await self.after_the_end(torn=bool(lost))

    async def after_the_end(self, *, torn: bool = False) -> None:
        """Another process begins. torn: lines of the journal were lost."""
        held = sum(one.held for one in self.running)
        self.running.clear()
        self.late.clear()
        self.torn = self.torn or torn
        await self.open()
        assert self.store.recovery.damaged <= 1
        found = self.store.peek(money(0, quota=QUOTA)).spent
        assert (self.written if torn else self.spent + held) <= found <= self.spent + held + self.doubtful
        self.spent = self.written = found
        self.doubtful = 0
        self.check_usage()


@settings(max_examples=80, deadline=None)
@given(STEPS)
@example([Reserve(100, 30), Reserve(50, 600), Expire(0), Flush(), SettleLate(0, 7), Flush(), Cancel(0), Crash(0)])
@example([Reserve(100, 0), Expire(0), Crash(0), Reserve(100, 30), Expire(0), Cancel(0), Reopen()])
def test_the_books_balance_after_every_step(steps: Sequence[object]) -> None:
    async def run(directory: Path) -> None:
        books = Books(FakeClock(), directory)
        await books.open()
        try:
            for step in steps:
                await books.step(step)
        finally:
            await books.store.close()

    with TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory) / "state"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


async def image(store: SqliteStore, directory: Path, clock: FakeClock) -> SqliteStore:
    """What another process finds if this one is killed now."""
    copy = directory.with_name(f"image{len(list(directory.parent.iterdir()))}")
    shutil.copytree(directory, copy)
    return await SqliteStore.open(copy, clock)


def rename(directory: Path, table: str, name: str) -> None:
    with closing(sqlite3.connect(directory / "state.sqlite3", isolation_level=None)) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO {name}")


def used_by(directory: Path) -> list[tuple[str, str, int, int]]:
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection:
        return connection.execute("SELECT user, source, calls, cost_nanousd FROM usage ORDER BY source").fetchall()


async def test_a_kill_charges_what_was_held_and_says_so(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    for amount in (100, 20):
        assert not isinstance(await store.reserve((money(amount),), ADA), Denial)
    after = await image(store, directory, clock)
    assert (after.recovery.holds, after.recovery.nanousd) == (2, 120)
    assert (after.peek(money(0)).spent, after.peek(money(0)).held) == (120, 0)
    await after.close()
    again = await SqliteStore.open(directory.with_name("image1"), clock)
    assert (again.recovery.holds, again.peek(money(0)).spent) == (0, 120), "once"
    await again.close()
    assert used_by(directory.with_name("image1")) == [("ada", "recovered", 2, 120)]
    await store.close()


async def test_a_kill_finds_no_more_spent_and_held_than_the_limit(directory: Path, clock: FakeClock) -> None:
    """The second call has room because the first gave back what it did not use."""
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    for used, amount in ((100, 900), (10, 850), (0, 890)):
        held = await store.reserve((money(amount), requests()), ADA)
        assert not isinstance(held, Denial)
        after = await image(store, directory, clock)
        assert after.peek(money(0)).spent <= 1000
        await after.close()
        await held.settle({Unit.NANOUSD: used})
    await store.close()


async def test_a_kill_between_a_new_journal_and_the_database_counts_everything_once(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    held = await store.reserve((money(100),), ADA)
    over = await store.reserve((money(50),), ADA)
    assert not isinstance(held, Denial)
    assert not isinstance(over, Denial)
    await over.settle({Unit.NANOUSD: 40}, (Usage(1, 1), "reported", 40))
    rename(directory, "hold", "gone")
    with pytest.raises(StateUnavailable):
        await store.flush()  # a new journal has begun, and the database knows nothing of it
    await held.settle({Unit.NANOUSD: 170}, (Usage(1, 1), "reported", 170))  # more than it held: that is written at once
    assert not isinstance(await store.reserve((money(5),), ADA), Denial)
    assert len(generations(directory)) == 2
    killed = directory.with_name("killed")
    shutil.copytree(directory, killed)
    for each in (directory, killed):
        rename(each, "gone", "hold")
    after = await SqliteStore.open(killed, clock)
    assert after.peek(money(0)).spent == 40 + 170 + 5
    await after.close()
    await store.close()


async def test_calls_that_hold_no_money_are_in_the_books_too(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    held = await store.reserve((requests(),), ADA)
    assert not isinstance(held, Denial)
    await held.settle({}, (Usage(3, 4), "counted", 9))
    await store.close()
    assert used_by(directory) == [("ada", "counted", 1, 9)]


async def test_a_hold_that_nobody_ends_is_charged_when_its_time_is_over(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    held = await store.reserve((money(100),), ADA, lasts_s=50)
    clock.advance(49)
    await store.flush()
    assert store.peek(money(0)).held == 100
    clock.advance(2)
    await store.flush()
    assert (store.peek(money(0)).spent, store.peek(money(0)).held) == (100, 0)
    assert not isinstance(held, Denial)
    await held.settle({Unit.NANOUSD: 1})
    assert store.peek(money(0)).spent == 100, "it is settled once"
    await store.close()
    assert used_by(directory) == [("ada", "recovered", 1, 100)]


async def test_a_clock_that_is_set_ends_nobodys_hold(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    held = await store.reserve((money(100),), ADA, lasts_s=50)
    assert not isinstance(held, Denial)
    clock.step(3600)
    await store.flush()
    assert (store.peek(money(0)).spent, store.peek(money(0)).held) == (0, 100)
    await store.close()


async def test_a_hold_whose_time_is_over_when_the_process_ends_is_charged_once(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    assert not isinstance(await store.reserve((money(100),), ADA, lasts_s=50), Denial)
    clock.advance(60)
    await store.close()
    after = await SqliteStore.open(directory, clock)
    assert after.peek(money(0)).spent == 100
    await after.close()
    assert used_by(directory) == [("ada", "recovered", 1, 100)]


@pytest.mark.parametrize("enforced", [True, False])
async def test_where_a_hold_cannot_be_written_a_limit_refuses_and_an_alarm_counts(
    directory: Path, clock: FakeClock, enforced: bool
) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S, room=10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        if enforced:
            with pytest.raises(StateUnavailable):
                await store.reserve((money(100), requests()), ADA)
            assert (store.peek(money(0)).held, store.peek(requests()).remaining) == (0, 10)
        else:
            held = await store.reserve((money(100, enforced=False), requests()), ADA)
            assert not isinstance(held, Denial)
            await held.settle({Unit.NANOUSD: 60}, (Usage(1, 1), "reported", 60))
            assert store.peek(money(0)).spent == 60
        assert store.failures > 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    held = await store.reserve((money(7),), ADA)
    assert not isinstance(held, Denial), "the disk has room again"
    await store.close()
    after = await SqliteStore.open(directory, clock)
    assert after.peek(money(0)).spent == (7 if enforced else 67)
    await after.close()


async def test_a_long_journal_is_given_to_the_database_without_being_told(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    first = generations(directory)
    async with asyncio.timeout(60):
        while generations(directory) == first:
            held = await store.reserve((money(1, quota=Quota(10**9, "day", "UTC")),), ADA)
            assert not isinstance(held, Denial)
            await held.settle({Unit.NANOUSD: 1}, (Usage(1, 1), "reported", 1))
            await asyncio.sleep(0)
    await store.close()
