"""The books: what was used and what is held, for whoever asks beside a running server. Plain calls that block, and take no lock.

The rule a reader could break: there can be a million rows, so SQLite sums them up, and only sums come back. What the database does
not have yet joins them in `merged`, and nowhere else.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Literal

from proxy.call import Usage
from proxy.policy.contract import Unit
from proxy.state.database import MIGRATIONS, unusable

Column = Literal["hour", "day", "key", "user", "model", "surface"]
COLUMNS: tuple[Column, ...] = ("hour", "key", "user", "model", "surface")

HOUR_S = 3600
DAY_S = 86_400
_SINCE_SCHEMA = 2  # the first that has usage and holds
_BUSY_S = 5.0  # readers wait for nobody, but for a server that is just taking a file over
_TIMES = {"hour": "hour_s", "day": f"hour_s - hour_s % {DAY_S}"}
_TEXTS: tuple[Column, ...] = ("key", "user", "model", "surface")
_CLASSES = tuple(Usage.__dataclass_fields__)  # named as the columns are


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
class OpenHold:
    """What a call holds that has not ended. nanousd, tokens: the largest held of any one limit, 0 where none counts them."""

    id: int
    owner: str
    key: str
    user: str
    model: str
    surface: str
    began_s: float
    expires_s: float
    nanousd: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Books:
    """rows: one for each kind of call that there was, in no order. holds: all that are open now, whenever they began."""

    rows: tuple[UsageRow, ...]
    holds: tuple[OpenHold, ...]


@dataclass(frozen=True, slots=True)
class Unwritten:
    """What the database does not have yet. rows: told apart by all of COLUMNS. ended: ids of holds that it has and that are over."""

    rows: Sequence[UsageRow] = ()
    begun: Sequence[OpenHold] = ()
    ended: Collection[int] = ()


def read_books(
    directory: Path,
    *,
    since_s: float,
    until_s: float = math.inf,
    by: Collection[Column] = COLUMNS,
    unwritten: Callable[[int], Unwritten] | None = None,
) -> Books:
    """The books of every hour that is at least partly between two moments (epoch seconds). by: what rows are told apart by, beside
    the source; of hour and day the hour decides. unwritten: asked, with the generation that the database has, while what is read
    of the database stands still.

    Errors: StateUnavailable when there is no state, when a newer version wrote it, or when it cannot be read.
    """
    with _reading(directory) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise unusable(
                f"{directory} has schema {version} and this version of tollhouse knows {len(MIGRATIONS)}: ask the newer version"
            )
        if version < _SINCE_SCHEMA:
            return Books((), ())
        written = Books(_rows(connection, since_s, until_s, by), _holds(connection))
        if unwritten is None:
            return written
        (generation,) = connection.execute("SELECT generation FROM journal").fetchone()
        return merged(written, unwritten(generation), since_s=since_s, until_s=until_s, by=by)


def merged(written: Books, unwritten: Unwritten, *, since_s: float, until_s: float, by: Collection[Column]) -> Books:
    """The books with what the database does not have yet. A hold that is over is in neither."""
    rows = {_kind(row): row for row in written.rows}
    for row in unwritten.rows:
        if row.hour_s is None or not since_s - HOUR_S < row.hour_s < until_s:
            continue
        narrow = _narrowed(row, by)
        known = rows.get(_kind(narrow))
        rows[_kind(narrow)] = narrow if known is None else _sum(known, narrow)
    holds = {hold.id: hold for hold in (*written.holds, *unwritten.begun)}
    return Books(tuple(rows.values()), tuple(hold for id, hold in holds.items() if id not in unwritten.ended))


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
    sums = [f"sum({name})" for name in ("calls", "cost_nanousd", *_CLASSES)]
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


def _holds(connection: sqlite3.Connection) -> tuple[OpenHold, ...]:
    found = connection.execute("SELECT id, owner, key, user, model, surface, began_s, expires_s, charges FROM hold ORDER BY id")
    return tuple(
        OpenHold(
            id=id,
            owner=owner,
            key=key,
            user=user,
            model=model,
            surface=surface,
            began_s=began_s,
            expires_s=expires_s,
            nanousd=_largest(charges, Unit.NANOUSD),
            tokens=_largest(charges, Unit.TOKENS),
        )
        for id, owner, key, user, model, surface, began_s, expires_s, charges in found
    )


def _largest(charges: str, unit: Unit) -> int:
    """charges: JSON, a list of [policy, clause, subject, unit, start_s, end_s, amount]. Several limits can hold the same money."""
    try:
        return max((int(charge[-1]) for charge in json.loads(charges) if charge[3] == unit.value), default=0)
    except (ValueError, TypeError, LookupError) as error:
        raise unusable("a hold in the state cannot be read: run the version of tollhouse that wrote it") from error
