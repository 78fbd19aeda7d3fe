"""A request body: read once, its cost fields checked, and patched in its own bytes.

The rule a reader could break: a body that no policy changed leaves as it came, and a changed one differs in the changed fields
only. Re-serialising would quietly round large integers, so it is never done.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.call import Call, Surface
from proxy.errors import InvalidCall

# Fields that decide cost or conduct. Any of them twice in a body is refused: we and the upstream might read different ones.
COST_FIELDS = (
    "model",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "prompt",
    "input",
    "messages",
    "service_tier",
    "background",
)
MOST_CAP = 2**31 - 1
_ASCII_ESCAPE = re.compile(rb"\\u00[2-7][0-9a-fA-F]")
_RANGES: Mapping[str, tuple[int, int]] = {
    "n": (1, 128),
    "best_of": (0, 20),
    "max_tokens": (0, MOST_CAP),
    "max_completion_tokens": (0, MOST_CAP),
    "max_output_tokens": (0, MOST_CAP),
}
_OBJECTS = ("stream_options",)
_FLAGS = ("stream", "background")
_INPUTS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "chat": ("messages", (list,)),
    "completions": ("prompt", (str, list)),
    "responses": ("input", (str, list)),
    "embeddings": ("input", (str, list)),
    "moderations": ("input", (str, list)),
}
_INPUT_OPTIONAL = ("completions", "responses")


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Errors: InvalidCall when it is no JSON object, nested too deeply, or doubles a cost field."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "ecursion" in str(error):
            raise InvalidCall("nested_too_deeply", "The body is nested too deeply.") from error
        raise InvalidCall("invalid_json", "The body is not valid JSON in UTF-8.") from error
    if type(fields) is not dict:
        raise InvalidCall("invalid_json", "The body must be a JSON object.")
    try:
        # Serialisers write compact JSON, so most bodies come out of orjson as they went in: then no key can have stood twice.
        # It also recurses less deeply than reading does (254 levels), which makes it the bound on depth.
        plain = orjson.dumps(fields) == body
    except TypeError as error:
        raise InvalidCall("nested_too_deeply", "The body is nested too deeply.") from error
    if not plain:
        _refuse_doubles(body)
    return fields


def _refuse_doubles(body: bytes) -> None:
    """Refuse a cost field that stands twice at the top. Cheap unless its name occurs twice anywhere, or hides behind escapes."""
    if not _ASCII_ESCAPE.search(body) and all(body.count(b'"%s"' % name.encode()) < 2 for name in COST_FIELDS):
        return
    for name in _doubled(body):
        if name in COST_FIELDS:
            raise InvalidCall("duplicate_field", f"The field '{name}' stands twice in the body.", param=name)


def _doubled(body: bytes) -> list[str]:
    """Names that stand twice at the top level of a JSON object that has parsed."""
    seen: set[str] = set()
    twice: list[str] = []
    depth, at = 0, 0
    expecting_key = False
    for token in _TOKEN.finditer(body):
        at = token.start()
        mark = body[at]
        if mark in b"{[":
            depth += 1
            expecting_key = depth == 1
        elif mark in b"}]":
            depth -= 1
        elif mark == 0x2C:  # a comma
            expecting_key = depth == 1
        elif expecting_key:
            expecting_key = False
            name = orjson.loads(token.group())
            if name in seen:
                twice.append(name)
            seen.add(name)
    return twice


# Strings, and the marks outside them: enough to walk the structure of JSON that is known to be valid.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]', re.DOTALL)


def check(surface: Surface, fields: Mapping[str, Any]) -> None:
    """Refuse wrong types and absurd numbers in the fields that cost money. Errors: InvalidCall with `param`."""
    model = fields.get("model")
    if model is None:
        if surface.model_required:
            raise InvalidCall("missing_field", "The field 'model' is missing.", param="model")
    elif type(model) is not str or not 0 < len(model) <= 256 or not model.isprintable():
        raise InvalidCall("invalid_type", "The field 'model' must be a printable string of 1 to 256 characters.", param="model")
    for name, (least, most) in _RANGES.items():
        value = fields.get(name)
        if value is None:
            continue
        if type(value) is not int:
            raise InvalidCall("invalid_type", f"The field '{name}' must be an integer.", param=name)
        if not least <= value <= most:
            raise InvalidCall("invalid_value", f"The field '{name}' must be between {least} and {most}.", param=name)
    for name in _FLAGS:
        if type(fields.get(name, False)) not in (bool, type(None)):
            raise InvalidCall("invalid_type", f"The field '{name}' must be true or false.", param=name)
    for name in _OBJECTS:
        if not isinstance(fields.get(name), dict | None):
            raise InvalidCall("invalid_type", f"The field '{name}' must be an object.", param=name)
    named = _INPUTS.get(surface.name)
    if named is not None:
        name, types = named
        value = fields.get(name)
        if value is None and surface.name in _INPUT_OPTIONAL:
            return
        if value is None:
            raise InvalidCall("missing_field", f"The field '{name}' is missing.", param=name)
        if type(value) not in types:
            words = " or ".join("a string" if t is str else "a list" for t in types)
            raise InvalidCall("invalid_type", f"The field '{name}' must be {words}.", param=name)


def shape(call: Call) -> None:
    """Fill the call's cost facts from its checked fields: model, stream, caps, choices."""
    fields = call.fields
    assert fields is not None
    surface = call.surface
    call.model_asked = call.model = fields.get("model")
    call.stream = bool(fields.get("stream")) and surface.streams
    call.asked_caps = {name: fields[name] for name in surface.caps if fields.get(name) is not None}
    call.cap = call.asked_cap if call.asked_caps else surface.default_cap
    call.choices = max([fields.get(name) or 1 for name in surface.fanout], default=1) * _prompts(fields.get("prompt"))


def _prompts(prompt: Any) -> int:
    """How many prompts a completions body holds: a list of strings or of token lists is several, a list of tokens is one."""
    return max(1, len(prompt)) if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else 1


def ask_for_usage(call: Call) -> None:
    """Have a stream of chat or completions report its usage, which it does only when asked."""
    if not call.stream or call.surface.name not in ("chat", "completions") or call.fields is None:
        return
    options = call.fields.get("stream_options") or {}
    if options.get("include_usage") is not True:
        call.edits["stream_options"] = {**options, "include_usage": True}


def patched(call: Call) -> bytes:
    """The body to send: as received, but for the call's edits. Errors: none for a call that `check` has passed."""
    body = call.body
    for name, value in call.edits.items():
        assert call.fields is not None
        body = _insert(body, name, value) if name not in call.fields else _replace(body, name, value)
    return body


def _insert(body: bytes, name: str, value: Any) -> bytes:
    """Set a top-level field that is not there."""
    at = body.index(b"{") + 1
    comma = b"" if body[at:].lstrip().startswith(b"}") else b","
    return b'%s"%s":%s%s%s' % (body[:at], name.encode(), orjson.dumps(value), comma, body[at:])


def _replace(body: bytes, name: str, value: Any) -> bytes:
    """Set a top-level field that is there once, whatever it holds."""
    start, end = _span(body, name)
    return b"%s%s%s" % (body[:start], orjson.dumps(value), body[end:])


def _span(body: bytes, name: str) -> tuple[int, int]:
    """Where the value of a top-level field stands. body: valid JSON, an object that has the field once."""
    depth = 0
    expecting_key = False
    start: int | None = None
    for token in _TOKEN.finditer(body):
        at = token.start()
        mark = body[at]
        if mark in b"{[":
            depth += 1
            expecting_key = depth == 1
        elif mark in b"}]":
            depth -= 1
            if depth == 0 and start is not None:
                return start, at
        elif mark == 0x2C:  # a comma
            if depth == 1:
                if start is not None:
                    return start, at
                expecting_key = True
        elif expecting_key:
            expecting_key = False
            if orjson.loads(token.group()) == name:
                start = body.index(b":", token.end()) + 1
    raise AssertionError("a field that was parsed is in the body")
