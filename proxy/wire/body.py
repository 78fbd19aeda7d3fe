"""A request body: read once, its cost fields checked, and patched in its own bytes.

The rule a reader could break: a body that no policy changed leaves as it came, and a changed one differs in the changed fields
only. Re-serialising would quietly round large integers, so it is never done.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from proxy.call import Call, Surface
from proxy.errors import InvalidCall

MOST_CAP = 2**31 - 1
_Rule = Callable[[Surface, str, Any], None]  # the surface, and a field that is there and not null
_SPACE = re.compile(r"[ \t\n\r]*")
_JSON = json.JSONDecoder()


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Errors: InvalidCall when it is no JSON object, nested too deeply, or doubles a field at its top."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if str(error).startswith(("depth limit", "Recursion limit")):
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
    """Refuse a field that stands twice at the top, however its name is escaped: we and the upstream might read different ones.

    Most fields there decide cost, some of them only with certain servers, so it is not asked which. Deeper ones are not looked at.
    """
    seen: set[str] = set()
    for name, _, _ in _members(body.decode()):
        if name in seen:
            raise InvalidCall("duplicate_field", f"The field '{name}' stands twice in the body.", param=name)
        seen.add(name)


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    """Each field at the top of a JSON object that is known to be valid: its name, and where its value begins and ends."""
    at = text.index("{") + 1
    while text[at := _after_space(text, at)] != "}":
        name, at = _JSON.raw_decode(text, at)
        start = _after_space(text, _after_space(text, at) + 1)
        _, end = _JSON.raw_decode(text, start)
        yield name, start, end
        at = _after_space(text, end)
        if text[at] == ",":
            at += 1


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None, "no space at all is a match too"
    return found.end()


def check(surface: Surface, fields: Mapping[str, Any]) -> None:
    """Refuse wrong types and absurd numbers in the fields that cost money. Errors: InvalidCall with `param`."""
    for name in _REQUIRED.get(surface.name, ()):
        if fields.get(name) is None:
            raise InvalidCall("missing_field", f"The field '{name}' is missing.", param=name)
    for name, value in fields.items():
        rule = _RULES.get(name)
        if rule is not None and value is not None:
            rule(surface, name, value)


def _model(surface: Surface, name: str, value: Any) -> None:
    if type(value) is not str or not 0 < len(value) <= 256 or not value.isprintable():
        raise InvalidCall("invalid_type", "The field 'model' must be a printable string of 1 to 256 characters.", param=name)


def _within(least: int, most: int) -> _Rule:
    def rule(surface: Surface, name: str, value: Any) -> None:
        if type(value) is not int:
            raise InvalidCall("invalid_type", f"The field '{name}' must be an integer.", param=name)
        if not least <= value <= most:
            raise InvalidCall("invalid_value", f"The field '{name}' must be between {least} and {most}.", param=name)

    return rule


def _flag(surface: Surface, name: str, value: Any) -> None:
    if type(value) is not bool:
        raise InvalidCall("invalid_type", f"The field '{name}' must be true or false.", param=name)


def _object(surface: Surface, name: str, value: Any) -> None:
    if type(value) is not dict:
        raise InvalidCall("invalid_type", f"The field '{name}' must be an object.", param=name)


def _input(*surfaces: str, types: tuple[type, ...] = (str, list)) -> _Rule:
    """What a surface is asked with; on others a field of that name means nothing."""

    def rule(surface: Surface, name: str, value: Any) -> None:
        if type(value) not in types and surface.name in surfaces:
            words = " or ".join("a string" if t is str else "a list" for t in types)
            raise InvalidCall("invalid_type", f"The field '{name}' must be {words}.", param=name)

    return rule


def _shadowing(instead: str) -> _Rule:
    """What llama.cpp's server reads before `max_tokens` and `n`, and others do not know: neither can be relied on, nor let pass."""

    def rule(surface: Surface, name: str, value: Any) -> None:
        if surface.has_output:
            raise InvalidCall("invalid_value", f"The field '{name}' is not accepted here; send '{instead}'.", param=name)

    return rule


_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "chat": ("model", "messages"),
    "completions": ("model",),
    "embeddings": ("model", "input"),
    "moderations": ("input",),
}
_RULES: Mapping[str, _Rule] = {
    "model": _model,
    "n_predict": _shadowing("max_tokens"),
    "n_cmpl": _shadowing("n"),
    "n": _within(1, 128),
    "best_of": _within(0, 20),
    "max_tokens": _within(0, MOST_CAP),
    "max_completion_tokens": _within(0, MOST_CAP),
    "max_output_tokens": _within(0, MOST_CAP),
    "stream": _flag,
    "background": _flag,
    "stream_options": _object,
    "messages": _input("chat", types=(list,)),
    "prompt": _input("completions"),
    "input": _input("responses", "embeddings", "moderations"),
}


def shape(call: Call) -> None:
    """Fill the call's cost facts from its checked fields: model, stream, caps, choices."""
    fields = call.fields
    assert fields is not None
    surface = call.surface
    call.model_asked = call.model = fields.get("model")
    call.stream = bool(fields.get("stream")) and surface.streams
    for name in surface.caps:
        cap = fields.get(name)
        if cap is not None:
            call.asked_caps[name] = cap
    call.cap = call.asked_cap if call.asked_caps else surface.default_cap
    for name in surface.fanout:
        choices = fields.get(name)
        if choices is not None and choices > call.choices:
            call.choices = choices
    if "prompt" in fields:
        call.choices *= _prompts(fields["prompt"])


def _prompts(prompt: Any) -> int:
    """How many prompts a completions body holds: a list of tokens is one; every item of any other list may be one."""
    return len(prompt) if isinstance(prompt, list) and not {int}.issuperset(map(type, prompt)) else 1


def ask_for_usage(call: Call) -> None:
    """Have a stream of chat or completions report its usage, which it does only when asked."""
    if not call.stream or call.surface.name not in ("chat", "completions") or call.fields is None:
        return
    options = call.fields.get("stream_options") or {}
    if options.get("include_usage") is not True:
        call.edits["stream_options"] = {**options, "include_usage": True}


def patched(call: Call) -> bytes:
    """The body to send: as received, but for the call's edits. Errors: none for a call that `check` has passed."""
    if not call.edits:
        return call.body
    assert call.fields is not None
    replaced = {name: value for name, value in call.edits.items() if name in call.fields}
    added = {name: value for name, value in call.edits.items() if name not in call.fields}
    body = _replace(call.body, replaced) if replaced else call.body
    return _insert(body, added, alone=not call.fields) if added else body


def _insert(body: bytes, fields: Mapping[str, Any], *, alone: bool) -> bytes:
    """Set top-level fields that are not there. alone: the object is empty."""
    at = body.index(b"{") + 1
    added = orjson.dumps(fields)[1:-1]
    return b"".join((body[:at], added, b"" if alone else b",", body[at:]))


def _replace(body: bytes, fields: Mapping[str, Any]) -> bytes:
    """Set top-level fields that are there once each, whatever they hold."""
    text = body.decode()
    pieces: list[str] = []
    left, at = len(fields), 0
    for name, start, end in _members(text):
        if name in fields:
            pieces += (text[at:start], orjson.dumps(fields[name]).decode())
            left, at = left - 1, end
            if not left:
                break
    return "".join((*pieces, text[at:])).encode()
