"""An upstream that closes the connections it keeps whenever it likes, and counts how often it saw each request."""

import asyncio
import contextlib
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator


class Moody:
    """It answers POSTs, and closes connections when it likes.

    polite: it closes only where nothing waits to be read, and with that very look. Else it closes over a request it has not read.
    answer: the body of every answer, None = the request's own. seen: bodies, with the number of times that each came whole.
    """

    def __init__(self, *, seed: int, polite: bool, answer: bytes | None = None) -> None:
        self.answer = answer
        self._chance = random.Random(seed)
        self._polite = polite
        self.seen: Counter[bytes] = Counter()
        self.closed = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
            server.setblocking(False)
            accepting = asyncio.create_task(self._accept(server))
            try:
                yield f"http://127.0.0.1:{server.getsockname()[1]}"
            finally:
                accepting.cancel()
                await asyncio.wait({accepting, *self._tasks})

    def hang_up(self) -> None:
        """Close every connection."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _accept(self, server: socket.socket) -> None:
        while True:
            peer, _ = await asyncio.get_running_loop().sock_accept(server)
            task = asyncio.create_task(self._serve(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        pending = b""
        with peer:
            while True:
                try:
                    more = await loop.sock_recv(peer, 65536)
                except ConnectionError:
                    return
                if not more:
                    return
                pending += more
                head, _, body = pending.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                if length is None or len(body) < int(length[1]):
                    continue
                pending = b""
                self.seen[body] += 1
                said = body if self.answer is None else self.answer
                await loop.sock_sendall(peer, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))
                if self._chance.random() < 0.3:
                    for _ in range(self._chance.randrange(6)):
                        await asyncio.sleep(0)
                    if not self._polite or self._quiet(peer):
                        self.closed += 1
                        return

    @staticmethod
    def _quiet(peer: socket.socket) -> bool:
        try:
            peer.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False
