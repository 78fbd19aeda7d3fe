"""The journal: one line for each hold before its call goes on, and one for each settlement, until the database has them.

    K n json        quota n is …          S id amounts hour source numbers    a hold is over: what was spent of each of its quotas, and used
    W n json        holder n is …         U w hour source numbers             a call without a hold used so much
    H id w began expires quota:amount…    D w quota:amount…                   spent without a hold

A line begins with its CRC-32, so that one that was torn or has rotted is told from the others. What was written is safe from the death
of this process at once, since the kernel has it, and from that of the machine after the next `sync`. The rule a reader could break: a
hold is written before anything that it allows is done; a settlement may wait, for until then its hold stands, which is no less.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import orjson

from proxy.state.contract import Booking, Holder
from proxy.state.counters import QuotaHold, Tally
from proxy.state.totals import numbers_of

_PREFIX = "journal-"


def path_of(directory: Path, generation: int) -> Path:
    return directory / f"{_PREFIX}{generation}"


def generations(directory: Path) -> list[int]:
    """Of the journals that lie there, oldest first."""
    names = (path.name.removeprefix(_PREFIX) for path in directory.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdecimal())


class Journal:
    """The file that is appended to, of one generation. Plain calls; `sync` blocks for milliseconds and may run in a thread.

    size: bytes written. dirty: something was written since the last sync began. Errors of all that writes: OSError; the lines are
    not in the file then.
    """

    __slots__ = ("_broken", "_fd", "_gathered", "_holders", "_quotas", "dirty", "generation", "size")

    def __init__(self, directory: Path, generation: int) -> None:
        self._fd = os.open(path_of(directory, generation), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._gathered: list[bytes] = []
        self._quotas: dict[Tally, int] = {}
        self._holders: dict[Holder, int] = {}
        self._broken = False
        self.generation = generation
        self.size = 0
        self.dirty = False

    def __repr__(self) -> str:
        return f"<Journal {self.generation}: {self.size} bytes, {len(self._gathered)} lines to write>"

    def hold(self, id: int, holder: Holder, began_s: float, expires_s: float, quotas: Sequence[QuotaHold]) -> None:
        """Write that a call holds so much of these quotas, each of which has a key."""
        words = b"".join([b" %d:%d" % (self._quota(tally), charge.amount) for charge, tally in quotas])
        self._gathered.append(_line(b"H %d %d %d %d%b" % (id, self._holder(holder), began_s, expires_s, words)))
        self.flush()

    def settle(self, id: int, spent: Sequence[int], hour_s: int, holder: Holder, booking: Booking | None) -> None:
        """Note that a hold is over. spent: of each of its quotas, in their order. It is written with what comes next, or by `flush`."""
        used = _used(hour_s, booking)
        if id:
            words = b" ".join([b"%d" % amount for amount in spent])
            self._gathered.append(_line(b"S %d %b%b" % (id, words, used)))
        elif used:
            self._gathered.append(_line(b"U %d%b" % (self._holder(holder), used)))

    def spend(self, holder: Holder, spent: Sequence[tuple[Tally, int]]) -> None:
        """Note what was spent without a hold."""
        words = b"".join([b" %d:%d" % (self._quota(tally), amount) for tally, amount in spent])
        self._gathered.append(_line(b"D %d%b" % (self._holder(holder), words)))

    def flush(self) -> None:
        """Write what was noted."""
        if not self._gathered:
            return
        data = b"".join(self._gathered)
        if self._broken:
            data = b"\n" + data  # what was torn ends here
        written = 0
        try:
            written = os.write(self._fd, data)
            if written < len(data):
                raise OSError(f"the journal took {written} of {len(data)} bytes")
            self._broken = False
        except OSError:
            self._broken = True
            self._quotas.clear()  # their numbers may be among what is lost, so all are given out again
            self._holders.clear()
            raise
        finally:
            self._gathered.clear()
            self.size += written
            self.dirty = self.dirty or written > 0

    def sync(self) -> None:
        """Wait until the disk has what was written so far."""
        self.dirty = False
        try:
            os.fdatasync(self._fd)
        except OSError:
            self.dirty = True
            raise

    def close(self) -> None:
        os.close(self._fd)

    def _quota(self, tally: Tally) -> int:
        number = self._quotas.get(tally)
        if number is None:
            key = tally.key
            assert key is not None
            number = self._quotas[tally] = len(self._quotas)
            policy, clause, subject, unit, window = key
            self._gathered.append(_line(b"K %d %b" % (number, orjson.dumps([policy, clause, subject, unit.value, *window]))))
        return number

    def _holder(self, holder: Holder) -> int:
        number = self._holders.get(holder)
        if number is None:
            number = self._holders[holder] = len(self._holders)
            self._gathered.append(_line(b"W %d %b" % (number, orjson.dumps(list(holder)))))
        return number


def _line(words: bytes) -> bytes:
    return b"%08x %b\n" % (crc32(words), words)


def _used(hour_s: int, booking: Booking | None) -> bytes:
    """The words of what a call used, none where there was nothing to use."""
    if booking is None:
        return b""
    return b" %d %b " % (hour_s, booking.source.encode()) + b" ".join([b"%d" % number for number in numbers_of(booking)])
