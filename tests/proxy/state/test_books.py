"""What the books say, read beside a server that holds the lock; and what they say when there are none."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest

from proxy.call import Usage
from proxy.errors import StateUnavailable
from proxy.policy.contract import Unit
from proxy.state.books import Books, UsageRow, read_books
from proxy.state.contract import Denial, Holder
from proxy.state.database import MIGRATIONS, Database
from proxy.state.sqlite import SqliteStore
from proxy.state.totals import OpenHold
from tests.books import DAY, NOV_1, fill, fill_many, held, state, used
from tests.clock import FakeClock
from tests.proxy.state.limits import money


def row(hour_s: int | None = NOV_1, **changed: object) -> UsageRow:
    """As `used` writes it."""
    as_it_is: dict[str, object] = {"key": "web", "user": "ada", "model": "gpt-4.1-mini", "surface": "chat", "source": "reported"}
    figures: dict[str, object] = {"calls": 1, "usage": Usage(input_tokens=100, output_tokens=50), "cost_nanousd": 120_000}
    return UsageRow(hour_s=hour_s, **{**as_it_is, **figures, **changed})  # type: ignore[arg-type]


def open_hold(id: int) -> OpenHold:
    """As `held` writes it."""
    key = ("everyone", "budget", "limit 0", Unit.NANOUSD, (NOV_1, NOV_1 + DAY))
    return OpenHold(id, Holder("web", "ada", "gpt-4.1-mini", "chat"), NOV_1, NOV_1 + 900, ((key, 5_000_000),))


def detail(directory: Path) -> str:
    with pytest.raises(StateUnavailable) as raised:
        read_books(directory, since_s=0)
    assert raised.value.detail is not None
    return raised.value.detail


def test_a_row_comes_back_with_every_figure_in_its_place(tmp_path: Path) -> None:
    directory = state(tmp_path)
    fill(directory, [(NOV_1, "k", "u", "m", "s", "counted", 1, 2, 3, 4, 5, 6, 7, 8, 9)])
    usage = Usage(
        input_tokens=2,
        cached_tokens=3,
        cache_write_tokens=4,
        audio_input_tokens=5,
        output_tokens=6,
        reasoning_tokens=7,
        audio_output_tokens=8,
    )
    assert read_books(directory, since_s=0).rows == (UsageRow(NOV_1, "k", "u", "m", "s", "counted", 1, usage, 9),)


async def test_they_are_read_beside_a_server_that_holds_the_lock_and_what_it_wrote_a_moment_ago_is_there(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, FakeClock(wall_s=NOV_1))
    try:
        with pytest.raises(StateUnavailable, match="state_unavailable"):
            Database(tmp_path)
        assert read_books(tmp_path, since_s=0) == Books((), ())
        fill(tmp_path, [used()], holds=[held(7)])
        assert (tmp_path / "state.sqlite3-wal").stat().st_size > 0
        assert read_books(tmp_path, since_s=0) == Books((row(),), (open_hold(7),))
    finally:
        await store.close()


def test_reading_changes_nothing_and_needs_no_lock(tmp_path: Path) -> None:
    directory = state(tmp_path, used())
    (directory / "lock").unlink()
    before = (directory / "state.sqlite3").read_bytes()
    read_books(directory, since_s=0)
    assert (directory / "state.sqlite3").read_bytes() == before
    assert not (directory / "lock").exists()


def test_a_folder_whose_name_means_something_in_a_uri_is_found(tmp_path: Path) -> None:
    directory = state(tmp_path / "a?mode=rwc#b %41", used())
    assert read_books(directory, since_s=0).rows == (row(),)


@pytest.mark.parametrize(
    ("since_s", "until_s", "hours"),
    [
        (NOV_1, NOV_1 + 3600, [0]),
        (NOV_1 + 3599, NOV_1 + 3601, [0, 1]),
        (NOV_1 + 3600, NOV_1 + 7200, [1]),
        (-1e9, 1e18, [0, 1, 2]),
        (NOV_1 + 3 * 3600, 1e18, []),
    ],
)
def test_whole_hours_count(tmp_path: Path, since_s: float, until_s: float, hours: list[int]) -> None:
    directory = state(tmp_path, *(used(NOV_1 + hour * 3600) for hour in range(3)))
    found = read_books(directory, since_s=since_s, until_s=until_s).rows
    assert [row.hour_s for row in found] == [NOV_1 + hour * 3600 for hour in hours]


def test_rows_are_summed_over_what_they_are_not_told_apart_by_and_sources_stay_apart(tmp_path: Path) -> None:
    directory = state(
        tmp_path,
        used(NOV_1 + 3600, user="ada"),
        used(NOV_1 + 23 * 3600, user="ben"),
        used(NOV_1 + DAY),
        used(source="estimated"),
    )
    found = read_books(directory, since_s=0, by=("day", "key")).rows
    apart = {"user": None, "model": None, "surface": None}
    two = row(NOV_1, **apart, calls=2, usage=Usage(input_tokens=200, output_tokens=100), cost_nanousd=240_000)
    assert set(found) == {two, row(NOV_1 + DAY, **apart), row(NOV_1, **apart, source="estimated")}


def test_of_hour_and_day_the_hour_decides(tmp_path: Path) -> None:
    directory = state(tmp_path, used(NOV_1 + 3600), used(NOV_1 + 7200))
    assert {row.hour_s for row in read_books(directory, since_s=0, by=("hour", "day")).rows} == {NOV_1 + 3600, NOV_1 + 7200}
    assert {row.hour_s for row in read_books(directory, since_s=0, by=("key",)).rows} == {None}


def test_a_hold_is_as_large_as_the_largest_that_it_holds_of_any_limit(tmp_path: Path) -> None:
    charges = [("nanousd", 300), ("nanousd", 500), ("tokens", 40), ("tokens", 30), ("requests", 1)]
    directory = state(tmp_path, holds=[held(1, charges=charges), held(2, charges=[])])
    first, second = read_books(directory, since_s=NOV_1 + 10 * DAY).holds
    assert (first.nanousd, first.tokens, second.nanousd, second.tokens) == (500, 40, 0, 0)


def test_a_million_rows_are_summed_by_sqlite(tmp_path: Path) -> None:
    """In 2 to 4 s on two cores of a shared machine, and a day of them in 0.3 s. Very much more is a plan that went wrong."""
    directory = state(tmp_path)
    fill_many(directory, 1_000_000)
    began = perf_counter()
    found = read_books(directory, since_s=0, by=("key", "model")).rows
    took = perf_counter() - began
    assert len(found) == 6
    assert sum(row.calls for row in found) == 1_000_000
    assert sum(row.cost_nanousd for row in found) == 1_000_000_000
    day = read_books(directory, since_s=NOV_1, until_s=NOV_1 + DAY, by=("key", "model")).rows
    assert sum(row.calls for row in day) == 24 * 1050
    assert took < 60


def test_where_no_server_ever_was_the_remedy_is_told(tmp_path: Path) -> None:
    told = detail(tmp_path / "nothing")
    assert told == f"there is no state in {tmp_path}/nothing: name the folder of a server with --state-dir, or start one"
    assert not (tmp_path / "nothing").exists()
    assert detail(tmp_path) == told.replace("/nothing", "")


def test_a_newer_schema_is_not_guessed_at(tmp_path: Path) -> None:
    directory = state(tmp_path, used())
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    told = detail(directory)
    assert f"has schema {len(MIGRATIONS) + 1} and this version of tollhouse knows {len(MIGRATIONS)}" in told
    assert told.endswith("ask the newer version")


def test_an_older_schema_has_no_books_yet(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.sqlite3")) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
    assert read_books(tmp_path, since_s=0) == Books((), ())


def test_a_file_that_is_no_database_is_told_of_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite3").write_bytes(b"not a database, and long enough to be looked at" * 100)
    assert f"{tmp_path}/state.sqlite3 cannot be read: file is not a database" in detail(tmp_path)


def test_a_hold_that_cannot_be_read_is_no_hold_of_nothing(tmp_path: Path) -> None:
    directory = state(tmp_path, holds=[(*held()[:-1], '[["everyone"]]')])
    assert "a hold in the state cannot be read" in detail(directory)


async def test_what_is_only_in_the_journal_is_in_the_books(tmp_path: Path) -> None:
    fill(state(tmp_path), [used()], holds=[held(1)])
    clock = FakeClock(wall_s=NOV_1 + 60)
    store = await SqliteStore.open(tmp_path, clock)  # and so what was held by then is charged
    ada, bob = Holder("web", "ada", "gpt-4.1-mini", "chat"), Holder("nightly", "bob", "m", "chat")
    for holder in (ada, bob, ada, bob):
        reservation = await store.reserve((money(200),), holder, lasts_s=900)
        assert not isinstance(reservation, Denial)
        if holder is ada:
            await reservation.settle({}, (Usage(1, 2, 3, 4, 5, 6, 7), "reported", 120_000))
    async with asyncio.timeout(30):
        while len((before := read_books(tmp_path, since_s=0)).holds) > 2:
            await asyncio.sleep(0)  # until what ended is written down
    assert [(hold.holder.user, hold.nanousd) for hold in before.holds] == [("bob", 200)] * 2
    assert [row.calls for row in before.rows if row.source == "reported"] == [3]
    clock.advance(900)
    await store.flush()
    after = read_books(tmp_path, since_s=0, by=("day", "user"))
    charged = [(row.user, row.source, row.calls, row.cost_nanousd) for row in after.rows]
    assert sorted(charged) == [("ada", "recovered", 1, 5_000_000), ("ada", "reported", 3, 360_000)]
    assert [hold.holder.user for hold in after.holds] == ["bob", "bob"]
    await store.close()


async def test_rows_of_the_journal_join_those_of_the_database(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path, FakeClock(wall_s=NOV_1 + 60), group_s=1e6)
    ada = Holder("web", "ada", "gpt-4.1-mini", "chat")

    async def call() -> None:
        # More is used than was held, so it is in the journal at once.
        reservation = await store.reserve((money(1, enforced=False),), ada)
        assert not isinstance(reservation, Denial)
        await reservation.settle({Unit.NANOUSD: 120_000}, (Usage(*range(1, 8)), "reported", 120_000))

    for written in (False, True):
        await call()
        if written:
            await store.flush()
            await call()
    expected = row(calls=3, usage=Usage(*range(3, 24, 3)), cost_nanousd=360_000)
    assert read_books(tmp_path, since_s=0) == Books((expected,), ())
    assert read_books(tmp_path, since_s=NOV_1 + 3600).rows == ()
    narrow = read_books(tmp_path, since_s=0, by=("key",)).rows
    assert narrow == (replace(expected, hour_s=None, user=None, model=None, surface=None),)
    await store.close()
