"""The receiver of pages: whoever is on call, with a pager that remembers.

The rule a reader could break: it keeps the raw bytes, since a signature is over bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Received:
    """One HTTP request that a page came in."""

    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Takes pages on loopback. url: where to post them."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self.received: list[Received] = []
        self.url = ""

    def __repr__(self) -> str:
        return f"<Receiver {self.url} received={len(self.received)}>"

    @classmethod
    async def start(cls) -> Self:
        application = web.Application()
        receiver = cls(web.AppRunner(application, access_log=None))
        application.router.add_post("/pages", receiver._take)
        await receiver._runner.setup()
        site = web.TCPSite(receiver._runner, "127.0.0.1", 0)
        await site.start()
        host, port = receiver._runner.addresses[0][:2]
        receiver.url = f"http://{host}:{port}/pages"
        return receiver

    async def _take(self, request: web.Request) -> web.Response:
        self.received.append(Received(headers=dict(request.headers), body=await request.read()))
        return web.Response(status=204)

    async def stop(self) -> None:
        await self._runner.cleanup()
