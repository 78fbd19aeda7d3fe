"""What the head of a request asks of recordings: an Idempotency-Key, preferences, and the event from which a stream goes on.

Words into values; whether a wish is granted is for the policies. The rule a reader could break: a key has one canonical form, or the same
key with and without its quotes would be two calls. Sources: draft-ietf-httpapi-idempotency-key-header, section 2; RFC 7240, section 2.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from proxy.errors import InvalidCall

MOST_KEY_CHARS = 255
MOST_WAIT_S = 60.0

_BARE = re.compile(r"[ -~]+\Z")
# A String of Structured Fields. Source: RFC 8941, section 3.3.3.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"\Z')
_EVENT_ID = re.compile(r"(task_[0-9a-f]{32})\.([0-9]{1,12})\Z")
_PREFERENCE = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*(?:=\s*(?:"([^"]*)"|([^\s;,"]*)))?')
_SECONDS = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)(ms|s|m|)\Z")


class Wish(NamedTuple):
    """What one head asks for. key: canonical, None without one. task: an answer now that says where the real one will be; wait_s: how long
    the real one may take to come instead. event_ids: a stream whose events have ids. after: the recording and the number of its last event
    that the client has.
    """

    key: str | None = None
    task: bool = False
    wait_s: float = 0.0
    event_ids: bool = False
    after: tuple[str, int] | None = None


def idempotency_key(value: str) -> str:
    """The canonical form of a key: what stands between its quotes, where it has them. Errors: InvalidCall."""
    value = value.strip(" \t")
    quoted = _QUOTED.match(value)
    if quoted is not None:
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    if not 0 < len(value) <= MOST_KEY_CHARS or not _BARE.match(value) or (quoted is None and value.startswith('"')):
        raise InvalidCall(
            "invalid_idempotency_key",
            f"The header 'idempotency-key' must be 1 to {MOST_KEY_CHARS} printable ASCII characters, in quotes or bare.",
        )
    return value


def preferences(value: str) -> dict[str, str]:
    """The preferences of a `Prefer` field by their names in lower case; the first of each counts, nonsense is passed over."""
    found: dict[str, str] = {}
    for part in _parts(value):
        match = _PREFERENCE.match(part)
        if match is not None:
            found.setdefault(match[1].lower(), match[2] if match[2] is not None else match[3] or "")
    return found


def _parts(value: str) -> Iterator[str]:
    """Between commas that are not in quotes."""
    at, quoted = 0, False
    for index, char in enumerate(value):
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            yield value[at:index]
            at = index + 1
    yield value[at:]


def event_id(value: str) -> tuple[str, int]:
    """The recording and the number of an event, from what `Last-Event-ID` says. Errors: InvalidCall."""
    match = _EVENT_ID.match(value.strip())
    if match is None:
        raise InvalidCall("invalid_event_id", "The header 'last-event-id' is no id of an event that was sent here.")
    return match[1], int(match[2])


def wait_s(text: str) -> float:
    """A time to wait, `30`, `30s`, `500ms` or `1m`, at most a minute. Errors: ValueError."""
    match = _SECONDS.match(text)
    if match is None:
        raise ValueError(text)
    return min(MOST_WAIT_S, float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}[match[2]])
