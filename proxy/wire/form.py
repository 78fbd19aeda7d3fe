"""A multipart form: its text fields, and how many files are with it. The body passes on as it came, but for the model's name.

Read strictly, for whoever reads it behind us must read the same. The rule a reader could break: what could be read in two ways is
refused, and never repaired.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.errors import InvalidCall

_MOST_HEAD = 1024  # bytes of a part's own fields
_MOST_TEXT = 256 << 10  # bytes of a text field: prompts are up to 32,000 characters
_MOST_PARTS = 128
# Source: RFC 2046, section 5.1.1; only within quotes may it hold a space, and not at its end.
_BOUNDARY = re.compile(
    r"multipart/form-data\s*;\s*boundary=(\"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]\"|[0-9A-Za-z'()+_,./:=?-]{1,70})\s*\Z",
    re.IGNORECASE,
)
_DISPOSITION = re.compile(
    rb"form-data; ?name=\"([!#-\[\]-~]{1,64})\"(; ?filename=\"[^\"\r\n]{0,255}\")?(; ?filename\*=[!-~]{1,512})?\Z", re.IGNORECASE
)
_FILES = frozenset({"file", "image", "image[]", "mask"})
_ENCODINGS = frozenset({b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class Form:
    """fields: text by name, a list for a name that ends in `[]`; numbers and flags as JSON has them. files: how many.

    file_bytes: of all of them. places: where the value of each plain field stands in the body.
    """

    fields: Mapping[str, Any]
    files: int
    file_bytes: int
    places: Mapping[str, tuple[int, int]]


def boundary_of(content_type: str) -> bytes | None:
    """What parts the form of this content type; None for what is no form, or an odd one."""
    match = _BOUNDARY.match(content_type)
    return match[1].strip('"').encode() if match is not None else None


def parse_form(body: bytes, boundary: bytes) -> Form:
    """Errors: InvalidCall for whatever is not plainly a form."""
    fields: dict[str, Any] = {}
    places: dict[str, tuple[int, int]] = {}
    files = file_bytes = 0
    for name, is_file, start, end in _parts(body, boundary):
        if is_file != (name in _FILES):
            raise InvalidCall("invalid_type", f"The part '{name}' must {'not ' if is_file else ''}be a file.", param=name)
        if is_file:
            files += 1
            file_bytes += end - start
            continue
        value = _value(name, body[start:end])
        if name.endswith("[]"):
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise InvalidCall("duplicate_field", f"The field '{name}' stands twice in the body.", param=name)
        else:
            fields[name] = value
            places[name] = (start, end)
    return Form(fields, files, file_bytes, places)


def patched_form(body: bytes, form: Form, edits: Mapping[str, Any]) -> tuple[bytes | memoryview, ...]:
    """The body to send, in parts: other text in the place of fields that are there. Errors: none; others cannot be edited."""
    pieces: list[bytes | memoryview] = []
    at = 0
    whole = memoryview(body)
    for name in sorted(edits.keys() & form.places.keys(), key=lambda name: form.places[name]):
        start, end = form.places[name]
        pieces += (whole[at:start], str(edits[name]).encode())
        at = end
    return (*pieces, whole[at:])


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, bool, int, int]]:
    """Each part: its name, whether it is a file, and where its content begins and ends."""
    delimiter = b"\r\n--" + boundary
    if not body.startswith(delimiter[2:]):
        raise _odd("it does not begin with its boundary")
    at = len(delimiter) - 2
    for _ in range(_MOST_PARTS):
        if body.startswith(b"--", at):
            if body[at + 2 :] not in (b"", b"\r\n"):
                raise _odd("something stands behind its end")
            return
        if not body.startswith(b"\r\n", at):
            raise _odd("a boundary is not on a line of its own")
        head = body.find(b"\r\n\r\n", at, at + _MOST_HEAD)
        end = body.find(delimiter, head + 2)
        if head < 0 or end < head + 4:
            raise _odd("a part has no content or no end")
        name, is_file = _name(body[at + 2 : head])
        yield name, is_file, head + 4, end
        at = end + len(delimiter)
    raise _odd("it has too many parts")


def _name(head: bytes) -> tuple[str, bool]:
    """The name of a part, and whether it is a file. head: its fields."""
    found: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name in found or not re.fullmatch(rb"[a-z-]{1,40}", name) or b"\n" in value or b"\r" in value:
            raise _odd("a part's own fields are odd")
        found[name] = value.strip()
    match = _DISPOSITION.match(found.get(b"content-disposition", b""))
    if match is None or found.get(b"content-transfer-encoding", b"binary").lower() not in _ENCODINGS:
        raise _odd("a part is not named, or is encoded")
    return match[1].decode(), bool(match[2] or match[3])


def _value(name: str, text: bytes) -> Any:
    if len(text) > _MOST_TEXT:
        raise InvalidCall("invalid_value", f"The field '{name}' is too long.", param=name)
    try:
        value = text.decode()
    except UnicodeDecodeError as error:
        raise InvalidCall("invalid_type", f"The field '{name}' is not UTF-8.", param=name) from error
    if name == "stream":
        return {"true": True, "false": False}.get(value, value)
    return int(value) if re.fullmatch("[0-9]{1,10}", value) and name in ("n", "partial_images") else value


def _odd(why: str) -> InvalidCall:
    return InvalidCall("invalid_form", f"The body is not a plain multipart form: {why}.")
