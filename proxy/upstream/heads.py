"""The head of a request, as bytes: request line, Host, the fields of the Ask, the call's own, framing.

What an Ask says is made once and kept. The rule a reader could break: nothing is written that could be read
as two fields or two requests; CR, LF and NUL end the call here, before a byte is sent.
"""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from proxy.upstream.contract import Ask
from proxy.upstream.failure import broken

_MOST_KEPT = 256  # targets come with queries, and fields from clients, so there may be any number
_METHOD = re.compile(r"[A-Z]{1,32}\Z")
_NOT_IN_TARGET = re.compile(r"[^!-~]")
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class Heads:
    """Request heads for one base URL: http or https, host, optional port and path prefix. Errors: ValueError for any other."""

    __slots__ = ("_authority", "_kept", "_prefix", "host", "port", "secure")

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a base URL is http:// or https:// and a host")
        self.secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.secure else 80)
        self._authority = parts.netloc.rpartition("@")[2]
        self._prefix = parts.path.rstrip("/")
        self._kept: dict[Ask, bytes] = {}

    def __repr__(self) -> str:
        return f"<Heads kept={len(self._kept)}>"

    def head(self, ask: Ask, own: Sequence[str], length: int | None) -> bytes:
        """The head with its blank line. length: bytes of the body; None announces chunks.

        Errors: UpstreamError with sent=False when the call cannot be written as one request.
        """
        start = self._kept.get(ask)
        if start is None:
            start = self._start(ask)
            if len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[ask] = start
        if length is None:
            return start + _encoded(own, "transfer-encoding: chunked\r\n\r\n")
        if length or ask.method not in _WITHOUT_BODY:
            return start + _encoded(own, f"content-length: {length}\r\n\r\n")
        return start + _encoded(own, "\r\n")

    def _start(self, ask: Ask) -> bytes:
        """Request line, Host and the fields that come again. Errors: UpstreamError as in `head`."""
        path = self._prefix + ask.target
        if not path.startswith("/"):
            path = f"/{path}"
        if not _METHOD.match(ask.method) or _NOT_IN_TARGET.search(path):
            raise broken("the method or target of the request cannot be sent", sent=False)
        return _encoded((f"{ask.method} {path} HTTP/1.1", f"host: {self._authority}", *ask.fields), "")


def _encoded(lines: Sequence[str], behind: str) -> bytes:
    """Lines of a head, each with its end, and what is `behind` them as it stands.

    Errors: UpstreamError with sent=False for one that is more than a line, or no text.
    """
    bare = "".join(lines)
    if "\n" in bare or "\r" in bare or "\0" in bare:
        raise broken("a field of the request holds CR, LF or NUL", sent=False)
    try:
        # The edge reads header bytes as UTF-8 with surrogates for what is none; this is the way back to the same bytes.
        return "\r\n".join((*lines, behind)).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise broken("a field of the request is not text", sent=False) from error
