"""Every socket that a test opened is closed with it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.sockets import RawSocket


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    while RawSocket.opened:
        RawSocket.opened.pop().writer.close()
    await asyncio.sleep(0)
