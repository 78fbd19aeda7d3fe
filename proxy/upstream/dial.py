"""The making of a connection: address, TCP, a tunnel where one is configured, TLS.

The rule a reader could break: a certificate is always verified, against the name in the base URL. There is no switch for it.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from proxy.upstream.connection import Connection, Owner
from proxy.upstream.eyeballs import connect
from proxy.upstream.heads import Heads
from proxy.upstream.plain import PlainConnection
from proxy.upstream.resolve import Lookup, Resolver
from proxy.upstream.tls import secure
from proxy.upstream.tunnel import Tunnel

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Dialer:
    """Connections to where `heads` point. tls: None = the system's authorities. tunnel: None = directly."""

    def __init__(
        self, heads: Heads, *, lookup: Lookup, now: Callable[[], float], tls: ssl.SSLContext | None, tunnel: Tunnel | None
    ) -> None:
        self._heads = heads
        self._tls = tls
        self._tunnel = tunnel
        host, port = (tunnel.host, tunnel.port) if tunnel is not None else (heads.host, heads.port)
        self._resolver = Resolver(host, port, lookup=lookup, now=now)

    def __repr__(self) -> str:
        return f"<Dialer secure={self._heads.secure} tunnel={self._tunnel is not None} {self._resolver!r}>"

    async def dial(self, owner: Owner) -> Connection:
        """A new connection for calls one after another. Errors and deadline as of `link`."""
        kind = Connection if self._heads.secure else PlainConnection
        loop = asyncio.get_running_loop()
        return await self.link(lambda sock: kind(owner, sock=sock, loop=loop), abandon=Connection.abandon)

    async def link(self, make: Callable[[socket.socket], P], *, abandon: Callable[[P], None]) -> P:
        """A new connection for the protocol that is made with its socket.

        abandon: called with it when it comes to nothing after all.
        Errors: OSError (ssl.SSLError is one), ValueError for a name that cannot be one. There is no deadline here: the caller has one.
        Cancelled, nothing is left open.
        """
        tls = await self._context() if self._heads.secure else None
        sock = await connect(await self._resolver.addresses())
        try:
            if self._tunnel is not None:
                await self._tunnel.open(sock, self._heads.host, self._heads.port)
        except BaseException:
            sock.close()
            raise
        # From here on the loop owns the socket, also when the next step fails: closing it here could close another that got its number.
        made = make(sock)
        try:
            if tls is None:
                await asyncio.get_running_loop().create_connection(lambda: made, sock=sock)
            else:
                await secure(sock, made, tls, self._heads.host)
        except BaseException:
            abandon(made)
            raise
        return made

    async def close(self) -> None:
        await self._resolver.close()

    async def _context(self) -> ssl.SSLContext:
        """Made once, in a thread: reading the system's authorities takes 20 ms."""
        if self._tls is None:
            made = await asyncio.get_running_loop().run_in_executor(None, ssl.create_default_context)
            made.set_alpn_protocols(["http/1.1"])
            self._tls = self._tls or made
        return self._tls
