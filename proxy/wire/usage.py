"""Usage as upstreams report it, in every spelling, as one value.

Numbers that are not known are never zero: an absent, null or nonsensical block reads as None, an explicit zero as zero.
Source: facts on the OpenAI API, section 3.
"""

import json
import math
import re
from decimal import Decimal
from typing import Any

from proxy.call import Usage

_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_JSON = json.JSONDecoder()
_ABSURD = 1 << 40  # no call uses a trillion tokens; a figure beyond it is nonsense, not usage
# What a few tokens more or less say nothing about: the frame of a tool call, a stop token, a word in another encoding.
_SLACK_TOKENS = 16


def count(value: Any) -> int | None:
    """A token count, or None for what is none (negative, boolean, fraction, text, absurd)."""
    return value if type(value) is int and 0 <= value < _ABSURD else None


def read_usage(block: Any) -> Usage | None:
    """The usage in a `usage` object of any surface. None when it says nothing that makes sense."""
    if type(block) is not dict:
        return None
    get = block.get
    told = get("prompt_tokens")
    if told is None:
        told = get("input_tokens")
    if type(told) is not int or not 0 <= told < _ABSURD:
        return _duration(get("seconds")) if told is None and get("type") == "duration" else None
    written = get("completion_tokens")
    if written is None:
        written = get("output_tokens")
    if written is None:
        written = _left(get("total_tokens"), told)
    if type(written) is not int or not 0 <= written < _ABSURD:
        return None
    inputs = get("prompt_tokens_details") or get("input_tokens_details") or get("input_token_details")
    outputs = get("completion_tokens_details") or get("output_tokens_details") or get("output_token_details")
    usage = Usage(told, written)
    if type(inputs) is dict and any(inputs.values()):
        usage.cached_tokens = _part(inputs.get("cached_tokens"), told)
        usage.cache_write_tokens = _part(inputs.get("cache_write_tokens"), told)
        usage.audio_input_tokens = _part(inputs.get("audio_tokens"), told)
        usage.image_input_tokens = _part(inputs.get("image_tokens"), told)
        cached = inputs.get("cached_tokens_details")
        if type(cached) is dict:  # a conversation that is read again: what of it is cached is not paid for as sound a second time
            usage.audio_input_tokens -= _part(cached.get("audio_tokens"), usage.audio_input_tokens)
            usage.image_input_tokens -= _part(cached.get("image_tokens"), usage.image_input_tokens)
    if type(outputs) is dict and any(outputs.values()):
        usage.audio_output_tokens = _part(outputs.get("audio_tokens"), written)
        usage.reasoning_tokens = _part(outputs.get("reasoning_tokens"), written)
        usage.image_output_tokens = _part(outputs.get("image_tokens"), written)
    return usage


def together(one: Usage, other: Usage) -> Usage:
    """What two parts of one call used."""
    return Usage(*(getattr(one, name) + getattr(other, name) for name in Usage.__slots__))


def _duration(seconds: Any) -> Usage | None:
    """Usage in milliseconds of audio, begun ones counted."""
    known = type(seconds) in (int, float) and 0 <= seconds < _ABSURD
    return Usage(units=math.ceil(Decimal(str(seconds)) * 1000)) if known else None


def _part(value: Any, whole: int) -> int:
    """One subset of a total: never more than the total, and nothing where it makes no sense."""
    if type(value) is not int or value <= 0 or value >= _ABSURD:
        return 0
    return value if value < whole else whole


def _left(total: Any, told: int) -> int | None:
    """Output tokens of embeddings, which name none, but a total: what it leaves beside the input is the output."""
    known = count(total)
    return known - told if known is not None and known >= told else None


def tail_usage(tail: bytes) -> Any:
    """The last `usage` object within the end of a body too large to parse, or None."""
    places = [match.end() for match in _USAGE.finditer(tail)]
    if not places:
        return None
    try:
        return _JSON.raw_decode(tail[places[-1] :].decode("utf-8", "replace"))[0]
    except (ValueError, RecursionError):
        return None


def far_off(usage: Usage, text_bytes: int) -> bool:
    """Whether the output is ten times more or less than so much text is likely to be."""
    likely = text_bytes // 4
    return likely > 10 * (usage.output_tokens + _SLACK_TOKENS) or _seen(usage) > 10 * (likely + _SLACK_TOKENS)


def doubtful(usage: Usage, size: int) -> bool:
    """Whether the text of a whole answer is worth looking at for that. size: bytes of all of it, which its text cannot exceed."""
    written = usage.output_tokens
    return not written or size > 40 * (written + _SLACK_TOKENS) or (written > 10 * _SLACK_TOKENS and 4 * _seen(usage) > size)


def _seen(usage: Usage) -> int:
    """Output tokens that should be there as text."""
    return usage.output_tokens - usage.reasoning_tokens - usage.audio_output_tokens
