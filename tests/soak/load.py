"""The soak's clients, a process of its own: mixed calls from many workers, each checked as it ends.

    python -m tests.soak.load ORDERS     ORDERS: the fields of `Orders` as JSON. Writes to its file one JSON a line, [id, key, kind, status,
                                         words, stayed, left_s]; prints one JSON: calls of each kind, and what went wrong

The rule a reader could break: a client judges only what it saw itself; who is right where both sides differ is found out afterwards.
"""

import asyncio
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import orjson
import uvloop

from tests.faults.guard import APP_KEY, PROMPT
from tests.soak.scripts import CAP, EMBEDDER, MODEL, Script, Seen

KEYS = {"app": APP_KEY, "drain": f"{APP_KEY}-drain", "poor": f"{APP_KEY}-poor"}
_PATIENCE_S = 60.0
_PATH = "/v1/chat/completions"
_STALLED_AT_ONCE = 4
_STALL_S = 3.5  # longer than the proxy waits for a reader
_MALFORMED = (
    b"GET /v1/models\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nx y: z\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: t\r\nx-much: %b\r\n\r\n" % (b"a" * 40_000),
)


@dataclass(frozen=True, slots=True)
class Orders:
    """file: to write to. kinds: names of the calls to make, all without. most: calls. pause_s: of a worker between two, on average."""

    port: int
    seed: int
    seconds: float
    file: str
    kinds: Sequence[str] = ()
    keys: Sequence[str] = ("app", "drain", "poor")
    workers: int = 40
    pause_s: float = 0.35
    most: int = 1 << 60


class Line:
    """A connection, and one answer after the other from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.keeps = True

    async def head(self) -> int:
        """The status of the answer that begins."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self._fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        self.keeps = self._fields.get(b"connection") != b"close"
        return int(head[9:12])

    async def body(self, *, told: Callable[[int], None] = lambda words: None) -> bytes:
        """All of its body, or what came of it before the connection ended. told: how many words have come so far."""
        if length := self._fields.get(b"content-length"):
            return await self.reader.readexactly(int(length))
        body = bytearray()
        try:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                told(body.count(b'"delta"'))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        except asyncio.IncompleteReadError:
            self.keeps = False
        return bytes(body)

    def leave(self, seen: Seen, *, reset: bool) -> None:
        seen.left_s = time.monotonic()
        if reset:
            plain = self.writer.transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Load:
    """All workers together. seen: by id."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._chance = random.Random(orders.seed)
        self._leavers = [key for key in ("app", "drain") if key in orders.keys]
        self._number = 0
        self._stalled = 0
        self._kept: list[Line] = []
        self.seen: dict[str, Seen] = {}
        self.kinds: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def work(self, until: float) -> None:
        loop, chance, orders = asyncio.get_running_loop(), self._chance, self._orders
        plays, weights = zip(
            *((play, weight) for play, weight in _KINDS if play.__name__ in orders.kinds or not orders.kinds), strict=True
        )
        while loop.time() < until and self._number < orders.most:
            await asyncio.sleep(chance.expovariate(1 / orders.pause_s))
            [play] = chance.choices(plays, weights)
            self.kinds[play.__name__] += 1
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await play(self)
            except (OSError, TimeoutError, AssertionError, asyncio.IncompleteReadError, ValueError) as error:
                self.wrong.append(f"{play.__name__}: {type(error).__name__}: {error}"[:300])

    # ── calls that are answered ──────────────────────────────────────────────────────────────────────────────────────

    async def chat(self) -> None:
        await self._plain("json", 200)

    async def embeddings(self) -> None:
        fields = {"model": EMBEDDER, "input": PROMPT}
        await self._plain("embed", 200, path="/v1/embeddings", fields=fields)

    async def large_prompt(self) -> None:
        content = f"{PROMPT} " + "words " * self._chance.randrange(20_000, 150_000)
        await self._plain("json", 200, fields=_chat(content))

    async def poor(self) -> None:
        await self._plain("json", 200, 429, key="poor")

    async def refused(self) -> None:
        await self._plain("refused", 429)

    async def failed(self) -> None:
        await self._plain("failed", 500)

    async def reset(self) -> None:
        await self._plain("reset", 502)

    async def half_answer(self) -> None:
        await self._plain("half", 502)

    async def stream(self) -> None:
        await self._streamed("stream", b"[DONE]")

    async def unreported_stream(self) -> None:
        await self._streamed("quiet", b"[DONE]")

    async def slow_stream(self) -> None:
        await self._streamed("slow", b"[DONE]")

    async def responses(self) -> None:
        fields = {"model": MODEL, "input": PROMPT, "stream": True, "max_output_tokens": CAP}
        await self._streamed("resp", b"response.completed", path="/v1/responses", fields=fields)

    async def cut_stream(self) -> None:
        await self._streamed("cut", b"upstream_broken")

    async def broken_stream(self) -> None:
        await self._streamed("broken", b"upstream_broken")

    async def _plain(self, script: str, *statuses: int, key: str = "app", path: str = _PATH, fields: object = None) -> None:
        seen, line = await self._asked(script, key=key, path=path, fields=fields or _chat(PROMPT))
        seen.status = await line.head()
        said = await line.body()
        assert seen.status in statuses, f"{script}: {seen.status} {said[:200]!r}"
        orjson.loads(said)
        self._keep(line)

    async def _streamed(self, script: str, end: bytes, *, path: str = _PATH, fields: object = None) -> None:
        seen, line = await self._asked(script, key="app", path=path, fields=fields or _chat(PROMPT, stream=True))
        seen.status = await line.head()
        if seen.status == 502:  # it broke before its head was passed on
            assert script in ("broken", "cut"), f"{script}: 502"
            await line.body()
            return
        said = await line.body()
        seen.words = said.count(b'"delta"')
        assert seen.status == 200, f"{script}: {seen.status} {said[:200]!r}"
        assert end in said[-400:], f"{script} ended in {said[-200:]!r}"
        assert (b"[DONE]" in said) == (end == b"[DONE]"), f"{script} ended in {said[-200:]!r}"
        self._keep(line)

    # ── clients that misbehave ───────────────────────────────────────────────────────────────────────────────────────

    async def leaves(self) -> None:
        """In mid-stream, at any moment."""
        chance = self._chance
        seen, line = await self._asked("steady", key=chance.choice(self._leavers), fields=_chat(PROMPT, stream=True))
        seen.stayed = False
        try:
            async with asyncio.timeout(chance.uniform(0.0, 0.5)):
                seen.status = await line.head()

                def told(words: int) -> None:
                    seen.words = words

                await line.body(told=told)
        except TimeoutError:
            pass
        line.leave(seen, reset=chance.random() < 0.5)

    async def leaves_early(self) -> None:
        """Before the head of the answer."""
        seen, line = await self._asked("late", key=self._chance.choice(self._leavers), fields=_chat(PROMPT))
        seen.stayed = False
        await asyncio.sleep(self._chance.uniform(0.0, 0.5))
        line.leave(seen, reset=self._chance.random() < 0.5)

    async def leaves_at_once(self) -> None:
        """In the middle of its own request."""
        body = orjson.dumps(_chat(PROMPT))
        seen, head = self._begun("json", key="app", path=_PATH, length=len(body))
        seen.stayed = False
        line = await self._line(fresh=True)
        line.writer.write((head + body)[: self._chance.randrange(1, len(head) + len(body))])
        await asyncio.sleep(self._chance.uniform(0.0, 0.05))
        line.leave(seen, reset=self._chance.random() < 0.5)

    async def stalls(self) -> None:
        """A reader that takes the head of a flood and then nothing, until it is cut."""
        if self._stalled >= _STALLED_AT_ONCE:
            return
        self._stalled += 1
        try:
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.setblocking(False)
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self._orders.port))
            body = orjson.dumps(_chat(PROMPT, stream=True))
            seen, head = self._begun("flood", key="app", path=_PATH, length=len(body))
            seen.stayed = False
            await asyncio.get_running_loop().sock_sendall(plain, head + body)
            await asyncio.sleep(_STALL_S)
            plain.close()
        finally:
            self._stalled -= 1

    async def malformed(self) -> None:
        line = await self._line(fresh=True)
        line.writer.write(self._chance.choice(_MALFORMED))
        status = await line.head()
        assert 400 <= status < 500, f"{status}"
        line.writer.close()

    async def bad_body(self) -> None:
        said = self._chance.choice(
            (b"{", b"[]", b'{"model": 1}', b'{"model": "gpt-4.1-mini", "messages": [], "n": -1}', b"\xff" * 9, b"[" * 5000)
        )
        seen, head = self._begun("json", key="app", path=_PATH, length=len(said))
        line = await self._line()
        line.writer.write(head + said)
        seen.status = await line.head()
        assert seen.status == 400, f"{seen.status} for {said[:40]!r}"
        await line.body()
        self._keep(line)

    async def wrong_key(self) -> None:
        body = orjson.dumps(_chat(PROMPT))
        seen, head = self._begun("json", key="nobody", path=_PATH, length=len(body))
        line = await self._line()
        line.writer.write(head + body)
        seen.status = await line.head()
        assert seen.status in (401, 429), f"{seen.status}"  # the later of them are slowed down
        await line.body()
        self._keep(line)

    # ── the way there ────────────────────────────────────────────────────────────────────────────────────────────────

    def _begun(self, name: str, *, key: str, path: str, length: int) -> tuple[Seen, bytes]:
        script = Script(self._number, name, self._chance.randrange(1, 13))
        self._number += 1
        seen = self.seen[script.id] = Seen(key, name)
        shown = KEYS.get(key, f"wrong-{script.number}")
        head = (
            f"POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {shown}\r\ncontent-type: application/json\r\n"
            f"x-user: u{self._chance.randrange(200)}\r\nx-request-id: {script.id}\r\ncontent-length: {length}\r\n\r\n"
        )
        return seen, head.encode()

    async def _asked(self, name: str, *, key: str, path: str = _PATH, fields: object) -> tuple[Seen, Line]:
        body = orjson.dumps(fields)
        line = await self._line()
        seen, head = self._begun(name, key=key, path=path, length=len(body))
        line.writer.write(head + body)
        await line.writer.drain()
        return seen, line

    async def _line(self, *, fresh: bool = False) -> Line:
        while not fresh and self._kept and self._chance.random() < 0.8:
            line = self._kept.pop()
            if not line.reader.at_eof():
                return line
        return Line(*await asyncio.open_connection("127.0.0.1", self._orders.port))

    def _keep(self, line: Line) -> None:
        if line.keeps and len(self._kept) < self._orders.workers // 2:
            self._kept.append(line)
        else:
            line.writer.close()

    def close(self) -> None:
        for line in self._kept:
            line.writer.close()


def _chat(content: str, *, stream: bool = False) -> dict[str, object]:
    said = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": CAP}
    return {**said, "stream": True} if stream else said


_KINDS: tuple[tuple[Callable[[Load], Awaitable[None]], float], ...] = (
    (Load.chat, 30),
    (Load.stream, 15),
    (Load.embeddings, 10),
    (Load.leaves, 8),
    (Load.unreported_stream, 5),
    (Load.responses, 4),
    (Load.malformed, 4),
    (Load.bad_body, 4),
    (Load.wrong_key, 4),
    (Load.slow_stream, 3),
    (Load.cut_stream, 3),
    (Load.refused, 3),
    (Load.failed, 3),
    (Load.leaves_early, 3),
    (Load.leaves_at_once, 2),
    (Load.poor, 2),
    (Load.large_prompt, 2),
    (Load.broken_stream, 1),
    (Load.reset, 1),
    (Load.half_answer, 1),
    (Load.stalls, 1),
)


async def run(orders: Orders) -> Load:
    load = Load(orders)
    until = asyncio.get_running_loop().time() + orders.seconds
    await asyncio.gather(*(load.work(until) for _ in range(orders.workers)))
    load.close()
    return load


def main() -> None:
    orders = Orders(**json.loads(sys.argv[1]))
    load = uvloop.run(run(orders))
    rows = [json.dumps([id, *astuple(seen)]) for id, seen in load.seen.items()]
    Path(orders.file).write_text("\n".join(rows) + "\n", "utf-8")
    print(json.dumps({"kinds": load.kinds, "wrong": load.wrong}), flush=True)


if __name__ == "__main__":
    main()
