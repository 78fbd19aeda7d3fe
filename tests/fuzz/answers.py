"""An upstream's answers, from the bytes on its connection: each is an UpstreamError, or a whole answer with the body that a strict reader
finds; the reader never waits for what will not come; and a connection is used again only behind an answer that was beyond doubt.
"""

import asyncio
import random
import re
import socket
from typing import Any
from zlib import crc32

from proxy.errors import UpstreamError
from proxy.upstream.connection import Connection
from proxy.upstream.fields import KeptFields
from proxy.wire.headers import READ_OF_ANSWERS
from tests.fuzz.strict import FIELD, body_at
from tests.fuzz.turns import TurnLoop

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\0\r\n]*)?\Z")  # what the phrase is matters to nobody
_JSON = b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
SEEDS = (
    _OK + b"content-length: %d\r\n\r\n" % len(_JSON) + _JSON,
    _OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nx: y\r\n\r\n",
    _OK + b"connection: close\r\n\r\n" + _JSON,
    _OK + b"keep-alive: timeout=5, max=100\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + _OK + b"content-length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    _OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
    _OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    _OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    _OK + b"content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    _OK + b"x: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
    _OK + b"x: a\0b\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x02hi",
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 4\r\n\r\nslow",
    b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    b"\x15\x03\x01\x00\x02\x02\x16",
    _OK + b"".join(b"x-%d: y\r\n" % n for n in range(201)) + b"content-length: 2\r\n\r\nok",
)


class _Far(asyncio.Transport):
    """The transport of a connection, and its owner. freed: it may be used again."""

    fields = KeptFields(READ_OF_ANSWERS)

    def __init__(self) -> None:
        self.freed = self.aborted = self.paused = False

    def free(self, connection: Connection) -> None:
        self.freed = True

    def lost(self, connection: Connection) -> None: ...

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None: ...

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted = True


_HERE, _THERE = socket.socketpair()
_loop: TurnLoop | None = None


def one(data: bytes) -> None:
    """The target."""
    global _loop
    if _loop is None:
        _loop = TurnLoop()
    loop = _loop
    loop.enter()
    chance = random.Random(crc32(data))
    far = _Far()
    connection = Connection(far, sock=_HERE, loop=loop)
    connection.connection_made(far)
    answer = connection.send((b"GET / HTTP/1.1\r\n\r\n",), 18)
    assert answer is not None
    answer.bodiless = head_only = chance.random() < 0.1
    got = bytearray()
    read: list[str] = []

    async def reading() -> None:
        try:
            while not answer.status:
                await answer.more()
            if chance.random() < 0.5:
                while piece := await answer.read():
                    got.extend(piece)
            else:
                while await answer.pump(lambda piece: got.extend(piece) is not None or chance.random() < 0.7):
                    pass
            read.append("whole")
        except UpstreamError as error:
            read.append(error.code)
        finally:
            answer.close()

    task = loop.create_task(reading())
    ends = chance.random() < 0.7
    for piece in _cut(data, chance):
        if far.aborted:
            break
        connection.data_received(piece)
        if chance.random() < 0.7:
            loop.turn()
    loop.turn()
    if not far.aborted and ends:
        connection.eof_received()
        loop.turn()
    freed = far.freed
    if freed and not far.aborted:
        assert not connection.usable() or read == ["whole"]
    connection.connection_lost(None)
    loop.turn()
    assert task.done(), "its reader waits for ever"
    assert not loop.faults, loop.faults
    task.result()
    if read == ["whole"]:
        _compare(data, bytes(got), head_only=head_only, ended=ends, freed=freed)
    else:
        assert read in (["upstream_broken"], ["upstream_timeout"]), read
        assert not freed, "its framing was in doubt, and it is used again"


def _compare(data: bytes, got: bytes, *, head_only: bool, ended: bool, freed: bool) -> None:
    """What was taken for a whole answer is one to a strict reader too."""
    at = 0
    while True:
        while data[at : at + 1] in (b"\r", b"\n"):  # llhttp forgives these before a status line
            at += 1
        end = data.find(b"\r\n\r\n", at)
        assert end >= 0, "no head"
        first, *lines = data[at:end].split(b"\r\n")
        match = _LINE.match(first)
        assert match is not None, first
        fields = [FIELD.match(line) for line in _unfolded(lines)]
        assert all(fields), lines
        at = end + 4
        status = int(match[2])
        if status >= 200:
            break
    of = {
        name: [f[2] for f in fields if f is not None and f[1].lower() == name] for name in (b"content-length", b"transfer-encoding")
    }
    lengths, codings = of[b"content-length"], of[b"transfer-encoding"]
    assert len(lengths) + len(codings) <= 1
    if head_only or status in (204, 304):
        assert got == b""
        return
    if not lengths and not codings:
        assert data[at:].startswith(got)
        assert not freed
        return
    assert not codings or codings[0].lower() == b"chunked"
    whole = body_at(data, at, lengths[0] if lengths else b"chunked")
    assert whole is not None, "it was taken for whole, and is not"
    assert got == whole[0]


def _unfolded(lines: list[bytes]) -> list[bytes]:
    """llhttp joins a folded line in an answer, as RFC 9112, section 5.2, allows for those."""
    joined: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and joined:
            joined[-1] += b" " + line.strip(b" \t")
        else:
            joined.append(line)
    return joined


def _cut(data: bytes, chance: random.Random) -> list[bytes]:
    if chance.random() < 0.1 and len(data) < 1000:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted({chance.randrange(len(data) + 1) for _ in range(chance.randrange(4))})
    return [piece for piece in (data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)) if piece]
