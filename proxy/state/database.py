"""The SQLite file of one process: what was spent in each window, and the pages to deliver. Plain calls that block.

Everything here runs on the one thread that `SqliteStore` gives it, and nothing here knows what a limit is. It speaks sqlite3 and
OSError; `SqliteStore` translates. The rule a reader could break: spend is written as a balance, not as a difference, and never
lowered, so that writing twice, or late, or after a clock was set back, loses nothing.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from proxy.errors import StateUnavailable
from proxy.policy.contract import Unit
from proxy.state.contract import Delivery
from proxy.state.counters import CLOCK_STEP_S, Window
from proxy.state.memory import KNOWN_S, Spend

SpendKey = tuple[str, str, str, Unit, Window]  # policy, clause, subject, unit, window

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
)

# Long enough to look back at a month that has ended, and short enough that the file stops growing.
KEPT_S = 40 * 86_400

# A write deletes at most so many old rows: after a long stop nobody waits for all of them at once.
DELETED_AT_ONCE = 500

MOST_SPENT = 2**63 - 1  # what an INTEGER of SQLite holds: nine billion dollars


class Database:
    """Opened by its constructor, for one process at a time. Errors: sqlite3.Error, OSError; StateUnavailable when it may not be used."""

    def __init__(self, directory: Path) -> None:
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

    def open_spend(self, now_s: float) -> list[Spend]:
        """What was spent in windows that are open, or ended so lately that the clock may be set back into them. Oldest first."""
        rows = self._connection.execute(
            "SELECT policy, clause, subject, unit, start_s, end_s, spent FROM spend WHERE end_s > ? ORDER BY start_s",
            (now_s - CLOCK_STEP_S,),
        )
        return [
            Spend(policy, clause, subject, Unit(unit), (start_s, end_s), spent)
            for policy, clause, subject, unit, start_s, end_s, spent in rows
        ]

    def write_spend(self, balances: Iterable[tuple[SpendKey, int]], now_s: float) -> None:
        """One transaction: these balances in, windows older than 40 days out."""
        with self._transaction():
            self._connection.executemany(
                """INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT DO UPDATE SET spent = max(spent, excluded.spent)""",
                [
                    (policy, clause, subject, unit.value, *window, min(spent, MOST_SPENT))
                    for (policy, clause, subject, unit, window), spent in balances
                ],
            )
            self._connection.execute(
                "DELETE FROM spend WHERE rowid IN (SELECT rowid FROM spend WHERE end_s < ? LIMIT ?)",
                (now_s - KEPT_S, DELETED_AT_ONCE),
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
        # NORMAL: nothing is lost with the process, and at most the last group with the power. FULL costs an fsync for every group.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise unusable(
                f"{self._path} has schema {version} and this version of tollhouse knows {len(MIGRATIONS)}: "
                "run the newer version, or set TOLLHOUSE_STATE_DIR to another directory"
            )
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
