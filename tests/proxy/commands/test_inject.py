"""`tollhouse inject` as a process: what it says when it cannot start, a review over TLS, and how it ends."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.proxy.injector.authority import mounted, pair, trusting
from tests.proxy.injector.pods import SIDECAR, bytes_of, patched, pod, response_of
from tests.whole.process import environment, ran

HANG_S = 30.0


def flags(folder: Path, *, listen: str = "127.0.0.1:0", sidecar: str = SIDECAR) -> list[str]:
    tls = mounted(folder / "tls", pair("web"))
    config = mounted(folder / "config", {"sidecar.yaml": sidecar.encode()})
    files = ("--tls-cert", f"{tls}/tls.crt", "--tls-key", f"{tls}/tls.key", "--sidecar", f"{config}/sidecar.yaml")
    return ["--listen", listen, *files]


def refused(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    """What is said to somebody who starts it so."""
    end = ran(folder, "inject", *arguments, env=env)
    assert (end.returncode, end.stdout) == (2, ""), end
    assert "Traceback" not in end.stderr
    return [line.replace(str(folder), "DIR") for line in end.stderr.splitlines()]


def test_files_that_are_not_named_are_told_all_at_once(tmp_path: Path) -> None:
    assert refused(tmp_path, "--listen", "here") == [
        "tollhouse: --listen: expected HOST:PORT, such as 127.0.0.1:8080",
        "tollhouse: --tls-cert: name a file, here or as TOLLHOUSE_INJECT_TLS_CERT",
        "tollhouse: --tls-key: name a file, here or as TOLLHOUSE_INJECT_TLS_KEY",
        "tollhouse: --sidecar: name a file, here or as TOLLHOUSE_INJECT_SIDECAR",
    ]


def test_what_is_wrong_with_its_files_is_told_with_the_place(tmp_path: Path) -> None:
    broken = flags(tmp_path, sidecar=SIDECAR.replace("native: true", "native: yes").replace("grace_s: 45", "grace: 45"))
    assert refused(tmp_path, *broken) == [
        'DIR/config/sidecar.yaml:1:9: native: YAML reads `yes` as true; write "yes" in quotes',
    ]
    (tmp_path / "tls" / "tls.crt").unlink()
    assert refused(tmp_path, *flags(tmp_path)[:-2], "--sidecar", str(tmp_path)) == [
        "DIR:1:1: the file cannot be read: Is a directory"
    ]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        busy = f"127.0.0.1:{holder.getsockname()[1]}"
        told = refused(tmp_path, *flags(tmp_path, listen=busy))
    assert told == [f"tollhouse: --listen: cannot listen on {busy}: Address already in use"]


def test_it_loads_neither_the_proxy_nor_what_only_that_needs() -> None:
    """A webhook is small: two of them run beside every cluster's control plane."""
    script = "import sys, proxy.commands.inject; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True).stdout.split()
    heavy = {
        "aiohttp",
        "uvloop",
        "tiktoken",
        "sqlite3",
        "websockets",
        "prometheus_client",
        "policies",
        "proxy.app",
        "proxy.pipeline",
    }
    assert heavy & set(loaded) == set()
    script = "import sys, proxy.commands.serve; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True).stdout.split()
    assert [name for name in loaded if name.startswith("proxy.injector")] == []


class Running:
    """A process that is ready."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=trusting(), server_hostname="localhost")

    async def line(self, event: str) -> dict[str, object]:
        """The next line of that event."""
        assert self.process.stdout is not None
        async with asyncio.timeout(HANG_S):
            while True:
                found: dict[str, object] = json.loads(await self.process.stdout.readline())
                if found["event"] == event:
                    return found


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    """Its ports are free ones, and its files come by the environment."""
    given = flags(folder)
    names = [flag.removeprefix("--").replace("-", "_").upper() for flag in given[::2]]
    env = environment(folder, {f"TOLLHOUSE_INJECT_{name}": value for name, value in zip(names, given[1::2], strict=True)})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "inject", env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    found = Running(process, 0)
    try:
        found.port = int(str((await found.line("server.ready"))["listen"]).rpartition(":")[2])
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_review_that_is_under_way_at_the_end_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as hook:
        reader, writer = await hook.connected()
        body = bytes_of(before := pod())
        writer.write(b"POST /inject?timeout=10s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body[:100])
        await writer.drain()
        idle_reader, idle_writer = await hook.connected()
        _, silent_writer = await asyncio.open_connection("127.0.0.1", hook.port)
        hook.process.send_signal(signal.SIGTERM)
        assert (await hook.line("server.draining"))["running"] == 1
        assert await idle_reader.read() == b"", "nobody waits for a connection that asks nothing"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", hook.port)
        writer.write(body[100:])
        head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in head
        assert patched(before, response_of(answer))["spec"]["initContainers"][0]["name"] == "tollhouse"
        await hook.line("server.stopped")
        assert await hook.process.wait() == 0
        assert hook.process.stderr is not None
        assert await hook.process.stderr.read() == b""
        for each in (writer, idle_writer, silent_writer):
            each.close()
