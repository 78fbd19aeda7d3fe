"""One recording: a head, numbered pieces and an end, written once and read by whoever may, at his own place.

    running ── written by a RecordingSink ──► completed, failed, cancelled, interrupted
       └── readers wait for news, each with the number of the last piece that he has

Pieces of a stream are its events, so a number is an event's; the first is 1. The rule a reader could break: a piece that was forgotten is
an error for whoever asks for it (`gap`), never passed over.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol

from proxy.policy.contract import Terms
from proxy.wire.sse import Splitter, is_stream

State = Literal["running", "completed", "failed", "cancelled", "interrupted"]

PIECE_BYTES = 64  # that a piece takes beside its own
OWN_BYTES = 4096  # of a recording without pieces: itself, its head, its places in the archive
READ_BYTES = 64 << 10  # given to a reader at once
_KEPT_OF_TRIMMED = 7 / 8  # trimming moves all that stays, so it is not done for every piece

Owner = tuple[str, str]  # key id and user


class Head(NamedTuple):
    """Of the recorded answer: see `proxy.relay.Head`."""

    status: int
    lines: tuple[str, ...]
    length: int | None

    def field(self, name: str) -> str | None:
        """The value of a field. name: in lower case."""
        start = name + ": "
        return next((line[len(start) :] for line in self.lines if line.startswith(start)), None)


class Carrier(Protocol):
    """What carries a recorded call on."""

    def stop(self, why: str) -> None:
        """Have the call end as by a deadline of this name."""

    def beat_s(self) -> float | None:
        """How long a reader of its stream may hear nothing, where a policy says so."""

    def progress(self) -> Mapping[str, Any]:
        """How far it is, for whoever asks."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the call once it has ended. usage: tokens by class, None where nothing was used. cost_nanousd: None = not known."""

    usage: dict[str, Any] | None
    usage_source: str | None
    cost_nanousd: int | None
    error: str | None
    ended_s: float


class Recording:
    """id: `task_` and 128 bits of chance. request_id: of the call. surface: its name. claim: the Idempotency-Key; fingerprint: of the call.

    task: it was given out as one, and needs no reader. readers: attached now; alone_since: loop time since when there are none.
    on_disk: the content, of an ended one, is in the vault and not here.
    """

    __slots__ = (
        "_news",
        "_pieces",
        "_splitter",
        "alone_since",
        "began_s",
        "broken",
        "carrier",
        "claim",
        "expires_s",
        "facts",
        "fingerprint",
        "first",
        "forgotten",
        "head",
        "id",
        "model",
        "on_disk",
        "over",
        "owner",
        "path",
        "readers",
        "request_id",
        "size",
        "state",
        "stream",
        "surface",
        "task",
        "terms",
    )

    def __init__(
        self,
        id: str,
        *,
        owner: Owner,
        terms: Terms,
        request_id: str,
        path: str,
        surface: str,
        claim: str | None,
        fingerprint: bytes,
        task: bool,
        began_s: float,
    ) -> None:
        self.id = id
        self.owner = owner
        self.terms = terms
        self.request_id = request_id
        self.path = path
        self.surface = surface
        self.claim = claim
        self.fingerprint = fingerprint
        self.task = task
        self.began_s = began_s
        self.expires_s: float | None = None
        self.state: State = "running"
        self.head: Head | None = None
        self.stream = False  # its pieces are events
        self.model: str | None = None
        self.facts: Facts | None = None
        self.over = self.broken = False  # no piece comes any more; the answer has no honest end
        self.forgotten = False  # it is no longer in the archive
        self.on_disk = False
        self.carrier: Carrier | None = None  # while it runs
        self.readers = 0
        self.alone_since: float | None = None
        self.first = 1  # the number of the first piece that is kept
        self.size = OWN_BYTES
        self._pieces: list[bytes] = []
        self._splitter: Splitter | None = None
        self._news: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        kept = f"{self.first}..{self.last}" if self._pieces else "nothing"
        return f"<Recording {self.state} pieces={kept} bytes={self.size} readers={self.readers}>"

    @property
    def last(self) -> int:
        """The number of the last piece that has come, 0 for none."""
        return self.first + len(self._pieces) - 1

    # ── for the writer ───────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, head: Head) -> None:
        assert self.head is None, "a second head would stand in the first one's body"
        self.head = head
        self.stream = is_stream(head.field("content-type")) and head.field("content-encoding") is None
        if self.stream:
            self._splitter = Splitter()
        self._tell()

    def add(self, data: bytes) -> None:
        """More of the body: of a stream, whole events nearly always."""
        if not data:
            return
        splitter = self._splitter
        if splitter is None:
            for at in range(0, len(data), READ_BYTES):
                self._keep(data[at : at + READ_BYTES])
        else:
            for event in splitter.feed(data):
                self._keep(event)
            if splitter.rest_bytes > READ_BYTES:  # of a stream that nobody meters, and that may be no stream of events
                self._keep(splitter.finish())
        self._tell()

    def finish(self, *, broken: bool = False) -> None:
        """No more of it comes. broken: it ends without an end."""
        if self.over:
            return
        if self._splitter is not None and (rest := self._splitter.finish()):
            self._keep(rest)
        self._splitter = None
        self.over, self.broken = True, broken
        self._tell()

    def end(self, state: State, facts: Facts) -> None:
        """The call has ended and is settled."""
        self.state, self.facts, self.carrier = state, facts, None
        self.finish(broken=True)
        self._tell()

    def trim(self, most_bytes: int) -> bool:
        """Forget pieces from the front until no more than `most_bytes` are left. Whether any was."""
        if self.size <= most_bytes or not self._pieces:
            return False
        aim, count = int(most_bytes * _KEPT_OF_TRIMMED), 0
        while self.size > aim and count < len(self._pieces):
            self.size -= len(self._pieces[count]) + PIECE_BYTES
            count += 1
        del self._pieces[:count]
        self.first += count
        return count > 0

    def load(self, head: Head | None, first: int, pieces: list[bytes]) -> None:
        """From the vault, as it was."""
        self.head, self.first, self._pieces, self.on_disk = head, first, pieces, False
        self.size += sum(len(piece) + PIECE_BYTES for piece in pieces)

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece) + PIECE_BYTES

    # ── for readers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def gap(self, after: int) -> bool:
        """Whether what follows piece `after` is no longer kept."""
        return after + 1 < self.first

    def pieces(self, after: int) -> list[bytes]:
        """What follows piece `after`, which is not in a gap: as many as go to a reader at once."""
        found, size = [], 0
        for piece in islice(self._pieces, after + 1 - self.first, None):
            found.append(piece)
            size += len(piece)
            if size >= READ_BYTES:
                break
        return found

    def all_pieces(self) -> list[bytes]:
        return self._pieces

    def content_bytes(self) -> int:
        """Of all pieces that are kept."""
        return self.size - OWN_BYTES - PIECE_BYTES * len(self._pieces)

    async def news(self) -> None:
        """Until something about it has changed. May be cancelled."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news.add(waiter)
        try:
            await waiter
        finally:
            self._news.discard(waiter)

    def _tell(self) -> None:
        for waiter in self._news:
            if not waiter.done():
                waiter.set_result(None)
        self._news.clear()
