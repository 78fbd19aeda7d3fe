"""The `tollhouse` command as a process of its own, which knows nothing of the test but what stands in its environment.

    async with Serving(tmp_path, text, upstream=upstream.url + "/v1") as proxy:
        async with proxy.client() as client:
            await client.chat.completions.create(...)
        [line] = await proxy.logged("call.finished")

The rule a reader could break: a test waits for a line of the log, an answer or the end of the process, and never for time.
"""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import openai
import orjson

# Guards against a test that would hang: no passing test comes near it.
_HANG_S = 30.0


def environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nothing of this machine but where programs are, and a folder for everything that is written."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), **(more or {})}


def ran(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        env=environment(folder, env),
        capture_output=True,
        encoding="utf-8",
        timeout=_HANG_S,
        check=False,
    )


class Serving:
    """`tollhouse serve` on free ports. policy: text of its file, or the path of one. env: more environment; descriptors: at most so many.

    within: a command that it is run by, and that becomes it.
    Leaving the `async with` ends it, and fails if it did not end with 0 or wrote anything to standard error.
    """

    def __init__(
        self,
        folder: Path,
        policy: str | Path,
        *arguments: str,
        upstream: str | None = None,
        env: Mapping[str, str] | None = None,
        descriptors: int | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.file = policy if isinstance(policy, Path) else folder / "policy.yaml"
        if isinstance(policy, str):
            self.file.write_text(policy, "utf-8")
        self.state = folder / "state"
        self.stderr = b""
        self._stdout = bytearray()  # grown in place: tens of thousands of lines may come
        self._command = (*within, sys.executable, "-m", "proxy", "serve", *arguments)
        self._descriptors = descriptors
        self._env = environment(
            folder,
            {
                "TOLLHOUSE_POLICY": str(self.file),
                "TOLLHOUSE_LISTEN": "127.0.0.1:0",
                "TOLLHOUSE_ADMIN_LISTEN": "127.0.0.1:0",
                "TOLLHOUSE_STATE_DIR": str(self.state),
                **({"UPSTREAM": upstream} if upstream else {}),
                **(env or {}),
            },
        )
        self._lines: list[dict[str, Any]] = []
        self._grew = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Serving {self.file} lines={len(self._lines)}>"

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if self._descriptors is not None:  # before it has any but its own: the interpreter is still being loaded
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (self._descriptors, self._descriptors))
        self._reading = asyncio.create_task(self._read())
        [ready] = await self.logged("server.ready")
        self.url = f"http://{ready['listen']}"
        self.port = int(ready["listen"].rpartition(":")[2])
        self.admin_url = f"http://{ready['admin_listen']}"
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()
        if self._process.returncode is None:
            self.signal(signal.SIGTERM if error is None else signal.SIGKILL)
        code = await self.ended()
        if error is None:
            assert (code, self.stderr) == (0, b"")

    @property
    def stdout(self) -> bytes:
        return bytes(self._stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def let_go(self) -> None:
        """Close the connections of `post` and `admin`."""
        await self._session.close()
        self._session = aiohttp.ClientSession()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for the process to end by itself. Returns its exit code; the log is then whole."""
        async with asyncio.timeout(_HANG_S):
            await self._reading
            return await self._process.wait()

    async def logged(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many lines of an event were logged, and return all of them."""
        async with asyncio.timeout(_HANG_S):
            while len(found := self.lines(event)) < count:
                assert not self._reading.done(), f"ended after {self.stdout!r} {self.stderr!r}"
                self._grew.clear()
                await self._grew.wait()
        return found

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        return [line for line in self._lines if event is None or line["event"] == event]

    def client(self, key: str = "app-key", **options: Any) -> openai.AsyncOpenAI:
        """The official client as an app would make it, but without retries unless asked for."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": _HANG_S, **options})

    async def admin(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the admin port."""
        async with self._session.get(self.admin_url + path) as answer:
            return answer.status, await answer.text()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """One request as it is."""
        async with self._session.post(self.url + path, data=body, headers=headers) as answer:
            return answer.status, answer.headers, await answer.read()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        saying = asyncio.create_task(self._process.stderr.read())
        async for line in self._process.stdout:
            self._stdout += line
            if line.startswith(b"{"):
                self._lines.append(orjson.loads(line))
            self._grew.set()
        self.stderr = await saying
        self._grew.set()
