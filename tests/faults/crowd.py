"""Clients by the hundred that are slow on purpose, in a process of their own.

    python -m tests.faults.crowd ROLE PORT KEY COUNT FIRST     prints `open N` when all are there, `ended SECONDS NUMBER PART STATUS` for
                                                         each that the proxy ended; ends when standard input does

    readers: ask for a flood (tests.soak.model) with a small SO_RCVBUF, and never read; FIRST: the number in the first one's id
    writers: a third send a head a byte at a time, a third a body, a third nothing at all

The rule a reader could break: sockets are plain and nobody reads them but to see their end, so that nothing here is ever the bottleneck.
"""

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator

from tests.faults.guard import PROMPT
from tests.soak.scripts import MODEL, Script

RCVBUF_BYTES = 4096
PARTS = ("head", "body", "idle")
_TRICKLE_S = 0.2
_APART_S = 0.004  # so that arriving is no flood of its own
_BODY = b'{"model": "%b", "messages": [{"role": "user", "content": "%b"}], "max_tokens": 1000000, "stream": true}' % (
    MODEL.encode(),
    PROMPT.encode(),
)


def _head(key: str, id: str) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer %b\r\ncontent-type: application/json\r\n"
        b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (key.encode(), id.encode(), len(_BODY))
    )


class Crowd:
    """All of them. sockets: each with its number."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._by_fd: dict[int, tuple[int, str, float]] = {}
        self.sockets: list[socket.socket] = []

    def join(self, first: bytes, *, part: str, rcvbuf: int | None = None) -> None:
        """One more, which sends this and is watched for its end."""
        one = socket.socket()
        if rcvbuf is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        one.connect(("127.0.0.1", self._port))
        if first:
            one.sendall(first)
        one.setblocking(False)
        self._by_fd[one.fileno()] = len(self.sockets), part, time.monotonic()
        self._epoll.register(one, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
        self.sockets.append(one)

    def ended(self, timeout_s: float) -> Iterator[str]:
        """A line for each that was ended meanwhile."""
        for fd, _ in self._epoll.poll(timeout_s):
            number, part, began = self._by_fd.pop(fd)
            self._epoll.unregister(fd)
            status = 0
            if part != "reader":
                with contextlib.suppress(OSError):
                    status = int(self.sockets[number].recv(4096)[9:12] or b"0")
            yield f"ended {time.monotonic() - began:.2f} {number} {part} {status}"

    def trickle(self, rest: dict[int, bytes]) -> None:
        """One more byte from each that has some left."""
        for number in list(rest):
            try:
                self.sockets[number].send(rest[number][:1])
                rest[number] = rest[number][1:]
            except OSError:
                del rest[number]

    def close(self) -> None:
        for one in self.sockets:
            one.close()


def main() -> None:
    role, key = sys.argv[1], sys.argv[3]
    port, count, first = int(sys.argv[2]), int(sys.argv[4]), int(sys.argv[5])
    crowd, rest, over = Crowd(port), dict[int, bytes](), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    for number in range(count):
        head = _head(key, Script(first + number, "flood", 1).id)
        if role == "readers":
            crowd.join(head + _BODY, part="reader", rcvbuf=RCVBUF_BYTES)
        else:
            part = PARTS[number % len(PARTS)]
            crowd.join({"head": head[:20], "body": head, "idle": b""}[part], part=part)
            if part != "idle":
                rest[number] = head[20:] if part == "head" else _BODY
        time.sleep(_APART_S)
    print(f"open {count}", flush=True)
    while not over.is_set():
        for line in crowd.ended(_TRICKLE_S):
            print(line, flush=True)
        crowd.trickle(rest)
    crowd.close()


if __name__ == "__main__":
    main()
