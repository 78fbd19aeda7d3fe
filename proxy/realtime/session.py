"""A session between two sockets: one task, which takes a message at a time and passes it on.

             take ─► talk.asked ─► send
    client ◄──────────────────────────────► upstream
             send ◄─ talk.heard ◄─ take

A message is taken from one side only while the other reads what it is sent; what is not taken is not read from the socket, so a slow
reader slows its sender down and nothing grows. The rule a reader could break: whatever ends a session, its turns are settled before
anybody is told.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.deadlines import Watch, deadline_error
from proxy.errors import InvalidCall, ProxyError, UpstreamError
from proxy.realtime.frames import ClientFrames, Ending, Message, UpstreamFrames
from proxy.realtime.leg import Leg
from proxy.realtime.talk import Talk
from proxy.timeouts import Drain, Timeouts
from proxy.wire.events import read_told, told_error
from proxy.wire.failure import masked

# Close codes. Source: RFC 6455, section 7.4.1.
GOING_AWAY, VIOLATION, INTERNAL = 1001, 1008, 1011
_HUSH_S, _HUSH_BYTES = 1.0, 4 << 20  # how long an upstream may take to say what a turn used that was ended, and what of it is heard
_MOST_REASON_CHARS = 120
_ID_BYTES = 12


class News:
    """What a session waits for: that something came, or may be sent again."""

    __slots__ = ("_loop", "_waiter", "fresh")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self.fresh = False

    def tell(self) -> None:
        self.fresh = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until something is new since it was last waited for."""
        if not self.fresh:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self.fresh = False


@dataclass(eq=False, slots=True)
class Session:
    """secrets: what no reason of the upstream may show. drain: how far an answer is read on once its client has left, None = not at all."""

    client: Leg[ClientFrames]
    upstream: Leg[UpstreamFrames]
    talk: Talk
    news: News
    watch: Watch
    timeouts: Timeouts
    drain: Drain | None
    secrets: tuple[str, ...]
    random: Callable[[int], bytes]
    _stage: str = field(default="", init=False)
    _owed: Message | None = field(default=None, init=False)  # an error for a client that does not read

    def __repr__(self) -> str:
        return f"<Session client={self.client!r} upstream={self.upstream!r}>"

    async def run(self) -> None:
        """From the upgrade to the last goodbye. Errors: ProxyError, ConnectionError of a client that was lost, CancelledError."""
        error: ProxyError | None = None
        try:
            if (first := self.talk.first()) is not None:
                self.upstream.send(Message(True, first))
            await self._pump()
        except asyncio.CancelledError:
            if self.watch.expired == "total" and self.watch.absorb():
                error = UpstreamError("upstream_timeout", "The session has lasted as long as it may (deadline: total).")
                raise error from None
            error = deadline_error(self.watch) if self.watch.expired is not None else None
            raise
        except ProxyError as fault:
            error = fault
            raise
        finally:
            await self._part(error)

    async def fail(self, error: ProxyError) -> None:
        """Tell the client why its session ends, in the API's form and by the code of the close."""
        if error.code == "client_stalled":
            self.client.abort()
            return
        self.client.send(Message(True, self._told(error, None)))
        if error.code in ("draining", "upstream_timeout"):
            code = GOING_AWAY
        else:
            code = VIOLATION if error.source in ("policy", "client") else INTERNAL
        self.client.close(Ending(code, error.code))

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pump(self) -> None:
        """Pass on what comes until one side has said goodbye. Errors: as in `run`."""
        client, upstream = self.client, self.upstream
        while True:
            moved = False
            if not client.slow and (message := upstream.take()) is not None:
                await self._from_upstream(message)
                moved = True
            if self._owed is not None and not client.slow:
                client.send(self._owed)
                self._owed = None
            if not upstream.slow and self._owed is None and (message := client.take()) is not None:
                await self._from_client(message)
                moved = True
            if moved:
                self._expect()
                await asyncio.sleep(0)  # a burst of one session holds up no other
                continue
            if self._over():
                return
            self._expect()
            await self.news.wait()

    async def _from_client(self, message: Message) -> None:
        try:
            data = await self.talk.asked(message)
        except ProxyError as error:
            if error.code in ("internal_error", "draining"):
                raise
            event = read_told(message.data, text=message.text)
            told = Message(True, self._told(error, event.id if event is not None else None))
            if self.client.slow:
                self._owed = told  # and until it is sent nothing more is taken: whoever does not read is not answered
            else:
                self.client.send(told)
            return
        self.upstream.send(Message(True, data))

    async def _from_upstream(self, message: Message) -> None:
        heard = await self.talk.heard(message)
        for event in heard.back:
            self.upstream.send(Message(True, event))
        if heard.passes:
            self.client.send(message)
        if heard.told is not None and heard.told is not heard.over:
            self.client.send(Message(True, self._told(heard.told, heard.about)))
        if heard.over is not None:
            raise heard.over

    def _over(self) -> bool:
        """Whether a side has said goodbye. Errors: of a side that left without a word, or broke the protocol."""
        client, upstream = self.client, self.upstream
        if upstream.frames.fault or (upstream.lost and upstream.frames.ending is None):
            raise UpstreamError("upstream_broken", "The upstream ended the session without a word.", detail="WebSocket")
        if client.frames.fault:
            raise InvalidCall("bad_request", "What was sent is no WebSocket message, or one that is too large.")
        if (upstream.frames.ending is not None and not client.slow) or client.frames.ending is not None:
            return True
        if client.lost:
            raise ConnectionResetError("the client is gone")
        return False

    def _expect(self) -> None:
        """The deadline for what is waited for: that the client reads, or that an answer goes on. Between answers there is none."""
        upstream = self.upstream
        if self.client.slow:
            stage, seconds = "write_stall", self.timeouts.write_stall
        elif self.talk.running or upstream.slow:
            stage, seconds = "idle", self.timeouts.idle
        else:
            stage, seconds = "", 0.0
        if stage != self._stage:
            self._stage = stage
            if stage:
                self.watch.expect(stage, seconds)
            else:
                self.watch.expect_nothing()
        elif upstream.beat and stage == "idle":
            self.watch.beat = True
        upstream.beat = False

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _part(self, error: ProxyError | None) -> None:
        """Have what is running end, hear what it used if it is said soon, settle the rest, and pass on who said goodbye."""
        ours, theirs = self.client.frames.ending, self.upstream.frames.ending
        try:
            if self.talk.running and self.upstream.frames.open and not self.upstream.lost:
                await self._hear_out()
        finally:
            try:
                if error is None and ours is None and theirs is not None and self.talk.running:
                    error = UpstreamError("upstream_broken", "The upstream ended the session in the middle of an answer.")
                await self.talk.end(error)
            finally:
                if theirs is not None:
                    self.client.close(Ending(theirs.code, masked(theirs.reason, self.secrets)[:_MOST_REASON_CHARS]))
                self.upstream.close(ours or Ending(GOING_AWAY))
                self.upstream.end()

    async def _hear_out(self) -> None:
        """The rest of running answers, without their client: as long as a policy wants them, or until the upstream has stopped them."""
        drain, seconds, size = self.drain, _HUSH_S, _HUSH_BYTES
        if drain is not None and drain.seconds and self.watch.expired is None:
            seconds, size = drain.seconds, drain.size
            self.watch.expect_nothing()
        else:
            hushing = self.talk.hush()
            if not hushing:
                return
            for event in hushing:
                self.upstream.send(Message(True, event))
        try:
            async with asyncio.timeout(seconds):
                while self.talk.running and size > 0:
                    if (message := self.upstream.take()) is not None:
                        size -= len(message.data)
                        heard = await self.talk.heard(message)
                        for event in heard.back:
                            self.upstream.send(Message(True, event))
                    elif self.upstream.lost or not self.upstream.frames.open:
                        return
                    else:
                        await self.news.wait()
        except TimeoutError:
            return

    def _told(self, error: ProxyError, event_id: str | None) -> bytes:
        own_id = f"event_{self.random(_ID_BYTES).hex()}"
        return told_error(error, flat=self.talk.flat, own_id=own_id, event_id=event_id)
