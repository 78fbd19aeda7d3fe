"""What the head of an answer may not be, beyond what llhttp refuses. Pure: values in, fixed words for the log out.

The rule a reader could break: whoever is in doubt where a body ends refuses it. Source: RFC 9112, sections 2.3, 6.1 and 6.3; RFC 9110,
section 15.
"""

from collections.abc import Mapping, Sequence

MOST_HEAD_BYTES = 64 << 10
MOST_FIELDS = 200


def fault_of(status: int, version: str, headers: Mapping[str, str], values: Sequence[bytes]) -> str | None:
    """Why a head that llhttp accepts is not accepted here; None where it is. values: of all its fields."""
    if len(values) > MOST_FIELDS or sum(map(len, values)) > MOST_HEAD_BYTES:
        return "head too large"
    if version != "1.1" and version != "1.0":
        return "not HTTP/1"
    if status == 101 or not 100 <= status <= 599:
        return "impossible status"
    coding = headers.get("transfer-encoding")
    if status < 200 and (coding is not None or "content-length" in headers):
        return "interim answer with a body"
    if coding is not None and (coding.lower() != "chunked" or version == "1.0"):
        return "unknown transfer coding"
    return None
