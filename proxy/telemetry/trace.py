"""W3C trace context: which trace a call belongs to, and what the upstream is told of it.

Pure: randomness is passed in. Only `traceparent` is carried. `tracestate` and `baggage` are never forwarded: they may hold personal
data, and the upstream is a third party. The rule a reader could break: a `traceparent` that is wrong in any way starts a new trace
and is never repaired, because half of somebody's trace id joins calls that have nothing to do with each other.
"""

import re
from dataclasses import dataclass

# W3C Trace Context, level 2. A version after 00 may append fields, but only behind a dash; its first 55 characters read the same.
_TRACEPARENT = re.compile(r"(?!ff)(?P<version>[0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<more>-.*)?", re.DOTALL)
_SAMPLED = 0x01
_RANDOM = 0x02  # the trace id is random; copied when continuing, true of every id made here
_KNOWN_FLAGS = _SAMPLED | _RANDOM
TRACE_BYTES = 24  # random ones of a span id and a trace id
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


@dataclass(slots=True)
class Trace:
    """Where a call stands in its trace.

    trace_id: 32 lower-case hex digits; span_id: 16, ours for this call; parent_id: the caller's span, None in a new trace.
    flags: the bits of trace-flags that have a meaning today. Never changed, and not frozen, as a Usage.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    flags: int

    @property
    def sampled(self) -> bool:
        return bool(self.flags & _SAMPLED)

    def header(self) -> str:
        """The `traceparent` to send on: the same trace, with our span as the parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def continue_trace(traceparent: str | None, *, random: str) -> Trace:
    """The caller's trace with a span of our own, or a new trace when the header is absent or invalid.

    random: TRACE_BYTES of them, in hex. A caller that must not choose its trace id is passed as None.
    """
    span_id, trace_id = random[:16], random[16:]
    if span_id == _NO_SPAN:
        span_id = span_id[:-1] + "1"
    if traceparent and (caller := _parse(traceparent)) is not None:
        trace_id, parent_id, flags = caller
        return Trace(trace_id, span_id, parent_id, flags & _KNOWN_FLAGS)
    if trace_id == _NO_TRACE:
        trace_id = trace_id[:-1] + "1"
    return Trace(trace_id, span_id, None, _RANDOM)


def _parse(traceparent: str) -> tuple[str, str, int] | None:
    """Trace id, parent id and flags, or None for a header that is wrong in any way."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    trace_id, parent_id, flags = match.group(2, 3, 4)
    if trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    return trace_id, parent_id, int(flags, 16)
