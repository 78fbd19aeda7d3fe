"""Errors on the wire: ours rendered by allow-list, the upstream's read, masked and reduced to what an app may see.

The rule a reader could break: nothing of an upstream's error reaches a client but a masked explanation of a 4xx about the request
itself. A 5xx body may hold anything, so none of it passes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from proxy.errors import ProxyError, UpstreamError

# A 4xx that is about the request, and so worth explaining to the app.
EXPLAINED = frozenset({400, 403, 404, 409, 413, 422, 429})
PASSED_HINTS = ("retry-after", "retry-after-ms", "x-should-retry")
_MOST_TEXT = 2000
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_PARAM = re.compile(r"[A-Za-z0-9_.\[\]-]{1,128}\Z")
_MASKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:https?|wss?)://[^\s\"'<>)]+", re.I), "[url]"),
    (re.compile(r"\b(?:sk|rk|pk|sess|ek)-[A-Za-z0-9_*.\-]{6,}"), "[key]"),
    (re.compile(r"\bBearer\s+\S+", re.I), "[key]"),
    (re.compile(r"\b(?:org|proj|user|acct|key)[-_][A-Za-z0-9]{8,}"), "[id]"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "[host]"),
    (re.compile(r"\[?(?:[0-9a-fA-F]{0,4}:){3,}[0-9a-fA-F]{0,4}\]?(?::\d+)?"), "[host]"),
    (re.compile(r"\b(?:[A-Za-z0-9-]+\.)+(?:svc|local|internal|cluster|lan|corp|com|net|org|io|ai|dev)\b(?::\d+)?", re.I), "[host]"),
    (re.compile(r"\blocalhost(?::\d+)?\b", re.I), "[host]"),
)


def public_body(error: ProxyError) -> bytes:
    """The JSON body a client sees: four keys, always."""
    return orjson.dumps({"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}})


def stream_event(surface: str, error: ProxyError, *, sequence: int) -> bytes:
    """The last event of a stream that broke: the form on which the official SDKs raise. No `[DONE]` may follow it.

    sequence: the number after the last `sequence_number` seen, for Responses. Source: facts on the OpenAI API, section 9.
    """
    if surface == "responses":
        flat = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": sequence,
        }
        return b"event: error\ndata: " + orjson.dumps(flat) + b"\n\n"
    return b"data: " + public_body(error) + b"\n\n"


def masked(text: str, secrets: Sequence[str]) -> str:
    """`text` without keys, hosts and organisation ids, on one line, cut short. secrets: literal strings that must not pass."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[hidden]")
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"


def upstream_refusal(status: int, body: bytes, headers: Mapping[str, str], *, secrets: Sequence[str]) -> UpstreamError:
    """What to tell the app of an upstream's answer that is no success.

    status: any but 2xx; body: the first bytes of the answer's body; headers: names in lower case. Never raises.
    """
    hints = tuple((name, headers[name]) for name in PASSED_HINTS if name in headers)
    if status == 401:
        return UpstreamError("upstream_credentials", "The upstream refused the proxy's credentials; the operator must mend them.")
    if 300 <= status < 400:
        return UpstreamError("upstream_broken", "The upstream answered with a redirect, which is not followed.")
    if status in EXPLAINED:
        said = _explanation(body)
        return UpstreamError(
            _word(said.get("code")) or "upstream_error",
            masked(said["message"], secrets) if isinstance(said.get("message"), str) else f"The upstream answered {status}.",
            status=status,
            type=_word(said.get("type")) or "upstream_error",
            param=said["param"] if isinstance(said.get("param"), str) and _PARAM.match(said["param"]) else None,
            headers=hints,
        )
    kept = status if 400 <= status < 600 else 502
    return UpstreamError("upstream_error", f"The upstream failed with status {status}.", status=kept, headers=hints)


def in_band_refusal(error: Any, *, secrets: Sequence[str]) -> UpstreamError:
    """What to tell the app of an error that the upstream put into its stream."""
    said = error if isinstance(error, Mapping) else {}
    code = said.get("code")
    explained = (isinstance(code, int) and code in EXPLAINED) or said.get("type") == "invalid_request_error"
    if explained and isinstance(said.get("message"), str):
        return UpstreamError(
            _word(code) or "upstream_error", masked(said["message"], secrets), type=_word(said.get("type")) or "upstream_error"
        )
    return UpstreamError("upstream_error", "The upstream reported an error in its stream.")


def _explanation(body: bytes) -> Mapping[str, Any]:
    """The error object of a body, in OpenAI's shape or bare (`{"message": …}`, `{"detail": "…"}`), else nothing."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(said, Mapping):
        return {}
    error = said.get("error", said)
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, Mapping):
        return {}
    return error if "message" in error else {"message": error.get("detail")}


def _word(value: Any) -> str | None:
    """A code or type as a word; some servers send integers."""
    if isinstance(value, bool) or value is None:
        return None
    text = str(value) if isinstance(value, int) else value
    return text if isinstance(text, str) and _WORD.match(text) and not any(p.search(text) for p, _ in _MASKS) else None
