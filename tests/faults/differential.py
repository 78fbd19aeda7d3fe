"""The malformed requests, sent to Tollhouse and to nginx: who takes what, and what each sends on. nginx relays to a fake upstream too.

The rule a reader could break: a request gets a connection of its own, so that what came of one is not told of another.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench import nginx
from tests.fakes import FakeUpstream, Received
from tests.faults.raw import HANG_S, Line, Reply, line

_CUT = "cut off"  # what begins with this is never whole, and is followed by the end of the client's side


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a request. reply: the first answer; sent: what reached the upstream; grew: bytes; closed: its connection."""

    reply: Reply | None
    sent: list[Received]
    grew: int
    closed: bool

    @property
    def taken(self) -> bool:
        return bool(self.sent)

    def __str__(self) -> str:
        said = "no answer" if self.reply is None else f"{self.reply.status} {self.reply.code or ''}".strip()
        return f"{said}{', sent on' if self.sent else ''}{', closed' if self.closed else ''}"


async def verdict(port: int, upstream: FakeUpstream, name: str, sent: bytes) -> Verdict:
    before, bytes_before = len(upstream.requests), upstream.received_bytes
    async with line(port) as caller:
        await caller.send(sent)
        if name.startswith(_CUT) and not caller.ended:
            caller.writer.write_eof()
        try:
            reply = await caller.reply()
        except (KeyError, ValueError):
            reply = None  # an answer without framing, of HTTP/0.9 or for a person to read
        ends = reply is None or reply.fields.get("connection") == "close"
        closed = ends and await _ends(caller)
    return Verdict(reply, upstream.requests[before:], upstream.received_bytes - bytes_before, closed)


async def _ends(caller: Line) -> bool:
    """Whatever else it says, the other side ends."""
    while not caller.ended:
        if not await caller.more():
            break
    return caller.ended


def same(one: Received, other: Received) -> bool:
    """Whether two upstreams were asked for the same."""
    return (one.method, one.target) == (other.method, other.target) and _value(one.body) == _value(other.body)


def _value(body: bytes) -> object:
    return orjson.loads(body) if body.startswith(b"{") else body


@asynccontextmanager
async def beside(upstream: FakeUpstream) -> AsyncIterator[int | None]:
    """nginx in front of an upstream: its port, or None where there is no nginx."""
    program = nginx.found()
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        command = nginx.command(program, port=port, upstream_port=upstream.port, folder=Path(folder))
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            await _listening(port)
            yield port
        finally:
            process.terminate()
            await process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.transport.abort()
                return
