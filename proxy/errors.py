"""Every error a client can meet: its code, whose fault it is, and whether to come back.

Errors are values until `edge` renders them, and what it renders is an allow-list: `message`, `type`, `param`, `code`.
`detail` is for the log and is never rendered. The rule a reader could break: a message names the policy and the limit, and never
a host, a path on disk, a key, a stack or another principal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

Source = Literal["client", "policy", "upstream", "proxy", "internal"]


@dataclass(frozen=True, slots=True)
class Code:
    """What one public code means.

    status: HTTP status it is answered with; type: OpenAI's `error.type`; meaning: one line of documentation.
    """

    status: int
    type: str
    meaning: str


_REQUEST = "invalid_request_error"

# The stable, documented words that clients branch on. Changing one is a breaking change.
CODES: Mapping[str, Code] = {
    # the call itself
    "bad_request": Code(400, _REQUEST, "The HTTP request is malformed or ambiguous."),
    "invalid_json": Code(400, _REQUEST, "The body is not valid JSON in UTF-8, or is not an object."),
    "nested_too_deeply": Code(400, _REQUEST, "The JSON body is nested deeper than is accepted."),
    "too_many_values": Code(400, _REQUEST, "The JSON body holds more values than are accepted."),
    "duplicate_field": Code(400, _REQUEST, "A field that decides cost stands twice in the body."),
    "invalid_form": Code(400, _REQUEST, "The body is not a plain multipart form."),
    "invalid_type": Code(400, _REQUEST, "A field has the wrong JSON type."),
    "invalid_value": Code(400, _REQUEST, "A field's value is out of range."),
    "missing_field": Code(400, _REQUEST, "A field that the call needs is absent."),
    "ambiguous_credentials": Code(400, _REQUEST, "More than one key was sent."),
    "not_found": Code(404, _REQUEST, "No such path."),
    "method_not_allowed": Code(405, _REQUEST, "The path exists, but not for this method."),
    "request_timeout": Code(408, _REQUEST, "The request was not sent completely in time."),
    "target_too_long": Code(414, _REQUEST, "The request's target, path and query, is too long."),
    "head_too_large": Code(431, _REQUEST, "The request's head is too large, or has too many fields."),
    "expectation_failed": Code(417, _REQUEST, "The request expects what is not done here."),
    "coding_not_supported": Code(501, _REQUEST, "The request's transfer coding is not known here."),
    "request_too_large": Code(413, _REQUEST, "The body is larger than a policy allows."),
    "unsupported_media_type": Code(415, _REQUEST, "The body's content type or encoding is not accepted here."),
    "upgrade_not_supported": Code(
        400, _REQUEST, "The connection cannot be upgraded, but to a WebSocket on the two paths that take one."
    ),
    "invalid_idempotency_key": Code(400, _REQUEST, "The `Idempotency-Key` is empty, too long or not printable ASCII."),
    "idempotency_key_reused": Code(422, _REQUEST, "The `Idempotency-Key` was used for another call: another path or body."),
    "not_recorded": Code(400, "policy_error", "What the header asks for needs a recording, and no policy records this call."),
    "invalid_event_id": Code(400, _REQUEST, "`Last-Event-ID` or `after` is no id of an event that was sent here."),
    "task_not_found": Code(404, _REQUEST, "There is no such recording, no longer, or it is another caller's."),
    "task_running": Code(409, _REQUEST, "The call has not ended yet; come back after `retry-after`."),
    "task_interrupted": Code(410, "server_error", "The proxy stopped while the call ran; its answer is lost."),
    "task_has_no_events": Code(
        409, _REQUEST, "The answer is no stream of events, or nothing that can be told as one; read the result."
    ),
    "event_not_reached": Code(409, _REQUEST, "The stream has not come to the event after which it should go on."),
    "recording_gap": Code(410, _REQUEST, "What was asked for of a recording is no longer kept."),
    "call_cancelled": Code(409, _REQUEST, "The recorded call was cancelled, by its caller or since nobody read it."),
    "recording_limit_exceeded": Code(429, "rate_limit_error", "Too many recordings that run, or readers that wait, at once."),
    # who calls
    "missing_api_key": Code(401, _REQUEST, "No key was sent, and callers without one are not admitted."),
    "invalid_api_key": Code(401, _REQUEST, "The key is not known here."),
    "expired_api_key": Code(401, _REQUEST, "The key was known and has expired."),
    "too_many_wrong_keys": Code(
        429, "rate_limit_error", "Too many wrong keys came from this address; come back after `retry-after`."
    ),
    # what a policy does not allow
    "path_not_metered": Code(403, "policy_error", "The path has no meter and is not listed under `unmetered`."),
    "model_not_allowed": Code(403, "policy_error", "A policy does not allow this model."),
    "model_not_priced": Code(403, "policy_error", "The model or the service tier has no price, and the policy file denies such."),
    "tool_not_priced": Code(
        403, "policy_error", "The upstream's own tool may be charged for, and has no price under `prices.tools`."
    ),
    "max_tokens_exceeded": Code(400, "policy_error", "The call asks for more output tokens than a policy allows."),
    "rate_limit_exceeded": Code(429, "rate_limit_error", "Too many calls; come back after `retry-after`."),
    "token_limit_exceeded": Code(429, "rate_limit_error", "Too many tokens; come back after `retry-after`."),
    "concurrency_limit_exceeded": Code(429, "rate_limit_error", "Too many calls at once; wait for one to finish."),
    "budget_exceeded": Code(429, "budget_error", "The budget of the window is spent; it turns after `retry-after`."),
    # the upstream
    "upstream_unreachable": Code(502, "upstream_error", "The upstream could not be reached."),
    "upstream_broken": Code(502, "upstream_error", "The upstream's answer was malformed or broke off."),
    "upstream_credentials": Code(502, "upstream_error", "The upstream refused the proxy's own credentials."),
    "upstream_error": Code(502, "upstream_error", "The upstream failed; its status is kept where it is a 5xx."),
    "upstream_unavailable": Code(
        503, "upstream_error", "The upstream failed call after call and is not asked for now; come back after `retry-after`."
    ),
    "answer_too_large": Code(502, "upstream_error", "The upstream's answer is larger than the policy file allows it to be."),
    "upstream_timeout": Code(504, "upstream_error", "The upstream was too slow; the message names the deadline."),
    "client_stalled": Code(408, _REQUEST, "The client stopped reading the answer."),
    # this proxy
    "internal_error": Code(500, "server_error", "A fault of the proxy; the request id finds it in the log."),
    "overloaded": Code(503, "server_error", "The proxy has more to do than it can; come back after `retry-after`."),
    "draining": Code(503, "server_error", "The proxy is shutting down; call again."),
    "state_unavailable": Code(503, "server_error", "The state store does not answer."),
}


class ProxyError(Exception):
    """The root of what `edge` renders.

    code: a key of CODES, or an upstream's own word when its 4xx is relayed; message: one sentence for the client.
    retry_after_s: seconds, ≥ 0, or None for no hint; should_retry: x-should-retry, None leaves it out.
    policy, clause: which policy decided, for refusals. detail: for the log only.
    deadline: which one passed, one of DEADLINES; None where none did.
    status, type: override CODES, for errors that an upstream worded; headers: hints of its own that pass on.
    close: the connection cannot be used again.
    """

    source: ClassVar[Source] = "internal"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        policy: str | None = None,
        clause: str | None = None,
        detail: str | None = None,
        deadline: str | None = None,
        status: int | None = None,
        type: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(code)
        known = CODES.get(code)
        self.code = code
        self.message = message
        self.param = param
        self.status = status if status is not None else (known.status if known else 500)
        self.type = type if type is not None else (known.type if known else "server_error")
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.policy = policy
        self.clause = clause
        self.detail = detail
        self.deadline = deadline
        self.headers = headers
        self.close = close

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {self.code} source={self.source} detail={self.detail!r}>"


class InvalidCall(ProxyError):
    """The client sent something that cannot be right: 4xx, nothing reached an upstream."""

    source = "client"


class NotAdmitted(ProxyError):
    """We do not know who calls, or that caller may not use this path."""

    source = "client"


class Refusal(ProxyError):
    """A policy said no. `policy` and `clause` say which."""

    source = "policy"


class UpstreamError(ProxyError):
    """The upstream failed or refused.

    sent: False while no byte had reached it. ours: it is about our own bounds, and says nothing of the upstream.
    """

    source = "upstream"

    def __init__(self, code: str, message: str, *, sent: bool = True, ours: bool = False, **kwargs: object) -> None:
        super().__init__(code, message, **kwargs)  # type: ignore[arg-type]
        self.sent = sent
        self.ours = ours


class Overloaded(ProxyError):
    """We take no more calls just now."""

    source = "proxy"


class StateUnavailable(ProxyError):
    """The state store failed. A limit that cannot be counted is not enforced by guessing."""

    source = "proxy"
