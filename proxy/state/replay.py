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
from proxy.state.counters import SpendKey
from proxy.state.journal import generations, path_of
from proxy.state.totals import COLUMNS, OpenHold, Totals


@dataclass(eq=False, slots=True)
class Replay:
    """totals: of what ended; holds: of what did not, by id.

    lines: read; damaged: of these, lines that could not be.
    """

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
        """One journal, whole or cut anywhere, or with room behind it that was not used."""
        quotas: dict[int, SpendKey] = {}
        holders: dict[int, Holder] = {}
        for line in journal.rstrip(b"\0").split(b"\n"):
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
            for one in words.split():
                id, _, spent = one.partition(b":")
                self._end(int(id), [int(amount) for amount in spent.split(b",")])
        elif kind == b"U":
            who, hour_s, source, *numbers = words.split()
            if len(numbers) != len(COLUMNS):
                raise ValueError
            self.totals.use((int(hour_s), holders[int(who)], source.decode()), [int(number) for number in numbers])
        elif kind == b"D":
            for key, amount in [
                (quotas[int(quota)], int(amount)) for quota, _, amount in (one.partition(b":") for one in words.split())
            ]:
                self.totals.spend(key, amount)
        else:
            raise ValueError

    def _end(self, id: int, spent: list[int]) -> None:
        """Of a hold whose line was lost nothing more is known than that it is over."""
        hold = self.holds.pop(id, None)
        for (key, _), amount in zip(hold.amounts if hold is not None else (), spent, strict=False):
            self.totals.spend(key, amount)


def key_of(said: list[object]) -> SpendKey:
    """A quota's key from its six parts. Errors: ValueError."""
    policy, clause, subject, unit, start_s, end_s = said
    return str(policy), str(clause), str(subject), Unit(unit), (int(str(start_s)), int(str(end_s)))
