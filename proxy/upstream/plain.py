"""A connection to an upstream without TLS: what one read of its socket brings is bounded."""

import asyncio

from proxy.upstream.connection import Connection
from proxy.upstream.kernel import READING


class PlainConnection(Connection, asyncio.BufferedProtocol):
    """Its bytes may be handed to the socket itself.

    Not for TLS: a loop gives a buffer what fits of all that was decrypted, and forgets the rest when the socket's end comes meanwhile.
    """

    __slots__ = ()
    plain = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return READING

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(READING[:nbytes].tobytes())
