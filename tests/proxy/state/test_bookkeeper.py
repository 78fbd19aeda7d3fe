"""Whoever makes the books safe is told when there is something to make safe, and not for every line."""

from pathlib import Path

import pytest

from proxy.policy.contract import Unit
from proxy.state.bookkeeper import Bookkeeper
from proxy.state.database import Database
from proxy.state.memory import MemoryReservation, MemoryStore
from proxy.state.past import Past
from tests.clock import FakeClock
from tests.proxy.state.limits import money


class Desk:
    """Books of a store in memory. told: how often they said that something was written."""

    def __init__(self, directory: Path) -> None:
        clock = FakeClock(wall_s=1_800_000_000)
        self.told = 0
        Database(directory).close()
        self.books = Bookkeeper(directory, clock, past=Past(directory), generation=1, room=4096, wrote=self._wrote)
        self.store = MemoryStore(clock, keeper=self.books)

    def _wrote(self) -> None:
        self.told += 1

    async def hold(self) -> MemoryReservation:
        held = await self.store.reserve([money(10)])
        assert isinstance(held, MemoryReservation)
        return held


@pytest.mark.parametrize("used", [10, 11], ids=["as held", "more than was held"])
async def test_it_is_said_once_that_something_was_written_and_again_after_it_was_summed_up(tmp_path: Path, used: int) -> None:
    desk = Desk(tmp_path)
    first, second = await desk.hold(), await desk.hold()
    assert desk.told == 1
    desk.books.flush()
    await first.settle({Unit.NANOUSD: used})
    assert desk.told == 2, "a settlement alone is something to write"
    desk.books.flush()
    await desk.hold()
    assert desk.told == 3, "and so is a hold"
    desk.books.turn()
    await second.settle({Unit.NANOUSD: used})
    assert desk.told == 4, "whoever called for the sums"
