"""The way to a client: what is written, and what waits for one that reads slowly.

The rule a reader could break: whoever writes looks at `slow` afterwards and waits for `room`, or memory grows with what nobody reads.
"""

import asyncio


class Outlet:
    """The writing side of one connection. slow: its reader is, and whoever writes waits for `room`. transport: what `send` writes to."""

    __slots__ = ("_loop", "_room", "slow", "transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self._loop = loop
        self._room: asyncio.Future[None] | None = None
        self.slow = False

    def __repr__(self) -> str:
        return f"<Outlet slow={self.slow}>"

    def send(self, data: bytes) -> None:
        """Write, now or as soon as the socket takes it. Errors: ConnectionResetError when the client is gone."""
        if self.transport.is_closing():
            raise gone()
        self.transport.write(data)

    async def room(self) -> None:
        """Until the socket takes more. Errors: ConnectionResetError when the client is gone."""
        while self.slow:
            room = self._room = self._loop.create_future()
            try:
                await room
            finally:
                self._room = None
        if self.transport.is_closing():
            raise gone()

    def resume(self) -> None:
        """The socket takes more again, or never will."""
        self.slow = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def gone() -> ConnectionResetError:
    """What whoever writes to a client that has left is told."""
    return ConnectionResetError("the client is gone")
