"""One socket of a session: frames over a transport, read only as fast as what it brings is taken.

The rule a reader could break: whoever sends looks at `slow` first, and sends on nothing while it is set, or memory grows with what nobody
reads.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from proxy.realtime.frames import Ending, Frames, Message
from proxy.upstream.contract import Heir

HIGH_WATER_BYTES = 64 << 10  # either way: what waits for a slow peer, and what waits to be taken from a fast one
LINGER_S = 2.0

F = TypeVar("F", bound=Frames)


class Leg(Heir, asyncio.Protocol, Generic[F]):
    """news: called when something came, or may be sent again, or the socket is gone. on_lost: who else hears of the last.

    slow: the peer does not read what it was sent. lost: the socket is closed. beat: something came since it was last looked at.
    """

    __slots__ = ("_made", "_news", "_on_lost", "_paused", "_transport", "_unwanted", "beat", "frames", "lost", "slow")

    def __init__(self, frames: F, *, news: Callable[[], None], on_lost: Callable[[Exception | None], None] | None = None) -> None:
        self.frames = frames
        self._news = news
        self._on_lost = on_lost
        self._paused = self._unwanted = self._made = False
        self.slow = self.lost = self.beat = False

    def __repr__(self) -> str:
        return f"<Leg {self.frames!r} slow={self.slow} lost={self.lost} paused={self._paused}>"

    # ── for the session ──────────────────────────────────────────────────────────────────────────────────────────────

    def adopt(self, transport: asyncio.Transport) -> None:
        """The transport of a connection that is made already."""
        self._transport = transport
        self._made = True

    def take(self) -> Message | None:
        """The next message that waits."""
        message = self.frames.take()
        if self._paused and self.frames.size <= HIGH_WATER_BYTES:
            self._paused = False
            if not self.lost:
                self._transport.resume_reading()
        return message

    def send(self, message: Message) -> None:
        self.frames.send(message)
        self._flush()

    def close(self, ending: Ending) -> None:
        """Say goodbye. The socket is closed by `end`."""
        self.frames.close(ending)
        self._flush()

    def end(self) -> None:
        """Close the socket, once what was written is on its way; a peer that does not take it is not waited for."""
        if self._made and not self.lost:
            self._transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        if self._made and not self.lost:
            self._transport.abort()

    # ── from the contract ────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, data: bytes) -> None:
        if not self.lost:
            self._transport.write(data)

    def abandon(self) -> None:
        self._unwanted = True
        self.abort()

    # ── from the socket ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.adopt(cast(asyncio.Transport, transport))  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if self._unwanted:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.beat = True
        self.frames.feed(data)
        self._flush()
        if self.frames.size > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._news()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.slow = False
        self.frames.end()
        if self._on_lost is not None:
            self._on_lost(exc)
        self._news()

    def pause_writing(self) -> None:
        self.slow = True

    def resume_writing(self) -> None:
        self.slow = False
        self._news()

    def _flush(self) -> None:
        pieces, last = self.frames.out(slow=self.slow)
        if self.lost or self._transport.is_closing():
            return
        if pieces:
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if last and self._transport.can_write_eof():
            self._transport.write_eof()
