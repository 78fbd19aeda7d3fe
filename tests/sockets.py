"""A fake upstream that speaks WebSocket by a script of the test's, and a client that sends exactly the frames it is given.

    async with FakeSockets(script) as upstream:
        ...
    async def script(link: Link) -> None:
        asked = await link.event()
        await link.say({"type": "response.created", ...})

The rule a reader could break: a script waits for what it is sent, and a test for what it is told; neither waits for time.
"""

import asyncio
import base64
import os
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Self

import orjson
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

_HANG_S = 20.0


class Gone(Exception):
    """The peer closed, in order or not."""


class Link:
    """One connection of the fake upstream. request: its opening; got: events of the client's so far; closed: how it ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = ServerProtocol(
            max_size=64 << 20, subprotocols=None, select_subprotocol=lambda _, offered: (offered or [None])[0]
        )
        self.request: Request | None = None
        self.raw: list[bytes] = []  # messages as they came
        self.got: list[Any] = []
        self.closed: Close | None = None
        self.ended = asyncio.Event()
        self._grew = asyncio.Event()
        self._taken = 0

    @property
    def headers(self) -> Mapping[str, str]:
        assert self.request is not None
        return {name.lower(): value for name, value in self.request.headers.raw_items()}

    async def more(self) -> None:
        data = await self.reader.read(1 << 16)
        if not data:
            self.ended.set()
            raise Gone
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                self.request = event
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY):
                assert event.fin
                self.raw.append(bytes(event.data))
                self.got.append(orjson.loads(event.data))
                self._grew.set()
            elif event.opcode is Opcode.CLOSE:
                self.closed = Close.parse(event.data)
        await self.flush()
        if self.closed is not None:
            self.ended.set()
            raise Gone

    async def flush(self) -> None:
        for piece in self.protocol.data_to_send():
            if piece:
                self.writer.write(piece)
        await self.writer.drain()

    async def accept(self) -> None:
        while self.request is None:
            await self.more()
        self.protocol.send_response(self.protocol.accept(self.request))
        await self.flush()

    async def event(self, kind: str | None = None) -> Any:
        """The next event that was not taken yet, or the next of a kind."""
        while True:
            while self._taken >= len(self.got):
                await self.more()
            found = self.got[self._taken]
            self._taken += 1
            if kind is None or found["type"] == kind:
                return found

    async def received(self, count: int) -> None:
        """Wait until so many messages have come in all. For a test, beside the script that reads them."""
        async with asyncio.timeout(_HANG_S):
            while len(self.raw) < count:
                self._grew.clear()
                await self._grew.wait()

    async def say(self, *events: Any) -> None:
        for event in events:
            self.protocol.send_text(event if isinstance(event, bytes) else orjson.dumps(event))
        await self.flush()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.protocol.send_close(code, reason)
        await self.flush()
        try:
            while True:
                await self.more()
        except Gone:
            pass

    async def until_gone(self) -> None:
        while True:
            await self.more()


Script = Callable[[Link], Awaitable[None]]


class FakeSockets:
    """A WebSocket server on a free port. script: what it does with each connection once it is open. refuse: bytes instead of a 101."""

    def __init__(self, script: Script | None = None, *, refuse: bytes | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._tls = tls
        self.refuse = refuse
        self.links: list[Link] = []
        self.received_bytes = 0
        self.faults: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._grew = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.faults and error is None:
            raise self.faults[0]

    async def linked(self, count: int = 1) -> Link:
        """Wait until so many connections were opened, and return the last of them."""
        async with asyncio.timeout(_HANG_S):
            while len(self.links) < count:
                self._grew.clear()
                await self._grew.wait()
        return self.links[count - 1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = Link(reader, writer)
        try:
            if self.refuse is not None:
                while link.request is None:
                    await link.more()
                self.links.append(link)
                writer.write(self.refuse)
                await writer.drain()
                return
            await link.accept()
            self.links.append(link)
            self._grew.set()
            if self.script is not None:
                await self.script(link)
            await link.until_gone()
        except (Gone, ConnectionError):
            pass
        except asyncio.CancelledError:
            raise
        except BaseException as fault:
            self.faults.append(fault)
        finally:
            link.ended.set()
            self._grew.set()
            writer.transport.abort()
            self._tasks.discard(task)


class RawSocket:
    """A client that opens a session by hand and sends bytes as they are. head: of the answer to its opening."""

    opened: ClassVar[list["RawSocket"]] = []  # for whoever closes them all

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""
        self.status = 0
        self.opened.append(self)

    @classmethod
    async def open(
        cls,
        port: int,
        target: str = "/v1/realtime?model=gpt-realtime",
        *,
        key: str | None = "app-key",
        headers: Mapping[str, str] | None = None,
        early: bytes = b"",
        limit: int = 1 << 20,
    ) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        lines = {
            "host": "x",
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
            **({"authorization": f"Bearer {key}"} if key else {}),
            **(headers or {}),
        }
        text = "\r\n".join([f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items() if value), "", ""])
        writer.write(text.encode() + early)
        self = cls(reader, writer)
        async with asyncio.timeout(_HANG_S):
            self.head = await reader.readuntil(b"\r\n\r\n")
        self.status = int(self.head.split()[1])
        return self

    def field(self, name: str) -> str | None:
        for line in self.head.decode().split("\r\n")[1:]:
            found, _, value = line.partition(": ")
            if found == name:
                return value
        return None

    async def body(self) -> bytes:
        return await self.reader.readexactly(int(self.field("content-length") or 0))

    def frame(self, opcode: int, data: bytes, *, fin: bool = True) -> None:
        self.writer.write(Frame(Opcode(opcode), data, fin).serialize(mask=True))

    def say(self, event: Any) -> None:
        self.frame(1, event if isinstance(event, bytes) else orjson.dumps(event))

    async def read_frame(self) -> tuple[int, bytes]:
        """(opcode, payload). Errors: EOFError when the connection ended."""
        async with asyncio.timeout(_HANG_S):
            first, second = await self.reader.readexactly(2)
            size = second & 127
            if size == 126:
                [size] = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                [size] = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(size)

    async def told(self, kind: str | None = None) -> Any:
        """The next event, or the next of a kind."""
        while True:
            opcode, data = await self.read_frame()
            if opcode == 8:
                raise Gone(Close.parse(data))
            if opcode in (1, 2) and (kind is None or orjson.loads(data)["type"] == kind):
                return orjson.loads(data)

    async def ending(self) -> Close:
        """The close frame that comes, whatever comes before it."""
        while True:
            opcode, data = await self.read_frame()
            if opcode == 8:
                return Close.parse(data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.frame(8, Close(code, reason).serialize())

    def leave(self) -> None:
        self.writer.transport.abort()
