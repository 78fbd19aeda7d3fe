"""The sink of a recorded call: it takes an answer as a client's socket does, and is never slow and never gone.

The rule a reader could break: whatever is written is held against the bounds at once (`grew`), so that memory never follows an upstream.
"""

from collections.abc import Callable

from proxy.recording.recording import Head, Recording


class RecordingSink:
    """A `Sink` as the relay has it. grew: called whenever the recording did."""

    __slots__ = ("_grew", "_recording")
    slow = False

    def __init__(self, recording: Recording, grew: Callable[[Recording], None]) -> None:
        self._recording = recording
        self._grew = grew

    def __repr__(self) -> str:
        return f"<RecordingSink of {self._recording!r}>"

    @property
    def head_sent(self) -> bool:
        return self._recording.head is not None

    def start(self, status: int, lines: list[str], length: int | None = None, *, first: bytes = b"", close: bool = False) -> bool:
        self._recording.begin(Head(status, tuple(lines), length))
        return self.write(first)

    def write(self, piece: bytes) -> bool:
        self._recording.add(piece)
        self._grew(self._recording)
        return False

    def write_chunk(self, chunk: bytes, at: int, end: int) -> bool:
        return self.write(chunk[at:end])

    def end(self) -> bool:
        self._recording.finish()
        self._grew(self._recording)
        return False

    def whole(self, body: bytes, status: int, lines: list[str], length: int | None = None, *, close: bool = False) -> bool:
        self.start(status, lines, first=body)
        return self.end()

    async def room(self) -> None:
        """There always is."""

    def abort(self) -> None:
        self._recording.finish(broken=True)
