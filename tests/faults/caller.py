"""A client that reads what came over its connection, byte by byte, and not what a library makes of it.

    async with Caller(proxy.port) as caller:
        said = await caller.post(PATH, body)
    said.status, said.body, said.whole

The rule a reader could break: an answer that ends before its framing says so is not whole, and never an error here.
"""

import asyncio
from types import TracebackType
from typing import NamedTuple, Self

from tests.faults.guard import APP_KEY

_HANG_S = 30.0
_READ_BYTES = 256 << 10
_HEAD = b"POST %b HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nauthorization: Bearer %b\r\n%bcontent-length: %d\r\n\r\n"


class Said(NamedTuple):
    """One answer. head: its lines, names in lower case; body: without framing. whole: it came to the end that its framing announced."""

    status: int
    head: dict[str, str]
    body: bytes
    whole: bool


class Caller:
    """A connection that is kept while it may be, and made anew where it may not."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def post(self, path: str, body: bytes, *lines: str) -> Said:
        """One call of the app. lines: further fields, `name: value`. Errors: TimeoutError; AssertionError where no head comes."""
        async with asyncio.timeout(_HANG_S):
            if self._reader is None or self._writer is None or self._reader.at_eof():
                self.close()
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=64 << 20)
            more = "".join(f"{line}\r\n" for line in lines).encode()
            self._writer.write(_HEAD % (path.encode(), APP_KEY.encode(), more, len(body)) + body)
            said = await _answer(self._reader)
        if not said.whole or said.head.get("connection") == "close":
            self.close()
        return said


async def _answer(reader: asyncio.StreamReader) -> Said:
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    except (asyncio.IncompleteReadError, ConnectionError) as gone:
        raise AssertionError(f"no head of an answer came: {gone!r}") from None
    head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = bytearray()
    whole = True
    try:
        if head.get("transfer-encoding") == "chunked":
            while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        elif "content-length" in head:
            body += await reader.readexactly(int(head["content-length"]))
        else:
            while more := await reader.read(_READ_BYTES):
                body += more
    except asyncio.IncompleteReadError as cut:
        body += cut.partial
        whole = False
    except ConnectionError:
        whole = False
    return Said(int(first.split(" ")[1]), head, bytes(body), whole)
