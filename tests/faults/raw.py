"""What goes over a socket byte by byte: requests as a hostile client sends them, and the answers as they come.

The rule a reader could break: nothing is read ahead of the test, and every socket is closed when its block is left.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from tests.fakes import dechunk

HANG_S = 20.0
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. fields: names in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The error's code, None where it is no error of ours."""
        return orjson.loads(self.body)["error"]["code"] if self.status >= 400 and self.body.startswith(b"{") else None


@dataclass(slots=True)
class Line:
    """A connection. got: what came and was not yet taken; ended: nothing more will come."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    got: bytes = b""
    ended: bool = False

    async def send(self, data: bytes) -> None:
        """Errors: none for a peer that is gone, which shows when it is read."""
        try:
            self.writer.write(data)
            async with asyncio.timeout(HANG_S):
                await self.writer.drain()
        except ConnectionError:
            self.ended = True

    async def more(self, *, within_s: float = HANG_S) -> bool:
        """Wait for some more. False: the other side has ended, or nothing came in time."""
        try:
            async with asyncio.timeout(within_s):
                piece = await self.reader.read(65536)
        except TimeoutError:
            return False
        except ConnectionError:
            piece = b""
        self.ended = self.ended or not piece
        self.got += piece
        return bool(piece)

    async def reply(self, *, bodiless: bool = False, within_s: float = HANG_S) -> Reply | None:
        """The next whole answer but interim ones; None if the other side ends, or says nothing in time."""
        while (found := _reply(self.got, bodiless=bodiless)) is None:
            if not await self.more(within_s=within_s):
                return None
        reply, self.got = found
        return reply if reply.status >= 200 else await self.reply(bodiless=bodiless, within_s=within_s)

    async def closed(self, *, within_s: float = HANG_S) -> bool:
        """Whether the other side ends its side in time, and says nothing more."""
        while not self.ended:
            if not await self.more(within_s=within_s):
                break
        return self.ended and not self.got


def _reply(data: bytes, *, bodiless: bool) -> tuple[Reply, bytes] | None:
    match = _HEAD.match(data)
    if match is None:
        return None
    lines = match[2].decode().split("\r\n")[:-1]
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    status, rest = int(match[1]), data[match.end() :]
    if bodiless or status < 200 or status in (204, 304):
        return Reply(status, fields, b""), rest
    if fields.get("transfer-encoding") == "chunked":
        whole = dechunk(rest)
        return None if whole is None else (Reply(status, fields, whole[0]), whole[1])
    size = int(fields["content-length"])
    return None if len(rest) < size else (Reply(status, fields, rest[:size]), rest[size:])


@asynccontextmanager
async def line(port: int) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


async def told(port: int, data: bytes, *, bodiless: bool = False) -> Reply | None:
    """The first answer to these bytes; None if the other side ends without one."""
    async with line(port) as caller:
        await caller.send(data)
        return await caller.reply(bodiless=bodiless)


async def told_each(port: int, requests: Sequence[bytes], *, at_once: int = 32) -> list[Reply]:
    """The answers to many requests, sent one behind the other on connections that are kept."""
    replies: list[Reply] = []
    caller: Line | None = None
    for start in range(0, len(requests), at_once):
        sent = requests[start : start + at_once]
        if caller is None:
            caller = Line(*await asyncio.open_connection("127.0.0.1", port))
        try:
            await caller.send(b"".join(sent))
            for _ in sent:
                reply = await caller.reply()
                assert reply is not None, "a request was not answered"
                replies.append(reply)
        except BaseException:
            caller.writer.transport.abort()
            raise
    if caller is not None:
        caller.writer.transport.abort()
    return replies
