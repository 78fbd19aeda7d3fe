"""One HTTP reply, taken apart as it comes. Sans-IO; it knows the two framings that a subject may use, and refuses the rest."""


class BadReply(Exception):
    """The subject did not hand on what the upstream said."""


class Reply:
    """over: the reply is whole."""

    __slots__ = ("_body", "_headed", "_left", "_pending", "over")

    def __init__(self) -> None:
        self.over = False
        self._headed = False
        self._left: int | None = None  # bytes still to come, None for chunks
        self._pending = b""
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> int:
        """How many bytes of the body these completed. Errors: BadReply."""
        if self.over:
            raise BadReply(f"bytes after the end: {data[:200]!r}")
        self._pending += data
        if not self._headed and not self._head():
            return 0
        try:
            return self._chunks() if self._left is None else self._plain(self._left)
        except ValueError:
            raise BadReply(f"malformed chunk: {data[:200]!r}") from None

    def body(self) -> bytes:
        return b"".join(self._body)

    def check(self, expected: bytes) -> None:
        """Errors: BadReply, unless it is whole and its body is the expected one."""
        body = self.body()
        if body != expected:
            raise BadReply(f"{len(body)} bytes instead of {len(expected)}: {body[:200]!r} … {body[-200:]!r}")
        if not self.over:
            raise BadReply(f"no end after {len(body)} bytes")

    def _head(self) -> bool:
        head, found, rest = self._pending.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise BadReply(f"not a 200: {self._pending[:600]!r}")
        low = head.lower()
        at = low.find(b"\r\ncontent-length:")
        if at >= 0:
            self._left = int(low[at + 17 :].split(b"\r\n", 1)[0])
        elif b"\r\ntransfer-encoding: chunked" not in low:
            raise BadReply(f"no framing: {head!r}")
        self._pending, self._headed = rest, True
        return True

    def _plain(self, left: int) -> int:
        taken, self._pending = self._pending, b""
        if len(taken) > left:
            raise BadReply(f"bytes after the end: {taken[left:][:200]!r}")
        self._left = left - len(taken)
        self.over = self._left == 0
        self._body.append(taken)
        return len(taken)

    def _chunks(self) -> int:
        """Takes whole chunks only: they are small."""
        pending, at, got = self._pending, 0, 0
        while (line := pending.find(b"\r\n", at)) >= 0:
            size = int(pending[at:line], 16)
            end = line + 2 + size
            if len(pending) < end + 2:
                break
            if pending[end : end + 2] != b"\r\n":
                raise BadReply(f"a chunk of {size} bytes ends in {pending[end : end + 2]!r}")
            at = end + 2
            if size == 0:
                self.over = True
                if at < len(pending):
                    raise BadReply(f"bytes after the end: {pending[at:][:200]!r}")
                break
            self._body.append(pending[line + 2 : end])
            got += size
        self._pending = pending[at:]
        return got
