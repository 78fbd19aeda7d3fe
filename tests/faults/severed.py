"""Streams cut at random places, many: an upstream that cuts, callers that read raw bytes, and what must be true of each answer.

    told = await sever(proxy_port, upstream, seconds=60)      how many were cut, and how

An answer must be, byte for byte, the whole events that were sent, one error event, and nothing else; where a reset came before the head
had left, an honest 502. The rule a reader could break: what is cut, and where, follows from the number of a call alone.
"""

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, cast

import orjson

from tests.faults.caller import Caller, Said
from tests.faults.guard import PROMPT
from tests.faults.streams import CHAT, RESPONSES
from tests.house import error_of

_AT_ONCE = 8
_MODEL = "gpt-4.1-nano"  # cheap enough for tens of thousands
_ASKED = {
    "/v1/chat/completions": orjson.dumps(
        {
            "model": _MODEL,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 50,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ),
    "/v1/responses": orjson.dumps({"model": _MODEL, "input": PROMPT, "max_output_tokens": 50, "stream": True}),
}
_STREAMS = [
    *((name, "/v1/chat/completions", events) for name, events in CHAT.items()),
    *((name, "/v1/responses", events) for name, events in RESPONSES.items()),
]
Kind = Literal["clean", "fin", "reset"]


@dataclass(frozen=True, slots=True)
class Severed:
    """One cut. whole: the events that came before it, joined; sent: what the upstream writes, head and framing included."""

    path: str
    framing: str
    kind: Kind
    whole: bytes
    sent: bytes


def severed(number: int) -> Severed:
    """The cut of the call with this number. It never lies behind what ends a stream."""
    chance = random.Random(number)
    _, path, events = _STREAMS[number % len(_STREAMS)]
    framing = chance.choice(("chunked", "length", "close"))
    kind: Kind = chance.choice(("clean", "fin", "reset"))
    stream = b"".join(events)
    end = len(stream) - len(events[-1])
    at = end + chance.randrange(10) if chance.random() < 0.05 else chance.randrange(end + 1)
    whole = stream[: stream.rfind(b"\n\n", 0, at) + 2] if b"\n\n" in stream[:at] else b""
    lines = {"chunked": b"transfer-encoding: chunked", "length": b"content-length: %d" % (at if kind == "clean" else len(stream))}
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%b\r\n\r\n" % lines.get(framing, b"connection: close")
    return Severed(path, framing, kind, whole, head + (_chunked(stream, at, kind, chance) if framing == "chunked" else stream[:at]))


def _chunked(stream: bytes, at: int, kind: Kind, chance: random.Random) -> bytes:
    """The bytes up to a place in chunks of any size; the last one is promised longer than it is, now and then."""
    framed, begin = bytearray(), 0
    while begin < at:
        size = min(at - begin, chance.choice((1, 17, 150, 400, 4000)))
        framed += b"%x\r\n%b\r\n" % (size, stream[begin : begin + size])
        begin += size
    if kind == "clean":
        return bytes(framed) + b"0\r\n\r\n"
    if at and chance.random() < 0.5:
        framed = framed[: -chance.choice((1, 2))]  # and without the end of its last chunk
    return bytes(framed)


class Severing:
    """The upstream: it answers a call by the number in its request id, and ends as the cut says."""

    def __init__(self) -> None:
        self._links: set[_Link] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Link(self._links), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    def hang_up(self) -> None:
        for link in tuple(self._links):
            link.transport.abort()


class _Link(asyncio.Protocol):
    def __init__(self, links: "set[_Link]") -> None:
        self._links = links
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._links.discard(self)

    def data_received(self, data: bytes) -> None:
        self._pending += data
        head, found, body = self._pending.partition(b"\r\n\r\n")
        if not found or len(body) < int(_field(head, b"content-length")):
            return
        self._pending = b""
        cut = severed(int(_field(head, b"x-request-id").removeprefix(b"cut-")))
        self.transport.write(cut.sent)
        if cut.kind == "reset":
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif cut.kind == "fin" or cut.framing == "close":
            self.transport.close()


def _field(head: bytes, name: bytes) -> bytes:
    at = head.lower().index(b"\r\n" + name + b":") + len(name) + 3
    return head[at:].partition(b"\r")[0].strip()


async def sever(port: int, *, seconds: float, most: int, first: int = 0) -> Counter[str]:
    """Have streams cut for so long, or so many. Returns how often each kind was. Errors: AssertionError, which names the number."""
    until = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    numbers = iter(range(first, first + most))

    async def call() -> None:
        async with Caller(port) as caller:
            for number in numbers:
                cut = severed(number)
                said = await caller.post(cut.path, _ASKED[cut.path], f"x-request-id: cut-{number}")
                seen[_judged(number, cut, said)] += 1
                if time.monotonic() > until:
                    return

    await asyncio.gather(*(call() for _ in range(_AT_ONCE)))
    return seen


def _judged(number: int, cut: Severed, said: Said) -> str:
    why = f"cut {number}, {cut.kind} in {cut.framing}"
    assert said.whole, f"{why}: the answer's own framing broke"
    if said.status != 200:
        assert cut.kind == "reset", f"{why}: {said.status} though a head had come"
        assert (said.status, error_of(said.body)["code"]) == (502, "upstream_broken"), why
        return "502"
    at = said.body.rfind(b"\n\n", 0, -2) + 2 if b"\n\n" in said.body[:-2] else 0
    passed, last = said.body[:at], said.body[at:]
    if passed != cut.whole:
        assert cut.kind == "reset", f"{why}: {len(passed)} bytes passed of {len(cut.whole)}"
        assert cut.whole.startswith(passed), f"{why}: what passed is not what was sent"
    assert b"[DONE]" not in last, why
    told = orjson.loads(last.partition(b"data: ")[2])
    assert told["error"]["code"] == "upstream_broken", f"{why}: {last!r}"
    if cut.path == "/v1/responses":
        assert last.startswith(b"event: error\n"), why
        assert told["type"] == "error", why
    return cut.kind if passed == cut.whole else "reset that took bytes with it"
