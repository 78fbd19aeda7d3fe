"""The road of an answer: piece in, meter, sink out. JSON and SSE take the same one.

    pump ─► take: meter ─► sink ──┐ as long as nobody has to wait, within the reading of the upstream's socket
     ▲                            │
     └── settle, head, room ◄─────┘ the task, when somebody has

The rule a reader could break: one piece is in hand at a time. While the task waits nothing is pumped, which is what slows the upstream
down, so there is no queue and no second task here.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol

from proxy.deadlines import TOO_LARGE, Watch
from proxy.errors import UpstreamError
from proxy.timeouts import Timeouts
from proxy.upstream.contract import Answer
from proxy.wire.failure import in_band_refusal
from proxy.wire.meter import Meter

# A server that keeps the connection open behind its last event holds nobody up longer than this.
_TAIL_S = 1.0
_WEIGH_S = 1.0


# The head of an answer to a client: its status; its lines `name: value`, but for framing; the length of its body, None = not known.
Head = tuple[int, list[str], int | None]


class Sink(Protocol):
    """Where an answer goes: the client's socket. head_sent: whether a status line has left; there is never a second. slow: its reader is.

    What writes raises ConnectionError when the reader is gone, waits for nothing, and returns whether the reader is slow; whoever wrote
    then waits for `room` before going on.
    """

    @property
    def head_sent(self) -> bool: ...

    @property
    def slow(self) -> bool: ...

    def start(self, status: int, lines: list[str], length: int | None = None, *, first: bytes = b"", close: bool = False) -> bool:
        """The head of an answer whose body follows. first: of the body, what goes with it. close: the connection ends with it."""

    def write(self, piece: bytes) -> bool: ...

    def write_chunk(self, chunk: bytes, at: int, end: int) -> bool:
        """Write `chunk[at:end]`, where all of `chunk` is that with the framing of HTTP around it."""

    def end(self) -> bool: ...

    def whole(self, body: bytes, status: int, lines: list[str], length: int | None = None, *, close: bool = False) -> bool:
        """Head and body at once, for an answer that is complete before its head is sent."""

    async def room(self) -> None:
        """Until the reader has taken enough. May be cancelled."""

    def abort(self) -> None:
        """Break the connection, so that nobody takes what was sent for a whole answer."""


class Course(Protocol):
    """The call whose answer it is, as far as the relay knows it."""

    def head(self) -> Head:
        """The response's head; asked for when it is sent, so a whole answer's can name its cost."""

    def settle(self) -> Awaitable[None]:
        """Called once the usage is known, before the client sees the end, so that its next call finds the balances right."""

    def first_token(self) -> None:
        """The first output has come, of an answer that is not whole."""

    def most_bytes(self) -> float:
        """How large the answer may be, framing included."""

    def secrets(self) -> tuple[str, ...]:
        """What no explanation of the upstream may show."""


async def relay(course: Course, answer: Answer, sink: Sink, meter: Meter, watch: Watch, timeouts: Timeouts) -> None:
    """Pass an answer on to its end.

    Errors: UpstreamError when the answer breaks off or reports a failure. Cancelled by the watch or a client that left.
    """
    body = None if meter.streams else answer.at_hand()
    sent_at = watch.since if body is None else 0.0
    watch.expect("idle", timeouts.idle)
    if body is None:
        await _Passage(course, answer, sink, meter, watch, timeouts, sent_at).run()
        rest = meter.finish()
    else:
        rest = (meter.feed(body) if body else b"") + meter.finish()
    watch.expect_no_more()
    await course.settle()
    if not sink.head_sent:
        slow = sink.whole(rest, *course.head())
    else:
        if rest and sink.write(rest):
            watch.expect("write_stall", timeouts.write_stall)
            await sink.room()
        slow = sink.end()
    if slow:
        watch.expect("write_stall", timeouts.write_stall)
        await sink.room()


@dataclass(eq=False, slots=True)
class _Passage:
    """`relay` up to the end of a body that is not at hand, as it comes. What the meter gives out at the end is yet to be written.

    sent_at: when the call was sent, loop time.
    """

    course: Course
    answer: Answer
    sink: Sink
    meter: Meter
    watch: Watch
    timeouts: Timeouts
    sent_at: float
    _token_at: float | None = field(
        default=None, init=False
    )  # when the first token is due; None once it came, and for what has none
    _held: bytes = field(default=b"", init=False)  # to be written before anything else
    _slow: bool = field(default=False, init=False)
    _weigh_at: float = field(default=0.0, init=False)
    _before: int | None = field(default=None, init=False)  # bytes that came over the connection before those that are counted

    async def run(self) -> None:
        meter, sink, watch = self.meter, self.sink, self.watch
        watch.pulses += (self._weigh,)
        if meter.streams:
            self._start()
            if self._slow and self._token_at is not None:  # whose first token is due so long after its head was taken
                await self._room()
                self._slow = False
                watch.expect("first_token", self.timeouts.first_token)
                self._token_at = watch.at
        while True:
            if meter.ended:
                watch.expect_no_more()
                await self.course.settle()
            if self._held:
                if not sink.head_sent:
                    sink.start(*self.course.head())
                self._slow = sink.write(self._held)
                self._held = b""
            if self._slow:
                await self._room()
                self._slow = False
            if meter.error is not None:
                raise in_band_refusal(meter.error, secrets=self.course.secrets())
            if meter.ended:
                await self._tail()
                break
            if self._token_at is None:
                watch.expect("idle", self.timeouts.idle)
            else:
                watch.expect_at("first_token", self._token_at)
            if not await self.answer.pump(self._take, self._take_chunk if meter.streams else None):
                break

    def _start(self) -> None:
        """The head of a stream, and in one write with it what has come by now, unless that is its end or says that it failed."""
        self._token_at = self.sent_at + self.timeouts.first_token
        self.watch.expect_at("first_token", self._token_at)
        first = b""
        if came := self.answer.received():
            self._take(came)
            if not self.meter.ended and self.meter.error is None:
                first, self._held = self._held, b""
        self._slow = self.sink.start(*self.course.head(), first=first)

    def _take(self, piece: bytes) -> bool:
        """One piece of the body: on to the client at once. False where somebody has to wait before the next."""
        meter, sink = self.meter, self.sink
        passed = meter.feed(piece)
        if self._token_at is None:
            self.watch.beat = True
        elif meter.first_token:
            self._token_at = None
            self.course.first_token()
            self.watch.expect("idle", self.timeouts.idle)
        if meter.ended or meter.error is not None or (passed and not sink.head_sent):
            self._held = passed
            return False
        if passed and sink.write(passed):
            return self._hold_up()
        return True

    def _take_chunk(self, chunk: bytes, at: int, end: int) -> bool | None:
        """An event like the last, which is most of a stream, goes on in the framing that it came in."""
        if self._token_at is not None or not self.meter.repeats(chunk, at, end):
            return None
        self.watch.beat = True
        if self.sink.write_chunk(chunk, at, end):
            return self._hold_up()
        return True

    def _hold_up(self) -> bool:
        """The client is slow: nothing more is received, not even before the task has learnt of it."""
        self._slow = True
        self.answer.hold()
        return False

    def _weigh(self, now: float) -> None:
        """End an answer that has grown too large. Looked at once a second, so that no piece of it costs anything more."""
        if now < self._weigh_at:
            return
        self._weigh_at = now + _WEIGH_S
        came = self.answer.received_bytes()
        if self._before is None:
            self._before = came
        elif came - self._before > self.course.most_bytes():
            self.watch.expire(TOO_LARGE)

    async def _tail(self) -> None:
        """What follows the surface's own end: comments, and the end of the framing. It is waited for, but not for long.

        No deadline of the upstream's counts here: it would put an error behind the end, and make a failure of what is whole.
        """
        until = asyncio.get_running_loop().time() + _TAIL_S
        while True:
            self.watch.expect_no_more()
            try:
                async with asyncio.timeout_at(until):
                    piece = await self.answer.read()
            except (TimeoutError, UpstreamError):
                return
            if not piece:
                return
            if (passed := self.meter.feed(piece)) and self.sink.write(passed):
                await self._room()

    async def _room(self) -> None:
        """Until the client has taken enough of what was written. What the upstream sends meanwhile is the system's to keep."""
        self.answer.hold()
        self.watch.expect("write_stall", self.timeouts.write_stall)
        await self.sink.room()
