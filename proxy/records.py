"""Where recorded calls are answered: a desk, made when the first call wants it, or with the process where there is a key for the disk.

The rule a reader could break: nothing of `recording/` is imported before it is needed, and `cryptography` never without a key.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.clock import Clock
from proxy.settings import SettingsError
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from proxy.recording.desk import Desk

Announce = Callable[[Iterable[str], Mapping[str, Any]], None]


class Records:
    """Makes the one desk of the process, and keeps it."""

    def __init__(self, *, clock: Clock, random: Callable[[int], bytes], log: Log, metrics: Metrics, announce: Announce) -> None:
        """announce: tell pages of these names what is known of a task that ended."""
        self._clock = clock
        self._random = random
        self._log = log
        self._metrics = metrics
        self._announce = announce
        self._desk: Desk | None = None

    def __repr__(self) -> str:
        return f"<Records {self._desk!r}>"

    def desk(self) -> "Desk":
        """In memory, unless it was opened on the disk."""
        if self._desk is None:
            from proxy.recording.desk import Books, Desk

            books = Books(self._log, self._metrics, self._announce)
            self._desk = Desk.in_memory(books, clock=self._clock, random=self._random)
        return self._desk

    async def open(self, directory: Path, key: bytes) -> None:
        """On the disk from the start. Errors: StateUnavailable; SettingsError where the package that seals is not installed."""
        from proxy.recording.desk import Books, Desk

        books = Books(self._log, self._metrics, self._announce)
        try:
            self._desk = await Desk.on_disk(directory, key, books, clock=self._clock, random=self._random)
        except ImportError as error:
            remedy = "the package `cryptography` is missing: pip install 'tollhouse[record]', or leave the key out"
            raise SettingsError([f"TOLLHOUSE_RECORD_KEY: {remedy}"]) from error

    async def close(self) -> None:
        if self._desk is not None:
            await self._desk.close()
