"""The SQLite file of recordings: sealed bytes by a sealed name, and when they go. Plain calls that block, all on one thread.

It is a file of its own, beside that of the money, so that a long answer never stands before a hold on its way to the disk; the folder's
lock keeps other processes out of both. The rule a reader could break: nothing in it is readable without the key but the time at which a row
goes, and a row that goes is overwritten (`secure_delete`).
"""

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from proxy.state.database import disk_failed

FILE = "recordings.sqlite3"

MIGRATIONS: Sequence[str] = (
    "CREATE TABLE recording (tag BLOB NOT NULL UNIQUE, expires_s REAL NOT NULL, facts BLOB NOT NULL, content BLOB)",
)


class Row(NamedTuple):
    """expires_s: epoch seconds. facts, content: sealed; no content of what has not ended."""

    expires_s: float
    facts: bytes
    content: bytes | None


class Recordings:
    """Opened by its constructor. tag: what a recording is found by. Errors: StateUnavailable."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        path = directory / FILE
        try:
            # Made here, because SQLite would make it as readable as the umask lets it; the files beside it get the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if not version:
                self._connection.execute("BEGIN IMMEDIATE")
                for statement in MIGRATIONS:
                    self._connection.execute(statement)
                self._connection.execute("PRAGMA user_version = 1")
                self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise disk_failed(directory, error) from error

    def close(self) -> None:
        self._connection.close()

    def write(self, changes: Mapping[bytes, Row | None]) -> None:
        """One transaction: rows by tag; None for one that goes. Whatever went leaves the journal beside the file too."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("DELETE FROM recording WHERE tag = ?", [(tag,) for tag in changes])
                self._connection.executemany(
                    "INSERT INTO recording VALUES (?, ?, ?, ?)", [(tag, *row) for tag, row in changes.items() if row is not None]
                )
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk makes SQLite roll back by itself
                    self._connection.execute("ROLLBACK")
                raise
            if None in changes.values():
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except (sqlite3.Error, OSError) as error:
            raise disk_failed(self._directory, error) from error

    def content(self, tag: bytes) -> bytes | None:
        """None where there is none."""
        try:
            found = self._connection.execute("SELECT content FROM recording WHERE tag = ?", (tag,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            raise disk_failed(self._directory, error) from error
        return found[0] if found is not None else None

    def facts(self) -> Iterable[tuple[bytes, float, bytes]]:
        """Tag, end and facts of every row."""
        try:
            yield from self._connection.execute("SELECT tag, expires_s, facts FROM recording ORDER BY rowid")
        except (sqlite3.Error, OSError) as error:
            raise disk_failed(self._directory, error) from error
