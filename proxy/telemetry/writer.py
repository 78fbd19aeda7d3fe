"""One thread that writes lines to a file descriptor, so that whoever logs never waits for whoever reads.

Lines wait in a bounded queue, are gathered for some milliseconds and written together: one system call and one waking of the reader
for many lines. Nothing here knows what a line says. The rule a reader could break: `put` may be called from a destructor in the
middle of anything, also of another `put`, so it takes no lock; SimpleQueue is the one queue that is safe for that. And each counter is
changed by one thread only.
"""

import os
import select
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

_BATCH_LINES = 512


class LineWriter:
    """Started when made; `close` ends it. tell: renders the line that says how many lines were lost."""

    def __init__(self, fd: int, *, most_lines: int, gather_s: float, tell: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._most_lines = most_lines
        self._gather_s = gather_s
        self._tell = tell
        self._queue: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._closed = False
        self._turned_away = 0  # changed by whoever puts
        # Lines beyond the first of each item in the queue: the difference.
        self._joined = 0  # changed by whoever puts lines together
        self._parted = 0  # changed by the thread only
        self._unwritten = 0  # changed by the thread only
        self._told = 0
        # A daemon: a reader that never comes back must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LineWriter fd={self._fd} waiting={self._waiting()}/{self._most_lines} dropped={self.dropped}>"

    @property
    def dropped(self) -> int:
        """Lines that were turned away because too many waited, or that the descriptor did not take."""
        return self._turned_away + self._unwritten

    def put(self, line: bytes) -> None:
        """Queue one line, which ends in a line feed; or drop and count it."""
        if self._closed or self._waiting() >= self._most_lines:
            self._turned_away += 1
        else:
            self._queue.put([line])

    def put_together(self, lines: list[bytes]) -> None:
        """Queue many lines as one; those that find no room are dropped and counted. For one thread only, and it keeps no hold of them."""
        room = 0 if self._closed else max(0, self._most_lines - self._waiting())
        self._turned_away += len(lines[room:])
        if lines := lines[:room]:
            self._joined += len(lines) - 1
            self._queue.put(lines)

    def close(self, *, within_s: float) -> None:
        """Write what is queued and end the thread. Returns after `within_s` at the latest. Any number of times."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join(within_s)

    def _waiting(self) -> int:
        """Lines in the queue."""
        return self._queue.qsize() + self._joined - self._parted

    def _run(self) -> None:
        last = False
        while not last:
            lines: list[bytes] = []
            last = self._take(lines)
            time.sleep(self._gather_s)
            while not last and len(lines) < _BATCH_LINES and not self._queue.empty():
                last = self._take(lines)
            try:
                self._write(b"".join(lines))
            except OSError:  # the reader is gone or the disk is full, and a log has nowhere to say so but on a metric
                self._unwritten += len(lines)
                continue
            self._tell_losses()

    def _take(self, lines: list[bytes]) -> bool:
        """Wait for what was put next and move it over to `lines`. Whether it was the end."""
        put = self._queue.get()
        if put is None:
            return True
        self._parted += len(put) - 1
        lines += put
        return False

    def _tell_losses(self) -> None:
        lost = self.dropped - self._told
        if not lost:
            return
        try:
            self._write(self._tell(lost))
        except OSError:
            return
        self._told += lost

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # whoever shares our standard output may have made it non-blocking
                select.select([], [self._fd], [])
