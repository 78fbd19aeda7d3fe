"""What pictures and sound can cost at most, and what they did: surfaces that do not only read and write text.

    images          n pictures; a model that is paid by the token makes as many of them as the picture is large
    speech          characters; a model that is paid by the token makes audio, whose length follows from the text
    transcriptions  milliseconds of audio, of which the file's bytes are the bound

The rule a reader could break: a bound is never below what an honest upstream reports, so each says what it rests on.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxy.call import Call, Price, Usage

# A model makes a token for each patch of 16 by 16 pixels and one for each row, at its best quality: 4,160 for 1024 by 1024 pixels.
# Source: OpenAI's image generation guide. The largest picture that any model makes: 3840 by 2160.
_PATCH = 16
_LARGEST = (3840, 3840)
_SIZE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})")
PARTIAL_TOKENS = 100  # for each partial picture of a stream. Source: the same
IMAGE_INPUT_TOKENS = 16_384  # of a picture that is edited, at high fidelity: 6,240 and its tiles, with a reserve
# Audio that is spoken: its price by the second and by the token make 20.8 tokens a second. A character is a second at most (a digit
# is a word); when nothing is reported, ten bytes of text are taken for a second, which is slow speech in most languages.
_SECOND_TOKENS = 21
_BYTES_A_SECOND = 10
# Audio that is heard: no codec in use codes speech below 4 kbit/s for longer than a silence.
_LEAST_BYTES_A_SECOND = 500
SURFACES = frozenset({"images", "speech", "transcriptions"})
_MADE: Mapping[str, str] = {"images": "image_output_tokens", "speech": "audio_output_tokens"}
_HEARD: Mapping[str, str] = {"transcriptions": "audio_input_tokens"}


def bound(call: Call, price: Price, *, context: int, most_output: int | None, files: int, file_bytes: int) -> None:
    """Fill in what a call on one of these surfaces can use at most: units, and tokens where its model is paid by them.

    context, most_output: as the price table knows the model; files, file_bytes: of a form.
    """
    assert call.fields is not None
    name, fields = call.surface.name, call.fields
    text_bytes = sum(len(value.encode("utf-8", "surrogatepass")) for value in fields.values() if isinstance(value, str))
    if name == "images":
        call.units = call.choices
        call.uncapped = _picture_tokens(fields, most_output)
        call.input_bound = text_bytes + IMAGE_INPUT_TOKENS * (files + _named_images(fields))
        if call.stream:
            call.input_bound *= call.choices  # each picture of a stream may report its own
    elif name == "speech":
        call.units = max(1, len(fields["input"]))
        call.uncapped = -(-_SECOND_TOKENS * len(fields["input"]) * 100 // _percent_speed(fields))
        call.input_bound = text_bytes
    else:
        call.units = max(1, file_bytes * 1000 // _LEAST_BYTES_A_SECOND)
        call.uncapped = most_output or context
        call.input_bound = context + text_bytes
    if not price.by_tokens:
        call.input_bound = call.uncapped = 0


def _picture_tokens(fields: Mapping[str, Any], most: int | None) -> int:
    match = _SIZE.fullmatch(fields["size"]) if isinstance(fields.get("size"), str) else None
    width, height = (int(match[1]), int(match[2])) if match is not None else _LARGEST
    rows, columns = sorted((-(-width // _PATCH), -(-height // _PATCH)))
    tokens = (rows + 1) * (columns + 1)
    if most is not None:
        tokens = min(most, tokens)
    return tokens + PARTIAL_TOKENS * (fields.get("partial_images") or 0)


def _named_images(fields: Mapping[str, Any]) -> int:
    """Pictures that a JSON body names: by a URL, by an id, or all there."""
    named = [fields.get(name) for name in ("image", "images", "mask")]
    return sum(len(value) if isinstance(value, list) else 1 for value in named if value is not None)


def _percent_speed(fields: Mapping[str, Any]) -> int:
    """The slowest that the API takes is a quarter; a value that is none makes it answer 400."""
    speed = fields.get("speed", 1)
    return max(25, int(speed * 100)) if isinstance(speed, int | float) and 0 < speed <= 4 else 25


def used(call: Call, price: Price, reported: Usage | None) -> Usage | None:
    """What a call on one of these surfaces used, as far as it is known; None where it is to be taken for all that was held.

    reported: by the upstream. What it says in a measure that the model has no price for says nothing.
    """
    name = call.surface.name
    if reported is not None and (price.free or price.by_tokens if reported.total_tokens else price.unit and reported.units):
        return _classed(name, reported)
    if name != "transcriptions" and not price.by_tokens:
        return Usage(units=call.units)  # pictures and characters are what was asked for
    return None


def spoken(call: Call) -> Usage:
    """An estimate of what was spoken, by an upstream that does not say how much that was."""
    assert call.fields is not None
    text_bytes = len(call.fields["input"].encode("utf-8", "surrogatepass"))
    tokens = -(-text_bytes * _SECOND_TOKENS * 100 // (_BYTES_A_SECOND * _percent_speed(call.fields)))
    tokens = min(tokens, call.held_output)
    return Usage(input_tokens=call.input_bound, output_tokens=tokens, audio_output_tokens=tokens)


def _classed(name: str, usage: Usage) -> Usage:
    """Tokens that nobody put into a class are of the surface's own: a picture is not text."""
    made, heard = _MADE.get(name), _HEARD.get(name)
    if made is not None and not getattr(usage, made):
        usage = replace(usage, **{made: usage.output_tokens})
    if heard is not None and not getattr(usage, heard):
        usage = replace(usage, **{heard: usage.input_tokens})
    return usage
