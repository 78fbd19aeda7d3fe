"""Where generated text stands in an answer, whole or in pieces: messages, deltas, tool calls, the items of responses."""

from collections.abc import Iterator, Mapping
from typing import Any

TEXT_KEYS = frozenset({"content", "reasoning_content", "reasoning", "refusal", "text"})
CALL_KEYS = frozenset({"tool_calls", "function_call", "audio"})
OUTPUT_KEYS = TEXT_KEYS | CALL_KEYS


def texts_of(answer: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """Every piece of generated text in a whole answer of chat, completions or responses, and of which choice it is."""
    for number, choice in enumerate(objects(answer.get("choices"))):
        message = choice.get("message")
        for holder in (choice, message if isinstance(message, dict) else {}):
            yield from ((number, piece) for piece in pieces_of(holder))
    for item in objects(answer.get("output")):
        yield 0, item.get("arguments")
        for part in (*objects(item.get("content")), *objects(item.get("summary"))):
            yield from ((0, piece) for piece in pieces_of(part))


def pieces_of(holder: Mapping[str, Any]) -> Iterator[Any]:
    """The generated text in a message, a delta or a part."""
    for key, value in holder.items():
        if key in TEXT_KEYS:
            yield value
        elif key in CALL_KEYS:
            yield from names_and_arguments(value)


def names_and_arguments(value: Any) -> Iterator[Any]:
    """Names and arguments of tool calls, of the one call of old, and the words of what was spoken."""
    for said in objects(value if isinstance(value, list) else [value]):
        function = said.get("function")
        named = function if isinstance(function, dict) else said
        yield from (named.get("name"), named.get("arguments"), said.get("transcript"))


def objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))
