"""One thread that writes lines to a file descriptor, so that whoever logs never waits for whoever reads.

Lines wait in a bounded queue, are gathered for some milliseconds and written together: one system call and one waking of the reader
for many lines. Nothing here knows what a line says. The rule a reader could break: `put` may be called from a destructor in the
middle of anything, also of another `put`, so it takes no lock; SimpleQueue is the one queue that is safe for that.
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
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._closed = False
        self._turned_away = 0  # changed by whoever puts
        self._unwritten = 0  # changed by the thread only
        self._told = 0
        # A daemon: a reader that never comes back must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LineWriter fd={self._fd} waiting={self._queue.qsize()}/{self._most_lines} dropped={self.dropped}>"

    @property
    def dropped(self) -> int:
        """Lines that were turned away because too many waited, or that the descriptor did not take."""
        return self._turned_away + self._unwritten

    def put(self, line: bytes) -> None:
        """Queue one line, which ends in a line feed; or drop and count it."""
        if self._closed or self._queue.qsize() >= self._most_lines:
            self._turned_away += 1
        else:
            self._queue.put(line)

    def close(self, *, within_s: float) -> None:
        """Write what is queued and end the thread. Returns after `within_s` at the latest. Any number of times."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join(within_s)

    def _run(self) -> None:
        last = False
        while not last:
            batch = [self._queue.get()]
            time.sleep(self._gather_s)
            while len(batch) < _BATCH_LINES and batch[-1] is not None and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            last = batch[-1] is None
            lines = [line for line in batch if line is not None]
            try:
                self._write(b"".join(lines))
            except OSError:  # the reader is gone or the disk is full, and a log has nowhere to say so but on a metric
                self._unwritten += len(lines)
                continue
            self._tell_losses()

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
