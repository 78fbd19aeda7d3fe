"""Which header fields pass, both ways: an allow-list each, so a new secret in a new field stays where it is.

The rule a reader could break: fields that `Connection` names are dropped from what the client sent before ours are added, so a client
cannot strike out a field that we rely on. Source: RFC 9110, section 7.6.1.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from proxy.errors import InvalidCall

# Towards the upstream. `content-type` is set by the pipeline; `user-agent` names the app's SDK, which vendors ask for.
_ASKED = frozenset({"accept", "content-type", "user-agent", "openai-beta", "priority", "x-client-request-id"})
_ASKED_PREFIX = "x-stainless-"
# Towards the app. Rate-limit fields of the upstream describe our account with it, not the app's allowance, and stay here.
_ANSWERED = frozenset(
    {"content-type", "content-encoding", "content-disposition", "content-language", "openai-processing-ms", "openai-version"}
    | {"openai-model", "x-pretend", "retry-after", "retry-after-ms", "x-should-retry"}
)
# What `Connection` says when it names no field; ours are never among those that are asked for, but a policy file may list one.
_PLAIN = frozenset({"keep-alive", "close", "Keep-Alive"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z")
_SINGLE = ("authorization", "api-key", "content-type", "content-length", "idempotency-key", "host")


def refuse_ambiguous(headers: Iterable[tuple[str, str]]) -> None:
    """Refuse a field that may stand once and stands twice. headers: names in any case. Source: RFC 9110, section 5.3."""
    seen: set[str] = set()
    for name, _ in headers:
        single = _single(name)
        if single is not None:
            if single in seen:
                code = "ambiguous_credentials" if single in ("authorization", "api-key") else "bad_request"
                raise InvalidCall(code, f"The header '{single}' was sent twice.")
            seen.add(single)


@lru_cache(maxsize=1024)
def _single(name: str) -> str | None:
    """The lower-case name of a field that may stand once, None for any other. Remembered: clients send the same names in every call."""
    lower = name.lower()
    return lower if lower in _SINGLE else None


@lru_cache(maxsize=1024)
def _asked(name: str) -> str | None:
    """The lower-case name of a field that goes upstream, or is `connection`; None for any other. Remembered like `_single`."""
    lower = name.lower()
    return lower if lower in _ASKED or lower.startswith(_ASKED_PREFIX) or lower == "connection" else None


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


def towards_upstream(
    headers: Iterable[tuple[str, str]], *, extra: Sequence[str], ours: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """What goes upstream: the allowed fields of the client, then ours. extra: more names that the policy file lets pass, lower case.

    A field of ours replaces the client's of the same name.
    """
    kept: list[tuple[str, str]] = []
    named = ""
    for sent, value in headers:
        name = _asked(sent) or (sent.lower() if extra and sent.lower() in extra else None)
        if name == "connection":
            named = f"{named},{value}" if named else value
        elif name is not None:
            kept.append((name, value))
    if extra or (named and named not in _PLAIN):
        dropped = {word.strip().lower() for word in named.split(",")} | {name for name, _ in ours}
        kept = [(name, value) for name, value in kept if name not in dropped]
    kept += ours
    return kept


def towards_client(headers: Mapping[str, str]) -> dict[str, str]:
    """What of an upstream's answer goes to the app. headers: names in lower case. The upstream's request id gets a name of its own."""
    kept = {name: value for name, value in headers.items() if name in _ANSWERED}
    upstream_id = sane_request_id(headers.get("x-request-id"))
    if upstream_id is not None:
        kept["x-upstream-request-id"] = upstream_id
    return kept
