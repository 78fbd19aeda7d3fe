"""Streams as vendors send them, whole: OpenAI's chat with its padding, a model server's plain one, tools, Responses; and other spellings.

The rule a reader could break: every one ends as its surface wants it, and says 10 tokens in and 2 out.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from tests.faults.guard import ANSWER
from tests.whole.conversation import RESPONSE, event

WORDS = (
    ANSWER,
    " counts",
    " 🪙",
    " the",
    " tolls;",
    " שלום",
    "\n\n",
    "data: ",
    '"quoted"',
    " Ünïcödé",
    " e\u0301",
    " \\ud83d",
    " end.",
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
DONE = b"data: [DONE]\n\n"


def _line(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _chunk(delta: Mapping[str, Any], *, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return _line(
        {"id": "chatcmpl-B9", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1-nano", "choices": choices, **more}
    )


def _usage(**more: Any) -> bytes:
    return _line({"id": "chatcmpl-B9", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": USAGE, **more})


def _padded() -> list[bytes]:
    return [
        _chunk({"role": "assistant", "content": "", "refusal": None}, usage=None, obfuscation="a8Qk"),
        *(_chunk({"content": word}, usage=None, obfuscation="xY"[: n % 3] * n) for n, word in enumerate(WORDS)),
        _chunk({}, finish="stop", usage=None, obfuscation="q"),
        _usage(service_tier="default", obfuscation=""),
        DONE,
    ]


def _plain() -> list[bytes]:
    return [_chunk({"role": "assistant", "content": ""}), *(_chunk({"content": word}) for word in WORDS * 2), _usage(), DONE]


def _tools() -> list[bytes]:
    call: dict[str, Any] = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "toll", "arguments": ""}}
    pieces = ('{"', "lane", '":', "4", ',"who":"', ANSWER, '"}')
    return [
        _chunk({"role": "assistant", "content": None, "tool_calls": [call]}),
        *(_chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in pieces),
        _chunk({}, finish="tool_calls"),
        _usage(),
        DONE,
    ]


def _responses() -> list[bytes]:
    usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
    return [
        event("response.created", 0, response={**RESPONSE, "status": "in_progress"}),
        event("response.in_progress", 1, response={**RESPONSE, "status": "in_progress"}),
        *(
            event("response.output_text.delta", n, item_id="m", output_index=0, content_index=0, delta=word, logprobs=[])
            for n, word in enumerate(WORDS, 2)
        ),
        event("response.completed", 40, response={**RESPONSE, "status": "completed", "usage": usage}),
    ]


CHAT: Mapping[str, list[bytes]] = {"padded": _padded(), "plain": _plain(), "tools": _tools()}
RESPONSES: Mapping[str, list[bytes]] = {"responses": _responses()}


def spelled() -> dict[str, bytes]:
    """A short stream in every spelling that the standard allows, and some that are merely met."""
    plain = b"".join(
        [_chunk({"role": "assistant", "content": ""}), *(_chunk({"content": w}) for w in (ANSWER, " 🪙", " שלום")), _usage(), DONE]
    )
    return {
        "LF": plain,
        "CRLF": plain.replace(b"\n", b"\r\n"),
        "CR": plain.replace(b"\n", b"\r"),
        "BOM": b"\xef\xbb\xbf" + plain,
        "comments": b": hello\n\n" + plain.replace(DONE, b": still here\n" + DONE),
        "no space": plain.replace(b"data: ", b"data:"),
        "ids": plain.replace(b"data: {", b"id: 7\nevent: message\ndata: {"),
        "two lines of data": plain.replace(b'","object"', b'",\ndata: "object"'),
        "mixed ends": plain.replace(b"\n\n", b"\n\r\n", 2),
    }
