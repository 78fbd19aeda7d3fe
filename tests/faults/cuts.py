"""Streams and answers that an upstream does not bring to their end, in every kind, framing and surface, and what an app must see of each.

    clean       the framing ends as it should, and the surface's own end is missing      k events come before
    between     the connection ends behind an event
    mid         the connection ends within an event
    reset       the connection is reset behind an event
    in band     the upstream says in its stream that it failed

The rule a reader could break: a case's id is its call's `x-request-id`, by which the upstream knows what to do; it is used once a process.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tests.fakes import Abort, Close, Framing, Received, Send, Step
from tests.faults.guard import ANSWER, PROMPT
from tests.whole.conversation import RESPONSE, chunk, event

Surface = Literal["chat", "responses"]
SURFACES: tuple[Surface, ...] = ("chat", "responses")
FRAMINGS: tuple[Framing, ...] = ("chunked", "length", "close")
CUTS = ("between", "mid", "reset")
MANY = 40
DONE = b"data: [DONE]\n\n"

_ASKED: Mapping[Surface, Mapping[str, Any]] = {
    "chat": {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 50},
    "responses": {"model": "gpt-4.1-mini", "input": PROMPT, "max_output_tokens": 50},
}
_PATHS: Mapping[Surface, str] = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}


def _failures(surface: Surface) -> dict[str, bytes]:
    """What upstreams say within a stream when they fail, and the end that some put behind it."""
    said: dict[str, bytes] = {
        "openai": b'{"error":{"message":"The server had an error.","type":"server_error","param":null,"code":null}}',
        "an integer": b'{"error":{"message":"EngineCore failed","type":"InternalServerError","param":null,"code":500}}',
        "llama.cpp": b'{"error":{"code":400,"message":"the request exceeds the context","type":"exceed_context_size_error","n_ctx":8}}',
        "a sentence": b'{"error":"CUDA out of memory"}',
        "beside choices": b'{"choices":[],"error":{"message":"Provider disconnected","code":502}}',
    }
    events = {name: b"data: " + data + b"\n\n" for name, data in said.items()}
    events["vLLM"] = events["an integer"] + DONE
    events["named"] = b"event: error\n" + events["openai"]
    if surface == "responses":
        events["its own"] = event("error", 9, code="server_error", message="The server had an error.", param=None)
        events["its own, and more"] = events["its own"] + event("response.output_text.delta", 10, delta="never")
    return events


IN_BAND: Mapping[Surface, Mapping[str, bytes]] = {surface: _failures(surface) for surface in SURFACES}


def events_of(surface: Surface, count: int) -> list[bytes]:
    """The first so many events of a stream."""
    if surface == "chat":
        return [chunk(f"{ANSWER} {number}") for number in range(count)]
    created = event("response.created", 0, response={**RESPONSE, "status": "in_progress"})
    deltas = [
        event("response.output_text.delta", n, item_id="m", output_index=0, content_index=0, delta=f"{ANSWER} {n}", logprobs=[])
        for n in range(1, count)
    ]
    return [created, *deltas][:count]


@dataclass(frozen=True, slots=True)
class Cut:
    """One case. k: whole events before the cut, None for an answer that is no stream. said: for `in band`, what the upstream says."""

    id: str
    surface: Surface
    framing: Framing
    kind: str
    k: int | None
    said: str = ""

    @property
    def path(self) -> str:
        return _PATHS[self.surface]

    @property
    def asked(self) -> dict[str, Any]:
        """The body of the call."""
        return {**_ASKED[self.surface], **({"stream": True} if self.k is not None else {})}

    def events(self) -> list[bytes]:
        """What the app must have got before the error."""
        return events_of(self.surface, self.k or 0)

    def steps(self) -> list[Step]:
        """What the upstream does."""
        if self.k is None:
            return _broken_json(self)
        body = b"".join(self.events())
        if self.kind == "mid":
            body += events_of(self.surface, self.k + 1)[-1][:30]
        elif self.kind == "in band":
            body += IN_BAND[self.surface][self.said]
        ends = self.kind in ("clean", "in band")
        head = _head("text/event-stream", self.framing, len(body) + (0 if ends else 500))
        sent = head + (_framed(body, self.framing) if body else b"")
        if ends and self.framing == "chunked":
            sent += b"0\r\n\r\n"
        return [Send(sent), *_ending(self.kind, self.framing)]


def _broken_json(cut: Cut) -> list[Step]:
    body = orjson.dumps({"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": ANSWER}}]})[:-20]
    ends = cut.kind == "clean"
    sent = _head("application/json", cut.framing, len(body) + (0 if ends else 20)) + _framed(body, cut.framing)
    if ends and cut.framing == "chunked":
        sent += b"0\r\n\r\n"
    return [Send(sent), *_ending(cut.kind, cut.framing)]


def _ending(kind: str, framing: Framing) -> list[Step]:
    if kind == "reset":
        return [Abort()]
    return [] if kind in ("clean", "in band") and framing != "close" else [Close()]


def _head(content_type: str, framing: Framing, length: int) -> bytes:
    line = {"chunked": "transfer-encoding: chunked", "length": f"content-length: {length}", "close": "connection: close"}[framing]
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{line}\r\n\r\n".encode()


def _framed(body: bytes, framing: Framing) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if framing == "chunked" else body


def cuts(kinds: Sequence[str], *, name: str) -> Iterator[Cut]:
    """Every case of these kinds. name: of who plays them, which makes their ids."""
    for surface in SURFACES:
        for framing in FRAMINGS:
            for kind in kinds:
                for k in (0, 1, MANY):
                    for said in IN_BAND[surface] if kind == "in band" else ("",):
                        yield Cut(_id(name, surface, framing, kind, f"{k}", said), surface, framing, kind, k, said)
                if kind != "in band":
                    yield Cut(_id(name, surface, framing, kind, "json"), surface, framing, kind, None)


def _id(*words: str) -> str:
    """Words of a case as a request id."""
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(word for word in words if word).lower())


class Cutter:
    """What a FakeUpstream does with the calls of such cases: its `default`."""

    def __init__(self) -> None:
        self.cases: dict[str, Cut] = {}

    def __repr__(self) -> str:
        return f"<Cutter cases={len(self.cases)}>"

    def __call__(self, request: Received) -> list[Step]:
        return self.cases[request.header("x-request-id") or ""].steps()
