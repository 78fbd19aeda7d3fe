"""The way to a client: what is written, and what waits for one that reads slowly.

The rule a reader could break: whoever writes looks at `slow` afterwards and waits for `room`, or memory grows with what nobody reads.
"""

import asyncio
import socket
import struct

_AT_ONCE = struct.pack("ii", 1, 0)  # to linger, for no time: a reset


class Outlet:
    """The writing side of one connection. slow: its reader is, and whoever writes waits for `room`."""

    __slots__ = ("_loop", "_room", "_transport", "slow")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._room: asyncio.Future[None] | None = None
        self.slow = False

    def __repr__(self) -> str:
        return f"<Outlet slow={self.slow}>"

    def send(self, data: bytes) -> bool:
        """Write, now or as soon as the socket takes it. Returns `slow`. Errors: ConnectionResetError when the client is gone."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        return self.slow

    async def room(self) -> None:
        """Until the socket takes more. Errors: ConnectionResetError when the client is gone."""
        while self.slow:
            room = self._room = self._loop.create_future()
            try:
                await room
            finally:
                self._room = None
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")

    def abort(self) -> None:
        """Break the connection. A slow reader's is reset, or the kernel would keep for minutes what was written: megabytes for each."""
        if self.slow and not self._transport.is_closing():
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def resume(self) -> None:
        """The socket takes more again, or never will."""
        self.slow = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
