"""What the log and the metrics read of a call that has ended, beside its Kind."""

from typing import Protocol

from proxy.call import Call, Usage


class Ended(Protocol):
    """Times are monotonic nanoseconds, None = that stage was never reached; settle_ns is how long the settlement took."""

    call: Call
    traceparent: str
    upstream_request_id: str | None
    tries: int
    usage: Usage
    cost_nanousd: int
    started_ns: int
    admitted_ns: int | None
    first_byte_ns: int | None
    first_token_ns: int | None
    ended_ns: int
    settle_ns: int | None
