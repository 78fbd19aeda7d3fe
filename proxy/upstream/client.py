"""The upstream client: one base URL, its connections, one call at a time over each.

It follows no redirect, keeps no cookie, decompresses nothing, reads no environment. The rule a reader could break: once a byte of a call
was accepted by a socket, the call is not repeated here. Only a connection that refused the very first byte is passed over for another.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence

from proxy.upstream.answer import HttpAnswer
from proxy.upstream.connection import PIECE_BYTES, Connection
from proxy.upstream.contract import Ask, Body, H
from proxy.upstream.dial import Dialer
from proxy.upstream.failure import broken, late, unreachable
from proxy.upstream.fields import KeptFields
from proxy.upstream.heads import Heads
from proxy.upstream.pool import Limits, Pool
from proxy.upstream.resolve import Lookup, system_lookup
from proxy.upstream.tunnel import Tunnel


class HttpUpstream:
    """The `Upstream` of the contract over HTTP/1.1."""

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        fields: Collection[str] | None = None,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        lookup: Lookup = system_lookup,
        tunnel: Tunnel | None = None,
    ) -> None:
        """base_url: scheme, host and path prefix, such as https://api.openai.com/v1, without a trailing slash.

        fields: those of an answer's that somebody reads, names in lower case; None = all that come.
        tls: whom to trust, None = the system's authorities. lookup: who resolves names. tunnel: the proxy to go through.
        """
        self._name = name
        self._heads = Heads(base_url)
        self._fields = KeptFields(fields)
        self._limits = limits or Limits()
        self._tls = tls
        self._lookup = lookup
        self._tunnel = tunnel
        self._dialer: Dialer | None = None
        self._pool: Pool | None = None

    def __repr__(self) -> str:
        return f"<HttpUpstream {self._name} {self._pool or 'unused'}>"

    @property
    def name(self) -> str:
        return self._name

    def send(self, ask: Ask, own: Sequence[str], body: Body) -> HttpAnswer | None:
        """The contract's `send`."""
        if not isinstance(body, tuple):
            return None
        length = 0
        for part in body:
            length += len(part)
        if length > PIECE_BYTES:
            return None
        head = self._heads.head(ask, own, length)
        parts, size = (head, *body), len(head) + length
        pool = self._pool or self._start()
        while (connection := pool.take()) is not None:
            answer = connection.send(parts, size)
            if answer is not None:
                answer.bodiless = ask.method == "HEAD"
                return answer
        return None

    async def open(
        self, ask: Ask, own: Sequence[str], body: Body, *, connect_timeout_s: float, progress: Callable[[], object] | None = None
    ) -> HttpAnswer:
        """The contract's `open`."""
        progress = progress or _nothing
        answer = self.send(ask, own, body) or await self._send_late(ask, own, body, connect_timeout_s, progress)
        progress()
        body = ()  # its bytes need not wait for the answer
        try:
            while not answer.status:
                await answer.more()
        except BaseException:
            answer.close()
            raise
        return answer

    async def _send_late(
        self, ask: Ask, own: Sequence[str], body: Body, connect_timeout_s: float, progress: Callable[[], object]
    ) -> HttpAnswer:
        """`send` where it takes waiting: for a connection, or until all of the body is on its way."""
        pool = self._pool or self._start()
        rest: AsyncIterator[bytes] | memoryview | None = None
        length = sum(map(len, body)) if isinstance(body, tuple) else None
        head = self._heads.head(ask, own, length)
        parts: tuple[bytes | memoryview, ...] = (head,)
        size = len(head)
        if not isinstance(body, tuple):
            rest = body
        elif length is not None and length <= PIECE_BYTES:
            parts, size = (head, *body), size + length
        else:
            rest = memoryview(b"".join(body))
        while (connection := pool.take()) is not None:
            answer = connection.send(parts, size)
            if answer is not None:
                break
        else:
            connection = await self._claim(pool, connect_timeout_s)
            answer = connection.send(parts, size)
            if answer is None:
                raise broken("the connection was closed at once", sent=False)
        parts, body = (), ()  # their bytes need not wait until all is sent
        answer.bodiless = ask.method == "HEAD"
        if rest is not None:
            try:
                progress()
                await connection.send_on(answer, rest, progress)
            except BaseException:
                answer.close()
                raise
        return answer

    async def link(self, ask: Ask, own: Sequence[str], make: Callable[[], H], *, connect_timeout_s: float) -> H:
        """The contract's `link`."""
        head = self._heads.head(ask, own, 0)
        if self._dialer is None:
            self._start()
        assert self._dialer is not None
        try:
            async with asyncio.timeout(connect_timeout_s):
                heir = await self._dialer.link(lambda _sock: make(), abandon=lambda heir: heir.abandon())
        except TimeoutError as error:
            raise late(error, crowded=False) from error
        except (OSError, ValueError) as error:
            raise unreachable(error) from error
        heir.write(head)
        return heir

    async def close(self) -> None:
        """Close every connection for calls, also those in use. One that is another protocol's ends with whoever has it."""
        if self._dialer is not None:
            await self._dialer.close()
        if self._pool is not None:
            await self._pool.close()

    async def _claim(self, pool: Pool, timeout_s: float) -> Connection:
        """A connection that is made or waited for. The deadline covers the queue, DNS, TCP, the tunnel and TLS."""
        try:
            async with asyncio.timeout(timeout_s):
                return await pool.claim()
        except TimeoutError as error:
            raise late(error, crowded=pool.full) from error
        except (OSError, ValueError) as error:
            raise unreachable(error) from error

    def _start(self) -> Pool:
        loop = asyncio.get_running_loop()
        self._dialer = Dialer(self._heads, lookup=self._lookup, now=loop.time, tls=self._tls, tunnel=self._tunnel)
        self._pool = Pool(self._dialer.dial, fields=self._fields, limits=self._limits, now=loop.time, loop=loop)
        return self._pool


def _nothing() -> None:
    """Nobody wants to know."""
