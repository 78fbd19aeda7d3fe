"""One event as one line of bytes: JSON for machines, text for people.

Pure. A record is a dict that begins with `ts`, `level`, `event`. The rule a reader could break: whatever a client managed to put
into a string, a JSON line is valid JSON, ends with its only line break and is at most 4 KiB long, and no line moves a terminal's
cursor.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

MOST_LINE_BYTES = 4096  # what a pipe takes in one piece, and log collectors without splitting
MOST_STRING_BYTES = 256
_MOST_ITEMS = 16

# Tried in turn on a line that came out too long: strings and list items to so many bytes, lists to so many items.
_SHORTER = ((64, 8), (16, 4))
_HEAD = ("ts", "level", "event", "request_id")

# What orjson leaves as it is, and yet breaks lines (U+0085, U+2028, U+2029), moves a cursor (C1 controls) or reorders what follows.
_UNRULY = re.compile(r"[\x80-\x9f\u2028-\u202e\u2066-\u2069]")


def cut(value: Any) -> Any:
    """A string of at most 256 bytes of UTF-8, or a list of at most 16 such strings; what was cut ends in `…`.

    Errors: TypeError for a list of anything else.
    """
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise TypeError("a list in the log holds strings only")
    return _shorten(value, MOST_STRING_BYTES, _MOST_ITEMS)


def cut_each(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with every string and list cut."""
    return {name: cut(value) if isinstance(value, str | list) else value for name, value in record.items()}


def render_json(record: Mapping[str, Any]) -> bytes:
    """One JSON object and a line feed. Strings that are not UTF-8 are repaired; a number beyond 64 bits is null, not known."""
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        record = {name: _repair(value) for name, value in record.items()}
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    if len(line) <= MOST_LINE_BYTES and line.isascii():  # as nearly all
        return line
    line = _tame(line)
    for most_bytes, most_items in _SHORTER:
        if len(line) <= MOST_LINE_BYTES:
            return line
        shorter = {name: _shorten(value, most_bytes, most_items) for name, value in record.items()}
        line = _tame(orjson.dumps(shorter, option=orjson.OPT_APPEND_NEWLINE))
    if len(line) <= MOST_LINE_BYTES:
        return line
    head = {name: _shorten(record[name], *_SHORTER[0]) for name in _HEAD if name in record}
    return _tame(orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE))


def render_rest(fields: Mapping[str, Any]) -> bytes:
    """The end of a line of JSON: a comma, these fields, the brace and the line feed. At any length."""
    sound = {name: _repair(value) for name, value in fields.items()}
    return b"," + _tame(orjson.dumps(sound, option=orjson.OPT_APPEND_NEWLINE))[1:]


def join_json(ts: str, opening: bytes, own: Mapping[str, Any], rest: bytes) -> bytes | None:
    """What `render_json` makes of a record that is rendered already but for `ts` and `own`; None where that is the only way to it.

    opening: what stands between the time and the fields of `own`, which has some. rest: what follows them, as of `render_rest`.
    """
    try:
        fields = orjson.dumps(own)
    except orjson.JSONEncodeError:
        return None
    line = b"".join((b'{"ts":"', ts.encode(), opening, fields[1:-1], rest))
    return line if len(line) <= MOST_LINE_BYTES and fields.isascii() else None


def _tame(line: bytes) -> bytes:
    """Unruly characters as \\u escapes. Outside of strings JSON is plain ASCII, so they can only stand where an escape may."""
    if line.isascii():
        return line
    return _UNRULY.sub(lambda match: f"\\u{ord(match[0]):04x}", line.decode()).encode()


def _repair(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_repair(item) for item in value]
    return None if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


def _shorten(value: Any, most_bytes: int, most_items: int) -> Any:
    if isinstance(value, str):
        if len(value) * 4 <= most_bytes:  # a character is at most four bytes, so this one fits whatever it is made of
            return value
        encoded = value.encode(errors="replace")
        return value if len(encoded) <= most_bytes else encoded[: most_bytes - 3].decode(errors="ignore") + "…"
    if isinstance(value, list):
        items = [_shorten(item, most_bytes, most_items) for item in value[:most_items]]
        return items if len(value) <= most_items else [*items, "…"]
    return value


# What a person wants to see of a call. Every other event shows all it has.
_KEY_FIELDS: Mapping[str, tuple[str, ...]] = {
    "call.finished": (
        "status",
        "outcome",
        "surface",
        "model_asked",
        "input_tokens",
        "output_tokens",
        "cost_nanousd",
        "total_ms",
        "key",
        "user",
        "error",
        "refused_by",
        "clamped",
        "request_id",
    ),
}

# Shown by another name, in a unit that a person reads.
_FOR_PEOPLE: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "cost_nanousd": ("cost", lambda nanousd: f"${nanousd / 1e9:.6f}"),
    "spent_nanousd": ("spent", lambda nanousd: f"${nanousd / 1e9:.2f}"),
    "limit_nanousd": ("limit", lambda nanousd: f"${nanousd / 1e9:.2f}"),
    "model_asked": ("model", str),
    "input_tokens": ("in", str),
    "output_tokens": ("out", str),
    "admit_ms": ("admit", lambda ms: f"{ms:.0f}ms"),
    "total_ms": ("took", lambda ms: f"{ms:.0f}ms"),
}

_LEVEL_COLOUR = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def render_console(record: Mapping[str, Any], *, colour: bool) -> bytes:
    """Time of day (UTC), level, event, and its key fields; each item of a list on a line of its own below."""
    names = _KEY_FIELDS.get(record["event"]) or tuple(name for name in record if name not in ("ts", "level", "event"))
    shown = [(name, record[name]) for name in names if record.get(name) is not None]
    time_of_day, level, event = record["ts"][11:23], f"{record['level']:<7}", f"{record['event']:<18}"
    if colour:
        time_of_day, level = f"{_DIM}{time_of_day}{_PLAIN}", f"{_LEVEL_COLOUR[record['level']]}{level}{_PLAIN}"
        event = f"{_BOLD}{event}{_PLAIN}"
    fields = " ".join(_pair(name, value) for name, value in shown if not isinstance(value, list))
    items = [f"    {_printable(item)}" for _, value in shown if isinstance(value, list) for item in value]
    text = "\n".join([f"{time_of_day} {level} {event} {fields}".rstrip(), *items])
    return text.encode()[: MOST_LINE_BYTES - 1].decode(errors="ignore").encode() + b"\n"


def _pair(name: str, value: Any) -> str:
    shown_name, show = _FOR_PEOPLE.get(name, (name, str))
    text = show(value)
    return f"{shown_name}={text}" if text and " " not in text and text.isprintable() else f"{shown_name}={text!r}"


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)
