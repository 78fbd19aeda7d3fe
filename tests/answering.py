"""A server that is somebody else's program, for as long as a block lasts.

The rule a reader could break: it answered once before the block begins, and it has ended when the block is left.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp


@asynccontextmanager
async def answering(process: asyncio.subprocess.Process, url: str, *, within_s: float) -> AsyncIterator[None]:
    """From when `url` answers 200 on. Errors: AssertionError where the process ends before, TimeoutError."""
    try:
        async with asyncio.timeout(within_s), aiohttp.ClientSession() as session:
            while not await _answers(session, url):
                assert process.returncode is None, f"nothing serves {url}: the process ended with {process.returncode}"
                await asyncio.sleep(0.1)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
