"""What the head of a request may not be, beyond what llhttp refuses, and what whoever sent it is told. Pure: values in, a rejection out.

The rule a reader could break: nothing of what was sent stands in what is answered, counted or logged.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from proxy.errors import InvalidCall
from proxy.wire.request import BODILESS

MOST_HEAD_BYTES = 32 << 10
MOST_TARGET_BYTES = 8 << 10
MOST_FIELDS = 100

# A name or an address, and a port. Whoever reads more into it than that may be led elsewhere by it.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")

# llhttp takes the versions of RTSP for those of HTTP, and does not say which it saw.
OTHER_PROTOCOL = re.compile(rb"\s*[A-Z]+ +\S+ +RTSP/")

# The reasons, as in the metric.
REASONS = (
    "malformed",
    "host",
    "target_too_long",
    "head_too_large",
    "coding",
    "expectation",
    "method",
    "body",
    "header_read",
)


class Rejection(NamedTuple):
    """Why something is no request here: one of REASONS, and what its sender is told."""

    reason: str
    error: InvalidCall


def malformed() -> Rejection:
    return Rejection("malformed", InvalidCall("bad_request", "The HTTP request is malformed.", close=True))


def late() -> Rejection:
    message = "The head of the request was not sent in time (deadline: header_read)."
    return Rejection("header_read", InvalidCall("request_timeout", message, deadline="header_read", close=True))


def too_large(target_bytes: int) -> Rejection:
    """The rejection of a head that is too large. target_bytes: of the target, so far."""
    if target_bytes > MOST_TARGET_BYTES:
        error = InvalidCall("target_too_long", f"A request's target may have {MOST_TARGET_BYTES} bytes.", close=True)
        return Rejection("target_too_long", error)
    message = f"A request's head may have {MOST_HEAD_BYTES} bytes and {MOST_FIELDS} fields."
    return Rejection("head_too_large", InvalidCall("head_too_large", message, close=True))


def fault_of(
    method: str, target: bytes, version: str, headers: Mapping[str, str], repeated: int, *, large: bool
) -> Rejection | None:
    """Why a head that llhttp accepts is not accepted here; None where it is.

    headers: names in lower case; repeated: how many fields stood beside the first of their name. large: the whole may be too large.
    Source: RFC 9112, sections 2.3, 3.2, 6.1; RFC 9110, sections 9.3.6, 9.3.8, 10.1.1, 15.5.15, 15.6.2; RFC 6585, section 5.
    """
    size = len(target) + (sum(map(len, headers)) + sum(map(len, headers.values())) if large else 0)
    if len(target) > MOST_TARGET_BYTES or len(headers) + repeated > MOST_FIELDS or size > MOST_HEAD_BYTES:
        return too_large(len(target))
    coding = headers.get("transfer-encoding")
    modern = version == "1.1"
    if not modern and (version != "1.0" or coding is not None):
        return malformed()
    host = headers.get("host")
    if modern if host is None else not _HOST.match(host):
        return Rejection("host", InvalidCall("bad_request", "The header 'host' is missing, or names no host.", close=True))
    if coding is not None and coding.strip().lower() != "chunked":
        return Rejection("coding", InvalidCall("coding_not_supported", "No transfer coding but 'chunked' is accepted.", close=True))
    if method == "TRACE" or method == "CONNECT":
        allow = (("allow", "GET, HEAD, POST, PUT, PATCH, DELETE"),)
        return Rejection(
            "method", InvalidCall("method_not_allowed", "This method is not accepted here.", headers=allow, close=True)
        )
    if method in BODILESS and (coding is not None or headers.get("content-length", "0").strip("0")):
        return Rejection("body", InvalidCall("bad_request", f"A {method} request has no body here.", close=True))
    if modern and headers.get("expect", "100-continue").lower() != "100-continue":
        return Rejection("expectation", InvalidCall("expectation_failed", "Only '100-continue' can be expected.", close=True))
    return None
