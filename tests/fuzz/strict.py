"""A second opinion on requests: the strictest reader of HTTP/1.1 that still takes what clients send, in sixty lines.

It shares nothing with llhttp. What it does not read is not to be forwarded by anybody; what it does read means the same to us. The
rule a reader could break: in doubt it says no, so a request is only ever added to what it reads with a reason from RFC 9112.
"""

import re
from typing import NamedTuple

# llhttp takes RTSP's version for HTTP's, and says nothing of it; the upstream is spoken to in HTTP/1.1 all the same.
_LINE = re.compile(rb"([A-Z]{3,32}) +([!-~\x80-\xff]+) +(?:HTTP|RTSP)/1\.([01])\Z")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)[ \t]*\Z")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?\Z")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")
_DIGITS = re.compile(rb"[0-9]{1,19}\Z")


class Read(NamedTuple):
    """A request that means one thing. fields: in lower case, in order; body: without its framing, None while it is not whole."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes | None

    def of(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known == name]


def read_all(data: bytes) -> list[Read]:
    """The requests at the beginning of some bytes, up to the first that is none, or that is not whole, or behind which nothing may come."""
    found: list[Read] = []
    at = 0
    while True:
        while data[at : at + 1] in (b"\r", b"\n"):  # section 2.2: an empty line before a request is forgiven
            at += 1
        end = data.find(b"\r\n\r\n", at)
        read = _head(data[at:end]) if end >= 0 else None
        if read is None:
            return found
        request, framing = read
        whole = body_at(data, end + 4, framing)
        if whole is None:
            return [*found, request._replace(body=None)]
        body, at = whole
        found.append(request._replace(body=body))


def _head(head: bytes) -> tuple[Read, bytes] | None:
    """A request without its body, and its framing: digits, or b"chunked"."""
    first, *lines = head.split(b"\r\n")
    match = _LINE.match(first)
    if match is None:
        return None
    fields = []
    for line in lines:
        field = FIELD.match(line)
        if field is None:
            return None
        fields.append((field[1].lower(), field[2]))
    request = Read(match[1], match[2], fields, None)
    lengths, codings = request.of(b"content-length"), request.of(b"transfer-encoding")
    if len(lengths) + len(codings) > 1 or len(request.of(b"host")) > 1:
        return None
    hosts = request.of(b"host")
    if not all(map(_HOST.match, hosts)) or (not hosts and match[3] == b"1"):
        return None
    if codings:
        return (request, b"chunked") if codings[0].lower() == b"chunked" and match[3] == b"1" else None
    if lengths and not _DIGITS.match(lengths[0]):
        return None
    return request, lengths[0] if lengths else b"0"


def body_at(data: bytes, at: int, framing: bytes) -> tuple[bytes, int] | None:
    """The body that begins there, and where it ends; None for one that is not whole, or is no body."""
    if framing != b"chunked":
        end = at + int(framing)
        return (data[at:end], end) if end <= len(data) else None
    pieces = []
    while True:
        line = data.find(b"\r\n", at)
        match = _SIZE.match(data[at:line]) if line >= 0 else None
        if match is None:
            return None
        size, at = int(match[1], 16), line + 2
        if size == 0:
            break
        if data[at + size : at + size + 2] != b"\r\n":
            return None
        pieces.append(data[at : at + size])
        at += size + 2
    while not data.startswith(b"\r\n", at):  # trailers
        line = data.find(b"\r\n", at)
        if line < 0 or not FIELD.match(data[at:line]):
            return None
        at = line + 2
    return b"".join(pieces), at + 2
