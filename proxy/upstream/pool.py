"""The connections to one upstream: which is used next, how many there are, who waits for one, and when one is too old.

A slot is a connection, or the making of one; there are never more than `limits.connections`. A slot that comes free goes to who has
waited longest: with its connection, or as the leave to make one. The last connection that was used is used next, so that the others
age and go.

The rule a reader could break: every way out of `claim` gives its slot back or hands it to a connection, also a cancellation.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.upstream.connection import Connection
from proxy.upstream.failure import closed, crowded
from proxy.upstream.fields import KeptFields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one upstream. connections: at once; waiting: calls in the queue for one, beyond which they are refused.

    idle_s: how long an unused connection is kept where the upstream does not say: many model servers close theirs after five seconds,
    and a request that crosses with that end is lost. age_s: how long a connection is kept at all, so that a change in DNS is followed.
    margin_s: how much earlier than the upstream says an idle connection is given up. sweep_s: how often idle ones are looked at.
    """

    connections: int = 1000
    waiting: int = 1000
    idle_s: float = 4.0
    age_s: float = 300.0
    margin_s: float = 1.0
    sweep_s: float = 1.0


class Pool:
    """dial: makes a connection owned by this pool. fields: what its connections keep of an answer's. now: the loop's time, in seconds."""

    def __init__(
        self,
        dial: Callable[["Pool"], Awaitable[Connection]],
        *,
        fields: KeptFields,
        limits: Limits,
        now: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.fields = fields
        self._dial = dial
        self._limits = limits
        self._now = now
        self._loop = loop
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []
        self._dialing = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty = asyncio.Event()

    def __repr__(self) -> str:
        busy = len(self._all) - len(self._idle)
        return (
            f"<Pool idle={len(self._idle)} busy={busy} dialing={self._dialing} waiting={len(self._waiting)} closed={self._closed}>"
        )

    @property
    def full(self) -> bool:
        """Whether there are as many connections as may be: then it is for one of them that whoever waits does."""
        return len(self._all) >= self._limits.connections

    def take(self) -> Connection | None:
        """An idle connection, the last used first, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.expires_at > self._now():
                return connection
            self._drop(connection)
        return None

    async def claim(self) -> Connection:
        """A connection for the caller: a new one while there may be more, else the first that comes free.

        Errors: UpstreamError when too many wait or the pool is closed; OSError and ValueError of the dial. May be cancelled.
        """
        while True:
            if self._closed:
                raise closed()
            if len(self._all) + self._dialing < self._limits.connections:
                self._dialing += 1
                break
            connection = await self._turn()
            if connection is None:
                break
            if connection.usable():
                return connection
            self._drop(connection)
        try:
            if self._closed:
                raise closed()
            connection = await self._dial(self)
            if connection.gone:
                raise ConnectionResetError
        except BaseException:
            self._dialing -= 1
            self._pass_on()
            raise
        self._dialing -= 1
        self._all.add(connection)
        connection.retires_at = self._now() + self._limits.age_s
        if self._closed:
            connection.abort()
            raise closed()
        return connection

    async def _turn(self) -> Connection | None:
        """Wait in the queue for a connection, or with None for the leave to make one, which is then counted as dialing."""
        if len(self._waiting) >= self._limits.waiting:
            raise crowded()
        turn: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # passed over already
                    self._waiting.remove(turn)
            elif (connection := turn.result()) is not None:
                self.free(connection)
            else:
                self._dialing -= 1
                self._pass_on()
            raise

    def free(self, connection: Connection) -> None:
        """Whoever waits longest gets it; else it rests until it is used again or expires."""
        if connection not in self._all:
            return
        now, said_s = self._now(), connection.idle_s
        expires_at = now + (self._limits.idle_s if said_s is None else said_s - self._limits.margin_s)
        if expires_at > connection.retires_at:
            expires_at = connection.retires_at
        if self._closed or expires_at <= now:
            self._drop(connection)
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        connection.expires_at = expires_at
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._limits.sweep_s, self._sweep)

    def lost(self, connection: Connection) -> None:
        """Its socket is closed, by whichever side."""
        if connection not in self._all:
            return
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._pass_on()
        if not self._all:
            self._empty.set()

    def _drop(self, connection: Connection) -> None:
        """Close a connection that nobody holds; its slot is free from now on."""
        connection.abort()
        self.lost(connection)

    def _pass_on(self) -> None:
        """A slot came free: give it to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._dialing += 1
                turn.set_result(None)
                return

    def _sweep(self) -> None:
        now = self._now()
        for connection in [c for c in self._idle if c.expires_at <= now]:
            self._drop(connection)
        self._sweeper = self._loop.call_later(self._limits.sweep_s, self._sweep) if self._idle else None

    async def close(self) -> None:
        """Close every connection, also those in use, and wait until their sockets are gone. Who waits or dials is refused."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._waiting:
            self._pass_on()
        for connection in tuple(self._all):
            connection.abort()
        while self._all:
            self._empty.clear()
            await self._empty.wait()
