"""A whole proxy inside a test: the real parts, a policy text, a folder of its own, and what it logged.

async with House(policy, upstream.url, tmp_path) as house:
    status, headers, body = await house.post("/v1/chat/completions", {...}, key="k")
"""

import asyncio
import gc
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from policies import KINDS
from proxy.app import App
from proxy.clock import SystemClock
from proxy.policy.contract import Clause
from proxy.settings import read_settings
from proxy.telemetry.logs import Log

CHAT = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}
UPSTREAM_KEY = "sk-upstreamcanary0123456789"


def hash_of(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def policy(rules: str = "", *, more: str = "", key: str = "app-key") -> str:
    """A policy file with one hashed key `app` (tag `web`, user header x-user), one upstream, and these rules (YAML list items)."""
    listed = "".join(f"  {line}\n" for line in rules.strip("\n").splitlines())
    return f"""version: 1
upstreams:
  main: {{base_url: "${{env:UPSTREAM}}", api_key: {UPSTREAM_KEY}, timeouts: {{connect: 2s}}, retries: {{attempts: 1}}}}
keys:
  - {{id: app, hash: "{hash_of(key)}", tags: [web], user: {{header: x-user}}}}
{more}
policies:{" []" if not listed else chr(10) + listed}"""


class House:
    """One proxy on free ports. policy: text of the file. env: more environment, TOLLHOUSE_* among it. kinds: of its clauses."""

    def __init__(
        self,
        policy: str,
        upstream: str,
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        kinds: tuple[type[Clause], ...] = KINDS,
    ) -> None:
        self._kinds = kinds
        self.file = folder / "policy.yaml"
        self.file.write_text(policy)
        self._log_file = folder / "log"
        self._fd = os.open(self._log_file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._env = {
            "UPSTREAM": upstream,
            "HOME": str(folder),
            "TOLLHOUSE_POLICY": str(self.file),
            "TOLLHOUSE_LISTEN": "127.0.0.1:0",
            "TOLLHOUSE_ADMIN_LISTEN": "127.0.0.1:0",
            "TOLLHOUSE_STATE_DIR": str(folder / "state"),
            **(env or {}),
        }

    async def __aenter__(self) -> Self:
        self.log = Log(self._fd, clock=SystemClock(), gather_s=0.0)
        self.app = await App.start(read_settings(self._env, {}), kinds=self._kinds, log=self.log)
        self.url = "http://{}:{}".format(*self.app.data_address)
        self.admin_url = "http://{}:{}".format(*self.app.admin_address)
        self._session = aiohttp.ClientSession(auto_decompress=False)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()
        await self.stop()
        os.close(self._fd)

    async def stop(self) -> None:
        """Drain, without waiting for running calls."""
        pressed = asyncio.Event()
        pressed.set()
        await self.app.drain(pressed)
        self.log.close()
        gc.unfreeze()  # a process starts one proxy and keeps it; here thousands come and go

    async def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request as it is."""
        async with self._session.request(method, self.url + path, data=body, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def post(
        self, path: str, payload: Any, *, key: str | None = "app-key", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One JSON call with a key. payload: bytes go as they are."""
        own = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        return await self.request("POST", path, body=body, headers=own)

    async def metrics(self) -> str:
        async with self._session.get(self.admin_url + "/metrics") as answer:
            return await answer.text()

    def open_stream(self, payload: Any, *, path: str = "/v1/chat/completions", key: str = "app-key") -> Any:
        """An `async with` over the answer of a streamed call."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        return self._session.post(self.url + path, data=orjson.dumps(payload), headers=headers)

    async def logged(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many lines of an event stand in the log, and return all of them."""
        async with asyncio.timeout(10):
            while len(lines := self.lines(event)) < count:
                await asyncio.sleep(0.01)
        return lines

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        whole, _, _ = self._log_file.read_bytes().rpartition(b"\n")  # what stands behind it is being written
        found = [orjson.loads(line) for line in whole.splitlines()]
        return [line for line in found if event is None or line["event"] == event]


def error_of(body: bytes) -> dict[str, Any]:
    """The error object of a body, which must have exactly the four public keys."""
    error = orjson.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)
