"""What apps and model servers say to each other in the tests of the whole: a call, its answer, and both kinds of stream."""

from typing import Any

import orjson

from tests.fakes import json_answer

CHAT: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4.1-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1000, "total_tokens": 1010},
}
OK = json_answer(200, ANSWER)


def chunk(content: str | None, *, usage: object = None, finish: str | None = None) -> bytes:
    """One event of a chat stream. content: None for the chunk that carries the usage."""
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]
    payload = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4.1-mini",
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + orjson.dumps(payload) + b"\n\n"


STREAM = [
    chunk("Hel"),
    chunk("lo"),
    chunk("", finish="stop"),
    chunk(None, usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}),
    b"data: [DONE]\n\n",
]


def event(name: str, number: int, **fields: object) -> bytes:
    """One event of a Responses stream."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, "sequence_number": number, **fields}))


RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4.1", "output": [], "tools": []}
RESPONSES_STREAM = [
    event("response.created", 0, response={**RESPONSE, "status": "in_progress"}),
    event("response.output_text.delta", 1, item_id="m", output_index=0, content_index=0, delta="Hi", logprobs=[]),
    event("response.completed", 2, response={**RESPONSE, "status": "completed", "usage": {"input_tokens": 3, "output_tokens": 1}}),
]
