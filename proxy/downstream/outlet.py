"""The way to a client: what is written, and what waits for one that reads slowly.

The rule a reader could break: whoever writes looks at `slow` afterwards and waits for `room`, or memory grows with what nobody reads.
"""

import asyncio


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

    def resume(self) -> None:
        """The socket takes more again, or never will."""
        self.slow = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
