"""One container of an image under test, hardened as a cluster would, and what it says.

    async with Container(engine, image, mounts={folder: "/etc/tollhouse"}, env={...}) as proxy:
        await proxy.said("server.ready")

The rule a reader could break: a scene waits for a line of the log, an answer or the container's end, and never for time.
"""

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.image.engine import Engine

PATIENCE_S = 60.0
_CAUGHT = re.compile(r"^SigCgt:\s*(\w+)$", re.MULTILINE)
STATE = "/var/lib/tollhouse"
# What the restricted Pod Security standard asks, and a root that nobody writes to; Podman would lay folders in memory over /tmp and /run.
HARD = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "256m", "--pids-limit", "64")


def free_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process of this machine has a handler for a signal."""
    return bool(int(_CAUGHT.findall(Path(f"/proc/{pid}/status").read_text())[0], 16) & 1 << (number - 1))


class Container:
    """mounts: folder or volume → place, readable only; env: its environment; arguments: behind the command; hard: see HARD.

    It shares the machine's network, so that it and a pretend upstream reach each other on loopback as in one pod, or, to publish, has one
    of its own, in which it listens where its environment says.
    Leaving the `async with` removes it with its volumes, and shows its last lines where something failed.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        *arguments: str,
        mounts: Mapping[Path | str, str] | None = None,
        env: Mapping[str, str] | None = None,
        hard: bool = True,
        publish: bool = False,
    ) -> None:
        self.engine = engine
        self.name = f"tollhouse-{uuid.uuid4().hex[:8]}"
        self.port, self.admin_port = free_port(), free_port()
        self.lines: list[dict[str, Any]] = []
        self.words: list[str] = []  # lines that are no JSON
        own = {"TOLLHOUSE_LISTEN": f"127.0.0.1:{self.port}", "TOLLHOUSE_ADMIN_LISTEN": f"127.0.0.1:{self.admin_port}"}
        published = ["--publish", f"127.0.0.1:{self.port}:8080"] if publish else []
        podman = engine.program == "podman"
        self._command = ["run", "--detach", "--name", self.name, *(published or ("--network", "host"))]
        self._command += [*HARD, *(["--read-only-tmpfs=false"] if podman else [])] if hard else []
        self._command += [f"--env={name}={value}" for name, value in {**({} if publish else own), **(env or {})}.items()]
        self._command += [f"--volume={here}:{there}:ro" for here, there in (mounts or {}).items()]
        self._command += [image, *arguments]
        self._grew = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    async def __aenter__(self) -> Self:
        self.began_s = time.monotonic()
        await asyncio.to_thread(self.engine.call, *self._command)
        self._process = await asyncio.create_subprocess_exec(
            self.engine.program,
            "logs",
            "--follow",
            self.name,
            env=self.engine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            limit=1 << 20,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(f"--- what {self.name} said last:", *self.words[-20:], *self.lines[-10:], sep="\n    ")
        if not self._reading.done():  # else it ends by itself
            self._reading.cancel()
            self._process.kill()
        await self._process.wait()
        await asyncio.to_thread(self.engine.call, "rm", "--force", "--volumes", self.name)

    async def said(self, event: str, count: int = 1) -> dict[str, Any]:
        """The line of the log with this event, once so many have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [line for line in self.lines if line.get("event") == event]) < count:
                self._grew.clear()
                await self._grew.wait()
        return found[count - 1]

    async def ended(self) -> int:
        """The exit code, when it has ended and all that it said was read."""
        code = await asyncio.to_thread(self.engine.call, "wait", self.name, timeout_s=PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.shield(self._reading)
        return int(code)

    async def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in it."""
        return await asyncio.to_thread(self.engine.attempt, "exec", self.name, *command)

    async def listens(self) -> None:
        """Its process has a handler for SIGTERM; on Linux alone, where a container's processes are among the machine's."""
        pid = int(await asyncio.to_thread(self.engine.call, "inspect", "--format", "{{.State.Pid}}", self.name))
        async with asyncio.timeout(PATIENCE_S):
            while not catches(pid, signal.SIGTERM):
                await asyncio.sleep(0)

    async def terminate(self) -> None:
        await asyncio.to_thread(self.engine.call, "kill", "--signal", "TERM", self.name)

    async def started(self) -> float:
        """When its process began, seconds since 1970."""
        text = await asyncio.to_thread(self.engine.call, "inspect", "--format", "{{json .State.StartedAt}}", self.name)
        return datetime.fromisoformat(text.strip('"')).timestamp()

    async def changed(self) -> list[str]:
        """Paths of its file system that differ from the image's, without what engines put there: places to mount at, and its user."""
        lines = (await asyncio.to_thread(self.engine.call, "diff", self.name)).splitlines()
        engines = {"/etc", "/etc/passwd", "/etc/group", "/run", "/run/secrets", "/var", "/proc"}
        return sorted({line.split(" ", 1)[1] for line in lines} - engines)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.words.append(line.decode("utf-8", "replace").rstrip())
            self._grew.set()
