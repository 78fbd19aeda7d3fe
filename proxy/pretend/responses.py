"""The Responses surface: one response object, seen at several points of its life."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from proxy.pretend import fields as read
from proxy.pretend.speech import Asked


def asked(fields: read.Fields, *, id: str, created: int) -> Asked:
    given = read.required(fields, "input", str, list)
    return Asked(
        id=f"resp_{id}",
        created=created,
        model=read.model(fields),
        input_tokens=read.count_tokens(given, fields.get("instructions")),
        cap=read.number(fields, "max_output_tokens", least=16),
    )


def answer(asked: Asked) -> dict[str, Any]:
    message = _message(asked, status=_end(asked), content=[_text(asked.text)])
    return _response(asked, status=_end(asked), output=[message], usage=_usage(asked))


def events(asked: Asked) -> Iterator[bytes]:
    """From `response.created` to the one terminal event, numbered from 0. There is no [DONE] on this surface."""
    begun = {"response": _response(asked, status="in_progress", output=[], usage=None)}
    ended = answer(asked)
    part = {"item_id": _message_id(asked), "output_index": 0, "content_index": 0}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("response.created", begun),
        ("response.in_progress", begun),
        ("response.output_item.added", {"output_index": 0, "item": _message(asked, status="in_progress", content=[])}),
        ("response.content_part.added", {**part, "part": _text("")}),
        *(("response.output_text.delta", {**part, "delta": piece, "logprobs": []}) for piece in asked.pieces),
        ("response.output_text.done", {**part, "text": asked.text, "logprobs": []}),
        ("response.content_part.done", {**part, "part": _text(asked.text)}),
        ("response.output_item.done", {"output_index": 0, "item": ended["output"][0]}),
        (f"response.{_end(asked)}", {"response": ended}),
    ]
    for number, (name, payload) in enumerate(steps):
        data = orjson.dumps({"type": name, "sequence_number": number, **payload})
        yield b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _end(asked: Asked) -> str:
    return "incomplete" if asked.cut else "completed"


def _response(asked: Asked, *, status: str, output: Sequence[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": asked.id,
        "object": "response",
        "created_at": asked.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "max_output_tokens": asked.cap,
        "metadata": {},
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
    }


def _message_id(asked: Asked) -> str:
    return asked.id.replace("resp_", "msg_")


def _message(asked: Asked, *, status: str, content: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"id": _message_id(asked), "type": "message", "status": status, "role": "assistant", "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(asked: Asked) -> dict[str, Any]:
    return {
        "input_tokens": asked.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": asked.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked.input_tokens + asked.output_tokens,
    }
