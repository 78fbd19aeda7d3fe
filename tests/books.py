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
    return id, key, user, model, "chat", began_s, began_s + 900, json.dumps(listed)


def example(directory: Path) -> Path:
    """The week that the README shows, at the prices of OpenAI's list."""
    return state(
        directory,
        used(calls=4_812, tokens=(9_204_551, 0, 1_310_882), cost=5_779_231_600, model="gpt-4.1-mini"),
        used(calls=903, tokens=(1_882_340, 0, 402_117), cost=6_981_616_000, model="gpt-4.1"),
        used(NOV_1 + DAY, calls=21, tokens=(44_310, 0, 9_204), cost=162_252_000, source="estimated", model="gpt-4.1"),
        used(NOV_1 + DAY, key="nightly", calls=310, tokens=(3_100_920, 0, 118_403), cost=1_429_812_800, model="gpt-4.1-mini"),
        used(NOV_1 + DAY, key="nightly", calls=1, tokens=(0, 0, 0), cost=4_915_200, source="recovered", model="gpt-4.1-mini"),
        used(
            NOV_1 + DAY,
            key="search",
            calls=12_040,
            tokens=(4_417_002, 0, 0),
            cost=88_340_040,
            model="text-embedding-3-small",
            surface="embeddings",
        ),
        holds=[held(1, model="gpt-4.1", charges=[("nanousd", 41_943_040)]), held(2, charges=[("nanousd", 8_388_608)])],
    )


def shown(readme: str, command: str) -> list[str]:
    """What a README shows that a command prints, the line with the command left out."""
    return readme.partition(f"$ {command}\n")[2].partition("\n```")[0].splitlines()


def state(directory: Path, *rows: tuple[Any, ...], holds: Iterable[tuple[Any, ...]] = ()) -> Path:
    """Make it, and let go of it."""
    Database(directory).close()
    fill(directory, rows, holds=holds)
    return directory


def fill(directory: Path, rows: Iterable[tuple[Any, ...]], *, holds: Iterable[tuple[Any, ...]] = ()) -> None:
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection, connection:
        connection.executemany(_USAGE, rows)
        connection.executemany("INSERT INTO hold VALUES (?, ?, ?, ?, ?, ?, ?, ?)", holds)


def fill_many(directory: Path, number: int) -> None:
    """Distinct rows, 1,050 in each hour, whose every sum can be told by arithmetic: each is one call and costs 1,000 nanodollars."""
    with closing(sqlite3.connect(directory / "state.sqlite3")) as connection, connection:
        connection.execute(
            """WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
            INSERT INTO usage SELECT ?2 + i / 1050 * 3600, 'key-' || (i % 3), printf('user-%04d', i % 1050), 'model-' || (i % 2),
            'chat', 'reported', 1, 100, 0, 0, 0, 50, 0, 0, 1000 FROM n""",
            (number, NOV_1),
        )
