"""Recordings on the disk, sealed: one row a recording, its facts and its content apart.

    begun ─► facts, "running" ──► ended: facts and content ──► erased when it is forgotten
                └── found so by the next process: it says `interrupted`, and its key is free

Changes are gathered and written together on one thread. The rule a reader could break: no call waits for the disk but one that is told that
its task exists, and one that reads what ended before the start; a disk that fails costs what a restart would find.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from proxy.errors import StateUnavailable
from proxy.policy.contract import Terms
from proxy.recording.recording import Facts, Head, Recording
from proxy.recording.seal import NONCE_BYTES, Seal
from proxy.state.recordings import Recordings, Row

# Contents that wait for the disk; beyond it one is not kept over a restart.
MOST_WAITING_BYTES = 64 << 20
_LONG_S = 366 * 86_400.0  # a row that runs goes when the next process finds it


class _Change(NamedTuple):
    """What a row becomes, not yet sealed. content: what stands before the pieces, and those."""

    expires_s: float
    facts: bytes
    content: tuple[bytes, list[bytes]] | None
    nonces: tuple[bytes, bytes]
    size: int


class Vault:
    """failed: told of a disk that failed, in its own words. found: what was there at the start; unreadable: rows under another key."""

    def __init__(self, rows: Recordings, seal: Seal, thread: ThreadPoolExecutor, random: Callable[[int], bytes]) -> None:
        self._rows = rows
        self._seal = seal
        self._thread = thread
        self._random = random
        self._changes: dict[bytes, _Change | None] = {}
        self._waiting_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        # Done when what is gathered now, and what is being written, is on the disk or has failed to come there.
        self._gathered: asyncio.Future[None] | None = None
        self._written: asyncio.Future[None] | None = None
        self.failed: Callable[[StateUnavailable], None] = lambda error: None
        self.unreadable = 0

    def __repr__(self) -> str:
        return f"<Vault changes={len(self._changes)} waiting={self._waiting_bytes} bytes>"

    @classmethod
    async def open(
        cls, directory: Path, key: bytes, random: Callable[[int], bytes], now_s: float
    ) -> "tuple[Vault, list[Recording]]":
        """Open the file, and find what is in it: recordings that ended, and such that were interrupted. Errors: StateUnavailable."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tollhouse-recordings")
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(thread, Recordings, directory)
            vault = cls(rows, Seal(key), thread, random)
            found, gone, vault.unreadable = await loop.run_in_executor(thread, vault._find, now_s)
        except BaseException:
            thread.shutdown()
            raise
        for tag in gone:
            vault._put(tag, None)
        for recording in found:
            if recording.state == "running":
                _interrupt(recording, now_s)
                vault.ended(recording)
        return vault, found

    async def close(self) -> None:
        """Write what waits."""
        while self._writing is not None:
            await asyncio.shield(self._writing)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._rows.close)
        self._thread.shutdown()

    def begun(self, recording: Recording) -> None:
        """It runs: a restart will know that it did."""
        self._change(recording, recording.began_s + _LONG_S, None)

    def ended(self, recording: Recording) -> None:
        assert recording.expires_s is not None
        content = None
        if recording.size + self._waiting_bytes <= MOST_WAITING_BYTES:
            content = _opening(recording), list(recording.all_pieces())
        self._change(recording, recording.expires_s, content)

    def forget(self, id: str) -> None:
        self._put(self._seal.tag(id), None)

    async def written(self) -> None:
        """Until all that was changed so far is on the disk, or has failed to come there. What is changed meanwhile is not waited for."""
        waiting = self._gathered or self._written
        if waiting is not None:
            await asyncio.shield(waiting)

    async def load(self, recording: Recording) -> bool:
        """Bring the content of one back that ended before the start. False: it cannot be read. Errors: StateUnavailable."""
        tag = self._seal.tag(recording.id)
        found = await asyncio.get_running_loop().run_in_executor(self._thread, self._read, tag)
        if found is None:
            return False
        if recording.on_disk:
            recording.load(*found)
        return True

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _change(self, recording: Recording, expires_s: float, content: tuple[bytes, list[bytes]] | None) -> None:
        size = recording.size if content is not None else 0
        nonces = self._random(NONCE_BYTES), self._random(NONCE_BYTES)
        self._put(self._seal.tag(recording.id), _Change(expires_s, _told(recording), content, nonces, size))

    def _put(self, tag: bytes, change: _Change | None) -> None:
        before = self._changes.get(tag)
        self._waiting_bytes += (change.size if change is not None else 0) - (before.size if before is not None else 0)
        self._changes[tag] = change
        loop = asyncio.get_running_loop()
        if self._gathered is None:
            self._gathered = loop.create_future()
        if self._writing is None:
            self._writing = loop.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._changes:
                changes, self._changes = self._changes, {}
                written = self._written = self._gathered
                self._gathered = None
                assert written is not None
                try:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._write_all, changes)
                except StateUnavailable as error:
                    self.failed(error)
                finally:
                    self._waiting_bytes -= sum(change.size for change in changes.values() if change is not None)
                    self._written = None
                    written.set_result(None)
        finally:
            self._writing = None

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _write_all(self, changes: Mapping[bytes, _Change | None]) -> None:
        self._rows.write({tag: None if change is None else self._sealed(tag, change) for tag, change in changes.items()})

    def _sealed(self, tag: bytes, change: _Change) -> Row:
        close = self._seal.close
        content = None
        if change.content is not None:
            opening, pieces = change.content
            content = close(b"\n".join((opening, b"".join(pieces))), tag=tag, part="content", nonce=change.nonces[1])
        return Row(change.expires_s, close(change.facts, tag=tag, part="facts", nonce=change.nonces[0]), content)

    def _read(self, tag: bytes) -> tuple[Head | None, int, list[bytes]] | None:
        sealed = self._rows.content(tag)
        content = self._seal.open(sealed, tag=tag, part="content") if sealed is not None else None
        if content is None:
            return None
        opening, _, joined = content.partition(b"\n")
        said, at, pieces = json.loads(opening), 0, []
        for size in said["sizes"]:
            pieces.append(joined[at : at + size])
            at += size
        head = said["head"]
        return (Head(head[0], tuple(head[1]), head[2]) if head is not None else None), said["first"], pieces

    def _find(self, now_s: float) -> tuple[list[Recording], list[bytes], int]:
        """Recordings, what is to go, and how much of that another key sealed."""
        found, gone, unreadable = list[Recording](), list[bytes](), 0
        for tag, expires_s, sealed in self._rows.facts():
            facts = self._seal.open(sealed, tag=tag, part="facts")
            unreadable += facts is None
            if facts is None or expires_s <= now_s:
                gone.append(tag)
                continue
            recording = _recalled(json.loads(facts))
            recording.expires_s = expires_s
            found.append(recording)
        return found, gone, unreadable


def _json(value: Any) -> bytes:
    """On one line, and able to hold what is no UTF-8 in a header, which orjson is not."""
    return json.dumps(value, separators=(",", ":")).encode()


def _opening(recording: Recording) -> bytes:
    """What stands before the pieces: JSON, so without a line break."""
    return _json({"head": recording.head, "first": recording.first, "sizes": [len(piece) for piece in recording.all_pieces()]})


def _told(recording: Recording) -> bytes:
    """All that is known of it but its content, as `_recalled` reads it."""
    terms = asdict(recording.terms)
    return _json(
        {
            "id": recording.id,
            "owner": recording.owner,
            "terms": {**terms, "allow": sorted(terms["allow"]), "tell": sorted(terms["tell"])},
            "request_id": recording.request_id,
            "path": recording.path,
            "surface": recording.surface,
            "claim": recording.claim,
            "fingerprint": recording.fingerprint.hex(),
            "task": recording.task,
            "began_s": recording.began_s,
            "state": recording.state,
            "stream": recording.stream,
            "broken": recording.broken,
            "model": recording.model,
            "facts": asdict(recording.facts) if recording.facts is not None else None,
        }
    )


def _recalled(said: Mapping[str, Any]) -> Recording:
    terms = said["terms"]
    recording = Recording(
        said["id"],
        owner=(said["owner"][0], said["owner"][1]),
        terms=Terms(**{**terms, "allow": frozenset(terms["allow"]), "tell": frozenset(terms["tell"])}),
        request_id=said["request_id"],
        path=said["path"],
        surface=said["surface"],
        claim=said["claim"],
        fingerprint=bytes.fromhex(said["fingerprint"]),
        task=said["task"],
        began_s=said["began_s"],
    )
    recording.state, recording.stream, recording.model = said["state"], said["stream"], said["model"]
    recording.facts = Facts(**said["facts"]) if said["facts"] is not None else None
    recording.over, recording.broken, recording.on_disk = True, said["broken"], True
    return recording


def _interrupt(recording: Recording, now_s: float) -> None:
    """It ran when the process before this one ended. What it held is charged; its key is free for another try."""
    recording.state, recording.claim, recording.on_disk = "interrupted", None, False
    recording.over = recording.broken = True
    recording.facts = Facts(usage=None, usage_source=None, cost_nanousd=None, error="task_interrupted", ended_s=now_s)
    recording.expires_s = now_s + recording.terms.kept_s
