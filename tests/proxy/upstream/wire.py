"""A connection to an upstream without a socket: a test hands it what was read, byte by byte as it likes."""

import asyncio
import socket
from typing import Any

from proxy.upstream.answer import HttpAnswer
from proxy.upstream.connection import Connection
from proxy.upstream.fields import KeptFields

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection's transport that goes nowhere, and its owner. told: what was asked of the transport."""

    fields = KeptFields(None)

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        here, there = socket.socketpair()
        self.connection = Connection(self, sock=here, loop=asyncio.get_running_loop())
        self.connection.connection_made(self)
        there.close()
        here.close()

    def asked(self) -> HttpAnswer:
        """An answer whose head has come, and a body in chunks is to follow."""
        answer = self.connection.send((b"GET / HTTP/1.1\r\n\r\n",), 18)
        assert answer is not None
        self.connection.data_received(CHUNKED)
        return answer

    def comes(self, piece: bytes) -> None:
        self.connection.data_received(b"%x\r\n%b\r\n" % (len(piece), piece))

    def free(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None: ...

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("go on")

    def abort(self) -> None:
        self.told.append("abort")
