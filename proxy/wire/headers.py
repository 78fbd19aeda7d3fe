"""Which header fields pass, both ways: an allow-list each, so a new secret in a new field stays where it is.

The rule a reader could break: fields that `Connection` names are dropped from what the client sent before ours are added, so a client
cannot strike out a field that we rely on. Source: RFC 9110, section 7.6.1.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from proxy.errors import InvalidCall

# Towards the upstream. `content-type` is set by the pipeline; `user-agent` names the app's SDK, which vendors ask for.
_ASKED = frozenset({"accept", "content-type", "user-agent", "openai-beta", "priority", "x-client-request-id"})
_ASKED_PREFIX = "x-stainless-"
# Towards the app. Rate-limit fields of the upstream describe our account with it, not the app's allowance, and stay here.
_ANSWERED = frozenset(
    {"content-type", "content-encoding", "content-disposition", "content-language", "openai-processing-ms", "openai-version"}
    | {"openai-model", "x-pretend", "retry-after", "retry-after-ms", "x-should-retry"}
)
# What anybody here looks at in an upstream's answer; the client keeps nothing else.
READ_OF_ANSWERS = _ANSWERED | {"x-request-id", "content-length"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")
_SINGLE = frozenset({"authorization", "api-key", "content-type", "content-length", "idempotency-key", "host"})


def refuse_ambiguous(repeated: Iterable[str]) -> None:
    """Refuse a field that may stand once and stands twice. repeated: names in lower case. Source: RFC 9110, section 5.3."""
    for name in repeated:
        if name in _SINGLE:
            code = "ambiguous_credentials" if name in ("authorization", "api-key") else "bad_request"
            raise InvalidCall(code, f"The header '{name}' was sent twice.")


def presented_key(authorization: str | None, api_key: str | None) -> str | None:
    """The key a caller shows, or None. Errors: InvalidCall for two of them, or a scheme that is not Bearer."""
    if authorization is None:
        return api_key
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise InvalidCall("bad_request", "The header 'authorization' must read 'Bearer KEY'.")
    if api_key is not None:
        raise InvalidCall("ambiguous_credentials", "Both 'authorization' and 'api-key' were sent; send one of them.")
    return key.strip()


def sane_request_id(value: str | None) -> str | None:
    """The client's request id when it can be kept: a short word that is safe in a log line and a header."""
    return value if value is not None and _REQUEST_ID.match(value) else None


def towards_upstream(headers: Mapping[str, str], *, extra: Sequence[str], ours: Sequence[str], own: Sequence[str]) -> list[str]:
    """What goes upstream in every call with these headers, as lines `name: value`: the allowed fields of the client, then ours.

    headers: names in lower case. extra: more names that the policy file lets pass, lower case. ours: lines, names in lower case; own:
    names of the lines that the call will add. One of ours or its own replaces the client's of the same name.
    """
    named = headers.get("connection", "")
    stays = {word.strip().lower() for word in named.split(",")} | {line.partition(":")[0] for line in ours} | {*own}
    passing = [name for name in headers if (_passes(name) or name in extra) and name not in stays]
    return [*(f"{name}: {headers[name]}" for name in passing), *ours]


def _passes(name: str) -> bool:
    """Whether a client's field goes upstream."""
    return name in _ASKED or name.startswith(_ASKED_PREFIX)


def towards_client(headers: Mapping[str, str], *, request_id: str | None) -> list[str]:
    """The lines of an upstream's answer that go to the app.

    headers: names in lower case. request_id: the upstream's, if it is a sane one.
    """
    lines = []
    for name, value in headers.items():
        if name in _ANSWERED:
            lines.append(f"{name}: {value}")
    if request_id is not None:
        lines.append(f"x-upstream-request-id: {request_id}")
    return lines
