"""What the system does for a socket towards an upstream: how much it keeps for us, and how much it has received.

The rule a reader could break: a receive buffer is bounded before the socket connects, since the window that it allows is agreed on then.
"""

import socket
import sys
from contextlib import suppress

# What waits in the system for a stream whose reader is slow. Left alone it grows to 6 MiB and more. As much as this may be on its way at
# once, so an upstream 100 ms away still brings 2 MB a second; the system doubles it for its own bookkeeping.
RECEIVE_BYTES = 208 << 10
# The most that one read brings, and so what a stream brings before its reader is known to be slow; left alone, a loop reads 256 KiB.
READ_BYTES = 32 << 10
# What all sockets are read into, one after the other: between having it and its bytes being copied the loop does nothing else.
READING = memoryview(bytearray(READ_BYTES))
# Linux's count for each socket: `tcpi_bytes_received` of struct tcp_info, whose members keep their places.
_TCP_INFO = socket.TCP_INFO if sys.platform == "linux" else None
_RECEIVED = slice(128, 136)


def bound_buffers(sock: socket.socket) -> None:
    """Bound what the system keeps. sock: not connected yet. Where the system will not, it keeps what it likes."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


def received_bytes(sock: socket.socket) -> int:
    """Bytes that came over it in all: framing, TLS and what nobody has read yet are among them. 0 where the system does not say."""
    if _TCP_INFO is None:
        return 0
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED.stop)
    except OSError:  # it is closed
        return 0
    return int.from_bytes(told[_RECEIVED], sys.byteorder)
