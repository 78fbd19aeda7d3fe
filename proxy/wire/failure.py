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
_MOST_READ = 8000  # of an explanation; no app reads on, and masking costs time
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_PARAM = re.compile(r"[A-Za-z0-9_.\[\]-]{1,128}\Z")
# Last labels of names that are hosts. Those that are English words stay out, and so do most countries: a sentence may lack a space.
_LABELS = "svc|local|internal|intranet|cluster|lan|corp|private|com|net|org|io|ai|dev|app|cloud|co|us|eu|uk|de|cn"
_HEX = "[0-9A-Fa-f]{1,4}"
# What is masked, and by what, in this order. Each takes time in proportion to the text: a run of characters is entered at its start only.
_MASKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"(?i)\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>)]+", "[url]"),
        # keys: by their prefix, by the stars that hide their middle, as a token, or as what only a machine would write
        (r"\b(?:sk|rk|pk|sess|ek)-[A-Za-z0-9_*.\-]{6,}", "[key]"),
        (r"(?<![\w-])(?:sk|rk|pk|gsk|csk|hf|nvapi|xai|pplx|r8|fw)[-_](?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}", "[key]"),
        (r"(?<![\w*-])[\w-]*\*{3,}[\w*-]*", "[key]"),
        (r"\beyJ[\w-]{8,}\.[\w.-]+", "[key]"),
        (r"(?i)\bBearer\s+(?:(?=\S*[\d*])\S{6,}|\S{20,})", "[key]"),
        (r"\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{32,}", "[key]"),
        # who: an id has a digit or a capital, which tells `org-Ab12…` from `user-provided`
        (r"\b(?i:org|proj|user|acct|key|team|ws|cus)[-_](?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}", "[id]"),
        (
            r"(?i)\b((?:organi[sz]ation|project|workspace|tenant|account)(?: id)?[ :=]{1,2}[\"'`]?)(?=[\w.-]*[\d_-])[\w.-]+",
            r"\1[id]",
        ),
        (r"(?i)\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", "[id]"),
        (r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+", "[id]"),
        # where: addresses, names with a port or a telling last label, and what calls itself a host
        (
            rf"(?<![\w.])\[?(?=[A-Fa-f:]{{0,38}}\d)(?:(?:{_HEX}:){{5,7}}{_HEX}|(?:{_HEX}:){{1,7}}:(?:{_HEX}(?::{_HEX})*)?|::{_HEX}(?::{_HEX})*)"
            r"(?:\.\d{1,3}){0,3}(?:%\w+)?\]?(?::\d{1,5})?(?!\w)",
            "[host]",
        ),
        (r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?!\w|\.\d)", "[host]"),
        (r"\bip-\d{1,3}(?:-\d{1,3}){3}\b", "[host]"),
        (rf"(?<![\w.-])(?:[\w-]+\.)+(?:{_LABELS}|{_LABELS.upper()})(?::\d{{1,5}})?(?![\w-])", "[host]"),
        (r"(?<![\w.-])(?=[A-Za-z_]+[\d.-])[A-Za-z][\w.-]*:\d{4,5}(?!\w|:\d)", "[host]"),
        (r"(?i)\b(host(?:name)?=[\"']?)[^\s\"',)]+", r"\1[host]"),
        (r"(?i)\blocalhost(?::\d{1,5})?\b", "[host]"),
    )
)


def public_body(error: ProxyError) -> bytes:
    """The JSON body a client sees: four keys, always."""
    return orjson.dumps({"error": _public(error)})


def stream_event(surface: str, error: ProxyError, *, sequence: int) -> bytes:
    """The last event of a stream that broke: the form on which the official SDKs raise. No `[DONE]` may follow it.

    sequence: the number after the last `sequence_number` seen, for Responses. Its own event is flat, and the Python SDK hands a flat one
    to the app like any other; it raises where `error` stands in it too. Source: facts on the OpenAI API, section 9.
    """
    if surface == "responses":
        event = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": sequence,
            "error": _public(error),
        }
        return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"
    return b"data: " + public_body(error) + b"\n\n"


def _public(error: ProxyError) -> dict[str, str | None]:
    return {"message": error.message, "type": error.type, "param": error.param, "code": error.code}


def masked(text: str, secrets: Sequence[str]) -> str:
    """`text` without keys, hosts and organisation ids, on one line, cut short. secrets: literal strings that must not pass."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[hidden]")
    if len(text) > _MOST_READ:
        text = text[:_MOST_READ].rpartition(" ")[0]  # half a secret would not be known for one
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
            _word(said.get("code"), secrets) or "upstream_error",
            masked(said["message"], secrets) if isinstance(said.get("message"), str) else f"The upstream answered {status}.",
            status=status,
            type=_word(said.get("type"), secrets) or "upstream_error",
            param=_word(said.get("param"), secrets, shape=_PARAM),
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
            _word(code, secrets) or "upstream_error",
            masked(said["message"], secrets),
            type=_word(said.get("type"), secrets) or "upstream_error",
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


def _word(value: Any, secrets: Sequence[str], *, shape: re.Pattern[str] = _WORD) -> str | None:
    """A code, type or param as a word, None when it is none or has something to mask; some servers send integers."""
    text = str(value) if type(value) is int else value
    return text if isinstance(text, str) and shape.match(text) and masked(text, secrets) == text else None
