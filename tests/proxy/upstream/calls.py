"""Calls through the upstream client, each with a limit on how long a test may hang."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from proxy.upstream.answer import HttpAnswer
from proxy.upstream.client import HttpUpstream
from proxy.upstream.contract import Ask
from tests.fakes import FakeUpstream

HANG_S = 20.0
T = TypeVar("T")


class Asked(NamedTuple):
    """All that `open` takes."""

    ask: Ask
    own: Sequence[str]
    body: bytes | AsyncIterator[bytes]
    connect_s: float

    async def of(self, client: HttpUpstream) -> HttpAnswer:
        body = (self.body,) if isinstance(self.body, bytes) else self.body
        return await client.open(self.ask, self.own, body, connect_timeout_s=self.connect_s)


def ask(
    body: bytes | AsyncIterator[bytes] = b"{}",
    *,
    method: str = "POST",
    target: str = "/chat/completions",
    headers: Sequence[tuple[str, str]] = (("x-a", "1"),),
    own: Sequence[str] = ("x-own: 1",),
    connect_s: float = HANG_S,
) -> Asked:
    return Asked(Ask(method, target, tuple(f"{name}: {value}" for name, value in headers)), own, body, connect_s)


async def soon(waiting: Awaitable[T]) -> T:
    """The same, and a failure instead of a test that hangs."""
    async with asyncio.timeout(HANG_S):
        return await waiting


async def body_of(answer: HttpAnswer) -> bytes:
    """All of the body; the answer is closed on every way out."""
    got = bytearray()
    try:
        async with asyncio.timeout(HANG_S):
            while chunk := await answer.read():
                got += chunk
    finally:
        answer.close()
    return bytes(got)


async def fetch(client: HttpUpstream, asked: Asked | None = None) -> tuple[int, bytes]:
    """One call to its end."""
    answer = await soon((asked or ask()).of(client))
    return answer.status, await body_of(answer)


@contextlib.asynccontextmanager
async def client_of(upstream: FakeUpstream | str, **settings: object) -> AsyncIterator[HttpUpstream]:
    """A client, closed at the end. upstream: the fake one, or a base URL."""
    base_url = upstream if isinstance(upstream, str) else upstream.url + "/v1"
    client = HttpUpstream("main", base_url=base_url, **settings)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await soon(client.close())


async def turns(until: Callable[[], bool]) -> None:
    """Let the loop turn until a fact holds that nothing announces."""
    async with asyncio.timeout(HANG_S):
        while not until():
            await asyncio.sleep(0)
