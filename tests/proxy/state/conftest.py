"""Both stores, one after the other, on one clock that a test moves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.state.memory import MemoryStore
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """2027-01-15 08:00 UTC, a Friday."""
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[MemoryStore | SqliteStore]:
    opened = MemoryStore(clock) if request.param == "memory" else await SqliteStore.open(tmp_path / "state", clock)
    yield opened
    await opened.close()
