"""Every row of the fault matrix that one process tree can play, in its short form. How fast others were served is measured elsewhere."""

import pytest

from tests.faults.rig import Rig
from tests.faults.row import Row, rows


@pytest.mark.parametrize("row", [row for row in rows() if row.play is not None], ids=lambda row: row.id)
async def test_the_fault_is_survived(row: Row) -> None:
    assert row.play is not None
    assert await row.play(Rig())


def test_every_fault_of_the_matrix_has_a_row() -> None:
    numbered = {f"A{n}" for n in range(1, 25)} | {f"B{n}" for n in range(1, 28)} | {f"C{n}" for n in range(1, 14)}
    assert {row.id for row in rows()} == numbered
