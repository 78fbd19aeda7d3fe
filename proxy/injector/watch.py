"""Which files are in force: they are looked at for as long as the process lives, and what depends on them is told of a change.

They are compared by content and reached by the path that was given, as the policy file is, so the `..data` symlink of a mounted
ConfigMap or Secret is a change like any other. The rule a reader could break: files that cannot be used change nothing, and are
reported once.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from proxy.policy.watched import digest
from proxy.telemetry.faults import report
from proxy.telemetry.logs import Log

LOOK_S = 1.0


class Watch:
    """files: looked at together; what differs from how they were when this was made is a change. load: called in a thread once they have
    changed and settled; it reports its own mistakes.
    """

    def __init__(self, files: Sequence[Path], load: Callable[[], None], *, log: Log) -> None:
        self._files = files
        self._load = load
        self._log = log
        self._loaded = self._last = self._look()

    def __repr__(self) -> str:
        return f"<Watch {', '.join(map(str, self._files))}>"

    async def run(self, *, every_s: float = LOOK_S) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:  # a last line of defence: what is in force stays, and the next look comes
                report(self._log, error, where="file watch")

    def look(self) -> None:
        """Load what has changed. Two looks in a row must agree, or a file could be caught half-written."""
        look = self._look()
        settled, self._last = look == self._last, look
        if settled and look != self._loaded:
            self._loaded = look
            self._load()

    def _look(self) -> tuple[bytes | None, ...]:
        return tuple(map(digest, self._files))
