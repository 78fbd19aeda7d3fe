"""Which fields of an answer are kept: those that framing needs, and those that somebody reads.

Vendors send twenty and more in every answer, of which a handful is looked at.
"""

from collections.abc import Collection

from proxy.wire.names import ByName

_FRAMING = frozenset({"content-length", "transfer-encoding", "keep-alive"})


class KeptFields(ByName[str | None]):
    """The name in lower case, None where its field is not kept.

    wanted: names in lower case that are kept beside those of framing; None = all.
    """

    __slots__ = ("_kept",)

    def __init__(self, wanted: Collection[str] | None) -> None:
        super().__init__()
        self._kept = None if wanted is None else _FRAMING.union(wanted)

    def of(self, lower: str) -> str | None:
        return lower if self._kept is None or lower in self._kept else None
