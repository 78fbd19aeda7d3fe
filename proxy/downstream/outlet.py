"""The way to a client: what is written at once, and what waits for one that reads slowly.

The rule a reader could break: bytes go past the transport only while nothing waits in it, or they would overtake.
"""

import asyncio
import os


class Outlet:
    """The writing side of one connection. slow: its reader is, and whoever writes waits for `room`."""

    __slots__ = ("_fd", "_loop", "_room", "_transport", "slow")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._room: asyncio.Future[None] | None = None
        self.slow = False
        sock = transport.get_extra_info("socket")
        self._fd: int | None = sock.fileno() if sock is not None and transport.get_extra_info("sslcontext") is None else None

    def __repr__(self) -> str:
        return f"<Outlet slow={self.slow}>"

    def send(self, data: bytes) -> None:
        """Write, now or as soon as the socket takes it. Errors: ConnectionResetError when the client is gone."""
        transport = self._transport
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        rest: bytes | memoryview = data
        if self._fd is not None and not transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, data)  # the transport's own way takes another turn of the loop
            except BlockingIOError:
                sent = 0
            except OSError as error:
                transport.abort()
                raise ConnectionResetError("the client is gone") from error
            if sent == len(data):
                return
            rest = memoryview(data)[sent:]
        transport.write(rest)

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

    def resume(self) -> None:
        """The socket takes more again, or never will."""
        self.slow = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
