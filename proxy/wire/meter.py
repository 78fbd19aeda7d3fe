"""What an answer says about itself, read while it passes: usage, model, first token, end. One meter a call; bytes in, bytes out.

    repeats(…) or feed(chunk), again and again ── finish()
      │            │                               └ the rest of the body, or UpstreamError: it ended too early
      │            └ whole events (a stream), or nothing until the end (a small JSON body), or the chunk (a large one)
      └ one event like the last, which goes on as it is

The rule a reader could break: joined, what comes out is what went in, but for two: the usage chunk of a client that did not ask for
it, and an error with all that follows it, which whoever relays tells in words of ours. Content is kept only to be counted when the
upstream reports no usage, and goes with the meter.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from proxy.call import Usage
from proxy.errors import UpstreamError
from proxy.wire.hosted import called
from proxy.wire.reading import MOST_TEXT_BYTES, Reading
from proxy.wire.said import CALL_KEYS, OUTPUT_KEYS, TEXT_KEYS, names_and_arguments, objects, texts_of
from proxy.wire.sse import LARGE_BYTES, LATE_LF, Splitter, data_of
from proxy.wire.usage import doubtful, tail_usage, together

MOST_EVENT_BYTES = 8 << 20  # partial images make very long lines; beyond this an event is an attack or a fault
MOST_WHOLE_BYTES = 1 << 20  # a JSON answer up to here is held back, so that its cost can stand in the head
_TAIL_BYTES = 64 << 10  # the usage of a large embeddings answer stands behind its vectors

_MOST_SEQUENCE = 1 << 53  # what JavaScript can count to; the number after a larger one could not be written

_DONE = b"[DONE]"
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
# What ends a stream of images or audio, and carries its usage. Source: facts on the OpenAI API, section 5.
_WHOLE = frozenset({"image_generation.completed", "image_edit.completed", "speech.audio.done", "transcript.text.done"})
_CONTENT = b'"content":"'
_QUOTE, _BACKSLASH, _LF, _CR = b'"\\\n\r'  # what ends a text, or makes it mean another
_SENTINEL = b"a-text-that-no-upstream-sends"
_MOST_FRAMES = 8  # looked for in a stream: the head of an answer, a change of its model or choice, and a few more
_JSON = json.JSONDecoder()


class Meter(Protocol):
    """streams: whether the head goes out at once. ended: the surface's own end was seen.

    text: output text of the first choice so far, UTF-8 if what came was; texts: of every choice.
    usage: the last that made sense; nonsense: a usage block was there and made none, or is far off the text. first_token: output has begun.
    outgrown: more output came behind the usage, of a stream that has not ended.
    unfinished: the answer cannot say what is used: it is a receipt for work that goes on, or too large to be read.
    tier: what the answer names as its service tier, anything or nothing. calls: of each hosted tool, None where that is not known.
    guess: what is taken for the usage where none is told, None = it is to be counted.
    error: an error the upstream put into its stream before its end, as parsed; from it on nothing comes out.
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
    tier: Any
    calls: Mapping[str, int] | None
    guess: Usage | None
    error: Any

    def texts(self) -> tuple[bytearray, ...]: ...

    def outgrown(self) -> bool: ...

    def repeats(self, data: bytes, at: int, end: int) -> bool:
        """Whether `data[at:end]` is one event like the last, and so passes. It is counted then; if not, it is to be fed."""

    def feed(self, chunk: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class PassMeter(Reading):
    """Bytes that nobody reads: unmetered paths, compressed answers. Their first byte is taken for the first token."""

    __slots__ = ()

    def repeats(self, data: bytes, at: int, end: int) -> bool:
        return self.first_token

    def feed(self, chunk: bytes) -> bytes:
        self.first_token = True
        return chunk

    def finish(self) -> bytes:
        self.ended = True
        return b""


class BodyMeter(Reading):
    """A JSON answer. Held back while it is small, so that it is either whole or an honest error."""

    __slots__ = ("_chunks", "_passing", "_size")

    def __init__(self) -> None:
        super().__init__(streams=False)
        self._chunks: list[bytes] = []
        self._size = 0
        self._passing = False

    def feed(self, chunk: bytes) -> bytes:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if not self._passing and self._size <= MOST_WHOLE_BYTES:
            return b""
        held = b"".join(self._chunks)
        self._chunks = [held[-_TAIL_BYTES:]]
        if self._passing:
            return chunk
        self._passing = True
        return held

    def finish(self) -> bytes:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        if self._passing:
            self.told(tail_usage(body))
            self.unfinished = self.usage is None
            self.ended = True
            return b""
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = _lenient(body)
        if type(answer) is dict:
            get = answer.get
            self.told(get("usage"))
            usage, model = self.usage, get("model")
            self.model = model if type(model) is str else None
            self.tier = get("service_tier")
            if "output" in answer:
                self.calls = called(answer["output"])
            if "status" in answer:
                self.unfinished = answer["status"] in ("queued", "in_progress")
            if usage is None or doubtful(usage, self._size):
                for choice, piece in texts_of(answer):
                    self.wrote(piece, choice)
                self.weigh()
        self.ended = True
        return body


def _lenient(body: bytes) -> Any:
    """A whole answer that is no JSON to us. Errors: UpstreamError when it was cut short, or never was any."""
    try:
        return _JSON.decode(body.decode())  # NaN and half surrogates are no JSON, but servers send them and clients read them
    except (ValueError, RecursionError) as error:
        raise UpstreamError("upstream_broken", "The upstream's answer is not valid JSON.") from error


def _speaks_in(before: bytes, behind: bytes) -> bool:
    """Whether what stands between these parts of an event is the content of its delta, and of nothing else that looks like it."""
    try:
        said = orjson.loads((before + _SENTINEL + behind)[6:-2])
        return bool(said["choices"][0]["delta"]["content"] == _SENTINEL.decode())
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False


class StreamMeter(Reading):
    """A stream of events. Only whole events leave, so that whatever breaks, no half of one was sent."""

    __slots__ = ("_between", "_frame", "_frames_left", "_hide_usage", "_lesson", "_passing", "_splitter", "_told_at")

    def __init__(self, *, hide_usage: bool) -> None:
        """hide_usage: the usage chunk was asked for by us, not by the client."""
        super().__init__(streams=True)
        self._splitter = Splitter()
        self._hide_usage = hide_usage
        self._passing = True
        # What stands before the text of the last event that was read, its length, what stands behind, and where the text goes.
        self._frame: tuple[bytes, int, bytes, bytearray] | None = None
        self._frames_left = _MOST_FRAMES
        # An event that may become the frame when the next has come, its choices, and the frame before: nobody waits for it meanwhile.
        self._lesson: tuple[bytes, Any, tuple[bytes, int, bytes, bytearray] | None] | None = None
        self._between = True  # whatever comes next begins an event
        self._told_at = 0  # bytes of text before the last usage

    def outgrown(self) -> bool:
        return sum(map(len, self.texts())) > self._told_at

    def repeats(self, data: bytes, at: int, end: int) -> bool:
        frame = self._frame
        if frame is None:
            if self._lesson is None:
                return False
            frame = self._learn()
        if frame is None or not self._between:
            return False
        before, length, behind, said = frame
        start, stop = at + length, end - len(behind)
        if data[at:start] != before or data[stop:end] != behind:
            return False
        text = data[start:stop]
        if not text:  # as well where the two would overlap
            return False
        if _QUOTE in text or _BACKSLASH in text or _LF in text or _CR in text:
            return False
        self.first_token = True
        if len(said) < MOST_TEXT_BYTES:
            said += text
        return True

    def feed(self, chunk: bytes) -> bytes:
        events = self._splitter.feed(chunk)
        if self._splitter.rest_bytes > MOST_EVENT_BYTES:
            raise UpstreamError("upstream_broken", "The upstream sent an event that is too large.")
        self._between = True
        passed = [event for event in events if self._see(event)]
        self._between = self._splitter.clean
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def _learn(self) -> tuple[bytes, int, bytes, bytearray] | None:
        """The frame of the last event that was read, if its only text is the content of its only delta, else the frame before it."""
        assert self._lesson is not None
        (event, choices, self._frame), self._lesson = self._lesson, None
        if (
            type(choices) is not list
            or len(choices) != 1
            or type(choices[0]) is not dict
            or type(choices[0].get("delta")) is not dict
        ):
            return self._frame
        delta = choices[0]["delta"]
        content = delta.get("content")
        if (
            type(content) is not str
            or not content
            or any(value for key, value in delta.items() if key != "content" and key in OUTPUT_KEYS)
        ):
            return self._frame
        start = event.find(_CONTENT) + len(_CONTENT)
        end = event.find(b'"', start)
        before, behind = event[:start], event[end:]
        if event.startswith(b"data: ") and event.count(b"\n") == 2 and event.endswith(b"\n\n") and _speaks_in(before, behind):
            choice = choices[0].get("index")
            self._frame = before, start, behind, self._text_of(choice, 0) if choice else self.text
        return self._frame

    def finish(self) -> bytes:
        rest = self._splitter.finish()
        # Clients stop at a [DONE] that lacks its blank line; any other event that lacks it they drop without a word.
        if not self.ended and (data_of(rest) or b"")[: len(_DONE)] != _DONE:
            raise UpstreamError("upstream_broken", "The upstream's stream broke off before its end.")
        if not self.ended:
            self.ended = True
            self.weigh()
        return rest

    def _see(self, event: bytes) -> bool:
        """Read one event; False hides it from the client. Behind an error nothing counts: what follows would make it look well."""
        if self.repeats(event, 0, len(event)):
            return True
        if event != LATE_LF:  # which goes the way of the event that it ends
            self._passing = self.error is None and self._read(event)
            if self.ended or self.error is not None:
                self._frame, self._lesson, self._frames_left = None, None, 0
                self.weigh()
        return self._passing

    def _read(self, event: bytes) -> bool:
        data = data_of(event)
        if data is None:
            return True
        if data[: len(_DONE)] == _DONE:
            self.ended = True
            return True
        try:
            said = orjson.loads(data)
        except orjson.JSONDecodeError:
            # Not ours to judge: it passes. But what is not known is not nothing, so all of it counts as text.
            self.wrote(str(data, "utf-8", "replace"))
            return True
        if type(said) is not dict:
            return True
        error = said.get("error")
        if "choices" in said and not error:
            return self._read_choices(said, event)
        kind = said.get("type")
        if isinstance(kind, str):
            self._number(said.get("sequence_number"))
        if (error or kind == "error") and not self.ended:
            self.error = error or said
            self.told(said.get("usage"))
            return False
        if isinstance(kind, str):
            self._read_typed(kind, said)
        return True

    def _read_choices(self, said: Mapping[str, Any], event: bytes) -> bool:
        """A chunk of chat or completions."""
        if self.model is None and isinstance(said.get("model"), str):
            self.model = said["model"]
        self.tier = said.get("service_tier", self.tier)
        choices = said["choices"]
        for choice in objects(choices):
            delta, number = choice.get("delta"), choice.get("index")
            if type(delta) is dict:
                for key, value in delta.items():  # `pieces_of`, without its generator: this runs for every token
                    if key in TEXT_KEYS:
                        self.wrote(value, number)
                    elif key in CALL_KEYS:
                        for piece in names_and_arguments(value):
                            self.wrote(piece, number)
            else:
                self.wrote(choice.get("text"), number)
        block = said.get("usage")
        if block is None:
            if self._frames_left and len(event) < LARGE_BYTES:  # some servers' frames never come twice
                self._frames_left -= 1
                self._lesson, self._frame = (event, choices, self._frame), None
            return True
        self.told(block)
        self._told_at = sum(map(len, self.texts()))
        return not (self._hide_usage and choices == [])

    def _read_typed(self, kind: str, said: Mapping[str, Any]) -> None:
        """An event of responses, images or audio."""
        if kind.endswith(".delta"):
            self.first_token = True
            self.wrote(said.get("delta"))
        elif kind.endswith(".partial_image"):
            self.first_token = True
        elif kind in _WHOLE:
            before, self.usage = self.usage, None  # of the picture before this one, in a stream of several
            self.told(said.get("usage"))
            self.usage = together(before, self.usage) if before is not None and self.usage is not None else self.usage
            self.ended = self.first_token = True
        response = said.get("response")
        if isinstance(response, dict):
            if self.model is None and isinstance(response.get("model"), str):
                self.model = response["model"]
            if kind in _TERMINAL:
                self.tier = response.get("service_tier")
                self.calls = called(response.get("output"))
                self.told(response.get("usage"))
                self.ended = True
            self.unfinished = not self.ended and response.get("background") is True

    def _number(self, number: Any) -> None:
        if type(number) is int and number < _MOST_SEQUENCE:
            self.sequence = max(self.sequence, number)
