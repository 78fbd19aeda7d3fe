"""The upstream of the benchmark: fixed answers, made before anything is measured, at the least cost that Python has.

A call with `"stream":true` gets --events events, one write each, --pace-ms apart, then the usage chunk if it was asked for and [DONE].
The first event comes at once and the second after a part of the pace that differs from stream to stream, so that a hundred streams
do not tick together. Every other call gets a JSON answer.
"""

import argparse
import asyncio
from typing import cast

import uvloop

from bench.wire import DONE, EVENT, REPLY, usage_event

_GOLDEN = 0.618034  # multiples of it, modulo 1, are spread evenly

_HEAD = b"HTTP/1.1 200 OK\r\nx-request-id: req_mock\r\ncontent-type: "
_ANSWER = _HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY) + REPLY
_STREAM_HEAD = _HEAD + b"text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Mock(asyncio.Protocol):
    """One connection. It trusts its peers' framing: it is asked by nobody but the subjects and our own load."""

    streams = 0

    def __init__(self, *, events: int, pace_s: float) -> None:
        self._events, self._pace_s = events, pace_s
        self._event = _chunk(EVENT)
        self._pending = b""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._pending += data
        head_bytes = self._pending.find(b"\r\n\r\n")
        if head_bytes < 0:
            return
        head = self._pending[:head_bytes].lower()
        length = head.find(b"content-length:")
        if length >= 0:
            size = int(head[length + 15 :].split(b"\r\n", 1)[0])
            whole = len(self._pending) >= head_bytes + 4 + size
        else:
            whole = self._pending.endswith(b"\r\n0\r\n\r\n")
        if whole:
            body, self._pending = self._pending[head_bytes:], b""
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if b'"stream":true' not in body:
            self._transport.write(_ANSWER)
            return
        usage = usage_event(self._events) if b'"include_usage":true' in body else b""
        self._end = _chunk(usage + DONE) + b"0\r\n\r\n"
        self._transport.write(_STREAM_HEAD + self._event)
        Mock.streams += 1
        self._left = self._events - 1
        self._due = self._loop.time() + self._pace_s * (Mock.streams * _GOLDEN % 1)
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        if self._left == 0:
            self._transport.write(self._end)
            return
        self._left -= 1
        self._transport.write(self._event)
        self._due += self._pace_s
        self._timer = self._loop.call_at(self._due, self._tick)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--pace-ms", type=float, default=20.0)
    given = parser.parse_args()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Mock(events=given.events, pace_s=given.pace_ms / 1000), "127.0.0.1", given.port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
