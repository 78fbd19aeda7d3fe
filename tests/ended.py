"""A call that ended, as telemetry reads it, and its kind. Times are nanoseconds from a start at 1 s."""

from dataclasses import dataclass, replace
from typing import Any

from proxy.call import Call, Kind, Principal, Surface, Usage

CHAT = Surface(name="chat", path="/v1/chat/completions")
MS = 1_000_000
START_NS = 1000 * MS


@dataclass
class EndedCall:
    call: Call
    traceparent: str
    upstream_request_id: str | None = "up_9"
    tries: int = 1
    usage: Usage = Usage(input_tokens=312, output_tokens=45, cached_tokens=100)
    cost_nanousd: int = 1_234_567
    started_ns: int = START_NS
    admitted_ns: int | None = START_NS + MS // 2
    first_byte_ns: int | None = START_NS + 300 * MS + MS // 2
    first_token_ns: int | None = START_NS + 350 * MS
    ended_ns: int = START_NS + 1300 * MS + MS // 2
    settle_ns: int | None = 2 * MS


CALL = Call(
    id="req_1",
    method="POST",
    path="/v1/chat/completions",
    surface=CHAT,
    principal=Principal(key="web", user="ada"),
    body=b'{"messages": [{"content": "the prompt"}]}',
    model_asked="gpt-4",
    model="gpt-4.1",
    stream=True,
)
ENDED = EndedCall(CALL, f"00-{'ab' * 16}-{'cd' * 8}-02")
KIND = Kind(
    key="web",
    surface="chat",
    model_asked="gpt-4",
    model="gpt-4.1",
    model_served="gpt-4.1-2025",
    upstream="openai",
    stream=True,
    status=200,
    ending="completed",
    error=None,
    deadline=None,
    refused_by=None,
    clamps=(),
    usage_source="reported",
    usage_nonsense=False,
    price_version="2026-11",
    policy_version="v7",
)
REFUSED_KIND = KIND._replace(
    status=429,
    ending="refused",
    model_served=None,
    upstream=None,
    error="rate_limit_exceeded",
    refused_by=("everyone", "rate_limit"),
    usage_source=None,
)
REFUSED = replace(
    ENDED,
    upstream_request_id=None,
    usage=Usage(),
    cost_nanousd=0,
    admitted_ns=None,
    first_byte_ns=None,
    first_token_ns=None,
    ended_ns=START_NS + MS // 2,
    settle_ns=None,
)


def ended(call: dict[str, Any] | None = None, **changes: Any) -> EndedCall:
    """ENDED with other fields, and its call with others of its own."""
    return replace(ENDED, **({"call": replace(CALL, **call)} if call else {}), **changes)
