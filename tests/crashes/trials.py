"""Trials: a budget is crossed in a process that is killed again and again, and then its window turns or it is raised.

Each trial must end in exactly one page and one resolve for each threshold and receiver.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.crashes.life import DONE, WAITING, Orders
from tests.crashes.vendors import CROSSED, RESOLVED, THRESHOLDS, Vendors

ROOT = Path(__file__).parents[2]
DAY_S = 86_400
_MOST_STEPS = 60  # of a life's paging: a kill beyond its last one kills nobody
_LONGEST_S = 0.12  # about what a life takes
_MOST_LIVES = 60


class Nursery:
    """A process that forks lives on demand."""

    def __init__(self, *, zone: str, page: Sequence[str]) -> None:
        self._arguments = (zone, ", ".join(page))

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.crashes.nursery", *self._arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def live(self, orders: Orders) -> int:
        """How it ended: its exit code, or minus the signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(orders)).encode() + b"\n")
        return int(await self._process.stdout.readline())


@dataclass
class Trial:
    """One budget. raised: it is raised in the end; else its window turns."""

    user: str
    folder: Path
    seed: int
    now_s: float
    raised: bool
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def cross(self, nursery: Nursery, vendors: Vendors, sinks: Sequence[tuple[str, str, str, str | None]]) -> None:
        await self._phase(nursery, vendors, sinks, over=False)

    async def end(self, nursery: Nursery, vendors: Vendors, sinks: Sequence[tuple[str, str, str, str | None]]) -> None:
        if not self.raised:
            self.now_s += DAY_S
        await self._phase(nursery, vendors, sinks, over=True)

    async def _phase(
        self, nursery: Nursery, vendors: Vendors, sinks: Sequence[tuple[str, str, str, str | None]], *, over: bool
    ) -> None:
        """Lives that are killed, lives until every page is with its sink, and one more that has nothing to do."""
        code = None
        for _ in range(self.random.randint(1, 5)):
            by_step = self.random.random() < 0.7
            code = await self._live(
                nursery,
                vendors,
                sinks,
                over=over,
                kill_at=self.random.randrange(_MOST_STEPS) if by_step else None,
                kill_after_s=None if by_step else self.random.uniform(0, _LONGEST_S),
            )
        while code != DONE:
            code = await self._live(nursery, vendors, sinks, over=over)
            assert code in (DONE, WAITING), f"{self.user}: a life ended with {code}"
            assert self.lives < _MOST_LIVES, f"{self.user}: pages never arrive"
        assert await self._live(nursery, vendors, sinks, over=over) == DONE

    async def _live(
        self,
        nursery: Nursery,
        vendors: Vendors,
        sinks: Sequence[tuple[str, str, str, str | None]],
        *,
        over: bool,
        kill_at: int | None = None,
        kill_after_s: float | None = None,
    ) -> int:
        self.lives += 1
        self.now_s += 60  # so that what waits for another try is due
        vendors.now_s[self.user] = self.now_s
        code = await nursery.live(
            Orders(
                folder=str(self.folder),
                user=self.user,
                policies="raised" if over and self.raised else "plain",
                now_s=self.now_s,
                over=over,
                sinks=sinks,
                seed=self.random.randrange(2**32),
                kill_at=kill_at,
                kill_after_s=kill_after_s,
            )
        )
        if code == -9:
            self.kills["resolving" if over else "crossing"] += 1
        else:
            assert code in (DONE, WAITING), f"{self.user}: a life ended with {code}"
        return code


def faults(vendors: Vendors, users: Sequence[str], receivers: Sequence[str]) -> list[str]:
    """Where it was not exactly one page and then one resolve. Slack, which cannot tell repeats, may have more of each."""
    found = list(vendors.wrong)
    for receiver in receivers:
        pages, order = vendors.pages[receiver], vendors.order[receiver]
        first = {told: place for place, told in reversed(list(enumerate(order)))}
        for user in users:
            for threshold in THRESHOLDS:
                crossed, resolved = pages[user, threshold, CROSSED], pages[user, threshold, RESOLVED]
                right = crossed >= 1 <= resolved if receiver == "slack" else crossed == 1 == resolved
                if not right or first[user, threshold, CROSSED] > first[user, threshold, RESOLVED]:
                    found.append(f"{receiver}: {user} {threshold} %: {crossed} pages, {resolved} resolves")
    return found


async def run(
    count: int, folder: Path, *, seed: int, now_s: float, zone: str = "UTC", fails: int = 5
) -> tuple[Vendors, list[Trial]]:
    """So many trials, one after the other, half of them ended by the turn of the window."""
    async with AsyncExitStack() as undo:
        vendors = await undo.enter_async_context(Vendors(seed=seed, fails=fails))
        nursery = await undo.enter_async_context(Nursery(zone=zone, page=[name for name, *_ in vendors.sinks()]))
        trials = [
            Trial(f"u{number}", folder / str(number), seed=seed * 1_000_003 + number, now_s=now_s, raised=number % 2 == 1)
            for number in range(count)
        ]
        for trial in trials:
            await trial.cross(nursery, vendors, vendors.sinks())
            await trial.end(nursery, vendors, vendors.sinks())
    return vendors, trials
