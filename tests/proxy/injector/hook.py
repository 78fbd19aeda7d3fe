"""A webhook inside a test, over real TLS, with its files mounted as a kubelet mounts them.

async with Hook(tmp_path) as hook:
    status, headers, body = await hook.post(bytes_of(pod()))
"""

import asyncio
import io
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from proxy.clock import SystemClock
from proxy.injector.server import Injector
from proxy.settings import read_inject_settings
from proxy.telemetry.logs import Log
from tests.proxy.injector.authority import mounted, pair, trusting
from tests.proxy.injector.pods import SIDECAR

HANG_S = 20.0


class Hook:
    """One webhook on a free port. options: of the Injector. Leaving it fails where a defect was logged."""

    def __init__(self, folder: Path, *, sidecar: str = SIDECAR, **options: float) -> None:
        self.tls = mounted(folder / "tls", pair("web"))
        self.config = mounted(folder / "config", {"sidecar.yaml": sidecar.encode()})
        self.flags = {
            "listen": "127.0.0.1:0",
            "tls_cert": str(self.tls / "tls.crt"),
            "tls_key": str(self.tls / "tls.key"),
            "sidecar": str(self.config / "sidecar.yaml"),
        }
        self._options = options
        self._log_file = folder / "log"
        self._fd = os.open(self._log_file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    async def __aenter__(self) -> Self:
        self._log = Log(self._fd, clock=SystemClock(), gather_s=0.0, level="debug")
        self.injector = Injector(read_inject_settings({}, self.flags), log=self._log, **self._options)
        await self.injector.start()
        self.port = self.injector.address[1]
        self.url = f"https://localhost:{self.port}"
        self._session = self.session()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()
        pressed = asyncio.Event()
        pressed.set()
        await self.injector.drain(pressed)
        self._log.close()
        os.close(self._fd)
        if error is None:
            assert self.lines("fault.caught") == []

    def session(self, tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
        """A client that trusts the certificate's authority."""
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls or trusting()))

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        async with self._session.request(method, self.url + path, data=body, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def post(self, body: Any) -> tuple[int, Mapping[str, str], bytes]:
        """As an API server posts: with its patience in the query."""
        if isinstance(body, bytes):  # which the client library wants as a file where it is large
            body = io.BytesIO(body)
        return await self.request("POST", "/inject?timeout=10s", body, {"content-type": "application/json"})

    async def raw(self, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection for whatever the test writes."""
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls or trusting(), server_hostname="localhost")

    async def logged(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many lines of an event stand in the log, and return all of them."""
        async with asyncio.timeout(HANG_S):
            while len(lines := self.lines(event)) < count:
                await asyncio.sleep(0.01)
        return lines

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        found = [orjson.loads(line) for line in self.log_text.splitlines()]
        return [line for line in found if event is None or line["event"] == event]

    @property
    def log_text(self) -> bytes:
        return self._log_file.read_bytes()
