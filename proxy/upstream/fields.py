"""Which fields of an answer are kept: those that framing needs, and those that somebody reads.

Vendors send twenty and more in every answer, of which a handful is looked at. The rule a reader could break: names come from the
upstream, so what is remembered of them is bounded.
"""

from collections.abc import Collection

_MOST_NAMES = 256
_LONGEST_NAME = 64  # longer ones are made up by somebody
_FRAMING = frozenset({"content-length", "transfer-encoding", "keep-alive"})


class KeptFields(dict[bytes, str | None]):
    """By the bytes of a name as it came: the name in lower case, None where its field is not kept. Made when asked for.

    wanted: names in lower case that are kept beside those of framing; None = all.
    """

    __slots__ = ("_kept",)

    def __init__(self, wanted: Collection[str] | None) -> None:
        super().__init__()
        self._kept = None if wanted is None else _FRAMING.union(wanted)

    def __missing__(self, name: bytes) -> str | None:
        lower = name.decode("latin-1").lower()
        kept = lower if self._kept is None or lower in self._kept else None
        if len(name) <= _LONGEST_NAME and len(self) < _MOST_NAMES:
            self[name] = kept
        return kept
