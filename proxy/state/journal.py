"""The journal: one line for each hold before its call goes on, and a few for all that ended in a moment, until the database has them.

    K n json                              quota n is …         S id:amount,… id:amount,…   holds are over: spent of each quota
    W n json                              holder n is …        U w hour source numbers     a holder's calls used so much
    H id w began expires quota:amount …   a call holds …       D quota:amount …            spent without a hold

A line begins with its CRC-32, so that one that was torn or has rotted is told from the others. The file is mapped into memory, its room
taken beforehand: what was written is safe from the death of this process at once, since the pages are the kernel's, and from that of the
machine after the next `sync`. The rule a reader could break: a hold is written before anything that it allows is done; a settlement may
wait, for until then its hold stands, which is no less.
"""

import os
from collections.abc import Mapping, Sequence
from mmap import mmap
from pathlib import Path
from zlib import crc32

import orjson

from proxy.state.contract import Holder
from proxy.state.counters import QuotaHold, Tally
from proxy.state.totals import UsageKey

ROOM_BYTES = 2 << 20  # twice of what a journal holds when the next is begun
_PREFIX = "journal-"


def path_of(directory: Path, generation: int) -> Path:
    return directory / f"{_PREFIX}{generation}"


def generations(directory: Path) -> list[int]:
    """Of the journals that lie there, oldest first."""
    names = (path.name.removeprefix(_PREFIX) for path in directory.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdecimal())


class Journal:
    """The file that is written to, of one generation. Plain calls; `sync` blocks for milliseconds and may run in a thread.

    room: bytes of disk to take beforehand; it grows when they are used up. size: bytes written. dirty: something was written since the
    last sync began. Errors of all that writes: OSError, where the disk has no more room; what was to be written is not in the file then.
    """

    __slots__ = ("_fd", "_holders", "_map", "_quotas", "_room", "dirty", "generation", "size")

    def __init__(self, directory: Path, generation: int, *, room: int = ROOM_BYTES) -> None:
        self._fd = os.open(path_of(directory, generation), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._fd, 0, room)
            self._map = mmap(self._fd, room)
        except BaseException:
            os.close(self._fd)
            raise
        self._room = room
        self._quotas: dict[Tally, bytes] = {}
        self._holders: dict[Holder, bytes] = {}
        self.generation = generation
        self.size = 0
        self.dirty = False

    def __repr__(self) -> str:
        return f"<Journal {self.generation}: {self.size} bytes>"

    def hold(self, id: int, holder: Holder, began_s: int, expires_s: int, quotas: Sequence[QuotaHold]) -> None:
        """Write that a call holds so much of these quotas."""
        new: list[bytes] = []
        who = self._holders.get(holder)
        if who is None:
            who = self._holder(holder, new)
        if len(quotas) == 1:
            charge, tally = quotas[0]
            quota = self._quotas.get(tally)
            if quota is None:
                quota = self._quota(tally, new)
            words = b"H %d %b %d %d %b:%d" % (id, who, began_s, expires_s, quota, charge.amount)
        else:
            held = b"".join([b" %b:%d" % (self._quota(tally, new), charge.amount) for charge, tally in quotas])
            words = b"H %d %b %d %d%b" % (id, who, began_s, expires_s, held)
        line = b"%08x %b\n" % (crc32(words), words)
        self._write(b"".join((*new, line)) if new else line)

    def end(
        self,
        settled: Sequence[tuple[int, Sequence[int]]],
        spent: Sequence[tuple[Tally, int]],
        used: Mapping[UsageKey, Sequence[int]],
    ) -> None:
        """Write what ended.

        settled: ids of holds, each with what was spent of its quotas, in their order; spent: what was spent without a hold; used: sums.
        """
        lines: list[bytes] = []
        if settled:
            lines.append(
                _line(b"S " + b" ".join([b"%d:%b" % (id, b",".join([b"%d" % one for one in amounts])) for id, amounts in settled]))
            )
        if spent:
            words = b" ".join([b"%b:%d" % (self._quota(tally, lines), amount) for tally, amount in spent])
            lines.append(_line(b"D " + words))
        for (hour_s, holder, source), numbers in used.items():
            words = b" ".join([b"%d" % number for number in numbers])
            lines.append(_line(b"U %b %d %b %b" % (self._holder(holder, lines), hour_s, source.encode(), words)))
        if lines:
            self._write(b"".join(lines))

    def _write(self, data: bytes) -> None:
        start, end = self.size, self.size + len(data)
        if end > self._room:
            self._grow(2 * end)
        self._map[start:end] = data
        self.size = end
        self.dirty = True

    def _grow(self, room: int) -> None:
        try:
            os.posix_fallocate(self._fd, 0, room)
            self._map.resize(room)
        except OSError:
            self._quotas.clear()  # their numbers may be among what is not written, so all are given out again
            self._holders.clear()
            raise
        self._room = room

    def sync(self) -> None:
        """Wait until the disk has what was written so far."""
        self.dirty = False
        try:
            os.fdatasync(self._fd)
        except OSError:
            self.dirty = True
            raise

    def make_ready(self) -> None:
        """Have the kernel prepare the page that is written to next, for after a sync it would do so while a call waits (25 µs)."""
        if self.size < self._room:
            self._map[self.size] = 0  # as it is

    def close(self) -> None:
        """Let go of the file, and of the room that it did not use."""
        self._map.close()
        try:
            os.ftruncate(self._fd, self.size)
        finally:
            os.close(self._fd)

    def _quota(self, tally: Tally, lines: list[bytes]) -> bytes:
        """The number of a quota, which `lines` tells where it is new."""
        number = self._quotas.get(tally)
        if number is None:
            number = self._quotas[tally] = b"%d" % len(self._quotas)
            policy, clause, subject, unit, window = tally.key
            lines.append(_line(b"K %b %b" % (number, orjson.dumps([policy, clause, subject, unit.value, *window]))))
        return number

    def _holder(self, holder: Holder, lines: list[bytes]) -> bytes:
        number = self._holders.get(holder)
        if number is None:
            number = self._holders[holder] = b"%d" % len(self._holders)
            lines.append(_line(b"W %b %b" % (number, orjson.dumps(list(holder)))))
        return number


def _line(words: bytes) -> bytes:
    return b"%08x %b\n" % (crc32(words), words)
