"""Clients in a closed loop: each sends the next call when one is answered, and compares every reply with what it must be.

The rule a reader could break: a reply that is not 200, not whole, or not the expected bytes ends the run. A fast proxy that loses
bytes is not fast.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

from bench.reply import BadReply, Reply

_PATIENCE_S = 30.0


class _Client(asyncio.Protocol):
    """One keep-alive connection: a call at a time, and the next follows at once while some are left."""

    def __init__(self, requests: Sequence[bytes], expected: bytes, *, turn: int) -> None:
        self._requests, self._expected, self._turn = requests, expected, turn
        self.left: float = 0  # calls still to begin
        self.idle = asyncio.Event()  # no call is under way, or none will ever be again
        self.idle.set()
        self.error: BadReply | None = None
        self.calls_ns: list[int] = []
        self.first_ns: list[int] = []  # until the first byte of the body
        self.body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self) -> None:
        """Begin a call. Only while idle, and while it is connected."""
        if self.error is not None:
            return
        self.left -= 1
        self.idle.clear()
        self._reply, self._waits = Reply(), True
        request = self._requests[self._turn % len(self._requests)]
        self._turn += 1
        self._begun_ns = time.perf_counter_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.perf_counter_ns()
        try:
            got = self._reply.feed(data)
            self.body_bytes += got
            if got and self._waits:
                self._waits = False
                self.first_ns.append(now_ns - self._begun_ns)
            if self._reply.over:
                self._reply.check(self._expected)
                self.calls_ns.append(now_ns - self._begun_ns)
                if self.left > 0:
                    self.send()
                else:
                    self.idle.set()
        except BadReply as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(BadReply(f"the connection was lost: {exc!r}"))

    def _fail(self, error: BadReply) -> None:
        self.error = self.error or error
        self.left = 0
        self.idle.set()
        self._transport.close()

    def close(self) -> None:
        self._transport.close()


class Load:
    """Clients of one port, connected and idle until told to work. requests: sent in turn; expected: the body of every reply."""

    def __init__(self, port: int, requests: Sequence[bytes], *, expected: bytes, clients: int) -> None:
        self._port = port
        # They begin with different requests, so that all kinds are always under way.
        turns = [i * len(requests) // clients for i in range(clients)]
        self._clients = [_Client(requests, expected, turn=turn) for turn in turns]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for client in self._clients:
            await loop.create_connection(lambda c=client: c, "127.0.0.1", self._port)  # type: ignore[misc]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for client in self._clients:
            client.close()

    def resume(self) -> None:
        """Every client makes one call after the other."""
        self._begin(math.inf)

    async def pause(self) -> None:
        """Wait for the calls under way and begin no more. Errors: BadReply for any reply so far, TimeoutError."""
        for client in self._clients:
            client.left = 0
        await self._idle()

    async def volley(self, calls: int = 1) -> None:
        """Every client makes so many calls. Errors: as `pause`."""
        self._begin(calls)
        await self._idle()

    def _begin(self, calls: float) -> None:
        for client in self._clients:
            client.left = calls
            client.send()

    async def _idle(self) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            for client in self._clients:
                await client.idle.wait()
        for client in self._clients:
            if client.error is not None:
                raise client.error

    @property
    def calls(self) -> int:
        """Whole calls so far."""
        return sum(len(client.calls_ns) for client in self._clients)

    @property
    def body_bytes(self) -> int:
        return sum(client.body_bytes for client in self._clients)

    @property
    def calls_ns(self) -> list[int]:
        """How long each whole call took."""
        return [taken for client in self._clients for taken in client.calls_ns]

    @property
    def first_ns(self) -> list[int]:
        """How long each call waited for the first byte of its body."""
        return [taken for client in self._clients for taken in client.first_ns]
