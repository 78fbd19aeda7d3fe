"""The only source of randomness. Whoever needs some receives it as a callable n → n bytes; a test hands in its own."""

import os

_BATCH_BYTES = 4096


class Chance:
    """Random bytes of the operating system, fetched in batches: a system call for each id costs more than the id. None is given twice."""

    __slots__ = ("_at", "_batch")

    def __init__(self) -> None:
        self._batch = b""
        self._at = 0

    def __call__(self, count: int) -> bytes:
        """count: at most 4,096."""
        end = self._at + count
        if end > len(self._batch):
            self._batch, self._at, end = os.urandom(_BATCH_BYTES), 0, count
        taken = self._batch[self._at : end]
        self._at = end
        return taken
