"""The head of a request, as it was parsed: what the rest of the house knows of it."""

import re
from collections.abc import Mapping

# A name or an address, and a port. Whoever reads more into it than that may be led elsewhere by it.
_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")


def is_faulty(version: str, headers: Mapping[str, str]) -> bool:
    """Whether a head that llhttp accepts is no request of HTTP/1. headers: names in lower case. Source: RFC 9112, sections 3.2 and 6.1."""
    host, coding = headers.get("host"), headers.get("transfer-encoding")
    if host is not None and not _HOST.match(host):
        return True
    if version == "1.1":
        return host is None or (coding is not None and coding.lower() != "chunked")
    return version != "1.0" or coding is not None


class RequestHead:
    """Not changed once it is made. Equal only to itself, so that what is found out about it can be remembered by it.

    method, target: as on the request line. headers: names in lower case, a repeated name's values joined by ", "; repeated: those
    names. The length of the body is not part of it. keep: the client lets the connection live on. modern: it speaks HTTP/1.1.
    known: more requests have this very head, or are likely to; else whatever is remembered by it is remembered for nothing.
    """

    __slots__ = ("headers", "keep", "known", "method", "modern", "repeated", "target")

    def __init__(
        self, *, method: str, target: str, headers: Mapping[str, str], repeated: tuple[str, ...] = (), keep: bool, modern: bool
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.repeated = repeated
        self.keep = keep
        self.modern = modern
        self.known = False

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} headers={len(self.headers)} known={self.known}>"
