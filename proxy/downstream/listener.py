"""A port: who listens on it, which connections it has, and how they end.

The rule a reader could break: a connection belongs to one listener from its first byte to its last; whoever closes the listener closes
all of them, and what they are still answering is cancelled.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from email.utils import formatdate
from heapq import nsmallest
from typing import Any

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.connection import LINGER_S, ClientConnection
from proxy.downstream.known import KnownHeads
from proxy.downstream.refused import RefusedConnection
from proxy.downstream.rules import Rejection
from proxy.downstream.sink import HttpSink

KEEPALIVE_S = 75.0
HANDSHAKE_S = 5.0
FLUSH_S = 75.0  # for the last of an answer, which no call's deadline watches any more
BACKLOG = 4096  # a burst that overflows the backlog waits for SYN retries of seconds
# What the system keeps for a client that does not read, beside what is on its way to it; left alone it grows to 4 MiB. What is on its
# way is not bounded by this, so neither is a client's bandwidth.
UNSENT_BYTES = 64 << 10
_SOON_S = 1.0  # in which a head that has begun is whole, as a rule
_AT_ONCE = 16  # of how many connections one makes room, when there are too many: so they are looked through once for many
_AGAIN_S = 0.05  # after which room is looked for again, where none was
_GOODBYE_S = 0.2  # what is still open by then was told to end long before


class Listener:
    """The owner of its connections. closing: no request is begun any more. heads: those that its clients send again and again.

    answer: answers a request; it raises nothing but CancelledError, when the client has left. reject: answers what is no request.
    wall_s: the time of the Date field. most: connections at once; crowded: what one too many is told, a whole answer or nothing.
    """

    def __init__(
        self,
        *,
        answer: Callable[[HttpArrival, HttpSink], Coroutine[Any, Any, None]],
        reject: Callable[[HttpSink, Rejection], Coroutine[Any, Any, None]],
        wall_s: Callable[[], float],
        most: int = BACKLOG,
        crowded: Callable[[], bytes] = bytes,
    ) -> None:
        self.answer = answer
        self.reject = reject
        self._wall_s = wall_s
        self._most = most
        self._crowded = crowded
        self._full_until = 0.0
        self._server: asyncio.Server | None = None
        self._connections: set[ClientConnection] = set()
        self._date = (0, "")
        self.heads = KnownHeads()
        self.closing = False

    def __repr__(self) -> str:
        return f"<Listener listening={self._server is not None} connections={len(self._connections)} closing={self.closing}>"

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Accept connections. Returns where, which tells the port that 0 picked. Errors: OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            (lambda: self.connect(loop)) if tls is None else (lambda: TlsConnection(self, loop)),
            host,
            port,
            backlog=BACKLOG,
            reuse_address=True,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_S,
            ssl_shutdown_timeout=None if tls is None else LINGER_S,
        )
        for listening in self._server.sockets:
            _bound_buffers(listening.fileno())
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    def stop_accepting(self) -> None:
        """No new connections, and idle ones are closed. What is being answered goes on."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.close_if_idle()

    async def close(self) -> None:
        """End what is left."""
        self.stop_accepting()
        running = [connection.task for connection in self._connections if connection.task is not None]
        for connection in tuple(self._connections):
            connection.abort()
        if running:
            await asyncio.wait(running, timeout=_GOODBYE_S)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def close_late(self, *, header_s: float) -> None:
        """Close connections that wait for too long: for a head that has begun, for the next request, for the rest of a body,
        for a client to take what it was sent."""
        now = asyncio.get_running_loop().time()
        patience_s = {"head": header_s, "request": KEEPALIVE_S, "rest": LINGER_S, "close": LINGER_S, "flush": FLUSH_S}
        latest = now - min(patience_s.values())
        for connection in [c for c in self._connections if c.waiting_since is not None and c.waiting_since < latest]:
            connection.close_if_late(now, patience_s=patience_s)

    # ── for its connections ──────────────────────────────────────────────────────────────────────────────────────────

    def connect(self, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
        if len(self._connections) >= self._most and not self._make_room(loop.time()):
            return RefusedConnection(self._crowded())
        connection = ClientConnection(self, loop)
        self._connections.add(connection)
        return connection

    def joined(self, connection: ClientConnection) -> None:
        """Its handshake is over."""
        self._connections.add(connection)
        if len(self._connections) > self._most and not self._make_room(asyncio.get_running_loop().time()):
            connection.abort()

    def _make_room(self, now: float) -> bool:
        """Close some that nothing is asked on, the oldest first; or else some that dawdle over a head, or over their end."""
        if now < self._full_until:
            return False
        waiting = [c for c in self._connections if c.waiting_since is not None]
        idle = [c for c in waiting if c.waiting_for == "request"]
        chosen = idle or [c for c in waiting if c.waiting_since is not None and now - c.waiting_since > _SOON_S]
        patience_s = dict.fromkeys(("head", "request", "rest", "close", "flush"), -1.0)
        for connection in nsmallest(1 + len(waiting) // _AT_ONCE, chosen, key=lambda c: c.waiting_since or 0.0):
            connection.close_if_late(now, patience_s=patience_s)
        if not chosen:
            self._full_until = now + _AGAIN_S
        return bool(chosen)

    def lost(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)

    def date(self) -> str:
        """The Date field's value, made once a second."""
        second = int(self._wall_s())
        if second != self._date[0]:
            self._date = second, formatdate(second, usegmt=True)
        return self._date[1]


class TlsConnection(ClientConnection):
    """One that its listener has from the end of the handshake on: where that fails, nobody is told, and it would stay for ever."""

    __slots__ = ("_joined",)

    def __init__(self, owner: Listener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner, loop)
        self._joined = owner.joined

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._joined(self)


def _bound_buffers(listening: int) -> None:
    """Bound what the system keeps for a port's connections, which take the option over from the socket that they were accepted by.

    listening: its file descriptor; where the system does not know the option, it keeps what it likes.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        with socket.socket(fileno=os.dup(listening)) as sock, suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)
