"""A process under measurement: started on its own core, its CPU time and memory read from the kernel, stopped by its own id."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_START_S = 20.0
_STOP_S = 20.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_ROOT = (
    Path(__file__).resolve().parents[1]
)  # `python -m` puts it first on the path: what is measured is what stands beside this file


class Failed(Exception):
    """The subject did not start, or ended by itself."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Subject:
    """One child process. Its output goes through a pipe to a `tail` on the other core, as a container's goes to its runtime."""

    def __init__(self, name: str, command: Sequence[str], *, port: int, core: int, drain_core: int, env: Mapping[str, str]) -> None:
        self.name, self.port = name, port
        self._begun = time.perf_counter()
        self._last_words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._drain = subprocess.Popen(
            ["tail", "-c", "4000"], stdin=subprocess.PIPE, stdout=self._last_words, preexec_fn=lambda: _settle(drain_core)
        )
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._drain.stdin,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=_ROOT,
            preexec_fn=lambda: _settle(core),
        )
        assert self._drain.stdin is not None
        self._drain.stdin.close()

    async def first_200(self, request: bytes | None) -> float:
        """Seconds from the start of the process to its first 200. request: None asks only for a listener. Errors: Failed."""
        answer = b""
        while time.perf_counter() - self._begun < _START_S:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    if request is None:
                        return time.perf_counter() - self._begun
                    writer.write(request)
                    answer = await asyncio.wait_for(reader.read(4000), timeout=5)
                    if answer.startswith(b"HTTP/1.1 200"):
                        return time.perf_counter() - self._begun
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.002)
        self.stop()
        raise Failed(f"{self.name} gave no 200; last answer {answer!r}; last words:\n{self.last_words()}")

    def cpu_s(self) -> float:
        """User and kernel time of the whole process tree so far, in seconds. Errors: Failed."""
        return sum(time.clock_gettime(_cpu_clock(pid)) for pid in self._tree())

    def rss_mib(self) -> float:
        """Resident memory of the whole process tree."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._tree())
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def _tree(self) -> list[int]:
        if self._process.poll() is not None:
            self.stop()
            raise Failed(f"{self.name} ended with {self._process.returncode}; last words:\n{self.last_words()}")
        tree, at = [self._process.pid], 0
        while at < len(tree):
            for task in Path(f"/proc/{tree[at]}/task").iterdir():
                tree += map(int, (task / "children").read_text().split())
            at += 1
        return tree

    def stop(self) -> None:
        """Ask it to end, then make it. The end of the pipe ends the drain."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        for process in (self._process, self._drain):
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def last_words(self) -> str:
        self._last_words.seek(0)
        return self._last_words.read().decode("utf-8", "replace")


def _settle(core: int) -> None:
    """In the child, before it runs: its core, and an end with ours even if we are killed."""
    os.sched_setaffinity(0, {core})
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _cpu_clock(pid: int) -> int:
    """The clock of another process's CPU time, of all its threads: clock_getcpuclockid(3), in Linux's encoding.

    It counts what /proc/PID/stat shows as utime and stime, in nanoseconds instead of hundredths of a second.
    """
    return ~pid << 3 | 2
