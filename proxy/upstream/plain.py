"""A connection to an upstream without TLS: what one read of its socket brings is bounded."""

import asyncio

from proxy.upstream.connection import Connection

# The most that one read brings, and so what a stream brings before its reader is known to be slow; left alone, a loop reads 256 KiB.
READ_BYTES = 32 << 10
# What every connection reads into, one after the other: between having it and its bytes being copied the loop does nothing else.
_READING = memoryview(bytearray(READ_BYTES))


class PlainConnection(Connection, asyncio.BufferedProtocol):
    """Its bytes may be handed to the socket itself.

    Not for TLS: a loop gives a buffer what fits of all that was decrypted, and forgets the rest when the socket's end comes meanwhile.
    """

    __slots__ = ()
    plain = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READING

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(_READING[:nbytes].tobytes())
