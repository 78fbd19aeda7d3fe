"""TLS on a connected socket.

The rule a reader could break: what pauses TLS pauses its socket as well. A loop whose TLS layer sees the end of the socket drops what
that layer still holds for a reader that is paused, and the tail of an answer that came whole would be lost.
"""

import asyncio
import socket
import ssl
from typing import Any, cast

from proxy.upstream.kernel import READING


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
        self._raw.resume_reading()  # or the peer's goodbye, which it waits for, would not be read

    def abort(self) -> None:
        self._inner.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)


class _Sips(asyncio.BufferedProtocol):
    """Hands on to TLS what a socket brings, READ_BYTES at a time. A loop lets each TLS connection read 256 KiB, into memory of its own."""

    __slots__ = ("_tls",)

    def __init__(self, tls: asyncio.BufferedProtocol) -> None:
        self._tls = tls

    def get_buffer(self, sizehint: int) -> memoryview:
        return READING

    def buffer_updated(self, nbytes: int) -> None:
        room: Any = self._tls.get_buffer(nbytes)
        room[:nbytes] = READING[:nbytes]
        self._tls.buffer_updated(nbytes)

    def eof_received(self) -> bool | None:
        return self._tls.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tls.connection_lost(exc)

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()


async def secure(sock: socket.socket, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, name: str) -> None:
    """Shake hands, and connect the protocol. name: what the certificate must be for.

    Errors: OSError, ssl.SSLError among them. The socket is the loop's from here on, and closed when this fails or is cancelled; the
    protocol then hears of nothing. What a server says before it is asked is dropped.
    """
    loop = asyncio.get_running_loop()
    raw, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
    try:
        _refuse_closed(raw)  # or uvloop would take a socket that ended before the handshake for one that is through it
        # A loop may say something to the protocol before it says that there is a connection: so that is another's at first.
        inner = await loop.start_tls(raw, asyncio.Protocol(), context, server_hostname=name)
        assert inner is not None
        _refuse_closed(raw)
        _refuse_closed(inner)
    except BaseException:
        raw.abort()
        raise
    inner.set_protocol(protocol)
    raw.pause_reading()  # a loop chooses how to read when it begins to
    raw.set_protocol(_Sips(cast(asyncio.BufferedProtocol, raw.get_protocol())))
    raw.resume_reading()
    protocol.connection_made(TlsTransport(inner, raw))


def _refuse_closed(transport: asyncio.Transport) -> None:
    if transport.is_closing():
        raise ConnectionResetError("the peer ended the connection")
