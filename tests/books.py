"""A state folder with books in it, as a server leaves it: the schema is the product's own, the rows are plain SQL."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from proxy.state.database import Database

DAY = 86_400
NOV_1 = 1_793_491_200  # 2026-11-01 00:00 UTC

_USAGE = "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def used(
    hour_s: int = NOV_1,
    *,
    key: str = "web",
    user: str = "ada",
    model: str = "gpt-4.1-mini",
    surface: str = "chat",
    source: str = "reported",
    calls: int = 1,
    tokens: tuple[int, int, int] = (100, 0, 50),
    cost: int = 120_000,
) -> tuple[Any, ...]:
    """A row of `usage`. tokens: input, cached, output; cost: nanodollars."""
    inputs, cached, outputs = tokens
    return hour_s, key, user, model, surface, source, calls, inputs, cached, 0, 0, outputs, 0, 0, cost


def held(
    id: int = 1,
    *,
    key: str = "web",
    user: str = "ada",
    model: str = "gpt-4.1-mini",
    began_s: float = NOV_1,
    charges: Iterable[tuple[str, int]] = (("nanousd", 5_000_000),),
) -> tuple[Any, ...]:
    """A row of `hold`. charges: unit and amount of each limit that it is held of."""
    listed = [["everyone", "budget", f"limit {at}", unit, NOV_1, NOV_1 + DAY, amount] for at, (unit, amount) in enumerate(charges)]
    return id, "owner", key, user, model, "chat", began_s, began_s + 900, json.dumps(listed)


def state(directory: Path, *rows: tuple[Any, ...], holds: Iterable[tuple[Any, ...]] = ()) -> Path:
    """Make it, and let go of it."""
    Database(directory).close()
    fill(directory, rows, holds=holds)
    return directory


def fill(directory: Path, rows: Iterable[tuple[Any, ...]], *, holds: Iterable[tuple[Any, ...]] = ()) -> None:
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection, connection:
        connection.executemany(_USAGE, rows)
        connection.executemany("INSERT INTO hold VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", holds)


def fill_many(directory: Path, number: int) -> None:
    """Distinct rows over 40 days, whose every sum can be told by arithmetic: each is one call and costs 1,000 nanodollars."""
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection, connection:
        connection.execute(
            """WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
            INSERT INTO usage SELECT ?2 + i % 960 * 3600, 'key-' || (i / 960 % 3), 'user-' || (i / 960), 'model-' || (i / 960 % 4),
            'chat', 'reported', 1, 100, 0, 0, 0, 50, 0, 0, 1000 FROM n""",
            (number, NOV_1),
        )
