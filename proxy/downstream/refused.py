"""A connection that there is no room for: it is told so and closed, whatever it was going to ask."""

import asyncio
from typing import cast


class RefusedConnection(asyncio.Protocol):
    """Nothing of it is read. answer: the bytes of a whole answer, or none."""

    __slots__ = ("_answer",)

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def __repr__(self) -> str:
        return f"<RefusedConnection {len(self._answer)} bytes>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        open = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self._answer:
            open.write(self._answer)
        open.close()
