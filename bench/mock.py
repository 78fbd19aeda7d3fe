"""The upstream of the benchmark: fixed answers, made before anything is measured, at the least cost that Python has.

A call with `"stream":true` gets the events that it asks for (`wire.Stream`), one write each, then the usage chunk if it was asked
for, and [DONE]. The first event comes at once and the second after a part of the pace that differs from stream to stream, so that
a hundred streams do not tick together. A pace of 0 writes whenever the socket takes more. Every other call gets a JSON answer.

The rule a reader could break: it shares a core with the load, so what it spends on an event is missing there. Hence one timer for
all streams rather than one for each event, and writes that go past the transport while its buffer is empty.
"""

import argparse
import asyncio
import os
from collections import defaultdict
from typing import cast

import uvloop

from bench.wire import DONE, EVENT, REPLY, Stream, usage_event

_GOLDEN = 0.618034  # multiples of it, modulo 1, are spread evenly
_SLOT_S = 0.001  # the resolution of the loop's timers
_FLAT_OUT_WRITES = 16  # of one stream before the next has its turn

_HEAD = b"HTTP/1.1 200 OK\r\nx-request-id: req_mock\r\ncontent-type: "
_ANSWER = _HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n" % len(REPLY) + REPLY
_STREAM_HEAD = _HEAD + b"text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_EVENT = _chunk(EVENT)


class Wheel:
    """Who writes when, in slots of a millisecond: one timer, however many streams there are. It rests while there are none."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots: defaultdict[int, list[Mock]] = defaultdict(list)
        self._turn = 0  # the slot that is next
        self._turning = False

    def put(self, stream: "Mock", due: float) -> None:
        """due: time of the loop. What is overdue gets the next slot."""
        slot = int(due / _SLOT_S)
        if not self._turning:
            self._turning = True
            self._turn = int(self._loop.time() / _SLOT_S)
            self._loop.call_later(_SLOT_S, self._tick)
        self._slots[max(slot, self._turn)].append(stream)

    def _tick(self) -> None:
        now = int(self._loop.time() / _SLOT_S)
        while self._turn <= now:
            turn, self._turn = self._turn, self._turn + 1
            for stream in self._slots.pop(turn, ()):
                stream.tick()
        if self._slots:
            self._loop.call_later(_SLOT_S, self._tick)
        else:
            self._turning = False


class Mock(asyncio.Protocol):
    """One connection. It trusts its peers' framing: it is asked by nobody but the subjects and our own load."""

    streams = 0

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._pending = b""
        self._left = 0
        self._open = True
        self._paused = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=0)
        self._descriptor: int = self._transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False

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
            self._write(_ANSWER)
            return
        stream = Stream.read(body)
        usage = usage_event(stream.events) if b'"include_usage":true' in body else b""
        self._end = _chunk(usage + DONE) + b"0\r\n\r\n"
        self._left, self._pace_s = stream.events - 1, stream.pace_s
        self._write(_STREAM_HEAD + _EVENT)
        if not self._pace_s:
            self._flat_out()
            return
        Mock.streams += 1
        self._due = self._loop.time() + self._pace_s * (Mock.streams * _GOLDEN % 1)
        self._wheel.put(self, self._due)

    def tick(self) -> None:
        """One more event, or the end of the stream."""
        if not self._open:
            return
        if self._left == 0:
            self._write(self._end)
            return
        self._left -= 1
        self._write(_EVENT)
        self._due += self._pace_s
        self._wheel.put(self, self._due)

    def _flat_out(self) -> None:
        for _ in range(_FLAT_OUT_WRITES):
            if self._paused or not self._open:
                return  # `resume_writing` goes on
            if self._left == 0:
                self._left = -1
                self._write(self._end)
                return
            if self._left < 0:
                return
            self._left -= 1
            if not self._write(_EVENT):
                self._paused = True
        if not self._paused:
            self._loop.call_soon(self._flat_out)

    def resume_writing(self) -> None:
        if self._paused:
            self._paused = False
            self._flat_out()

    def _write(self, piece: bytes) -> bool:
        """Whether the socket took all of it. What it did not take the transport keeps."""
        taken = 0
        if not self._transport.get_write_buffer_size():
            try:
                taken = os.write(self._descriptor, piece)
            except BlockingIOError:
                pass
            except OSError:
                self._open = False
                self._transport.abort()
                return True
            if taken == len(piece):
                return True
        self._transport.write(piece[taken:])
        return False


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    wheel = Wheel()
    await asyncio.get_running_loop().create_server(lambda: Mock(wheel), "127.0.0.1", given.port, backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
