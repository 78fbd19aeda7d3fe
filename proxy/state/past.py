"""What was spent before, as the database has it: one look-up for each quota that a process meets, and nothing at its start.

The rule a reader could break: it is asked on the event loop, while the state's thread writes. So it has a connection of its own, asks for
one row by its index (some 20 µs), and never leaves a view of the file open, which would keep the write-ahead log from being emptied.
"""

import sqlite3
from pathlib import Path

from proxy.state.counters import SpendKey
from proxy.state.database import disk_failed

_BUSY_S = 0.01  # nobody keeps a reader waiting but who repairs the file; a call had better be refused then, or counted without


class Past:
    """Reads beside the process's Database, which is open. Errors: StateUnavailable.

    asked: how often it was.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.asked = 0
        try:
            path = (directory / "state.sqlite3").absolute()
            self._connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=_BUSY_S)
            self._connection.execute("SELECT 1 FROM spend LIMIT 0").fetchall()  # what the first call need not wait for
        except sqlite3.Error as error:
            raise disk_failed(directory, error) from error

    def __repr__(self) -> str:
        return f"<Past asked {self.asked} times>"

    def spent(self, key: SpendKey) -> int:
        """What the database has of one quota and window; 0 where it has nothing."""
        policy, clause, subject, unit, (start_s, end_s) = key
        self.asked += 1
        try:
            found = self._connection.execute(
                "SELECT spent FROM spend WHERE policy = ? AND clause = ? AND subject = ? AND unit = ? AND start_s = ? AND end_s = ?",
                (policy, clause, subject, unit.value, start_s, end_s),
            ).fetchall()
        except sqlite3.Error as error:
            raise disk_failed(self._directory, error) from error
        return int(found[0][0]) if found else 0

    def close(self) -> None:
        self._connection.close()
