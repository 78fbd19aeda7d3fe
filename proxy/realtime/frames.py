"""Frames of a WebSocket, sans-IO: bytes in, whole messages out, and the other way round. The one place that knows the library.

Extensions are offered to nobody: a compressed message has no bound before it is unpacked. The rule a reader could break: whatever comes
is bounded before it is kept, one message by its size, and answers to pings by dropping them while the peer does not read.
"""

from collections import deque
from typing import NamedTuple

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import BINARY, CLOSE, CONT, EXTERNAL_CLOSE_CODES, PONG, TEXT, Close, Frame
from websockets.http11 import Response
from websockets.protocol import CONNECTING, OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI
from websockets.utils import accept_key

MOST_UPSTREAM_BYTES = 16 << 20  # of a message from an upstream
MOST_CLIENT_BYTES = 16 << 20  # of one from a client, where no policy says less: an API takes 15 MiB of sound at once
_MOST_REASON_BYTES = 123  # RFC 6455, section 5.5: a control frame carries 125, two of them the code
_PONG = 0x80 | PONG
_PRIVATE = range(3000, 5000)


class Message(NamedTuple):
    """text: UTF-8 then, and binary else."""

    text: bool
    data: bytes


class Ending(NamedTuple):
    """Why a peer closes. code: None where it says none."""

    code: int | None = None
    reason: str = ""


class Frames:
    """One peer. messages: whole ones that wait, size: their bytes. ending: its close frame; fault: it broke the protocol."""

    __slots__ = ("_opcode", "_part", "_protocol", "ending", "fault", "messages", "size")

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._opcode = TEXT
        self._part: bytearray | None = None  # of a message in fragments
        self.messages: deque[Message] = deque()
        self.size = 0
        self.ending: Ending | None = None
        self.fault = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._protocol.state.name} waiting={self.size} ending={self.ending} fault={self.fault}>"

    @property
    def open(self) -> bool:
        return self._protocol.state is OPEN and self.ending is None and not self.fault

    def feed(self, data: bytes) -> None:
        """What was received. Nothing behind a close frame or a fault is looked at."""
        if self.ending is not None or self.fault:
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._see(event)
            else:
                self.opened(event)
        if self._protocol.parser_exc is not None:
            self.fault = True

    def opened(self, head: object) -> None:
        """The head of an answer, where one is waited for."""

    def end(self) -> None:
        """The peer's stream has ended."""

    def _see(self, frame: Frame) -> None:
        if self.fault:
            return
        if frame.opcode is CLOSE:
            close = Close.parse(frame.data)
            sayable = close.code in EXTERNAL_CLOSE_CODES or close.code in _PRIVATE
            self.ending = Ending(close.code, close.reason) if sayable else Ending()
        elif frame.opcode in (TEXT, BINARY):
            self._opcode = frame.opcode
            if frame.fin:
                self._keep(bytes(frame.data))
            else:
                self._part = bytearray(frame.data)
        elif frame.opcode == CONT and self._part is not None:
            self._part += frame.data
            if frame.fin:
                part, self._part = self._part, None
                self._keep(bytes(part))

    def _keep(self, data: bytes) -> None:
        text = self._opcode == TEXT
        if text:
            try:
                data.decode()
            except UnicodeDecodeError:
                self._protocol.fail(1007, "not UTF-8")
                self.fault = True
                return
        self.messages.append(Message(text, data))
        self.size += len(data)

    def take(self) -> Message | None:
        if not self.messages:
            return None
        message = self.messages.popleft()
        self.size -= len(message.data)
        return message

    def send(self, message: Message) -> None:
        if self.open:
            (self._protocol.send_text if message.text else self._protocol.send_binary)(message.data)

    def close(self, ending: Ending) -> None:
        """Say goodbye, once."""
        if not self.open:
            return
        if ending.code is None:
            self._protocol.send_close()
        else:
            reason = ending.reason.encode()[:_MOST_REASON_BYTES].decode("utf-8", "ignore")
            self._protocol.send_close(ending.code, reason)

    def out(self, *, slow: bool) -> tuple[list[bytes], bool]:
        """What is to be sent, and whether that is all there will ever be. slow: the peer does not read what it was sent."""
        pieces = self._protocol.data_to_send()
        last = b"" in pieces
        return [piece for piece in pieces if piece and not (slow and piece[0] == _PONG)], last


class ClientFrames(Frames):
    """A client's, whose opening was agreed to by HTTP. most_bytes: of one message."""

    __slots__ = ()

    def __init__(self, *, most_bytes: int) -> None:
        super().__init__(ServerProtocol(state=OPEN, max_size=most_bytes))


class UpstreamFrames(Frames):
    """An upstream's, with the opening. protocols: subprotocols that it is offered. answered: its answer has come, one way or another.

    status: of its answer, 101 if it agreed, 0 if that was no answer; headers, body: of one that did not.
    """

    __slots__ = ("_client", "answered", "body", "headers", "status")

    def __init__(self, *, secure: bool = True, protocols: tuple[str, ...] = ()) -> None:
        offered = [Subprotocol(word) for word in protocols] or None
        nowhere = WebSocketURI(secure, "", 0, "/", "", None, None)  # the head is written by whoever knows where it goes
        self._client = ClientProtocol(nowhere, subprotocols=offered, max_size=MOST_UPSTREAM_BYTES)
        super().__init__(self._client)
        self.answered = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def lines(self) -> list[str]:
        """Of the head that asks for the upgrade."""
        offered = self._client.available_subprotocols
        return [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            f"sec-websocket-key: {self._client.key}",
            *([f"sec-websocket-protocol: {', '.join(offered)}"] if offered else []),
        ]

    def feed(self, data: bytes) -> None:
        super().feed(data)
        if self._client.handshake_exc is not None:
            self.answered = self.fault = True

    def opened(self, head: object) -> None:
        assert isinstance(head, Response)
        self.answered = True
        self.headers = {name.lower(): value for name, value in head.headers.raw_items()}
        if self._client.handshake_exc is None:
            self.status = 101
        elif isinstance(self._client.handshake_exc, InvalidStatus):
            self.status, self.body = head.status_code, bytes(head.body)

    def end(self) -> None:
        """It may be the end of an answer, too."""
        if self._client.state is CONNECTING and not self.answered:
            self._client.receive_eof()
            for event in self._client.events_received():
                self.opened(event)
            self.answered = self.fault = True


def accepted(nonce: str) -> str:
    """The value of Sec-WebSocket-Accept for that of Sec-WebSocket-Key."""
    return accept_key(nonce.strip())
