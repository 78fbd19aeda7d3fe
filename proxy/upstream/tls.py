"""TLS on a connected socket.

The rule a reader could break: what pauses TLS pauses its socket as well. A loop whose TLS layer sees the end of the socket drops what
that layer still holds for a reader that is paused, and the tail of an answer that came whole would be lost.
"""

import asyncio
import socket
import ssl
from typing import Any


class TlsTransport(asyncio.Transport):
    """What a protocol has of it. inner: of TLS; raw: of the socket below."""

    __slots__ = ("_inner", "_raw")

    def __init__(self, inner: asyncio.Transport, raw: asyncio.Transport) -> None:
        super().__init__()
        self._inner = inner
        self._raw = raw

    def __repr__(self) -> str:
        return f"<TlsTransport closing={self._inner.is_closing()}>"

    def pause_reading(self) -> None:
        self._inner.pause_reading()
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()  # first: what it holds comes before what the socket brings, the end included
        self._raw.resume_reading()

    def write(self, data: Any) -> None:
        self._inner.write(data)

    def writelines(self, list_of_data: Any) -> None:
        self._inner.writelines(list_of_data)

    def can_write_eof(self) -> bool:
        return self._inner.can_write_eof()

    def write_eof(self) -> None:
        self._inner.write_eof()

    def get_write_buffer_size(self) -> int:
        return self._inner.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._inner.set_write_buffer_limits(high, low)

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)


async def secure(sock: socket.socket, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, name: str) -> None:
    """Shake hands, and connect the protocol. name: what the certificate must be for.

    Errors: OSError, ssl.SSLError among them. The socket is the loop's from here on, and closed when this fails or is cancelled; the
    protocol may hear that a connection was lost that it never had.
    """
    loop = asyncio.get_running_loop()
    raw, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
    try:
        inner = await loop.start_tls(raw, protocol, context, server_hostname=name)
    except BaseException:
        raw.abort()
        raise
    assert inner is not None
    protocol.connection_made(TlsTransport(inner, raw))
