"""One connection to an upstream: requests one after another, each answered before the next begins.

              send                 head                    last byte, read to its end
    IDLE ────────────► WAITING ────────────► BODY ──────────────────────────────────────► IDLE, or CLOSED if it may not be kept
      │                   │                    │
      └───────────────────┴────────────────────┴─► CLOSED: end of the stream, reset, garbage, or nobody wants the rest

IDLE is `_answer is None`; then not a byte may come: one that does, or the end of the stream, closes the connection at once. WAITING and
BODY differ by `answer.status`. Interim answers (1xx) are passed over in WAITING. llhttp decides what a message is and where it ends;
what it lets pass and HTTP/1.1 does not is refused in `on_headers_complete`. An answer without a length or chunks ends with the stream.

What can be known of a request that got no answer: `send` looks for an end or a reset that the kernel has already seen, and writes in
the same breath. If that write is refused, no byte was accepted, and the request may go elsewhere. Once a byte was accepted, nobody but
the upstream knows what became of it: it is never sent again. Over TLS a write is always taken as accepted.

The rule a reader could break: a connection whose framing was in any doubt is never used again, so a fault always closes it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Protocol, cast

import httptools

from proxy.upstream.answer import HttpAnswer
from proxy.upstream.failure import broken

MOST_HEAD_BYTES = 64 << 10
MOST_FIELDS = 200
# A reader that is slower than the upstream has this much waiting, and at most one read of the loop (256 KiB) more.
HIGH_WATER_BYTES = 64 << 10
# A body up to this leaves with its head in one write; a longer one follows in pieces of this size, as fast as the socket takes them.
PIECE_BYTES = 128 << 10

_lower = lru_cache(maxsize=1024)(lambda name: name.decode("ascii").lower())


class Owner(Protocol):
    """Who keeps connections."""

    def free(self, connection: "Connection") -> None:
        """It may be used for another request."""

    def lost(self, connection: "Connection") -> None:
        """It is closed. Called once."""


class Connection(asyncio.Protocol):
    """A connected socket. plain: without TLS, so that bytes may be handed to the socket itself.

    expires_at, born_at: loop time, for its owner. idle_s: how long the upstream said it keeps an idle connection, None if it did not.
    """

    __slots__ = (
        "_answer",
        "_bodiless",
        "_dry_bytes",
        "_fault",
        "_fields",
        "_keep",
        "_loop",
        "_owner",
        "_parser",
        "_plain",
        "_requests",
        "_sock",
        "_transport",
        "_until_end",
        "_write_waiter",
        "_writing_paused",
        "born_at",
        "expires_at",
        "idle_s",
    )

    def __init__(self, owner: Owner, *, sock: socket.socket, plain: bool, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._sock = sock
        self._plain = plain
        self._loop = loop
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._answer: HttpAnswer | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._writing_paused = False
        self._requests = 0
        self.born_at = self.expires_at = loop.time()
        self.idle_s: float | None = None
        self._begin(None, bodiless=False)

    def __repr__(self) -> str:
        state = "closed" if self._parser is None else "idle" if self._answer is None else repr(self._answer)
        return f"<Connection requests={self._requests} {state}>"

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def usable(self) -> bool:
        """Whether nothing came since the last answer, neither byte nor end, also not as far as the kernel already knows."""
        if self._parser is None or self._transport.is_closing():
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def send(self, first: bytes) -> bool:
        """Write a request's head and what of its body is at hand. False if no byte of it was accepted; the connection is closed then."""
        if not self.usable():
            self.abort()
            return False
        self._requests += 1
        rest: bytes | memoryview = first
        if self._plain:
            # Nothing waits in the transport, so the order holds; and unlike the transport's write, this one says whether it failed.
            try:
                accepted = self._sock.send(first)
            except BlockingIOError:
                accepted = 0
            except OSError:
                self.abort()
                return False
            if accepted == len(first):
                return True
            rest = memoryview(first)[accepted:]
        self._transport.write(rest)
        return True

    async def answer(self, rest: memoryview | AsyncIterator[bytes] | None, *, bodiless: bool) -> HttpAnswer:
        """The answer to what `send` began. rest: what of the body it did not get. bodiless: no body can come (HEAD).

        Errors: UpstreamError("upstream_broken"); whatever `rest` raises. After an error or a cancellation the connection is closed.
        """
        answer = HttpAnswer(self, self._loop)
        self._begin(answer, bodiless=bodiless)
        try:
            if rest is not None:
                self._sending = True
                if isinstance(rest, memoryview):
                    await self._pieces(answer, rest)
                else:
                    await self._chunks(answer, rest)
            await answer.head()
        except BaseException:
            answer.close()
            raise
        return answer

    def abort(self) -> None:
        """Close the socket at once, so that the upstream learns of it. Any number of times."""
        if self._parser is not None:
            self._transport.abort()
