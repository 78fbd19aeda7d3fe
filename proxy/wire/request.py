"""The head of a request, as it was parsed: what the rest of the house knows of it."""

from collections.abc import Mapping

# Methods whose requests have no body here. One that came with a body would be answered before its end was seen.
BODILESS = frozenset({"GET", "HEAD", "DELETE"})


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
