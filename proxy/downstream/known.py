"""Heads that came before: a client sends the same head with every call, and only the length of its body differs.

What llhttp once made of a head's bytes it would make of them again, whatever the length says, so it is not asked again. The rule a
reader could break: a head is remembered only where its bytes were all that decided. It came at the start of a message, in one read
with the whole of its body and nothing else, and one length is all the framing it has.
"""

import re

from proxy.wire.request import RequestHead

MOST_HEADS = 256
LONGEST_HEAD_BYTES = 4096
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(?=\r\n)", re.IGNORECASE)
_FOLDED = re.compile(rb"\r\n[ \t]")


class KnownHead:
    """One of them. before, behind: its bytes around the digits of the length, the blank line included."""

    __slots__ = ("_before", "_behind", "_bytes", "head")

    def __init__(self, before: bytes, behind: bytes, head: RequestHead) -> None:
        self._before = before
        self._behind = behind
        self._bytes = len(before) + len(behind)
        self.head = head

    def __repr__(self) -> str:
        return f"<KnownHead {self._bytes} bytes>"

    def body_at(self, data: bytes) -> int:
        """Where the body begins, if `data` is this head with whatever length, and a body of that length, and nothing else. 0 if not.

        0 also for the few lengths just below a power of ten (9, 98, 99, 997, ...), for llhttp to read: digits and body together are
        what is left of `data`, and there that has one digit more than the body's length.
        """
        rest = len(data) - self._bytes
        length = rest - len(str(rest))
        head = b"%b%d%b" % (self._before, length, self._behind)
        at = len(head)
        return at if len(data) - at == length and data[:at] == head else 0


class KnownHeads:
    """A bounded number of them, by their bytes; the one that has been known longest makes room."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[tuple[bytes, bytes], KnownHead] = {}

    def __repr__(self) -> str:
        return f"<KnownHeads {len(self._heads)}/{MOST_HEADS}>"

    def meet(self, parts: tuple[bytes, bytes], head: RequestHead, *, last: int) -> tuple[KnownHead | None, int]:
        """The head of these parts if it is known, and a mark for the next `last`. It becomes known when it comes twice in a row.

        head: what was read from the parts. last: the mark of whatever came before on the same connection, 0 for nothing.
        """
        mark = hash(parts)
        known = self._heads.get(parts)
        if known is None and mark == last:
            if len(self._heads) >= MOST_HEADS:
                del self._heads[next(iter(self._heads))]
            head.known = True
            known = self._heads[parts] = KnownHead(*parts, head)
        return known, mark


def parts_of(data: bytes, *, method: str, length: int) -> tuple[bytes, bytes] | None:
    """The head before and behind the digits of its length, or None for one that is not to be known by its bytes.

    data: a read that began where a message may begin, and held one message of this method and body length, its last byte included,
    and no other's. None also where something stands around that message.
    """
    end = len(data) - length
    if end > LONGEST_HEAD_BYTES or data.find(b"\r\n\r\n", 0, end) != end - 4 or not data.startswith(method.encode() + b" "):
        return None
    head = data[:end]
    lengths = list(_LENGTH.finditer(head))
    if len(lengths) != 1 or lengths[0][1] != b"%d" % length or _FOLDED.search(head):
        return None
    first, last = lengths[0].span(1)
    return head[:first], head[last:]
