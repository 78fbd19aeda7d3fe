"""Heartbeats: comments in the silence of a stream, where a policy asks for them, so that nobody on the way takes it for dead.

They are the sweep's to write and no task's; calls without the clause have none of this around them. The rule a reader could break: a
comment stands between whole events or nowhere, and is a line of its own without a blank one behind it, which is the one form that every
SDK passes over. Source: facts on the OpenAI API, section 9.
"""

from collections.abc import Callable

from proxy.deadlines import Watch
from proxy.errors import UpstreamError
from proxy.relay import Head, Sink
from proxy.trip import Trip
from proxy.upstream.contract import Answer
from proxy.wire.meter import Meter, PassMeter, StreamMeter
from proxy.wire.sse import BYTE_ORDER_MARK

COMMENT = b": heartbeat\n"


class Heartbeat:
    """A `Sink` around the client's, for one streamed call.

    Where no head has come from the upstream by the time of the first one, it sends a head of its own: `trip.early` is set then, and
    whatever goes wrong from there on is told as an event.
    """

    __slots__ = ("_began", "_every_s", "_fresh", "_head", "_open", "_over", "_since", "_sink", "_trip")

    def __init__(self, sink: Sink, trip: Trip, watch: Watch, *, every_s: float, head: Callable[[], Head]) -> None:
        """head: of an answer that has not come."""
        self._sink = sink
        self._trip = trip
        self._every_s = every_s
        self._head = head
        self._fresh = True  # something was written since the last look
        self._since = 0.0  # since when nothing was, loop time
        self._began = False  # something of the upstream's was written
        self._open = False  # the last event ended in CR, and the LF of a CRLF may come
        self._over = False
        watch.pulses += (self.beat,)

    def __repr__(self) -> str:
        return f"<Heartbeat every={self._every_s} over={self._over}>"

    def beat(self, now: float) -> None:
        """Write a comment if nothing was written for so long, and one may stand here. Called by the sweep."""
        if self._fresh:
            self._fresh, self._since = False, now
            return
        if now - self._since < self._every_s or self._over or self._open or self._sink.slow:
            return
        meter = self._trip.meter
        if meter is not None and (not isinstance(meter, StreamMeter) or meter.ended or meter.error is not None):
            return
        self._since = now
        try:
            if self._sink.head_sent:
                self._sink.write(COMMENT)
            else:
                self._trip.early = True
                self._sink.start(*self._head(), first=COMMENT)
        except ConnectionError:  # the client has left, and whoever answers it is about to be told
            self._over = True

    # ── as a sink ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def head_sent(self) -> bool:
        return self._sink.head_sent

    @property
    def slow(self) -> bool:
        return self._sink.slow

    def start(self, status: int, lines: list[str], length: int | None = None, *, first: bytes = b"", close: bool = False) -> bool:
        self._fresh = True
        if self._sink.head_sent:
            return self.write(first) if first else self._sink.slow
        self._began = bool(first)
        self._open = first.endswith(b"\r")
        return self._sink.start(status, lines, length, first=first, close=close)

    def write(self, piece: bytes) -> bool:
        self._fresh = True
        if not self._began:  # a mark is one at the very beginning, and there a comment may stand
            self._began = True
            piece = piece.removeprefix(BYTE_ORDER_MARK)
        self._open = piece.endswith(b"\r")
        return self._sink.write(piece)

    def write_chunk(self, chunk: bytes, at: int, end: int) -> bool:
        self._fresh = True
        self._open = False
        return self._sink.write_chunk(chunk, at, end)

    def end(self) -> bool:
        self._over = True
        return self._sink.end()

    def whole(self, body: bytes, status: int, lines: list[str], length: int | None = None, *, close: bool = False) -> bool:
        self._over = True
        return self._sink.whole(body, status, lines, length, close=close)

    async def room(self) -> None:
        await self._sink.room()

    def abort(self) -> None:
        self._over = True
        self._sink.abort()


async def no_stream(answer: Answer, meter: Meter, watch: Watch, idle_s: float) -> UpstreamError:
    """What to tell of an answer that is no stream of events, where the head of one has left. It is read to its end: it is paid for."""
    watch.expect("idle", idle_s)
    if not isinstance(meter, PassMeter):
        while piece := await answer.read():
            watch.beat = True
            meter.feed(piece)
        meter.finish()
    return UpstreamError(
        "upstream_broken", "The upstream's answer is no stream of events, and the head of one was sent already (heartbeat)."
    )
