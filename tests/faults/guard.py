"""What must hold after any fault, asked of the process it happened to: the invariants I1 to I6.

    I1 it lives, its descriptors are back where they were, and its memory has not grown     I4 no planted secret or content anywhere
    I2 the books hold exactly what the calls came to, and nothing is held any more          I5 another tenant noticed nothing
    I3 nobody spent above a limit                                                           I6 each call was told of once

The rule a reader could break: the books are compared with the log, which is written by other code, and never with themselves.
"""

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.house import UPSTREAM_KEY, hash_of
from tests.whole.process import Serving, ran

APP_KEY = "app-Canary7f3a-key"
OTHER_KEY = "other-Canary7f3a-key"
PROMPT = "PromptCanary7f3a"
ANSWER = "AnswerCanary7f3a"
_SECRETS = tuple(word.encode() for word in (APP_KEY, OTHER_KEY, PROMPT, ANSWER, UPSTREAM_KEY))
_PAGE = os.sysconf("SC_PAGE_SIZE")
_HANG_S = 30.0
MIB = 1 << 20


class Guard:
    """Watches one serving process. limit_usd: of the budget that all calls are under."""

    def __init__(self, proxy: Serving, folder: Path, *, limit_usd: float) -> None:
        self._proxy = proxy
        self._folder = folder
        self._limit_usd = limit_usd
        self._descriptors = self._rss = 0

    def __repr__(self) -> str:
        return f"<Guard descriptors={self._descriptors} rss={self._rss >> 20} MiB>"

    def rss(self) -> int:
        """Bytes of memory that the process has."""
        return int(Path(f"/proc/{self._proxy.pid}/statm").read_text().split()[1]) * _PAGE

    def forget_peak(self) -> None:
        """From here on `peak` counts anew."""
        Path(f"/proc/{self._proxy.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes of memory that the process had at most, above what it had at the baseline."""
        [line] = [line for line in Path(f"/proc/{self._proxy.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 - self._rss

    def unshared_peak(self) -> int:
        """Bytes of memory that the process had at most and that the system could not take back: without the pages of files, which hardly
        change in number.
        """
        shared = int(Path(f"/proc/{self._proxy.pid}/statm").read_text().split()[2]) * _PAGE
        return self.peak() + self._rss - shared

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._proxy.pid}/fd"))

    async def baseline(self) -> None:
        """What is open and used from here on counts as usual: called once the process has done what it will do again."""
        await self.quiet()
        self._descriptors, self._rss = self.descriptors(), self.rss()

    async def check(self, *, growth: int = 3 * MIB) -> None:
        """I1 to I4 and I6. growth: bytes of memory that may be more than at the baseline. Errors: AssertionError."""
        await self.quiet()
        assert self._proxy.alive, f"I1: it ended: {self._proxy.stderr!r}"
        await _until(
            lambda: self.descriptors() <= self._descriptors, lambda: f"I1: {self.descriptors()} open, {self._descriptors} before"
        )
        grown = self.rss() - self._rss
        assert grown <= max(growth, self._rss // 20), f"I1: {grown / MIB:.1f} MiB more memory"
        await self._check_books()
        await self._check_silence()
        lines = self._proxy.lines("call.finished")
        twice = [id for id, times in Counter(line["request_id"] for line in lines).items() if times > 1]
        assert not twice, f"I6: told of twice: {twice[:5]}"

    async def quiet(self) -> None:
        """Until no call is running but, now and then, the bystander's."""

        async def running() -> int:
            _, text = await self._proxy.admin("/metrics")
            [line] = [line for line in text.splitlines() if line.startswith("tollhouse_inflight_calls ")]
            return int(float(line.split()[1]))

        async with asyncio.timeout(_HANG_S):
            while await running() > 1:
                await asyncio.sleep(0.05)

    async def _check_books(self) -> None:
        """I2 and I3. The bystander calls on, so what the log says now and a moment later brackets the books."""
        low = self._logged_nanousd()
        usage = await asyncio.to_thread(ran, self._folder, "usage", "--json", "--state-dir", str(self._proxy.state))
        assert usage.returncode == 0, usage.stderr
        total = json.loads(usage.stdout)["total"]
        await self.quiet()
        high = self._logged_nanousd()
        assert low <= total["cost_nanousd"] <= high, f"I2: {total['cost_nanousd']} on the books, {low} to {high} in the log"
        assert total["held_nanousd"] <= 10_000_000, (
            f"I2: {total['held_nanousd']} nanodollars held"
        )  # at most the bystander's one call
        assert total["cost_nanousd"] <= self._limit_usd * 10**9, "I3: above the limit"

    def _logged_nanousd(self) -> int:
        return sum(line.get("cost_nanousd", 0) for line in self._proxy.lines("call.finished"))

    async def _check_silence(self) -> None:
        """I4: in what it wrote, shows and keeps."""
        _, metrics = await self._proxy.admin("/metrics")
        places = {"standard output": self._proxy.stdout, "metrics": metrics.encode()}
        for path in self._proxy.state.rglob("*"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                places[path.name] = path.read_bytes()
        for place, text in places.items():
            for secret in (*_SECRETS, hash_of(APP_KEY).encode()):
                assert secret not in text, f"I4: {secret!r} in {place}"


async def _until(holds: Callable[[], bool], why: Callable[[], str]) -> None:
    try:
        async with asyncio.timeout(_HANG_S / 2):
            while not holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(why()) from None
