"""What the books say, read beside a server that holds the lock; and what they say when there are none."""

import sqlite3
from contextlib import closing
from pathlib import Path
from time import perf_counter

import pytest

from proxy.call import Usage
from proxy.errors import StateUnavailable
from proxy.state.books import COLUMNS, Books, OpenHold, Unwritten, UsageRow, merged, read_books
from proxy.state.database import MIGRATIONS, Database
from proxy.state.sqlite import SqliteStore
from tests.books import DAY, NOV_1, fill, fill_many, held, state, used
from tests.clock import FakeClock


def row(hour_s: int | None = NOV_1, **changed: object) -> UsageRow:
    """As `used` writes it."""
    as_it_is: dict[str, object] = {"key": "web", "user": "ada", "model": "gpt-4.1-mini", "surface": "chat", "source": "reported"}
    figures: dict[str, object] = {"calls": 1, "usage": Usage(input_tokens=100, output_tokens=50), "cost_nanousd": 120_000}
    return UsageRow(hour_s=hour_s, **{**as_it_is, **figures, **changed})  # type: ignore[arg-type]


def open_hold(id: int) -> OpenHold:
    """As `held` writes it."""
    return OpenHold(id, "owner", "web", "ada", "gpt-4.1-mini", "chat", NOV_1, NOV_1 + 900, nanousd=5_000_000, tokens=0)


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


def test_what_is_not_written_yet_joins_by_the_generation_that_is(tmp_path: Path) -> None:
    directory = state(tmp_path, used(), used(NOV_1 + 3600), holds=[held(1), held(2)])
    asked: list[int] = []

    def unwritten(generation: int) -> Unwritten:
        asked.append(generation)
        return Unwritten(
            rows=[row(NOV_1 + 7200, calls=5), row(NOV_1 + 7200, key="nightly"), row(NOV_1 - DAY)],
            begun=[open_hold(3), open_hold(4)],
            ended={2, 4},
        )

    books = read_books(directory, since_s=NOV_1, by=("day", "key"), unwritten=unwritten)
    assert asked == [0]
    assert {(row.hour_s, row.key, row.user, row.calls) for row in books.rows} == {
        (NOV_1, "web", None, 7),
        (NOV_1, "nightly", None, 1),
    }
    assert [hold.id for hold in books.holds] == [1, 3]


def test_merging_sums_every_figure() -> None:
    usage = Usage(*range(1, 8))
    books = merged(Books((row(usage=usage),), ()), Unwritten([row(usage=usage)]), since_s=0, until_s=1e18, by=COLUMNS)
    assert books.rows == (row(calls=2, usage=Usage(*range(2, 16, 2)), cost_nanousd=240_000),)
