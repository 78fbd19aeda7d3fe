"""The two processes of `make real`: the model server and Tollhouse. What they say is kept, and they end with us.

The rule a reader could break: only processes that were started here are ever signalled.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from checks import Failed, expect
from install import FOLDER, ROOT, Installed

T = TypeVar("T")

MODEL = "gemma-3-270m"
SLOTS = 2
CONTEXT = 2048  # tokens of one slot
_LOAD_S = 60
_READY_S = 20
_STOP_S = 15
_MOST_LINE_BYTES = 1 << 20
_LISTENING = re.compile(r"listening on http://(127\.0\.0\.1:\d+)")


class Child:
    """A running process. lines: what it has said so far, on standard output and standard error."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.lines: list[str] = []
        self._process = process
        self._news = asyncio.Condition()
        self._ended = False
        self._reading = asyncio.create_task(self._read())

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self._process.pid} returncode={self._process.returncode} lines={len(self.lines)}>"

    @classmethod
    async def start(cls, name: str, command: Sequence[str], *, env: Mapping[str, str]) -> Self:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(env),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MOST_LINE_BYTES,
        )
        return cls(name, process)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with (FOLDER / f"{self.name}.log").open("wb") as kept:
            while line := await self._process.stdout.readline():
                kept.write(line)
                kept.flush()
                async with self._news:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        await self._process.wait()
        async with self._news:
            self._ended = True
            self._news.notify_all()

    async def saying(self, pick: Callable[[str], T | None], *, within_s: float) -> T:
        """What `pick` makes of the first line that it makes something of. Errors: Failed when the process ends or time is up."""
        try:
            async with asyncio.timeout(within_s), self._news:
                looked = 0
                while True:
                    for line in self.lines[looked:]:
                        if (picked := pick(line)) is not None:
                            return picked
                    looked = len(self.lines)
                    if self._ended:
                        raise Failed(f"{self.name} ended with {self._process.returncode}; it last said: {self._last_words()}")
                    await self._news.wait()
        except TimeoutError:
            raise Failed(f"{self.name} did not say what was waited for in {within_s:g} s; last: {self._last_words()}") from None

    def _last_words(self) -> str:
        return " / ".join(self.lines[-5:])[-1000:]

    @property
    def returncode(self) -> int | None:
        """None while it runs, negative for a signal."""
        return self._process.returncode

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._process.terminate()

    async def ended(self, *, within_s: float) -> int:
        """Its exit code, negative for a signal. Errors: Failed when it still runs."""
        try:
            async with asyncio.timeout(within_s):
                await self._process.wait()
                await self._reading
        except TimeoutError:
            raise Failed(f"{self.name} still ran {within_s:g} s after it was asked to stop") from None
        assert self._process.returncode is not None
        return self._process.returncode

    async def stop(self) -> None:
        """Have it end, whatever state it is in."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await self.ended(within_s=_STOP_S)
            except Failed:
                self._process.kill()
                await self._process.wait()
        self._reading.cancel()


class LlamaServer:
    """llama.cpp with a small model on the CPU. address: host and port; key: what it wants of its callers."""

    def __init__(self, child: Child, *, address: str, key: str) -> None:
        self.child = child
        self.address = address
        self.key = key

    def __repr__(self) -> str:
        return f"<LlamaServer {self.address}>"

    @classmethod
    async def start(cls, installed: Installed, *, key: str) -> Self:
        """Errors: Failed. It answers 503 until the model is loaded, and may still end by then."""
        child = await Child.start(
            "llama-server",
            [
                str(installed.binary),
                *("-m", str(installed.model), "--alias", MODEL, "--device", "none", "-ngl", "0"),
                *("--jinja", "--chat-template", "chatml", "--embeddings", "--pooling", "mean"),
                *("--host", "127.0.0.1", "--port", "0", "--parallel", str(SLOTS), "--ctx-size", str(SLOTS * CONTEXT)),
                # One thread: two of them wait for each other by spinning, which on a busy machine of two cores takes ten times as long.
                *("--slots", "--cache-ram", "0", "--no-webui", "--offline", "--threads", "1", "--threads-batch", "1"),
            ],
            env={**os.environ, "LD_LIBRARY_PATH": str(installed.binary.parent), "LLAMA_API_KEY": key},
        )
        try:
            address = await child.saying(lambda line: m[1] if (m := _LISTENING.search(line)) else None, within_s=_LOAD_S)
        except BaseException:  # also when we are told to end meanwhile: nobody else knows the process yet
            await child.stop()
            raise
        return cls(child, address=address, key=key)


class Tollhouse:
    """Tollhouse as its operator runs it. data, admin: base URLs without a path."""

    def __init__(self, child: Child, *, data: str, admin: str) -> None:
        self.child = child
        self.data = data
        self.admin = admin

    def __repr__(self) -> str:
        return f"<Tollhouse {self.data}>"

    @classmethod
    async def start(cls, policy: Path, *, state: Path, env: Mapping[str, str], name: str) -> Self:
        """env: what the policy file refers to. Errors: Failed."""
        inherited = {n: v for n, v in os.environ.items() if not n.startswith(("TOLLHOUSE_", "OPENAI_", "OTEL_"))}
        child = await Child.start(
            name,
            [
                str(Path(sys.executable).with_name("tollhouse")),
                *("serve", "--policy", str(policy), "--state-dir", str(state)),
                *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
            ],
            env={**inherited, **env},
        )
        try:
            ready = await child.saying(lambda line: _event(line, "server.ready"), within_s=_READY_S)
        except BaseException:  # also when we are told to end meanwhile: nobody else knows the process yet
            await child.stop()
            raise
        return cls(child, data=f"http://{ready['listen']}", admin=f"http://{ready['admin_listen']}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of that event so far."""
        return [record for line in self.child.lines if (record := _event(line, name)) is not None]

    async def leave(self, *, within_s: float) -> None:
        """After SIGTERM: it says that it drains and that it stopped, and ends with 0. Errors: Failed."""
        code = await self.child.ended(within_s=within_s)
        expect(code == 0, f"exit code after SIGTERM: expected 0, got {code}")
        for event in ("server.draining", "server.stopped"):
            expect(len(self.events(event)) == 1, f"the log has {len(self.events(event))} lines {event}, not 1")


def _event(line: str, name: str) -> dict[str, Any] | None:
    """The JSON log line, if it is one and of that event."""
    if not line.startswith("{"):
        return None
    record: dict[str, Any] = json.loads(line)
    return record if record.get("event") == name else None
