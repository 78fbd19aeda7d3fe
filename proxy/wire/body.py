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
MOST_TOOL_CALLS = 1000
NO_CAP = "inf"  # in events of realtime
_LARGE = 8 << 10  # bytes; a smaller body is sooner written again than looked at around its large value
_SHORT = 4 << 10  # bytes; a longer body is sooner walked through than searched for each name
_NEAR = 512  # bytes at either end of a body in which its plain fields are looked for
_MOST_FIELDS = 1000  # at the top; each is looked at in Python
_FEW = 1 << 10  # bytes for each item of a list that is sooner looked at item by item than written again
_Rule = Callable[[str, Any], None]  # a field that is there and not null
_JSON = json.JSONDecoder()
_BETWEEN = re.compile(r"[ \t\n\r,:]*")


def _row(*tokens: bytes) -> bytes:
    """A pattern: these tokens with any space between them."""
    return rb"[ \t\n\r]*".join(tokens)


def _rows(item: bytes) -> bytes:
    return b"(?:" + item + b"(?:" + _row(b"", b",", item) + b")*)?"


# The fields at either end of a body that are plain: words, or lists or objects of words, with nothing escaped.
_STRING = rb'"[^"\\]{0,256}"'
_WORD = rb"(?:" + _STRING + rb"|[-+.0-9A-Za-z]{1,64})"
_PLAIN = b"|".join((_WORD, _row(rb"\[", _rows(_WORD), rb"\]"), _row(rb"\{", _rows(_row(_STRING, b":", _WORD)), rb"\}")))
_FIELD = _row(_STRING, b":", b"(?:" + _PLAIN + b")")
# Up to the value of the first field that is not plain.
_BEFORE = re.compile(_row(b"", rb"\{", b"(?:" + _row(_FIELD, b",", b"") + b")*(" + _STRING + b")", b":", b""))
# In reversed bytes, so that it is tried at one place only: what seem to be plain fields, behind a text or a list that ends with one.
_SEEMS_PLAIN = b"(?:" + _WORD + rb"|\][^][{}]{0,256}\[|\}[^][{}]{0,256}\{)"
_BEHIND = re.compile(
    _row(b"", rb"\}", b"(?:" + _row(_SEEMS_PLAIN, b":", _STRING, b",", b"") + b")*+")
    + b"(?=(?:"
    + _row(rb"\]", rb"\}?", b"")
    + b')?")'
)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Errors: InvalidCall when it is no JSON object, nested too deeply, or doubles a field at its top."""
    fields = _parse_around(body) if len(body) >= _LARGE else None
    if fields is not None:
        return fields
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if str(error).startswith(("depth limit", "Recursion limit")):
            raise InvalidCall("nested_too_deeply", "The body is nested too deeply.") from error
        raise InvalidCall("invalid_json", "The body is not valid JSON in UTF-8.") from error
    if type(fields) is not dict:
        raise InvalidCall("invalid_json", "The body must be a JSON object.")
    if _written(fields) != body:
        _refuse_doubles(body, fields)
    return fields


def _parse_around(body: bytes) -> dict[str, Any] | None:
    """`parse` for a body of one large text or list of texts between plain fields; None for any other, and for one that is at fault.

    The large value is read by itself, and the body with null in its place: each is JSON, so no field stands in what is not looked at.
    """
    place = _ends(body)
    if place is None:
        return None
    name, start, end = place
    rest = b"".join((body[:start], b"null", body[end:]))
    try:
        fields: dict[str, Any] = orjson.loads(rest)
        value = orjson.loads(memoryview(body)[start:end])
    except orjson.JSONDecodeError:
        return None
    if not _shallow(value, (end - start) // _FEW):
        _written([value])
    if _written(fields) != rest:
        _refuse_doubles(rest, fields)
    fields[name.decode()] = value
    return fields


def _ends(body: bytes) -> tuple[bytes, int, int] | None:
    """The name of the first field that is not plain, as it stands there, and where its value seems to begin and end, or None."""
    before, behind = _BEFORE.match(body, 0, _NEAR), _BEHIND.match(body[: -_NEAR - 1 : -1])
    if before is None or behind is None:
        return None
    return before[1][1:-1], before.end(), len(body) - behind.end()


def large_value(body: bytes) -> tuple[str, int, int] | None:
    """The name of the one field of a body that `parse` has read which is not plain, and where its value begins and ends, or None."""
    place = _ends(body)
    if place is None:
        return None
    name, start, end = place
    try:
        orjson.loads(b"".join((body[:start], b"null", body[end:])))
        orjson.loads(memoryview(body)[start:end])
    except orjson.JSONDecodeError:
        return None
    return name.decode(), start, end


def messages_in(middle: memoryview) -> list[Any] | None:
    """The messages that some bytes are; None for what is no JSON list."""
    try:
        messages = orjson.loads(middle)
    except orjson.JSONDecodeError:
        return None
    return messages if type(messages) is list else None


def clearly_shallow(messages: list[Any], size: int) -> bool:
    """Whether messages are clearly not nested too deeply: `parse` says it of others. size: bytes of them."""
    return _shallow(messages, max(16, size // _FEW))


def all_fields(call: Call) -> Mapping[str, Any] | None:
    """The fields of a call, also what is not kept as read."""
    return call.fields if call.unread is None or call.fields is None else {**call.fields, "messages": messages_in(call.unread)}


def _shallow(value: Any, most: int) -> bool:
    """Whether a value is clearly not deep: a text, or a list of at most so many texts and objects of texts."""
    if type(value) is not list or len(value) > most:
        return type(value) is str
    for item in value:
        if type(item) is dict:
            if not {str}.issuperset(map(type, item.values())):
                return False
        elif type(item) is not str:
            return False
    return True


def _written(fields: Any) -> bytes:
    """Compact JSON. Writing recurses less deeply than reading does (254 levels), which makes it the bound on depth."""
    try:
        return orjson.dumps(fields)
    except TypeError as error:
        raise InvalidCall("nested_too_deeply", "The body is nested too deeply.") from error


def _refuse_doubles(body: bytes, fields: Mapping[str, Any]) -> None:
    """Refuse a field that stands twice at the top, however its name is escaped: we and the upstream might read different ones.

    Most fields there decide cost, some of them only with certain servers, so it is not asked which. Deeper ones are not looked at.
    """
    if len(body) <= _SHORT and _each_once(body, fields):
        return
    if len(fields) > _MOST_FIELDS:
        raise InvalidCall("too_many_values", "The body has too many fields.")
    seen: set[str] = set()
    for name, _, _ in _members(body):
        if name in seen:
            raise InvalidCall("duplicate_field", f"The field '{name}' stands twice in the body.", param=name)
        seen.add(name)


def _each_once(body: bytes, fields: Mapping[str, Any]) -> bool:
    """Whether no name can stand twice, at the top or anywhere: without `\\u` there is but one way to write an identifier."""
    return b"\\u" not in body and all(name.isidentifier() and body.count(b'"%b"' % name.encode()) == 1 for name in fields)


def _members(body: bytes) -> Iterator[tuple[str, int, int]]:
    """Each field at the top of a JSON object that is known to be valid: its name, and where its value begins and ends."""
    text = body.decode("latin-1")  # which has a character for each byte, and JSON's own are the same in it
    at = text.index("{") + 1
    while text[at := _past(text, at)] != "}":
        _, end = _JSON.raw_decode(text, at)
        name = orjson.loads(body[at:end])
        start = _past(text, end)
        _, at = _JSON.raw_decode(text, start)
        yield name, start, at


def _past(text: str, at: int) -> int:
    """Where the next name, value or brace begins."""
    found = _BETWEEN.match(text, at)
    assert found is not None, "nothing at all is a match too"
    return found.end()


def check(surface: Surface, fields: Mapping[str, Any]) -> None:
    """Refuse wrong types and absurd numbers in the fields that cost money. Errors: InvalidCall with `param`."""
    name = surface.name
    for needed in _REQUIRED.get(name, ()):
        if fields.get(needed) is None:
            raise InvalidCall("missing_field", f"The field '{needed}' is missing.", param=needed)
    rules = _RULES[name]
    for name, value in fields.items():
        if name in rules and value is not None:
            rules[name](name, value)


def _model(name: str, value: Any) -> None:
    if type(value) is not str or not 0 < len(value) <= 256 or not value.isprintable():
        raise InvalidCall("invalid_type", "The field 'model' must be a printable string of 1 to 256 characters.", param=name)


def _within(least: int, most: int) -> _Rule:
    def rule(name: str, value: Any) -> None:
        if type(value) is not int:
            raise InvalidCall("invalid_type", f"The field '{name}' must be an integer.", param=name)
        if not least <= value <= most:
            raise InvalidCall("invalid_value", f"The field '{name}' must be between {least} and {most}.", param=name)

    return rule


def _flag(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise InvalidCall("invalid_type", f"The field '{name}' must be true or false.", param=name)


def _object(name: str, value: Any) -> None:
    if type(value) is not dict:
        raise InvalidCall("invalid_type", f"The field '{name}' must be an object.", param=name)


def _input(name: str, value: Any) -> None:
    if type(value) is not str and type(value) is not list:
        raise InvalidCall("invalid_type", f"The field '{name}' must be a string or a list.", param=name)


def _text(name: str, value: Any) -> None:
    if type(value) is not str:
        raise InvalidCall("invalid_type", f"The field '{name}' must be a string.", param=name)


def _tier(name: str, value: Any) -> None:
    if type(value) is not str or not re.fullmatch("[a-z][a-z0-9_]{0,31}", value):
        raise InvalidCall("invalid_value", f"The field '{name}' must be a word such as 'default'.", param=name)


def _list(name: str, value: Any) -> None:
    if type(value) is not list:
        raise InvalidCall("invalid_type", f"The field '{name}' must be a list.", param=name)


def _shadowing(instead: str) -> _Rule:
    """What llama.cpp's server reads before `max_tokens` and `n`, and others do not know: neither can be relied on, nor let pass."""

    def rule(name: str, value: Any) -> None:
        raise InvalidCall("invalid_value", f"The field '{name}' is not accepted here; send '{instead}'.", param=name)

    return rule


_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "chat": ("model", "messages"),
    "completions": ("model",),
    "embeddings": ("model", "input"),
    "moderations": ("input",),
    "speech": ("model", "input"),
    "transcriptions": ("model",),
}
_ANYWHERE: Mapping[str, _Rule] = {
    "model": _model,
    "n": _within(1, 128),
    "best_of": _within(0, 20),
    "max_tokens": _within(0, MOST_CAP),
    "max_completion_tokens": _within(0, MOST_CAP),
    "max_output_tokens": _within(0, MOST_CAP),
    "stream": _flag,
    "background": _flag,
    "stream_options": _object,
    "service_tier": _tier,
    "max_tool_calls": _within(0, MOST_TOOL_CALLS),
}


def _cap_or_none(name: str, value: Any) -> None:
    if value != NO_CAP:
        _within(0, MOST_CAP)(name, value)


_GENERATING: Mapping[str, _Rule] = {**_ANYWHERE, "n_predict": _shadowing("max_tokens"), "n_cmpl": _shadowing("n")}
# What a surface is asked with is checked on that surface; on others a field of that name means nothing.
_RULES: Mapping[str, Mapping[str, _Rule]] = {
    "chat": {**_GENERATING, "messages": _list},
    "completions": {**_GENERATING, "prompt": _input},
    "responses": {**_GENERATING, "input": _input},
    "compact": {**_GENERATING, "input": _input},
    "embeddings": {**_ANYWHERE, "input": _input},
    "moderations": {**_ANYWHERE, "input": _input},
    "images": {**_ANYWHERE, "n": _within(1, 10), "partial_images": _within(0, 3), "size": _text, "prompt": _text},
    "speech": {**_ANYWHERE, "input": _text},
    "transcriptions": _ANYWHERE,
    "realtime": {"model": _model, "max_output_tokens": _cap_or_none, "max_response_output_tokens": _cap_or_none},
}


def shape(call: Call) -> None:
    """Fill the call's cost facts from its checked fields: model, stream, caps, choices."""
    fields = call.fields
    assert fields is not None
    surface = call.surface
    call.model_asked = call.model = fields.get("model")
    call.stream = bool(fields.get("stream")) and surface.streams
    call.cap = surface.default_cap
    for name in surface.caps:
        cap = fields.get(name)
        if cap is not None:
            call.asked_caps[name] = cap
            call.cap = call.asked_cap
    for name in surface.fanout:
        choices = fields.get(name)
        if choices is not None and choices > call.choices:
            call.choices = choices
    if "prompt" in fields and surface.name == "completions":
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


def patched(call: Call) -> tuple[bytes | memoryview, ...]:
    """The body to send, in parts: as received, but for the call's edits. Errors: none for a call that `check` has passed."""
    if not call.edits:
        return (call.body,)
    assert call.fields is not None
    return with_fields(call.body, call.fields, call.edits)


def patched_again(parts: tuple[bytes | memoryview, ...], edits: Mapping[str, Any]) -> tuple[bytes | memoryview, ...]:
    """A body that was patched already, with these fields set as well. Errors: none for what `patched` gave out."""
    body = b"".join(parts)
    return with_fields(body, parse(body), edits)


def with_fields(body: bytes, fields: Mapping[str, Any], edits: Mapping[str, Any]) -> tuple[bytes | memoryview, ...]:
    """A JSON object with these fields set, all else byte for byte. fields: what `parse` made of it."""
    added: dict[str, Any] = {}
    replaced: list[tuple[int, int, Any]] = []  # no two begin at one place, so values are never compared
    for name, value in edits.items():
        if name in fields:
            replaced.append((*place(body, fields, name), value))
        else:
            added[name] = value
    whole = memoryview(body) if len(body) >= _LARGE else body
    pieces: list[bytes | memoryview] = []
    at = 0
    if added:
        at = body.index(b"{") + 1
        pieces += (whole[:at], orjson.dumps(added)[1:-1], b"," if fields else b"")
    for start, end, value in sorted(replaced):
        pieces += (whole[at:start], orjson.dumps(value))
        at = end
    pieces.append(whole[at:])
    return tuple(pieces)


def place(body: bytes, fields: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Where the value of a field at the top begins and ends. It is there, once.

    Most bodies are compact, and then one end of it reads as we write the fields from there to this one. That is proof: read on from the
    opening brace there is but one way to see it, and so there is back from the closing one, as a quote with an even number of
    backslashes before it begins the string that ends at the next such quote.
    """
    names = [*fields]
    at = names.index(name)
    key, value = orjson.dumps(name), orjson.dumps(fields[name])
    if body.find(key, 0, _NEAR) > 0:
        text = orjson.dumps({name: fields[name] for name in names[: at + 1]})
        end = len(text) - 1
        if body.startswith(text[:-1]) and body[end] in b",}":
            return end - len(value), end
    text = orjson.dumps({name: fields[name] for name in names[at:]})
    start = len(body) - len(text)
    if body.endswith(text[1:]) and body[start] in b",{":
        start += 1 + len(key) + 1
        return start, start + len(value)
    return next((start, end) for found, start, end in _members(body) if found == name)
