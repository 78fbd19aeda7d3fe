"""The bytes of the benchmark: what the clients send, what the mock upstream answers, and so what a subject must hand on.

The rule a reader could break: all of it is fixed before anything is measured, and every reply is compared with it byte by byte.
"""

import json
from dataclasses import dataclass
from typing import Any

MODEL = "gpt-4.1-mini"
KEY = "sk-bench-000000000000000000000000"
_CREATED = 1_700_000_000
_ID = "chatcmpl-BenchBenchBenchBenchBench"
_WORDS = "The toll is paid once, at the gate, and the road beyond it is free to all who carry their own load. "


def _sized(payload: dict[str, Any], slot: dict[str, Any], name: str, *, size: int, frame: int = 0) -> bytes:
    """The payload's JSON with `slot[name]` filled so that it is `size` bytes together with a frame of so many."""
    slot[name] = ""
    missing = size - frame - len(json.dumps(payload, separators=(",", ":")))
    slot[name] = (_WORDS * (1 + missing // len(_WORDS)))[:missing]
    return json.dumps(payload, separators=(",", ":")).encode()


def _usage(output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": 210,
        "completion_tokens": output_tokens,
        "total_tokens": 210 + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _reply() -> bytes:
    message: dict[str, Any] = {"role": "assistant", "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    frame = {"id": _ID, "object": "chat.completion", "created": _CREATED, "model": MODEL, "choices": [choice]}
    return _sized({**frame, "usage": _usage(80), "service_tier": "default"}, message, "content", size=760)


def _event() -> bytes:
    delta: dict[str, Any] = {}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    frame = {"id": _ID, "object": "chat.completion.chunk", "created": _CREATED, "model": MODEL, "choices": [choice]}
    return b"data: " + _sized(frame, delta, "content", size=300, frame=len("data: \n\n")) + b"\n\n"


REPLY = _reply()  # 760 bytes
EVENT = _event()  # 300 bytes
DONE = b"data: [DONE]\n\n"


def usage_event(events: int) -> bytes:
    """The chunk that only a client sees that asked for it: none of ours does, so a subject that asks must hide it."""
    frame = {"id": _ID, "object": "chat.completion.chunk", "created": _CREATED, "model": MODEL, "choices": []}
    return b"data: " + json.dumps({**frame, "usage": _usage(events)}, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Stream:
    """What the mock is asked to stream: so many events, so far apart; pace_s 0 is as fast as its socket takes them."""

    events: int
    pace_s: float

    @property
    def asked(self) -> str:
        """Travels in the field `user`, which every subject hands on and the mock reads."""
        return f"bench {self.events} {round(self.pace_s * 1e6)}"

    @classmethod
    def read(cls, body: bytes) -> "Stream":
        """What the body of a call asks for."""
        at = body.index(b'"user":"bench ') + 14
        events, pace_us = body[at : body.index(b'"', at)].split()
        return cls(int(events), int(pace_us) / 1e6)

    @property
    def expected(self) -> bytes:
        """The whole body that a client must get."""
        return EVENT * self.events + DONE


def request(
    port: int, *, prompt_bytes: int, capped: bool, stream: Stream | None = None, model: str = MODEL, key: str = KEY
) -> bytes:
    """A chat call with the headers of the OpenAI Python SDK, and max_tokens or no cap at all."""
    prompt = (_WORDS * (1 + prompt_bytes // len(_WORDS)))[:prompt_bytes]
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "model": model}
    if capped:
        fields["max_tokens"] = 256
    if stream is not None:
        fields |= {"stream": True, "user": stream.asked}
    body = json.dumps(fields, separators=(",", ":")).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        "accept-encoding: gzip, deflate",
        "connection: keep-alive",
        "accept: application/json",
        "content-type: application/json",
        "user-agent: OpenAI/Python 3.54.0",
        "x-stainless-lang: python",
        "x-stainless-package-version: 3.54.0",
        "x-stainless-os: Linux",
        "x-stainless-arch: x64",
        "x-stainless-runtime: CPython",
        "x-stainless-runtime-version: 3.11.7",
        f"authorization: Bearer {key}",
        "x-stainless-async: false",
        "x-stainless-retry-count: 0",
        "x-stainless-read-timeout: 600",
        f"content-length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def calls(port: int, *, prompt_bytes: int, stream: Stream | None = None) -> tuple[bytes, bytes]:
    """The two kinds that every window mixes: with max_tokens, and without, which a clamp must give one."""
    with_cap, without = (request(port, prompt_bytes=prompt_bytes, capped=capped, stream=stream) for capped in (True, False))
    return with_cap, without
