"""The SQLite file of one process: what was spent in each window, and the pages to deliver. Plain calls that block.

Everything here runs on the one thread that `SqliteStore` gives it, and nothing here knows what a limit is. It speaks sqlite3 and
OSError; `SqliteStore` translates. The rule a reader could break: what is added and the generation of the journal that comes next are
written in one transaction, so that a restart counts each line of a journal once.
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from proxy.errors import StateUnavailable
from proxy.policy.contract import Limit
from proxy.state.contract import Delivery, Holder, Spend
from proxy.state.counters import Window
from proxy.state.journal import generations, path_of
from proxy.state.memory import KNOWN_S
from proxy.state.replay import Replay, key_of
from proxy.state.totals import COLUMNS, OpenHold, Totals

# One entry a version: what brings the file there from the version before. Never edited, only added to.
MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE spend (
            policy TEXT NOT NULL, clause TEXT NOT NULL, subject TEXT NOT NULL, unit TEXT NOT NULL,
            start_s INTEGER NOT NULL, end_s INTEGER NOT NULL, spent INTEGER NOT NULL,
            UNIQUE (policy, clause, subject, unit, start_s, end_s))""",
        "CREATE INDEX spend_by_end ON spend (end_s)",
        """CREATE TABLE page (
            id TEXT PRIMARY KEY, sink TEXT NOT NULL, body BLOB NOT NULL,
            due_s REAL NOT NULL, attempts INTEGER NOT NULL, done_s REAL)""",
        "CREATE INDEX page_by_due ON page (due_s) WHERE done_s IS NULL",
        "CREATE INDEX page_by_done ON page (done_s) WHERE done_s IS NOT NULL",
    ),
    (
        # What calls used, by the UTC hour in which they ended; source: reported, counted, estimated or recovered.
        """CREATE TABLE usage (
            hour_s INTEGER NOT NULL, key TEXT NOT NULL, user TEXT NOT NULL, model TEXT NOT NULL, surface TEXT NOT NULL,
            source TEXT NOT NULL, calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
            cache_write_tokens INTEGER NOT NULL, audio_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
            reasoning_tokens INTEGER NOT NULL, audio_output_tokens INTEGER NOT NULL, cost_nanousd INTEGER NOT NULL,
            UNIQUE (hour_s, key, user, model, surface, source))""",
        # What calls held that had not ended when the journal of this generation began; charges: JSON, key of `spend` and amount each.
        """CREATE TABLE hold (
            id INTEGER PRIMARY KEY, owner TEXT NOT NULL, key TEXT NOT NULL, user TEXT NOT NULL, model TEXT NOT NULL,
            surface TEXT NOT NULL, began_s REAL NOT NULL, expires_s REAL NOT NULL, charges TEXT NOT NULL)""",
        "CREATE TABLE journal (generation INTEGER NOT NULL)",
        "INSERT INTO journal VALUES (0)",
    ),
    (
        # Without an owner, which nobody set. Some files of the version before have none, and holds of a process that died.
        "ALTER TABLE hold RENAME TO held",
        """CREATE TABLE hold (
            id INTEGER PRIMARY KEY, key TEXT NOT NULL, user TEXT NOT NULL, model TEXT NOT NULL, surface TEXT NOT NULL,
            began_s REAL NOT NULL, expires_s REAL NOT NULL, charges TEXT NOT NULL)""",
        "INSERT INTO hold SELECT id, key, user, model, surface, began_s, expires_s, charges FROM held",
        "DROP TABLE held",
    ),
)

# Long enough to look back at a month that has ended, and short enough that the file stops growing.
KEPT_S = 40 * 86_400

# A write deletes at most so many old rows: after a long stop nobody waits for all of them at once.
DELETED_AT_ONCE = 500

# A search for alarms looks at so many rows, some 5 ms, before others have their turn in the thread.
SEARCHED_AT_ONCE = 5_000

MOST_SPENT = 2**63 - 1  # what an INTEGER of SQLite holds: nine billion dollars

# What was spent of a limit in a window, between two rows: `_rows_of` gives what stands for the question marks.
_SPENT_OF = """FROM spend INDEXED BY spend_by_end WHERE end_s = ? AND rowid > ? AND rowid <= ?
    AND policy = ? AND clause = ? AND unit = ? AND start_s = ?"""
# A sum that stays an INTEGER: SQLite would go on in floating point.
_SUM = f"CASE WHEN {{0}} > {MOST_SPENT} - excluded.{{0}} THEN {MOST_SPENT} ELSE {{0}} + excluded.{{0}} END"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found at the start. generation: the first that is free. holds: of a process that died, with what they came to.

    lines: of its journals; damaged: those among them that could not be read.
    """

    generation: int
    holds: int
    nanousd: int
    lines: int
    damaged: int


class Database:
    """Opened by its constructor, for one process at a time. Errors: sqlite3.Error, OSError; StateUnavailable when it may not be used."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "state.sqlite3"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(directory)
        try:
            # Made here, because SQLite would make it as readable as the umask lets it; the files beside it get the same mode.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(self._path, isolation_level=None)
            self._prepare()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        try:
            self._connection.close()
        finally:
            os.close(self._lock)

    def reached(self, limit: Limit, window: Window, *, after: int) -> tuple[list[Spend], int | None]:
        """The subjects that spent `told_from` or more of this limit in this window, among SEARCHED_AT_ONCE rows.

        after: where the search goes on, 0 at first. Returns what was found, and where to go on; None at the end.
        """
        last = self._last_row(window, after)
        found = self._connection.execute(
            f"SELECT policy, clause, subject, spent {_SPENT_OF} AND spent >= ?",
            (*_rows_of(limit, window, after, last), limit.told_from),
        )
        return [Spend(policy, clause, subject, window, spent) for policy, clause, subject, spent in found], last

    def highest(self, limit: Limit, window: Window, *, after: int) -> tuple[int, int | None]:
        """The most that one subject spent of this limit in this window, among SEARCHED_AT_ONCE rows; 0 for none. after: see `reached`."""
        last = self._last_row(window, after)
        found = self._connection.execute(f"SELECT MAX(spent) {_SPENT_OF}", _rows_of(limit, window, after, last)).fetchone()
        return found[0] or 0, last

    def _last_row(self, window: Window, after: int) -> int | None:
        """Where a search through this window that begins behind a row has to go on, None = it reaches the end."""
        found = self._connection.execute(
            "SELECT rowid FROM spend INDEXED BY spend_by_end WHERE end_s = ? AND rowid > ? ORDER BY rowid LIMIT 1 OFFSET ?",
            (window[1], after, SEARCHED_AT_ONCE - 1),
        ).fetchone()
        return found[0] if found else None

    def take(self, totals: Totals, holds: Collection[OpenHold], generation: int, now_s: float) -> None:
        """One transaction: these differences in, windows and hours older than 40 days out.

        holds: all that are open; generation: of the first journal that is not in the totals.
        """
        with self._transaction():
            self._add(totals)
            self._connection.execute("DELETE FROM hold")
            self._connection.executemany("INSERT INTO hold VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, holds))
            self._connection.execute("UPDATE journal SET generation = ?", (generation,))
            for table, column in (("spend", "end_s"), ("usage", "hour_s")):
                self._connection.execute(
                    f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {column} < ? LIMIT ?)",  # noqa: S608 - fixed names
                    (now_s - KEPT_S, DELETED_AT_ONCE),
                )
        for done in generations(self._directory):
            if done < generation:
                with suppress(OSError):  # it is passed over at the next start, and tried again
                    path_of(self._directory, done).unlink(missing_ok=True)

    def recover(self, now_s: float) -> Recovery:
        """Take in the journals of a process that ended, however it did; what it held counts as spent. The next generation is free then."""
        (since,) = self._connection.execute("SELECT generation FROM journal").fetchone()
        replay = Replay(holds=holds_in(self._connection))
        replay.read_all(self._directory, since=since)
        for hold in replay.holds.values():
            replay.totals.recover(hold, now_s)
        generation = max([since, *generations(self._directory)]) + 1
        self.take(replay.totals, (), generation, now_s)
        nanousd = sum(hold.nanousd for hold in replay.holds.values())
        return Recovery(generation, holds=len(replay.holds), nanousd=nanousd, lines=replay.lines, damaged=replay.damaged)

    def _add(self, totals: Totals) -> None:
        self._connection.executemany(
            f"""INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET spent = {_SUM.format("spent")}""",  # noqa: S608 - numbers of ours
            [
                (policy, clause, subject, unit.value, *window, min(spent, MOST_SPENT))
                for (policy, clause, subject, unit, window), spent in totals.spent.items()
            ],
        )
        self._connection.executemany(
            f"""INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, {", ".join("?" * len(COLUMNS))})
            ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {_SUM.format(name)}" for name in COLUMNS)}""",  # noqa: S608 - fixed names
            [
                (hour_s, *holder, source, *(min(number, MOST_SPENT) for number in numbers))
                for (hour_s, holder, source), numbers in totals.used.items()
            ],
        )

    def put(self, deliveries: Sequence[Delivery], now_s: float) -> int:
        with self._transaction():
            self._connection.execute(
                "DELETE FROM page WHERE rowid IN (SELECT rowid FROM page WHERE done_s < ? LIMIT ?)",
                (now_s - KNOWN_S, DELETED_AT_ONCE),
            )
            return sum(map(self._queue, deliveries))

    def due(self, now_s: float, most: int, skip: Sequence[str]) -> tuple[Delivery, ...]:
        rows = self._connection.execute(
            f"""SELECT id, sink, body, due_s, attempts FROM page WHERE done_s IS NULL AND due_s <= ?
            AND sink NOT IN ({", ".join("?" * len(skip))}) ORDER BY due_s, rowid LIMIT ?""",  # noqa: S608 - question marks only
            (now_s, *skip, most),
        )
        return tuple(Delivery(*row) for row in rows)

    def under(self, prefix: str) -> tuple[Delivery, ...]:
        rows = self._connection.execute(
            "SELECT id, sink, body, due_s, attempts FROM page WHERE done_s IS NULL AND id >= ? AND id < ? ORDER BY rowid",
            (prefix, prefix + "\U0010ffff"),
        )
        return tuple(Delivery(*row) for row in rows)

    def retry(self, id: str, due_s: float) -> None:
        self._connection.execute("UPDATE page SET due_s = ?, attempts = attempts + 1 WHERE id = ? AND done_s IS NULL", (due_s, id))

    def replace(self, delivery: Delivery) -> None:
        self._connection.execute(
            "UPDATE page SET body = ?, due_s = ? WHERE id = ? AND done_s IS NULL", (delivery.body, delivery.due_s, delivery.id)
        )

    def done(self, id: str, now_s: float, then: Delivery | None, forget: Sequence[str]) -> None:
        with self._transaction():
            self._connection.execute("UPDATE page SET done_s = ? WHERE id = ? AND done_s IS NULL", (now_s, id))
            if then is not None:
                self._queue(then)
            for one in forget:
                self._connection.execute("DELETE FROM page WHERE id = ?", (one,))

    def _queue(self, delivery: Delivery) -> int:
        return self._connection.execute(
            "INSERT INTO page VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING",
            (delivery.id, delivery.sink, delivery.body, delivery.due_s, delivery.attempts),
        ).rowcount

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise unusable(
                f"{self._path} has schema {version} and this version of tollhouse knows {len(MIGRATIONS)}: "
                "run the newer version, or set TOLLHOUSE_STATE_DIR to another directory"
            )
        # FULL: a journal is deleted once its sums are here, so they must be on the disk by then. WAL: others may read meanwhile.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            for step in MIGRATIONS[version:]:
                for statement in step:
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk makes SQLite roll back by itself
                self._connection.execute("ROLLBACK")
            raise


def holds_in(connection: sqlite3.Connection) -> dict[int, OpenHold]:
    """What was open when the journal of the database's generation began, by id. Errors: StateUnavailable for what makes no sense."""
    holds: dict[int, OpenHold] = {}
    found = connection.execute("SELECT id, key, user, model, surface, began_s, expires_s, charges FROM hold ORDER BY id")
    for id, key, user, model, surface, began_s, expires_s, charges in found:
        try:
            amounts = tuple([(key_of(said), int(amount)) for *said, amount in orjson.loads(charges)])
        except (ValueError, TypeError) as error:
            raise unusable("a hold in the state cannot be read: run the version of tollhouse that wrote it") from error
        holds[id] = OpenHold(id, Holder(key, user, model, surface), began_s, expires_s, amounts)
    return holds


def _rows_of(limit: Limit, window: Window, after: int, last: int | None) -> tuple[object, ...]:
    """For `_SPENT_OF`. last: None for all rows behind `after`."""
    rows = after, MOST_SPENT if last is None else last
    return window[1], *rows, limit.policy, limit.clause, limit.unit.value, window[0]


def _row(hold: OpenHold) -> tuple[object, ...]:
    """As `holds_in` reads it."""
    charges = orjson.dumps([[p, c, s, unit.value, *window, amount] for (p, c, s, unit, window), amount in hold.amounts])
    return hold.id, *hold.holder, hold.began_s, hold.expires_s, charges.decode()


def disk_failed(directory: Path, error: Exception) -> StateUnavailable:
    """What SQLite or the disk said, in our words; the usual mistake, a folder that belongs to somebody else, with its remedy."""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        told = f"user {os.getuid()} cannot write to {directory}: {os.strerror(error.errno)}"
        return unusable(f"{told}; give TOLLHOUSE_STATE_DIR a folder that it can write to")
    return unusable(f"{directory}: {type(error).__name__}: {error}")


def unusable(detail: str) -> StateUnavailable:
    """The store's one public sentence. detail: for the operator: the place and the remedy."""
    return StateUnavailable("state_unavailable", "The state store does not answer.", detail=detail)


def _lock(directory: Path) -> int:
    """Keeps every other process out until it is closed, or until this one dies in whatever way."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise unusable(f"another process uses {directory}: give each its own TOLLHOUSE_STATE_DIR") from error
    except BaseException:
        os.close(lock)
        raise
    return lock
