"""The books: what was used and what is held, for whoever asks beside a running server. Plain calls that block, and take no lock.

The rule a reader could break: there can be a million rows, so SQLite sums them up, and only sums come back. What the database does
not have yet joins them in `_with`, and nowhere else.
"""

import math
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Literal

from proxy.call import Usage
from proxy.state.database import MIGRATIONS, holds_in, unusable
from proxy.state.replay import Replay
from proxy.state.totals import COLUMNS as SUMS
from proxy.state.totals import HOUR_S, OpenHold, Totals

Column = Literal["hour", "day", "key", "user", "model", "surface"]
COLUMNS: tuple[Column, ...] = ("hour", "key", "user", "model", "surface")

DAY_S = 86_400
_SINCE_SCHEMA = 2  # the first that has usage and holds
_TRIES = 10  # a server begins a new journal every half a minute, or every ten thousand calls
_BUSY_S = 5.0  # readers wait for nobody, but for a server that is just taking a file over
_TIMES = {"hour": "hour_s", "day": f"hour_s - hour_s % {DAY_S}"}
_TEXTS: tuple[Column, ...] = ("key", "user", "model", "surface")
CLASSES = tuple(name for name in Usage.__dataclass_fields__ if name in SUMS)  # named as the columns are, and in their own order


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What calls of one kind used, in one hour or day that they ended in, or in all.

    hour_s: epoch second at which the UTC hour or day begins. A column that the books are not told apart by is None.
    source: reported, counted, estimated or recovered.
    """

    hour_s: int | None
    key: str | None
    user: str | None
    model: str | None
    surface: str | None
    source: str
    calls: int
    usage: Usage
    cost_nanousd: int


@dataclass(frozen=True, slots=True)
class Books:
    """rows: one for each kind of call that there was, in no order. holds: all that are open now, whenever they began."""

    rows: tuple[UsageRow, ...]
    holds: tuple[OpenHold, ...]


def read_books(directory: Path, *, since_s: float, until_s: float = math.inf, by: Collection[Column] = COLUMNS) -> Books:
    """The books of every hour that is at least partly between two moments (epoch seconds), with what is only in the journal yet.

    by: what rows are told apart by, beside the source; of hour and day the hour decides.
    Errors: StateUnavailable when there is no state, when a newer version wrote it, or when it cannot be read.
    """
    for _ in range(_TRIES):
        with _reading(directory) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise unusable(
                    f"{directory} has schema {version} and this version of tollhouse knows {len(MIGRATIONS)}: ask the newer version"
                )
            if version < _SINCE_SCHEMA:
                return Books((), ())
            generation = _generation(connection)
            rows = _rows(connection, since_s, until_s, by)
            replay = Replay(holds=holds_in(connection))
            with suppress(FileNotFoundError):  # the server has just begun another: seen below
                replay.read_all(directory, since=generation)
        with _reading(directory) as connection:
            if _generation(connection) == generation:
                return Books(_with(rows, replay.totals, since_s=since_s, until_s=until_s, by=by), tuple(replay.holds.values()))
    raise unusable(f"{directory} is written faster than it can be read: ask again")


def _with(
    written: Iterable[UsageRow], totals: Totals, *, since_s: float, until_s: float, by: Collection[Column]
) -> tuple[UsageRow, ...]:
    """The rows with what the database does not have yet."""
    rows = {_kind(row): row for row in written}
    for (hour_s, holder, source), numbers in totals.used.items():
        if not since_s - HOUR_S < hour_s < until_s:
            continue
        figures = dict(zip(SUMS, numbers, strict=True))
        calls, cost_nanousd = figures.pop("calls"), figures.pop("cost_nanousd")
        row = _narrowed(UsageRow(hour_s, *holder, source, calls, Usage(**figures), cost_nanousd), by)
        known = rows.get(_kind(row))
        rows[_kind(row)] = row if known is None else _sum(known, row)
    return tuple(rows.values())


def _generation(connection: sqlite3.Connection) -> int:
    (generation,) = connection.execute("SELECT generation FROM journal").fetchone()
    return int(generation)


def _kind(row: UsageRow) -> tuple[object, ...]:
    return row.hour_s, row.key, row.user, row.model, row.surface, row.source


def _narrowed(row: UsageRow, by: Collection[Column]) -> UsageRow:
    hour_s = row.hour_s if "hour" in by else None
    if "hour" not in by and "day" in by and row.hour_s is not None:
        hour_s = row.hour_s - row.hour_s % DAY_S
    key, user, model, surface = (getattr(row, name) if name in by else None for name in _TEXTS)
    return replace(row, hour_s=hour_s, key=key, user=user, model=model, surface=surface)


def _sum(one: UsageRow, other: UsageRow) -> UsageRow:
    usage = Usage(*(a + b for a, b in zip(astuple(one.usage), astuple(other.usage), strict=True)))
    return replace(one, calls=one.calls + other.calls, usage=usage, cost_nanousd=one.cost_nanousd + other.cost_nanousd)


@contextmanager
def _reading(directory: Path) -> Iterator[sqlite3.Connection]:
    """One view of the file, as it is now. The only place here where SQLite's errors, and the disk's, become ours."""
    path = directory / "state.sqlite3"
    try:
        if not path.is_file():
            raise unusable(f"there is no state in {directory}: name the folder of a server with --state-dir, or start one")
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=_BUSY_S)
        ) as file:
            file.execute("BEGIN")
            yield file
    except (sqlite3.Error, OSError) as error:
        raise unusable(f"{path} cannot be read: {error}; ask as the user that the server runs as") from error


def _rows(connection: sqlite3.Connection, since_s: float, until_s: float, by: Collection[Column]) -> tuple[UsageRow, ...]:
    time = _TIMES["hour"] if "hour" in by else _TIMES["day"] if "day" in by else None
    texts = [name for name in _TEXTS if name in by]
    columns = [time or "NULL", *(name if name in by else "NULL" for name in _TEXTS), "source"]
    sums = [f"sum({name})" for name in ("calls", "cost_nanousd", *CLASSES)]
    groups = [*([time] if time else []), *texts, "source"]
    found = connection.execute(
        # Not by the index on hours: a million rows are passed over in 0.1 s, and fetched by it one by one in 4 s.
        f"""SELECT {", ".join(columns + sums)} FROM usage NOT INDEXED
        WHERE hour_s > ? AND hour_s < ? GROUP BY {", ".join(groups)}""",  # noqa: S608 - names of columns, from the tables above
        (max(since_s, 0.0) - HOUR_S, min(until_s, float(2**53))),
    )
    return tuple(
        UsageRow(hour_s, key, user, model, surface, source, calls, Usage(*classes), cost_nanousd)
        for hour_s, key, user, model, surface, source, calls, cost_nanousd, *classes in found
    )
