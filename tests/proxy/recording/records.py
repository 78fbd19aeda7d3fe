"""Recordings for tests, a reader's sink that takes down what it is given, and whoever is told."""

import asyncio
from typing import Any

from proxy.deadlines import Sweep, Watch
from proxy.policy.contract import Terms
from proxy.recording.recording import Facts, Head, Recording
from proxy.trip import Trip

OWNER = ("app", "ada")
FACTS = Facts(usage={"input_tokens": 1}, usage_source="reported", cost_nanousd=5, error=None, ended_s=1_800_000_001.0)
STREAM = Head(200, ("content-type: text/event-stream", "x-request-id: req_first"), None)
JSON = Head(200, ("content-type: application/json",), None)


def terms(**fields: Any) -> Terms:
    own: dict[str, Any] = {
        "policy": "all",
        "kept_s": 600.0,
        "grace_s": 60.0,
        "most_bytes": 8 << 20,
        "most_total": 256 << 20,
        "most_running": 16,
        "allow": frozenset(("idempotency", "tasks", "resume")),
    }
    return Terms(**{**own, **fields})


def recording(number: int = 1, **fields: Any) -> Recording:
    own: dict[str, Any] = {
        "owner": OWNER,
        "terms": terms(),
        "request_id": f"req_{number}",
        "path": "/v1/chat/completions",
        "surface": "chat",
        "claim": None,
        "fingerprint": b"f" * 32,
        "task": False,
        "began_s": 1_800_000_000.0,
    }
    return Recording(f"task_{number:032x}", **{**own, **fields})


def event(number: int) -> bytes:
    return b'data: {"n": %d}\n\n' % number


class Taken:
    """A sink that is never slow. status, lines: of the head; body: what came behind it. breaks_after: bytes, then the reader is gone."""

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.status = 0
        self.lines: list[str] = []
        self.length: int | None = None
        self.body = b""
        self.ended = self.aborted = False
        self._breaks_after = breaks_after

    slow = False

    @property
    def head_sent(self) -> bool:
        return self.status != 0

    def start(self, status: int, lines: list[str], length: int | None = None, *, first: bytes = b"", close: bool = False) -> bool:
        self.status, self.lines, self.length = status, list(lines), length
        return self.write(first)

    def write(self, piece: bytes) -> bool:
        self.body += piece
        if self._breaks_after is not None and len(self.body) >= self._breaks_after:
            self.body = self.body[: self._breaks_after]
            raise ConnectionResetError
        return False

    def write_chunk(self, chunk: bytes, at: int, end: int) -> bool:
        return self.write(chunk[at:end])

    def end(self) -> bool:
        self.ended = True
        return False

    def whole(self, body: bytes, status: int, lines: list[str], length: int | None = None, *, close: bool = False) -> bool:
        self.start(status, lines, len(body), first=body)
        return self.end()

    async def room(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class Told:
    """Whoever hears of recordings."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []
        self.reads: list[str] = []
        self.faults: list[BaseException] = []

    def read(self, how: str, recording: Recording, trip: Trip) -> None:
        self.reads.append(how)

    def forgot(self, recording: Recording, why: str) -> None:
        self.forgotten.append((recording.id, why))

    def ended(self, recording: Recording) -> None:
        pass

    def fault(self, error: BaseException, request_id: str) -> None:
        self.faults.append(error)


def watch() -> Watch:
    """Over the test's task; nothing expires."""
    return Sweep(asyncio.get_running_loop()).watch()
