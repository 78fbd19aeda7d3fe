"""Kept connections that end at any moment: no call is sent twice, and none is lost that could have been sent again."""

import asyncio
import contextlib
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from proxy.errors import UpstreamError
from tests.proxy.upstream.calls import ask, client_of, fetch, soon

CALLS = 10_000
WORKERS = 8


class Moody:
    """An upstream that answers POSTs with their own body and closes connections when it likes.

    polite: it closes only where nothing waits to be read, and with that very look. Else it closes over a request it has not read.
    """

    def __init__(self, *, seed: int, polite: bool) -> None:
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

    async def _accept(self, server: socket.socket) -> None:
        while True:
            peer, _ = await asyncio.get_running_loop().sock_accept(server)
            task = asyncio.create_task(self._serve(peer))
            self._tasks.add(task)

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
                await loop.sock_sendall(peer, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
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


@pytest.mark.parametrize("polite", [True, False])
async def test_no_call_is_sent_twice_and_none_is_lost_however_idle_connections_end(polite: bool) -> None:
    moody = Moody(seed=7, polite=polite)
    answered: list[bytes] = []
    unknown: list[bytes] = []
    numbers = iter(range(CALLS))

    async with moody.listening() as url, client_of(url) as client:

        async def work() -> None:
            for number in numbers:
                body = b"call %d" % number
                while True:
                    try:
                        status, got = await fetch(client, ask(body))
                    except UpstreamError as error:
                        if not error.sent:
                            continue
                        unknown.append(body)
                    else:
                        assert (status, got) == (200, body)
                        answered.append(body)
                    break

        await soon(asyncio.gather(*(work() for _ in range(WORKERS))))
    assert moody.closed > CALLS / 10, "there was something to survive"
    assert max(moody.seen.values()) == 1
    assert len(answered) + len(unknown) == CALLS
    if polite:
        assert unknown == []
    else:
        assert moody.seen.keys().isdisjoint(unknown), "the upstream closed over what it had not read"
