"""The soak's model server, a process of its own: it does with each call what the call's id says, and keeps what it did.

    python -m tests.soak.model FILE     prints its port; when standard input ends, writes FILE: one JSON a line, [id, reported, said,
                                        whole, closed_s]

The rule a reader could break: a word counts as said once the whole of its event was given to the socket, and never before.
"""

import asyncio
import json
import socket
import struct
import sys
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

import orjson
import uvloop

from tests.soak.scripts import EMBEDDER, MODEL, WORDS, Script, Served

_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PACES_S = {"slow": 0.25, "steady": 0.02}
_LATE_S = 1.2
FLOOD_BYTES = 64 << 20
INPUT_TOKENS = 20
_FAILURES = {
    "refused": (
        b"429 Too Many Requests",
        b'{"error": {"message": "slow down", "type": "requests", "param": null, "code": "busy"}}',
    ),
    "failed": (b"500 Internal Server Error", b"<html>a page of an error</html>"),
}


class Model(asyncio.Protocol):
    """One connection: a request after the other."""

    def __init__(self, served: dict[str, Served]) -> None:
        self._served = served
        self._data = b""
        self._due = 0  # bytes of a body that are yet to come
        self._id = ""
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._due:
            head, found, data = (self._data + data).partition(b"\r\n\r\n")
            if not found:
                self._data = head
                return
            self._data = b""
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            self._due = int(fields[b"content-length"])
            self._id = fields[b"x-request-id"].decode()
        self._due -= len(data)
        assert self._due >= 0, "the next request came before this one's answer"
        if not self._due:
            assert self._id not in self._served, f"{self._id} came twice"
            served = self._served[self._id] = Served()
            self._task = asyncio.get_running_loop().create_task(self._answer(Script.of(self._id), served))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
            self._served[self._id].closed_s = time.monotonic()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _answer(self, script: Script, served: Served) -> None:
        match script.name:
            case "json" | "late":
                if script.name == "late":
                    await asyncio.sleep(_LATE_S)
                served.reported = (INPUT_TOKENS, script.words)
                served.said = script.words
                self._json(_answer_of(script))
            case "embed":
                served.reported = (script.words, 0)
                vector = [round(n / 512, 6) for n in range(256)]
                rows = [{"object": "embedding", "index": 0, "embedding": vector}]
                usage = {"prompt_tokens": script.words, "total_tokens": script.words}
                self._json({"object": "list", "data": rows, "model": EMBEDDER, "usage": usage})
            case "refused" | "failed":
                status, said = _FAILURES[script.name]
                self._write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(said), said))
            case "reset":
                self._reset()
            case "half":
                body = orjson.dumps(_answer_of(script))
                self._write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (2 * len(body)) + body
                )
                self._transport.close()
            case "flood":
                await self._flood(served)
            case "resp":
                await self._responses(script, served)
            case _:
                await self._stream(script, served)
        served.whole = script.name not in ("cut", "broken", "half", "reset", "flood")
        self._task = None

    async def _stream(self, script: Script, served: Served) -> None:
        self._transport.write(_STREAM)
        pace_s = _PACES_S.get(script.name, 0.0)
        for n in range(script.words):
            if pace_s:
                await asyncio.sleep(pace_s)
            self._event({"choices": [{"index": 0, "delta": {"content": WORDS[n % len(WORDS)]}, "finish_reason": None}]})
            served.said += 1
        if script.name == "cut":
            self._transport.close()
            return
        if script.name == "broken":
            self._reset()
            return
        if script.name != "quiet":
            usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": script.words, "total_tokens": INPUT_TOKENS + script.words}
            served.reported = (INPUT_TOKENS, script.words)
            self._event({"choices": [], "usage": usage})
        self._write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _responses(self, script: Script, served: Served) -> None:
        response = {"id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "output": [], "tools": []}
        self._transport.write(_STREAM)
        self._named("response.created", {"response": {**response, "status": "in_progress"}})
        for n in range(script.words):
            self._named(
                "response.output_text.delta", {"item_id": "m", "output_index": 0, "content_index": 0, "delta": WORDS[n % 12]}
            )
            served.said += 1
        served.reported = (INPUT_TOKENS, script.words)
        usage = {"input_tokens": INPUT_TOKENS, "output_tokens": script.words, "total_tokens": INPUT_TOKENS + script.words}
        self._named("response.completed", {"response": {**response, "status": "completed", "usage": usage}})
        self._write(b"0\r\n\r\n")

    async def _flood(self, served: Served) -> None:
        """Large events, for as long as somebody takes them."""
        many = {"choices": [{"index": 0, "delta": {"content": "".join(WORDS) * 200}, "finish_reason": None}]}
        event = b"data: %b\n\n" % orjson.dumps(many)
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        self._transport.write(_STREAM)
        for _ in range(FLOOD_BYTES // len(chunk)):
            await self._writable.wait()
            if self._transport.is_closing():
                return
            self._transport.write(chunk)
            served.said += 200 * len(WORDS)
        self._transport.close()

    def _event(self, said: dict[str, Any]) -> None:
        self._chunk(
            b"data: %b\n\n" % orjson.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, **said})
        )

    def _named(self, name: str, said: dict[str, Any]) -> None:
        self._chunk(b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, "sequence_number": 0, **said})))

    def _chunk(self, event: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(event), event))

    def _json(self, said: dict[str, Any]) -> None:
        body = orjson.dumps(said)
        self._write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _reset(self) -> None:
        """Close with a RST: a socket that lingers for zero seconds drops what it still holds."""
        plain = self._transport.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


def _answer_of(script: Script) -> dict[str, Any]:
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": script.words, "total_tokens": INPUT_TOKENS + script.words}
    message = {"role": "assistant", "content": "".join(WORDS[n % len(WORDS)] for n in range(script.words))}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices, "usage": usage}


async def serve() -> dict[str, Served]:
    served: dict[str, Served] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Model(served), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    return served


def main() -> None:
    rows = [json.dumps([id, *astuple(one)]) for id, one in uvloop.run(serve()).items()]
    Path(sys.argv[1]).write_text("\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
