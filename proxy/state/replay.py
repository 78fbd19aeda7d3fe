"""Reads journals back: what they add up to, and what was still held when they end.

The rule a reader could break: a line that is torn or has rotted is passed over and counted, and what follows is read all the same. A lost
settlement leaves its hold, which counts as spent; so a damaged journal never says less than what is left of it shows.
"""

from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import orjson

from proxy.policy.contract import Unit
from proxy.state.contract import Holder
from proxy.state.journal import generations, path_of
from proxy.state.totals import COLUMNS, OpenHold, SpendKey, Totals


@dataclass(eq=False, slots=True)
class Replay:
    """totals: of what ended; holds: of what did not, by id. lines: read; damaged: of these, lines that could not be."""

    totals: Totals = field(default_factory=Totals)
    holds: dict[int, OpenHold] = field(default_factory=dict)
    lines: int = 0
    damaged: int = 0

    def read_all(self, directory: Path, *, since: int) -> None:
        """The journals of a generation and those after it. Errors: OSError."""
        for generation in generations(directory):
            if generation >= since:
                self.read(path_of(directory, generation).read_bytes())

    def read(self, journal: bytes) -> None:
        """One journal, whole or cut anywhere."""
        quotas: dict[int, SpendKey] = {}
        holders: dict[int, Holder] = {}
        for line in journal.split(b"\n"):
            if not line:
                continue
            self.lines += 1
            words = line[9:]
            try:
                if line[:9] != b"%08x " % crc32(words):
                    raise ValueError
                self._read_line(words, quotas, holders)
            except (ValueError, LookupError, TypeError):
                self.damaged += 1

    def _read_line(self, line: bytes, quotas: dict[int, SpendKey], holders: dict[int, Holder]) -> None:
        """Errors: ValueError, LookupError, TypeError for one that makes no sense, or needs one that is lost; it changes nothing then."""
        kind, words = line[:1], line[2:]
        if kind == b"K":
            number, _, said = words.partition(b" ")
            quotas[int(number)] = key_of(orjson.loads(said))
        elif kind == b"W":
            number, _, said = words.partition(b" ")
            holders[int(number)] = Holder(*orjson.loads(said))
        elif kind == b"H":
            id, who, began_s, expires_s, *held = words.split()
            amounts = tuple([(quotas[int(quota)], int(amount)) for quota, _, amount in (one.partition(b":") for one in held)])
            self.holds[int(id)] = OpenHold(int(id), holders[int(who)], int(began_s), int(expires_s), amounts)
        elif kind == b"S":
            id, *numbers = words.split()
            hold = self.holds[int(id)]
            count = len(hold.amounts)
            spent, used = [int(number) for number in numbers[:count]], numbers[count:]
            if len(spent) != count:
                raise ValueError
            self._use(hold.holder, used)
            del self.holds[int(id)]
            for (key, _), amount in zip(hold.amounts, spent, strict=True):
                self.totals.spend(key, amount)
        elif kind == b"U":
            who, *used = words.split()
            self._use(holders[int(who)], used)
        elif kind == b"D":
            _, *spends = words.split()
            for key, amount in [(quotas[int(quota)], int(amount)) for quota, _, amount in (one.partition(b":") for one in spends)]:
                self.totals.spend(key, amount)
        else:
            raise ValueError

    def _use(self, holder: Holder, used: list[bytes]) -> None:
        """used: hour, source and numbers, or nothing."""
        if used:
            hour_s, source, *numbers = used
            if len(numbers) != len(COLUMNS):
                raise ValueError
            self.totals.use((int(hour_s), holder, source.decode()), [int(number) for number in numbers])


def key_of(said: list[object]) -> SpendKey:
    """A quota's key from its six parts. Errors: ValueError."""
    policy, clause, subject, unit, start_s, end_s = said
    return str(policy), str(clause), str(subject), Unit(unit), (int(str(start_s)), int(str(end_s)))
