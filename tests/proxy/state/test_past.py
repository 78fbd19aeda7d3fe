"""What was spent before is looked up when a quota is first met: nothing at the start, nothing missed, nothing counted twice."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from proxy.errors import StateUnavailable
from proxy.policy.contract import Charge, Quota, Unit
from proxy.state.contract import Denial
from proxy.state.database import MIGRATIONS, SEARCHED_AT_ONCE, Database
from proxy.state.memory import KEPT
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock
from tests.proxy.state.limits import money, requests

DAY = (1_799_971_200, 1_800_057_600)
HOUR = (1_800_000_000, 1_800_003_600)
NEVER_S = 1e6
EACH_MINUTE = Quota(1000, "minute", "UTC")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


def owe(directory: Path, users: int, *, spent: int = 5) -> None:
    """Every user has spent in the window that is open."""
    Database(directory).close()
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection, connection:
        rows = ((f"user={user}", *DAY, spent) for user in range(users))
        connection.executemany("INSERT INTO spend VALUES ('everyone', 'budget', ?, 'nanousd', ?, ?, ?)", rows)


@contextmanager
def unreadable(directory: Path) -> Iterator[None]:
    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(directory / "state.sqlite3", isolation_level=None)) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    rename("spend", "gone")
    try:
        yield
    finally:
        rename("gone", "spend")


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    def change(words: str) -> None:
        with closing(sqlite3.connect(directory / "state.sqlite3", isolation_level=None)) as connection:
            connection.execute(words)

    change("CREATE TRIGGER full BEFORE INSERT ON spend BEGIN SELECT RAISE(ABORT, 'full'); END")
    try:
        yield
    finally:
        change("DROP TRIGGER full")


async def spend(store: SqliteStore, charge: Charge, used: int) -> None:
    held = await store.reserve((charge,))
    assert not isinstance(held, Denial), held
    await held.settle({charge.limit.unit: used})


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not look():
            await asyncio.sleep(0)


def await_the_thread(directory: Path) -> None:
    """Until the database has what it is given, while the event loop, which waits here, has not heard of it."""
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection:
        while connection.execute("SELECT count(*) FROM spend WHERE spent = 721").fetchone() == (0,):
            pass


def bytes_read() -> int:
    """By this process, from files and pipes, whether the disk was asked or not."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


async def test_a_start_reads_nothing_of_the_budgets_that_are_open(tmp_path: Path, clock: FakeClock) -> None:
    read: list[int] = []
    for users in (10, 20_000):
        directory = tmp_path / f"{users}"
        owe(directory, users)
        before = bytes_read()
        store = await SqliteStore.open(directory, clock)
        read.append(bytes_read() - before)
        assert "<MemoryStore 0 counters, 0 of them quotas" in repr(store)
        assert store.asked == 0
        for _ in range(3):
            await spend(store, money(10, subject="user=7"), 2)
        assert store.peek(money(0, subject="user=7")).spent == 11
        assert store.asked == 1
        assert "<MemoryStore 1 counters, 1 of them quotas" in repr(store)
        await store.close()
    assert read[1] < read[0] + 65_536, "the file of many is megabytes long"


async def test_who_spent_all_of_it_before_the_start_is_refused_at_his_first_call(directory: Path, clock: FakeClock) -> None:
    owe(directory, 3, spent=990)
    store = await SqliteStore.open(directory, clock)
    denial = await store.reserve((requests(), money(11, subject="user=1")))
    assert isinstance(denial, Denial)
    assert (denial.balance.spent, denial.balance.remaining) == (990, 10)
    await spend(store, money(10, subject="user=1"), 10)
    await store.close()


@pytest.mark.parametrize("when", ["with the sums", "on its way", "written"])
async def test_a_window_that_was_forgotten_comes_back_with_all_that_was_spent(directory: Path, clock: FakeClock, when: str) -> None:
    """Two are remembered; a clock that is set back by three minutes meets the first anew, wherever its sum is by then."""
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    budget = money(100, quota=EACH_MINUTE)
    await spend(store, budget, 30)
    await store.flush()
    await spend(store, budget, 40)
    for _ in range(3):
        clock.step(60)
        await spend(store, budget, 1)
    clock.step(-180)
    if when == "written":
        await store.flush()
    writing = asyncio.create_task(store.flush())
    if when == "on its way":
        await until(lambda: "0 sums unwritten" in repr(store))
    assert store.peek(budget).spent == 70
    await spend(store, budget, 5)
    await writing
    assert store.peek(budget).spent == 75
    await store.flush()
    await store.close()
    store = await SqliteStore.open(directory, clock)
    assert store.peek(budget).spent == 75
    await store.close()


async def test_what_runs_in_a_window_that_was_forgotten_is_still_held_of_it(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    budget = money(600, quota=EACH_MINUTE)
    held = await store.reserve((budget,))
    assert not isinstance(held, Denial)
    for _ in range(3):
        clock.step(60)
        await spend(store, budget, 1)
    clock.step(-180)
    assert store.peek(budget).held == 600
    assert isinstance(await store.reserve((budget,)), Denial)
    await held.settle({Unit.NANOUSD: 0})
    await store.close()


async def test_what_cannot_be_looked_up_is_refused_by_a_limit_and_nothing_is_held(directory: Path, clock: FakeClock) -> None:
    owe(directory, 3, spent=700)
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    budget = money(300, subject="user=1")
    with unreadable(directory):
        for _ in range(2):
            with pytest.raises(StateUnavailable) as caught:
                await store.reserve((requests(), budget))
        assert caught.value.detail == f"{directory}: OperationalError: no such table: spend"
        assert (store.peek(requests()).remaining, store.failures) == (10, 2)
    await spend(store, budget, 300)
    assert store.peek(budget).spent == 1000
    await store.close()


@pytest.mark.parametrize("when", ["in memory", "on its way", "written"])
async def test_what_cannot_be_looked_up_is_counted_by_an_alarm_and_added_later(
    directory: Path, clock: FakeClock, when: str
) -> None:
    owe(directory, 3, spent=700)
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    alarm = money(0, subject="user=1", enforced=False)
    with unreadable(directory):
        await spend(store, alarm, 20)
        assert store.peek(alarm).spent == 20
        with pytest.raises(StateUnavailable):
            await store.flush()
        await spend(store, alarm, 1)
        assert store.peek(alarm).spent == 21
    if when == "written":
        await store.flush()
    writing = asyncio.create_task(store.flush())
    if when == "on its way":
        await until(lambda: "0 sums unwritten" in repr(store))
        await_the_thread(directory)
        await spend(store, alarm, 4)
    await writing
    await spend(store, alarm, 0)
    expected = 725 if when == "on its way" else 721
    assert store.peek(alarm).spent == expected
    await store.close()
    store = await SqliteStore.open(directory, clock)
    assert store.peek(alarm).spent == expected
    await store.close()


async def test_an_alarm_that_could_not_be_looked_up_refuses_nobody_the_limit_it_becomes(directory: Path, clock: FakeClock) -> None:
    owe(directory, 3, spent=995)
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    with unreadable(directory):
        await spend(store, money(0, subject="user=1", enforced=False), 1)
        with pytest.raises(StateUnavailable):
            await store.reserve((money(1, subject="user=1"),))
    assert isinstance(await store.reserve((money(5, subject="user=1"),)), Denial)
    await spend(store, money(4, subject="user=1"), 4)
    await store.close()


async def test_forgotten_counters_are_looked_up_again(directory: Path, clock: FakeClock) -> None:
    """Whoever spent nothing is forgotten at rest."""
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    for user in range(3 * KEPT):
        await spend(store, money(10, subject=f"user={user}"), 0)
    assert len(list(store.quotas(most=10 * KEPT))) < 2 * KEPT
    await spend(store, money(10, subject="user=0"), 7)
    assert store.peek(money(0, subject="user=0")).spent == 7
    await store.close()


async def test_of_many_budgets_those_are_found_that_reached_an_alarm(directory: Path, clock: FakeClock) -> None:
    owe(directory, SEARCHED_AT_ONCE + 10)
    store = await SqliteStore.open(directory, clock)
    limit = money(0, told_from=500).limit
    hourly = replace(limit, rule=Quota(1000, "hour", "UTC"))
    last = f"user={SEARCHED_AT_ONCE + 9}"
    for subject, used in (("user=3", 495), ("user=4", 494), (last, 900)):
        await spend(store, money(0, subject=subject), used)
    for other in (replace(limit, policy="batch"), replace(limit, unit=Unit.TOKENS), hourly):
        await spend(store, Charge(other, "user=9", 0), 900)
    found = [(one.policy, one.clause, one.subject, one.window, one.spent) async for one in store.reached([limit])]
    assert found == [("everyone", "budget", subject, DAY, spent) for subject, spent in (("user=3", 500), (last, 905))]
    highest = [(one.charge.limit, one.charge.subject, one.spent, one.window) async for one in store.highest([limit, hourly])]
    assert highest == [(limit, "", 905, DAY), (hourly, "", 900, HOUR)]
    await store.close()


async def test_a_budget_of_which_nothing_is_spent_has_no_highest(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    await spend(store, money(10), 0)
    assert [one async for one in store.highest([money(0).limit])] == []
    await spend(store, money(0), 7)
    clock.advance(86_400)
    assert [one async for one in store.highest([money(0).limit])] == []
    await store.close()


async def test_sums_that_were_under_way_and_came_back_are_searched_too(directory: Path, clock: FakeClock) -> None:
    """In doubt an alarm stands: who searches while they are handed over hears that it failed, or finds them."""
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    charge = money(0, told_from=3)
    await spend(store, charge, 5)
    with unwritable(directory):
        flushing = asyncio.create_task(store.flush())
        for _ in range(2):  # until they are handed over
            await asyncio.sleep(0)
        searching = asyncio.create_task(anext(store.reached([charge.limit])))  # type: ignore[arg-type]
        for task in (flushing, searching):
            with pytest.raises(StateUnavailable):
                await task
    assert [one.spent async for one in store.reached([charge.limit])] == [5]
    await store.close()


def before_owners_went(directory: Path, *, owner: bool) -> None:
    """A file of schema 2, whose process died while a call held 70. owner: as it was first made."""
    directory.mkdir()
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection, connection:
        for statement in (*MIGRATIONS[0], *MIGRATIONS[1]):
            connection.execute(statement)
        if not owner:
            connection.execute("ALTER TABLE hold DROP COLUMN owner")
        charges = orjson.dumps([["everyone", "budget", "user=ada", "nanousd", *DAY, 70]]).decode()
        row = (1, *(("?",) if owner else ()), "web", "ada", "gpt-4.1", "chat", *DAY, charges)
        connection.execute(f"INSERT INTO hold VALUES ({', '.join('?' * len(row))})", row)
        connection.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize("owner", [True, False], ids=["with an owner", "without"])
async def test_a_file_of_the_version_before_goes_on_with_what_was_held(directory: Path, clock: FakeClock, owner: bool) -> None:
    before_owners_went(directory, owner=owner)
    store = await SqliteStore.open(directory, clock)
    assert (store.recovery.holds, store.recovery.nanousd) == (1, 70)
    held = await store.reserve((money(10, subject="user=ada"),))
    assert not isinstance(held, Denial)
    await store.flush()
    assert store.peek(money(0, subject="user=ada")).spent == 70
    await store.close()
