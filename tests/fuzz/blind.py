"""Fuzzing without coverage: the seeds and the corpus changed at random, as often as can be.

    python -m tests.fuzz.blind edge FOLDER SECONDS SEED     what breaks something is written into the folder, as broke-…

The rule a reader could break: every input follows from the seed, so a run can be repeated.
"""

import random
import sys
import time
import traceback
from hashlib import sha256
from importlib import import_module
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target, stored

_LOOK = 256  # inputs between two looks at the clock
_WORDS = (
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-1",
    b"1e309",
    b"null",
    b"\xff",
    b"\xed\xa0\x80",
)


def main() -> int:
    name, folder, seconds, seed = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    target = TARGETS[name]
    one = target.one()
    chance = random.Random(seed)
    pool = [*target.seeds(), *(data for _, data in stored(name))]
    ends, tried, broke = time.monotonic() + seconds, 0, 0
    while time.monotonic() < ends and broke < 5:
        for _ in range(_LOOK):
            data = _another(target, pool, chance)
            tried += 1
            try:
                one(data)
            except Exception:  # whatever it is, it should not have been
                broke += 1
                traceback.print_exc()
                (folder / f"broke-{sha256(data).hexdigest()[:16]}").write_bytes(data)
                break
    print(f"stat::number_of_executed_units: {tried}")
    return 1 if broke else 0


def tried(name: str, count: int, *, seed: int = 1) -> int:
    """Try so many, the same ones for one seed. Errors: whatever an input broke."""
    target, chance = TARGETS[name], random.Random(seed)
    one, pool = target.one(), [*target.seeds(), *(data for _, data in stored(name))]
    for _ in range(count):
        one(_another(target, pool, chance))
    return count


def _another(target: Target, pool: list[bytes], chance: random.Random) -> bytes:
    data = chance.choice(pool)
    if target.mutation is not None:
        changed: bytes = import_module(target.mutation).changed(
            data, chance.getrandbits(48), others=pool[:8], most=target.most_bytes
        )
        return changed
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        data = _bits(data, pool, chance)
    return data[: target.most_bytes]


def _bits(data: bytes, pool: list[bytes], chance: random.Random) -> bytes:
    """Changed in one place."""
    at = chance.randrange(len(data) + 1)
    match chance.randrange(6):
        case 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + chance.choice(_WORDS) + data[at:]
        case 2:
            return data[:at] + data[at + chance.randrange(1, 16) :]
        case 3:
            size = chance.randrange(1, 64)
            return data[: at + size] + data[at : at + size] * chance.randrange(1, 4) + data[at + size :]
        case 4:
            other = chance.choice(pool)
            return data[:at] + other[chance.randrange(len(other) + 1) :][: chance.randrange(1, 256)] + data[at:]
        case _:
            return data[:at]


if __name__ == "__main__":
    sys.exit(main())
