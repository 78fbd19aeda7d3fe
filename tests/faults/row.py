"""A row of the fault matrix: what goes wrong, what must happen, and the function that makes it happen to a real process.

    @row("A1", "connection refused", "502 at once, nothing held, no host in the body")
    async def refused(rig: Rig) -> str: ...     # raises when it does not happen; returns what was seen, in a line

The rule a reader could break: a row stands for a fault that was made to happen. What is only believed has no row.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.rig import Rig

MOST_RATIO = 2.0
Play = Callable[["Rig"], Awaitable[str]]

# The modules whose rows make up the matrix.
_MODULES = (
    *("upstream", "bodies"),
    *("clients", "slow", "costs", "targets", "keys", "abuse", "recorded", "connections"),
    *("host", "memory", "disk", "hooks", "heavy"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """id: stable. fault, required: one line each. play: makes it happen. tests: further tests of the suite that belong to it.

    most_ratio: how many times longer another tenant's calls may take meanwhile.
    """

    id: str
    fault: str
    required: str
    play: Play | None
    tests: tuple[str, ...] = ()
    most_ratio: float = MOST_RATIO

    @property
    def order(self) -> tuple[str, int, str]:
        number = self.id[1:].rstrip("abcdefghijklmnopqrstuvwxyz")
        return self.id[0], int(number), self.id


_ROWS: dict[str, Row] = {}


def row(
    id: str, fault: str, required: str, *, tests: tuple[str, ...] = (), most_ratio: float = MOST_RATIO
) -> Callable[[Play], Play]:
    """Put a function into the matrix. tests: node ids of pytest that show the same at greater length; the runner runs them too."""

    def enter(play: Play) -> Play:
        _enter(Row(id, fault, required, play, tests, most_ratio))
        return play

    return enter


def shown_by(id: str, fault: str, required: str, *, tests: tuple[str, ...]) -> None:
    """A row that tests of the suite make happen as a whole."""
    _enter(Row(id, fault, required, None, tests))


def rows() -> list[Row]:
    """The matrix, in its order."""
    for module in _MODULES:
        import_module(f"tests.faults.{module}")
    return sorted(_ROWS.values(), key=lambda row: row.order)


def _enter(row: Row) -> None:
    assert row.id not in _ROWS, f"two rows {row.id}"
    _ROWS[row.id] = row
