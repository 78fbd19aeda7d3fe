"""What an answer says about itself, read while it passes: usage, model, first token, end. One meter a call; bytes in, bytes out.

    feed(chunk)* ── finish()
      │                └ the rest of the body, or UpstreamError: it ended too early
      └ whole events (a stream), or nothing until the end (a small JSON body), or the chunk (a large one)

The rule a reader could break: joined, what comes out is what went in, but for one event: the usage chunk of a client that did not
ask for it. Content is kept only to be counted when the upstream reports no usage, and goes with the meter.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import orjson

from proxy.call import Usage
from proxy.errors import UpstreamError
from proxy.wire.sse import Splitter, data_of
from proxy.wire.usage import read_usage

MOST_EVENT_BYTES = 8 << 20  # partial images make very long lines; beyond this an event is an attack or a fault
MOST_WHOLE_BYTES = 1 << 20  # a JSON answer up to here is held back, so that its cost can stand in the head
MOST_TEXT_BYTES = 8 << 20
_TAIL_BYTES = 64 << 10  # the usage of a large embeddings answer stands behind its vectors

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_TEXT_KEYS = ("content", "reasoning_content", "reasoning", "refusal", "text")


class Meter(Protocol):
    """streams: whether the head goes out at once. ended: the surface's own end was seen. text: output text so far, UTF-8.

    usage: the last that made sense; nonsense: a usage block was there and made none. first_token: output has begun.
    unfinished: the answer is a receipt for work that goes on. error: an error the upstream put into its stream, as parsed.
    """

    streams: bool
    ended: bool
    usage: Usage | None
    nonsense: bool
    model: str | None
    first_token: bool
    text: bytearray
    sequence: int
    unfinished: bool
    error: Any

    def feed(self, chunk: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class _Reading:
    """What all meters tell."""

    streams = False

    def __init__(self) -> None:
        self.ended = False
        self.usage: Usage | None = None
        self.nonsense = False
        self.model: str | None = None
        self.first_token = False
        self.text = bytearray()
        self.sequence = 0
        self.unfinished = False
        self.error: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} ended={self.ended} usage={self.usage} text={len(self.text)}>"

    def _told(self, block: Any) -> None:
        if block is None:
            return
        usage = read_usage(block)
        if usage is None:
            self.nonsense = True
        else:
            self.usage = usage

    def _wrote(self, piece: Any) -> None:
        if isinstance(piece, str) and piece:
            self.first_token = True
            if len(self.text) < MOST_TEXT_BYTES:
                self.text += piece.encode("utf-8", "surrogatepass")


class PassMeter(_Reading):
    """Bytes that nobody reads: unmetered paths, compressed answers."""

    def __init__(self, *, streams: bool) -> None:
        super().__init__()
        self.streams = streams

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> bytes:
        self.ended = True
        return b""


class BodyMeter(_Reading):
    """A JSON answer. Held back while it is small, so that it is either whole or an honest error."""

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()
        self._passing = False

    def feed(self, chunk: bytes) -> bytes:
        self._held += chunk
        if not self._passing and len(self._held) <= MOST_WHOLE_BYTES:
            return b""
        out = chunk if self._passing else bytes(self._held)
        self._passing = True
        del self._held[:-_TAIL_BYTES]
        return out

    def finish(self) -> bytes:
        if self._passing:
            self._told(_tail_usage(bytes(self._held)))
            self.ended = True
            return b""
        body = bytes(self._held)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise UpstreamError("upstream_broken", "The upstream's answer is not valid JSON.") from error
        if isinstance(answer, Mapping):
            self._told(answer.get("usage"))
            self.model = answer["model"] if isinstance(answer.get("model"), str) else None
            self.unfinished = answer.get("status") in ("queued", "in_progress")
            if self.usage is None:
                for piece in _texts(answer):
                    self._wrote(piece)
        self.ended = True
        return body


def _tail_usage(tail: bytes) -> Any:
    """The last `usage` object within the end of a body too large to parse, or None."""
    at = tail.rfind(b'"usage"')
    start = tail.find(b"{", at) if at >= 0 else -1
    end = tail.rfind(b"}")
    while 0 <= start < end:  # the object ends at one of the last few braces
        try:
            return orjson.loads(tail[start : end + 1])
        except orjson.JSONDecodeError:
            end = tail.rfind(b"}", start, end)
    return None


def _texts(answer: Mapping[str, Any]) -> Iterator[Any]:
    """Every piece of generated text in a whole answer of chat, completions or responses."""
    for choice in _objects(answer.get("choices")):
        message = choice.get("message")
        for holder in (choice, message if isinstance(message, Mapping) else {}):
            yield from (holder.get(key) for key in _TEXT_KEYS)
            yield from _arguments(holder)
    for item in _objects(answer.get("output")):
        yield item.get("arguments")
        for part in _objects(item.get("content")):
            yield from (part.get(key) for key in _TEXT_KEYS)


def _arguments(holder: Mapping[str, Any]) -> Iterator[Any]:
    """Names and arguments of the tool calls in a message or a delta."""
    for tool_call in _objects(holder.get("tool_calls")):
        function = tool_call.get("function")
        if isinstance(function, Mapping):
            yield function.get("name")
            yield function.get("arguments")


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, Mapping))


class StreamMeter(_Reading):
    """A stream of events. Only whole events leave, so that whatever breaks, no half of one was sent."""

    streams = True

    def __init__(self, *, hide_usage: bool) -> None:
        """hide_usage: the usage chunk was asked for by us, not by the client."""
        super().__init__()
        self._splitter = Splitter()
        self._hide_usage = hide_usage

    def feed(self, chunk: bytes) -> bytes:
        events = self._splitter.feed(chunk)
        if self._splitter.rest_bytes > MOST_EVENT_BYTES:
            raise UpstreamError("upstream_broken", "The upstream sent an event that is too large.")
        if len(events) == 1:
            return events[0] if self._see(events[0]) else b""
        return b"".join([event for event in events if self._see(event)])

    def finish(self) -> bytes:
        rest = self._splitter.finish()
        if rest and not self.ended:
            self._see(rest)  # a last line without its blank line still ends the stream if it says so
        if not self.ended:
            raise UpstreamError("upstream_broken", "The upstream's stream broke off before its end.")
        return rest

    def _see(self, event: bytes) -> bool:
        """Read one event; False hides it from the client. Behind an error nothing counts: what follows would make it look well."""
        if self.error is not None:
            return False
        shown = self._read(event)
        return shown and self.error is None

    def _read(self, event: bytes) -> bool:
        data = data_of(event)
        if data is None:
            return True
        if data == b"[DONE]":
            self.ended = True
            return True
        try:
            said = orjson.loads(data)
        except orjson.JSONDecodeError:
            return True  # not ours to judge: it passes, and cannot be counted
        if type(said) is not dict:
            return True
        if "choices" in said:
            return self._read_choices(said)
        if isinstance(kind := said.get("type"), str):
            self._read_typed(kind, said)
        elif said.get("error"):
            self._failed(said["error"])
        return True

    def _failed(self, error: Any) -> None:
        if not self.ended:
            self.error = error

    def _read_choices(self, said: Mapping[str, Any]) -> bool:
        """A chunk of chat or completions."""
        if self.model is None and isinstance(said.get("model"), str):
            self.model = said["model"]
        if said.get("error"):
            self._failed(said["error"])
        choices = said["choices"]
        for choice in _objects(choices):
            delta = choice.get("delta")
            if isinstance(delta, Mapping):
                for key in _TEXT_KEYS:
                    if key in delta:
                        self._wrote(delta[key])
                if "tool_calls" in delta:
                    for piece in _arguments(delta):
                        self._wrote(piece)
            else:
                self._wrote(choice.get("text"))
        block = said.get("usage")
        if block is None:
            return True
        self._told(block)
        return not (self._hide_usage and choices == [])

    def _read_typed(self, kind: str, said: Mapping[str, Any]) -> None:
        """An event of responses."""
        number = said.get("sequence_number")
        if type(number) is int:
            self.sequence = max(self.sequence, number)
        if kind.endswith(".delta"):
            self._wrote(said.get("delta"))
        elif kind == "error":
            self._failed(said)
        response = said.get("response")
        if isinstance(response, Mapping):
            if self.model is None and isinstance(response.get("model"), str):
                self.model = response["model"]
            if kind in _TERMINAL:
                self._told(response.get("usage"))
                self.ended = True
