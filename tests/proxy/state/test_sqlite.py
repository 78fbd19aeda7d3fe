"""What a restart finds again, and what happens when the disk says no. On a real file; other processes are played by other files."""

import asyncio
import errno
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from proxy.errors import StateUnavailable
from proxy.policy.contract import Charge, Quota, Unit
from proxy.state.contract import Delivery, Denial
from proxy.state.database import MIGRATIONS, disk_failed
from proxy.state.memory import MemoryReservation
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock
from tests.proxy.state.limits import money, requests, slot, tokens

DAY = 86_400
NEVER_S = 1e6  # groups are written by `flush` and `close` alone


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def store(directory: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    yield opened
    await opened.close()


async def hold(store: SqliteStore, *charges: Charge) -> MemoryReservation:
    held = await store.reserve(charges)
    assert not isinstance(held, Denial), held
    return held


async def spend(store: SqliteStore, charge: Charge, used: int) -> None:
    await (await hold(store, charge)).settle({charge.limit.unit: used})


@contextmanager
def aside(directory: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program sees it, such as `tollhouse usage`."""
    with closing(sqlite3.connect(directory / "state.sqlite3", isolation_level=None)) as connection:
        yield connection


def rows(directory: Path) -> list[tuple[str, int]]:
    with aside(directory) as connection:
        return connection.execute("SELECT subject, spent FROM spend ORDER BY subject, start_s").fetchall()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        yield


def digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())}


async def until(look: Callable[[], bool]) -> None:
    """Let the loop and the writer's thread run until something is to be seen, which nothing announces."""
    async with asyncio.timeout(30):
        while not look():
            await asyncio.sleep(0)


async def test_a_restart_keeps_what_was_spent_and_charges_what_was_still_held(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    await spend(store, money(1000), 700)
    await hold(store, money(200), slot(), requests(), tokens(10))
    await store.close()
    store = await SqliteStore.open(directory, clock)
    assert (store.recovery.holds, store.recovery.nanousd, store.recovery.damaged) == (1, 200, 0)
    assert (store.peek(money(0)).spent, store.peek(money(0)).held) == (900, 0)
    assert isinstance(await store.reserve((money(101),)), Denial)
    await spend(store, money(100), 100)
    await store.close()
    assert rows(directory) == [("everyone", 1000)]


async def test_a_restart_on_the_next_day_starts_a_new_budget(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    await spend(store, money(1000), 700)
    await store.close()
    clock.advance(DAY)
    store = await SqliteStore.open(directory, clock)
    assert store.peek(money(0)).spent == 0
    await spend(store, money(1000), 5)
    await store.close()
    assert rows(directory) == [("everyone", 700), ("everyone", 5)]


async def test_a_clock_set_back_over_midnight_after_a_restart_finds_both_days(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    await spend(store, money(1000), 700)
    clock.advance(16 * 3600 + 300)
    await spend(store, money(1000), 5)
    await store.close()
    store = await SqliteStore.open(directory, clock)
    clock.step(-600)
    assert store.peek(money(0)).spent == 700
    clock.step(600)
    assert store.peek(money(0)).spent == 5
    await store.close()


async def test_a_restart_finds_the_last_of_many_short_windows(directory: Path, clock: FakeClock) -> None:
    each_minute = Quota(1000, "minute", "UTC")
    store = await SqliteStore.open(directory, clock)
    for minute in range(5):
        await spend(store, money(100, quota=each_minute), 10 + minute)
        clock.advance(60)
    await store.close()
    clock.step(-60)
    store = await SqliteStore.open(directory, clock)
    assert store.peek(money(0, quota=each_minute)).spent == 14
    await store.close()


async def test_a_restart_in_another_unit_does_not_take_tokens_for_money(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    await spend(store, money(1000), 700)
    await store.close()
    store = await SqliteStore.open(directory, clock)
    in_tokens = replace(money(1000), limit=replace(money(0).limit, unit=Unit.TOKENS))
    await spend(store, in_tokens, 1000)
    assert store.peek(in_tokens).spent == 1000
    await store.close()


async def test_a_restart_keeps_the_pages_and_the_ids_of_those_delivered(directory: Path, clock: FakeClock) -> None:
    waiting, sent = (Delivery(id=name, sink="oncall", body=b"{}", due_s=1.5) for name in ("waiting", "sent"))
    store = await SqliteStore.open(directory, clock)
    await store.put([waiting, sent])
    await store.retry("waiting", due_s=7.5)
    await store.done("sent")
    await store.close()
    store = await SqliteStore.open(directory, clock)
    assert await store.due(10.0) == (Delivery(id="waiting", sink="oncall", body=b"{}", due_s=7.5, attempts=1),)
    assert await store.put([waiting, sent]) == 0
    await store.close()


async def test_a_restored_quota_is_listed_from_its_first_call_on(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    await spend(store, money(1000), 700)
    await store.close()
    store = await SqliteStore.open(directory, clock)
    assert list(store.quotas()) == []
    await hold(store, money(1))
    assert [(subject, spent, held) for _, subject, spent, held, _ in store.quotas()] == [("everyone", 700, 1)]
    await store.close()


async def test_balances_are_written_in_the_background(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=0.0)
    await spend(store, money(1000), 700)
    await until(lambda: bool(rows(directory)))
    assert rows(directory) == [("everyone", 700)]
    await store.close()


async def test_many_settlements_are_one_row(store: SqliteStore, directory: Path) -> None:
    for _ in range(100):
        await spend(store, money(1), 1)
    assert "100 sums unwritten" in repr(store)
    await store.flush()
    assert "0 sums unwritten" in repr(store)
    assert rows(directory) == [("everyone", 100)]


async def test_settling_again_writes_nothing_again(store: SqliteStore, directory: Path) -> None:
    held = await hold(store, money(100))
    await held.settle({Unit.NANOUSD: 30})
    await spend(store, money(100), 50)
    await held.settle({Unit.NANOUSD: 30})
    await store.flush()
    assert rows(directory) == [("everyone", 80)]


async def test_what_is_spent_while_a_group_is_written_is_written_with_the_next(store: SqliteStore, directory: Path) -> None:
    await spend(store, money(1000), 700)
    writing = asyncio.create_task(store.flush())
    await until(lambda: "0 sums unwritten" in repr(store))  # the group is on its way
    await spend(store, money(1), 1)
    await writing
    assert "1 sums unwritten" in repr(store)
    await store.flush()
    assert rows(directory) == [("everyone", 701)]


async def test_what_is_spent_between_the_note_and_the_write_is_written_with_it(store: SqliteStore, directory: Path) -> None:
    later = await hold(store, money(10))
    await spend(store, money(100), 70)
    await later.settle({Unit.NANOUSD: 5})
    await store.flush()
    assert rows(directory) == [("everyone", 75)]


async def test_a_write_that_failed_while_a_tally_moved_on_keeps_all_of_it(store: SqliteStore, directory: Path) -> None:
    await spend(store, money(100), 70)
    with aside(directory) as other:
        other.execute("ALTER TABLE spend RENAME TO gone")
    writing = asyncio.create_task(store.flush())
    await until(lambda: "0 sums unwritten" in repr(store))  # the group is on its way
    await spend(store, money(100), 5)
    with pytest.raises(StateUnavailable):
        await writing
    assert "0 sums unwritten" not in repr(store)
    with aside(directory) as other:
        other.execute("ALTER TABLE gone RENAME TO spend")
    await store.flush()
    assert "0 sums unwritten" in repr(store)
    assert rows(directory) == [("everyone", 75)]


async def test_a_tally_that_came_back_while_another_of_its_window_waits_loses_neither(
    store: SqliteStore, directory: Path, clock: FakeClock
) -> None:
    """Two windows are remembered: a clock that steps back further meets the old one anew, and its rows are one."""
    held = await hold(store, money(100))
    for _ in range(2):
        clock.step(DAY)
        await spend(store, money(1), 1)
    clock.step(-2 * DAY)
    await spend(store, money(1), 2)
    await held.settle({Unit.NANOUSD: 70})
    await store.flush()
    assert rows(directory)[0] == ("everyone", 72)


async def test_a_call_over_midnight_is_written_to_the_day_that_held_it(
    store: SqliteStore, directory: Path, clock: FakeClock
) -> None:
    held = await hold(store, money(800))
    clock.advance(DAY)
    await spend(store, money(5), 5)
    await held.settle({Unit.NANOUSD: 700})
    await store.flush()
    assert rows(directory) == [("everyone", 700), ("everyone", 5)]


async def test_what_is_written_is_added_to_what_is_there(store: SqliteStore, directory: Path) -> None:
    await spend(store, money(1000), 700)
    await store.flush()
    with aside(directory) as other:
        other.execute("UPDATE spend SET spent = 900")
    await spend(store, money(100), 50)
    await store.flush()
    assert rows(directory) == [("everyone", 950)]


async def test_an_absurd_spend_is_written_as_the_most_that_fits(store: SqliteStore, directory: Path) -> None:
    await spend(store, money(1), 10**30)
    await store.flush()
    assert rows(directory) == [("everyone", 2**63 - 1)]


async def test_windows_are_deleted_40_days_after_their_end(store: SqliteStore, directory: Path, clock: FakeClock) -> None:
    await spend(store, money(1000, subject="user=old"), 700)
    await store.flush()
    clock.advance(40 * DAY)
    await spend(store, money(1, subject="user=new"), 1)
    await store.flush()
    assert rows(directory) == [("user=new", 1), ("user=old", 700)]
    clock.advance(DAY)
    await store.flush()
    assert rows(directory) == [("user=new", 1)]


async def test_a_failed_write_is_counted_kept_and_made_good(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=0.0)
    await spend(store, money(1), 0)  # from now on its quota is known
    with aside(directory) as other:
        other.execute("ALTER TABLE spend RENAME TO gone")
    await spend(store, money(1000), 700)
    await until(lambda: store.failures > 0)
    await spend(store, money(1), 1)  # calls go on
    seen = store.failures
    await until(lambda: store.failures > seen + 2)
    assert "1 sums unwritten" in repr(store)
    assert f"failed writes, the last: {directory}: OperationalError: no such table: spend" in repr(store)
    with aside(directory) as other:
        other.execute("ALTER TABLE gone RENAME TO spend")
    await until(lambda: rows(directory) == [("everyone", 701)])
    await until(lambda: "0 sums unwritten" in repr(store))
    await store.close()


async def test_closing_says_what_it_could_not_write_and_lets_go_of_the_directory(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    await spend(store, money(1), 0)  # from now on its quota is known
    with aside(directory) as other:
        other.execute("ALTER TABLE spend RENAME TO gone")
    await spend(store, money(1000), 700)
    with pytest.raises(StateUnavailable) as caught:
        await store.close()
    assert caught.value.detail == f"{directory}: OperationalError: no such table: spend"
    assert "closed: 1 sums unwritten" in repr(store)
    with aside(directory) as other:
        other.execute("ALTER TABLE gone RENAME TO spend")
    await (await SqliteStore.open(directory, clock)).close()


async def test_a_failing_outbox_tells_its_caller(store: SqliteStore, directory: Path) -> None:
    with aside(directory) as other:
        other.execute("ALTER TABLE page RENAME TO gone")
    with pytest.raises(StateUnavailable, match="state_unavailable"):
        await store.put([Delivery(id="a", sink="oncall", body=b"{}", due_s=0.0)])
    with aside(directory) as other:
        other.execute("ALTER TABLE gone RENAME TO page")
    assert await store.put([Delivery(id="a", sink="oncall", body=b"{}", due_s=0.0)]) == 1


async def test_pages_are_queued_all_or_none(store: SqliteStore) -> None:
    broken = Delivery(id="b", sink=None, body=b"{}", due_s=0.0)  # type: ignore[arg-type]
    with pytest.raises(StateUnavailable):
        await store.put([Delivery(id="a", sink="oncall", body=b"{}", due_s=0.0), broken])
    assert await store.due(1.0) == ()


async def test_a_second_process_on_one_directory_is_refused(store: SqliteStore, directory: Path, clock: FakeClock) -> None:
    with pytest.raises(StateUnavailable) as caught:
        await SqliteStore.open(directory, clock)
    assert caught.value.detail == f"another process uses {directory}: give each its own TOLLHOUSE_STATE_DIR"
    await spend(store, money(1), 1)


async def test_a_lock_held_by_another_program_is_respected_until_it_lets_go(directory: Path, clock: FakeClock) -> None:
    await (await SqliteStore.open(directory, clock)).close()
    with locked(directory), pytest.raises(StateUnavailable):
        await SqliteStore.open(directory, clock)
    await (await SqliteStore.open(directory, clock)).close()


async def test_a_newer_schema_is_refused_and_left_alone(directory: Path, clock: FakeClock) -> None:
    await (await SqliteStore.open(directory, clock)).close()
    with aside(directory) as other:
        other.execute("PRAGMA user_version = 7")
    for _ in range(2):  # and the lock is not kept
        with pytest.raises(StateUnavailable) as caught:
            await SqliteStore.open(directory, clock)
        assert caught.value.detail == (
            f"{directory}/state.sqlite3 has schema 7 and this version of tollhouse knows {len(MIGRATIONS)}: "
            "run the newer version, or set TOLLHOUSE_STATE_DIR to another directory"
        )


@pytest.fixture
def garbage(directory: Path) -> Path:
    directory.mkdir()
    file = directory / "state.sqlite3"
    file.write_bytes(b"no page of any database" * 100)
    return file


async def test_a_file_that_is_no_database_is_refused_and_left_alone(garbage: Path, directory: Path, clock: FakeClock) -> None:
    before = digest(garbage)
    with pytest.raises(StateUnavailable) as caught:
        await SqliteStore.open(directory, clock)
    assert caught.value.detail == f"{directory}: DatabaseError: file is not a database"
    assert digest(garbage) == before


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnavailable) as caught:
        await SqliteStore.open(tmp_path / "file" / "state", clock)
    assert caught.value.detail is not None
    assert "NotADirectoryError" in caught.value.detail


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_whose_folder_it_must_be_is_said_where_it_may_not_be_written(number: int) -> None:
    """A volume that belongs to root, or is mounted read-only: the usual mistake in a container."""
    failed = disk_failed(Path("/state"), OSError(number, os.strerror(number), "/state/lock"))
    assert failed.detail == (
        f"user {os.getuid()} cannot write to /state: {os.strerror(number)}; give TOLLHOUSE_STATE_DIR a folder that it can write to"
    )


async def test_nobody_else_may_read_the_state(store: SqliteStore, directory: Path) -> None:
    await spend(store, money(1), 1)
    await store.flush()
    files = dict.fromkeys(["lock", "journal-2", "state.sqlite3", "state.sqlite3-wal", "state.sqlite3-shm"], 0o600)
    assert modes(directory) == {"state": 0o700, **files}


async def test_the_file_survives_the_process_without_an_fsync_for_every_group(store: SqliteStore, directory: Path) -> None:
    with aside(directory) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_closed_store_refuses_instead_of_losing(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock)
    late = await hold(store, money(10))
    await store.close()
    await store.close()
    with pytest.raises(StateUnavailable):
        await store.reserve((money(1),))
    with pytest.raises(StateUnavailable):
        await late.settle({Unit.NANOUSD: 3})
    with pytest.raises(StateUnavailable):
        await store.put([])
    assert set(modes(directory)) == {"state", "lock", "state.sqlite3"}


async def test_a_store_closed_with_a_write_due_refuses_instead_of_losing(directory: Path, clock: FakeClock) -> None:
    store = await SqliteStore.open(directory, clock, group_s=NEVER_S)
    late = [await hold(store, money(10)) for _ in range(2)]
    await spend(store, money(100), 70)  # and its timer is set
    await store.close()
    for one in late:
        with pytest.raises(StateUnavailable):
            await one.settle({Unit.NANOUSD: 3})
    assert rows(directory) == [("everyone", 70)]
