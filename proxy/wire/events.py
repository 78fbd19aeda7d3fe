"""Events of a session as JSON texts: read, changed in their own bytes, and made.

The rule a reader could break: an event that nothing was changed in goes on byte for byte, and a changed one differs in the changed fields
alone, as bodies do.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from proxy.errors import InvalidCall, ProxyError
from proxy.wire import body

MOST_ID_CHARS = 512


class Event(NamedTuple):
    """kind: its `type`. id: by which the client knows it, None where it gives none."""

    kind: str
    fields: Mapping[str, Any]
    data: bytes

    @property
    def id(self) -> str | None:
        found = self.fields.get("event_id")
        return found if isinstance(found, str) and len(found) <= MOST_ID_CHARS else None

    def part(self, name: str) -> "Part":
        """The object that stands in a field, or an empty one where there is none. Errors: InvalidCall."""
        value = self.fields.get(name)
        if value is None:
            return Part({}, b"{}")
        if not isinstance(value, dict):
            raise InvalidCall("invalid_type", f"The field '{name}' must be an object.", param=name)
        start, end = body.place(self.data, self.fields, name)
        text = self.data[start:end]
        return Part(body.parse(text), text)

    def changed(self, name: str, edits: Mapping[str, Any], more: Mapping[str, Any]) -> bytes:
        """The event with these fields set in the object `name`, which is made where there is none, and with `more` set beside it."""
        data, outer = self.data, dict(more)
        if edits and isinstance(self.fields.get(name), dict):
            start, end = body.place(data, self.fields, name)
            part = self.part(name)
            data = b"".join((data[:start], *body.with_fields(part.data, part.fields, edits), data[end:]))
        elif edits:
            outer[name] = dict(edits)
        return b"".join(body.with_fields(data, body.parse(data), outer)) if outer else data


class Part(NamedTuple):
    """An object within an event: as parsed, and its bytes."""

    fields: Mapping[str, Any]
    data: bytes


def read_asked(data: bytes, *, text: bool) -> Event:
    """An event of a client. Errors: InvalidCall for one that we and an upstream could read differently, or not at all."""
    if not text:
        raise InvalidCall("invalid_json", "Events are sent as text; a binary message is not accepted.")
    fields = body.parse(data)
    kind = fields.get("type")
    if not isinstance(kind, str):
        raise InvalidCall("invalid_type", "The field 'type' must be a string.", param="type")
    return Event(kind, fields, data)


def read_told(data: bytes, *, text: bool) -> Event | None:
    """An event of an upstream, None for what is none: it passes, and says nothing to us."""
    if not text:
        return None
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    kind = fields.get("type") if isinstance(fields, dict) else None
    return Event(kind, fields, data) if isinstance(kind, str) else None


def written(fields: Mapping[str, Any]) -> bytes:
    """An event of ours."""
    return orjson.dumps(fields)


def told_error(error: ProxyError, *, flat: bool, own_id: str, event_id: str | None) -> bytes:
    """An error as a session tells it. flat: as responses do, where SDKs read it off the event itself; event_id: the client's, of the event
    that it is about."""
    said = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
    if flat:
        beside = {"code": error.code, "message": error.message, "param": error.param, "sequence_number": 0}
        return orjson.dumps({"type": "error", "status": error.status, **beside, "error": said})
    return orjson.dumps({"type": "error", "event_id": own_id, "error": {**said, "event_id": event_id}})


def unbounded(fields: Mapping[str, Any], caps: tuple[str, ...]) -> tuple[str, ...]:
    """The caps among the fields that say that there is none."""
    return tuple(name for name in caps if fields.get(name) == body.NO_CAP)


def cap_edits(fields: Mapping[str, Any], edits: Mapping[str, Any], caps: tuple[str, ...]) -> dict[str, Any]:
    """Edits whose added cap takes the place of one that says that there is none, under whatever name that stands."""
    none = unbounded(fields, caps)
    added = [name for name in caps if name in edits and (fields.get(name) is None or name in none)]
    if not none or not added:
        return dict(edits)
    kept = {name: value for name, value in edits.items() if name not in added}
    return {**kept, **dict.fromkeys(none, edits[added[0]])}
