"""W3C trace context: which trace a call belongs to, and what the upstream is told of it.

Pure: randomness is passed in. Only `traceparent` is carried. `tracestate` and `baggage` are never forwarded: they may hold personal
data, and the upstream is a third party. The rule a reader could break: a `traceparent` that is wrong in any way starts a new trace
and is never repaired, because half of somebody's trace id joins calls that have nothing to do with each other.
"""

import re

# W3C Trace Context, level 2. A version after 00 may append fields, but only behind a dash; its first 55 characters read the same.
_TRACEPARENT = re.compile(r"(?!ff)(?P<version>[0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<more>-.*)?", re.DOTALL)
_KNOWN_FLAGS = 0x03  # sampled, and: the trace id is random, which is copied when continuing, and true of every id made here
TRACE_BYTES = 24  # random ones of a span id and a trace id
TRACE_ID = slice(3, 35)  # of a `traceparent`: 32 lower-case hex digits
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


def continue_trace(traceparent: str | None, *, random: str) -> str:
    """The `traceparent` to send on: the caller's trace with a span of our own as the parent.

    It is a new trace when the caller's header is absent or invalid.

    random: TRACE_BYTES of them, in hex. A caller that must not choose its trace id is passed as None.
    """
    span_id, trace_id = random[:16], random[16:]
    if span_id == _NO_SPAN:
        span_id = span_id[:-1] + "1"
    if traceparent and (caller := _parse(traceparent)) is not None:
        trace_id, flags = caller
        return f"00-{trace_id}-{span_id}-{flags & _KNOWN_FLAGS:02x}"
    if trace_id == _NO_TRACE:
        trace_id = trace_id[:-1] + "1"
    return f"00-{trace_id}-{span_id}-02"


def _parse(traceparent: str) -> tuple[str, int] | None:
    """Trace id and flags, or None for a header that is wrong in any way."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    trace_id, parent_id, flags = match.group(2, 3, 4)
    if trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    return trace_id, int(flags, 16)
