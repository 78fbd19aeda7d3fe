"""Server-sent events as bytes: where one ends, and what it carries. No sockets, no JSON.

The rule a reader could break: the bytes that come out, in order, are the bytes that went in. Nothing is normalised.
Source: WHATWG HTML, section 9.2; how the official SDKs decode it is in the tests.
"""

import re
from functools import lru_cache

# A line ends with CRLF, LF or CR, and a blank line ends the event. The groups are atomic, or CRLF alone would match as CR, LF.
_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n|\n|\r")

LATE_LF = b"\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The end of a long event of few lines is found faster by its lines than by its blank one.
_LONG_BYTES = 4 << 10
_FEW_LINES = 8
LARGE_BYTES = 1 << 20  # from here on a copy of an event weighs more than what is saved by having it


@lru_cache(maxsize=64)
def is_stream(content_type: str | None) -> bool:
    """Whether a body of this content type is a stream of events. None: it has none."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() == "text/event-stream"


class Splitter:
    """Cuts a body into whole events, whatever its chunks are.

    An event that ends in CR is given out at once, for nobody knows whether more will come; should the LF of a CRLF follow, it is given
    out alone, as LATE_LF, and belongs to the event before it.
    """

    __slots__ = ("_after_cr", "_cr_seen", "_rest", "clean")

    END = _END  # what ends an event

    def __init__(self) -> None:
        self._rest = bytearray()
        self._after_cr = self._cr_seen = False
        self.clean = True  # whatever comes next begins an event

    def __repr__(self) -> str:
        return f"<Splitter rest={len(self._rest)}>"

    @property
    def rest_bytes(self) -> int:
        """How many bytes of an unfinished event are kept."""
        return len(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Whole events, each with its blank line. chunk: raw bytes, any split."""
        events: list[bytes] = []
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                events.append(LATE_LF)
                chunk = chunk[1:]
        rest = self._rest
        if not rest and chunk.endswith(b"\n\n") and chunk.find(b"\n\n") == len(chunk) - 2 and chunk.find(b"\r") < 0:
            events.append(chunk)  # what a model server sends nearly always: one event, one write
            self.clean = True
            return events
        if not self._cr_seen and chunk.find(b"\r") < 0:
            return self._by_lf(chunk, events)
        self._cr_seen = True
        start = max(0, len(rest) - 3)  # the blank line may have begun in an earlier chunk; what lies before was searched then
        rest += chunk
        taken = 0
        for match in self.END.finditer(rest, start):
            events.append(bytes(rest[taken : match.end()]))
            taken = match.end()
        if taken:
            self._after_cr = taken == len(rest) and rest.endswith(b"\r")
            del rest[:taken]
        self.clean = not rest and not self._after_cr
        return events

    def _by_lf(self, chunk: bytes, events: list[bytes]) -> list[bytes]:
        """The same for a stream without any CR, as nearly all are."""
        rest = self._rest
        if rest:
            start = len(rest) - 1
            rest += chunk
            end = _behind_blank(rest, start)
            if not end:
                return events
            # The event is cut out by itself: one of megabytes is copied once, and not with all that came behind it.
            events.append(bytes(memoryview(rest)[:end]))
            chunk = bytes(memoryview(rest)[end:])
            rest.clear()
        at = 0
        while (end := _behind_blank(chunk, at)) > at + _LONG_BYTES:
            events.append(chunk[at:end])
            at = end
        *whole, left = chunk[at:].split(b"\n\n") if end else (chunk[at:],)
        rest += left
        self.clean = not left
        events += [event + b"\n\n" for event in whole]
        return events

    def finish(self) -> bytes:
        """What is left when the body ends: bytes of an event that never got its blank line."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def _behind_blank(data: bytes | bytearray, start: int) -> int:
    """Where what follows the first blank line behind `start` begins, 0 = there is none. Lines end with LF alone."""
    end = data.find(b"\n", start) + 1
    for _ in range(_FEW_LINES):
        if not end:
            return 0
        if data.startswith(b"\n", end):
            return end + 1
        end = data.find(b"\n", end) + 1
    found = data.find(b"\n\n", end - 1) if end else -1
    return found + 2 if found >= 0 else 0


def data_of(event: bytes) -> bytes | memoryview | None:
    """The joined `data` of one event, or None when it has none (a comment, a lone `retry:`).

    Of a large event it is a view: images of megabytes are not copied to be read.
    A byte order mark is forgiven before any event; the standard does so before the first.
    """
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2 and event.find(b"\r") < 0:
        return event[6:-2] if len(event) < LARGE_BYTES else memoryview(event)[6:-2]
    lines: list[bytes] = []
    for line in _LINE.split(event.removeprefix(BYTE_ORDER_MARK)):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
