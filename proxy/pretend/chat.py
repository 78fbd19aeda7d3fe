"""Chat completions and the older completions: one frame, two kinds of choice."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from proxy.pretend import fields as read
from proxy.pretend.speech import Asked

# n alone may be 128, and each of many prompts gets n: an answer stays within a few hundred kilobytes.
_MOST_ANSWERS = 1024


def chat_asked(fields: read.Fields, *, id: str, created: int) -> Asked:
    messages = read.required(fields, "messages", list)
    caps = [read.number(fields, name, least=1) for name in ("max_tokens", "max_completion_tokens")]
    answers = read.number(fields, "n", least=1, most=128) or 1
    return Asked(
        id=f"chatcmpl-{id}",
        created=created,
        model=read.model(fields),
        input_tokens=read.count_tokens(messages),
        cap=min((c for c in caps if c is not None), default=None),
        answers=answers,
        generated=answers,
        include_usage=_include_usage(fields),
    )


def completions_asked(fields: read.Fields, *, id: str, created: int) -> Asked:
    prompts = read.inputs(read.required(fields, "prompt", str, list))
    answers = read.number(fields, "n", least=1, most=128) or 1
    best_of = read.number(fields, "best_of", least=0, most=20) or 1
    cap = read.number(fields, "max_tokens", least=0)
    if len(prompts) * answers > _MOST_ANSWERS:
        raise read.Wrong(400, f"The pretend upstream gives at most {_MOST_ANSWERS} answers to one call.", param="prompt")
    return Asked(
        id=f"cmpl-{id}",
        created=created,
        model=read.model(fields),
        input_tokens=read.count_tokens(prompts),
        cap=16 if cap is None else cap,  # this surface's own default
        answers=len(prompts) * answers,
        generated=len(prompts) * max(answers, best_of),
        include_usage=_include_usage(fields),
    )


def _include_usage(fields: read.Fields) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or not fields.get("stream"):
        message = "The 'stream_options' parameter is an object, and only allowed when 'stream' is enabled."
        raise read.Wrong(400, message, param="stream_options")
    return read.flag(options, "include_usage")


def chat_answer(asked: Asked) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": asked.text, "refusal": None, "annotations": []}
    choices = [{"index": i, "message": message, "logprobs": None, "finish_reason": asked.finish} for i in range(asked.answers)]
    return {**_frame(asked, "chat.completion", choices), "usage": _usage(asked)}


def completions_answer(asked: Asked) -> dict[str, Any]:
    choices = [{"index": i, "text": asked.text, "logprobs": None, "finish_reason": asked.finish} for i in range(asked.answers)]
    return {**_frame(asked, "text_completion", choices), "usage": _usage(asked)}


def chat_events(asked: Asked) -> Iterator[bytes]:
    first = {"delta": {"role": "assistant", "content": "", "refusal": None}}
    return _events(asked, "chat.completion.chunk", [first, *({"delta": {"content": p}} for p in asked.pieces), {"delta": {}}])


def completions_events(asked: Asked) -> Iterator[bytes]:
    return _events(asked, "text_completion", [*({"text": p} for p in asked.pieces), {"text": ""}])


def _events(asked: Asked, kind: str, steps: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """Every step for every choice in turn, one an event; then the usage if it was asked for, and the end."""
    rest = {"usage": None} if asked.include_usage else {}
    for at, step in enumerate(steps, start=1):
        finish = asked.finish if at == len(steps) else None
        for i in range(asked.answers):
            choice = {"index": i, **step, "logprobs": None, "finish_reason": finish}
            yield _event({**_frame(asked, kind, [choice]), **rest})
    if asked.include_usage:
        yield _event({**_frame(asked, kind, []), "usage": _usage(asked)})
    yield b"data: [DONE]\n\n"


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def _frame(asked: Asked, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": asked.id,
        "object": kind,
        "created": asked.created,
        "model": asked.model,
        "system_fingerprint": "fp_pretend",
        "choices": choices,
    }


def _usage(asked: Asked) -> dict[str, Any]:
    return {
        "prompt_tokens": asked.input_tokens,
        "completion_tokens": asked.output_tokens,
        "total_tokens": asked.input_tokens + asked.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
