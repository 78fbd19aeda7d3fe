"""Usage as upstreams report it, in every spelling, as one value.

Numbers that are not known are never zero: an absent, null or nonsensical block reads as None, an explicit zero as zero.
Source: facts on the OpenAI API, section 3.
"""

from collections.abc import Mapping
from typing import Any

from proxy.call import Usage

_NO_DETAILS: Mapping[str, Any] = {}
_ABSURD = 1 << 40  # no call uses a trillion tokens; a figure beyond it is nonsense, not usage


def count(value: Any) -> int | None:
    """A token count, or None for what is none (negative, boolean, fraction, text, absurd)."""
    return value if type(value) is int and 0 <= value < _ABSURD else None


def read_usage(block: Any) -> Usage | None:
    """The usage in a `usage` object of chat, completions, responses or embeddings. None when it says nothing that makes sense."""
    if not isinstance(block, dict):
        return None
    told = count(_first(block, "prompt_tokens", "input_tokens"))
    if told is None:
        return None
    written = _written(block, told)
    if written is None:
        return None
    inputs = _details(block, "prompt_tokens_details", "input_tokens_details")
    outputs = _details(block, "completion_tokens_details", "output_tokens_details")
    return Usage(
        told,
        written,
        _part(inputs, "cached_tokens", told),
        _part(inputs, "cache_write_tokens", told),
        _part(inputs, "audio_tokens", told),
        _part(outputs, "audio_tokens", written),
        _part(outputs, "reasoning_tokens", written),
    )


def _part(details: Mapping[str, Any], name: str, whole: int) -> int:
    """One subset of a total: never more than the total, and nothing where it makes no sense."""
    value = details.get(name)
    if type(value) is not int or value <= 0 or value >= _ABSURD:
        return 0
    return value if value < whole else whole


def _written(block: Mapping[str, Any], told: int) -> int | None:
    """Output tokens. Embeddings name none, but a total: what it leaves beside the input is the output."""
    output = _first(block, "completion_tokens", "output_tokens")
    if output is not None:
        return count(output)
    total = count(block.get("total_tokens"))
    return total - told if total is not None and total >= told else None


def _first(block: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is not null."""
    for name in names:
        value = block.get(name)
        if value is not None:
            return value
    return None


def _details(block: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        details = block.get(name)
        if isinstance(details, dict):
            return details
    return _NO_DETAILS
