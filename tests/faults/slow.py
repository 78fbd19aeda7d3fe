"""Clients that are slow, or leave: rows B1, B2 and B3. Their crowds are processes of their own."""

import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from tests.faults import kernel
from tests.faults.guard import APP_KEY, MIB
from tests.faults.rig import USUAL_CALLS, Proxy, Rig
from tests.faults.row import row
from tests.soak.ledger import Ledger, Told, seen_of, served_of
from tests.soak.load import Orders
from tests.soak.model import FLOOD_BYTES
from tests.soak.processes import ModelServer, loaded

_HEADER_S = _BODY_S = 2
_PATIENT = "connect: 2s, first_byte: 5s, first_token: 20s, idle: 20s, total: 60s, write_stall: {}s"
_FLOOD_WORDS = FLOOD_BYTES // 7  # and somewhat more
_CAPS = "- {name: open, max_tokens: {cap: 1000000}}"


class _Crowd:
    """`tests.faults.crowd`, as whoever runs it sees it. ended: its lines for each that was ended: seconds, number, part, status."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._reading = asyncio.create_task(self._read())
        self._opened = asyncio.Event()
        self.ended: list[tuple[float, int, str, int]] = []

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            word, *rest = line.decode().split()
            if word == "ended":
                self.ended.append((float(rest[0]), int(rest[1]), rest[2], int(rest[3])))
            else:
                self._opened.set()

    async def opened(self) -> None:
        async with asyncio.timeout(60):
            await self._opened.wait()

    async def wait_for(self, count: int, *, timeout_s: float) -> None:
        """Until so many were ended. Errors: AssertionError when they are not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.ended) < count:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{len(self.ended)} of {count} were ended in {timeout_s} s") from None

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def _crowd(role: str, proxy: Proxy, count: int, *, first: int = 0) -> AsyncIterator[_Crowd]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.crowd", role, str(proxy.port), APP_KEY, str(count), str(first)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    crowd = _Crowd(process)
    try:
        yield crowd
    finally:
        await crowd.close()


@row(
    "B1",
    "slow heads, slow bodies and idle connections, by the hundred",
    "each is ended at its deadline, an idle one is kept; other clients are served as before",
    tests=("tests/proxy/downstream/test_listener.py",),
)
async def trickles(rig: Rig) -> str:
    count = rig.times(short=60, long=999)
    env = {"TOLLHOUSE_HEADER_S": str(_HEADER_S), "TOLLHOUSE_BODY_S": str(_BODY_S)}
    async with rig.proxy("http://127.0.0.1:9", env=env, growth=16 * MIB) as proxy:
        before = proxy.guard.rss()
        async with _crowd("writers", proxy, count) as crowd:
            await crowd.opened()
            grown = proxy.guard.rss() - before
            await crowd.wait_for(2 * count // 3, timeout_s=_HEADER_S + 10)
            took = {part: [seconds for seconds, _, which, _ in crowd.ended if which == part] for part in ("head", "body", "idle")}
            said = Counter(status for _, _, part, status in crowd.ended if part == "body")
            assert not took["idle"], "an idle connection was ended before its time"
            for part in ("head", "body"):
                assert all(1.5 <= seconds <= 4.0 for seconds in took[part]), f"{part}: {min(took[part])} to {max(took[part])} s"
            assert set(said) == {408}, f"slow bodies were answered {dict(said)}"
        assert {line["outcome"] for line in await proxy.call_lines(count // 3)} == {"refused"}
    return (
        f"{count} connections: slow heads ended after {max(took['head']):.1f} s at most, slow bodies told 408 after "
        f"{max(took['body']):.1f} s; {grown / count / 1024:.0f} KiB each"
    )


@row(
    "B2",
    "readers that ask for streams of 64 MiB and never read",
    "the upstream is held up; below 1 MiB of memory each; cut at the deadline `write_stall`, billed for what came, nothing held",
)
async def stalled(rig: Rig) -> str:
    count, stall_s = rig.times(short=24, long=1000), rig.times(short=2, long=12)
    with tempfile.TemporaryDirectory() as name:
        async with contextlib.AsyncExitStack() as undo:
            model = await undo.enter_async_context(ModelServer(Path(name) / "model.jsonl"))
            proxy = await undo.enter_async_context(
                rig.proxy(
                    model.url,
                    timeouts=_PATIENT.format(stall_s),
                    rules=_CAPS,
                    growth=(96 + 3 * count) * MIB,
                    limit_usd=50_000.0,
                    usual_calls=rig.times(short=USUAL_CALLS, long=400),
                )
            )
            await _count_once(proxy)
            before, kernel_before = proxy.guard.rss(), kernel.memory(local=proxy.port) + kernel.memory(remote=model.port)
            async with _crowd("readers", proxy, count) as crowd:
                await crowd.opened()
                while kernel.buffered(local=proxy.port)[0] < count:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(1.0)  # for buffers to fill
                memory = (proxy.guard.rss() - before) / count
                in_kernel = (kernel.memory(local=proxy.port) + kernel.memory(remote=model.port) - kernel_before) / count
                lines = (await proxy.call_lines(count + 1, timeout_s=120))[1:]
                left = kernel.buffered(local=proxy.port)
            await model.close()
            served = served_of(model.file)
            for line in lines:
                assert (line["outcome"], line["error"]) == ("client_gone", "client_stalled"), line
                assert line["cost_nanousd"] > 0, "it came, and is free"
                said = served[line["request_id"]].said
                assert 0 < line["output_tokens"] <= 2 * said, f"{line['output_tokens']} tokens billed, {said} sent"
                assert said < _FLOOD_WORDS // 2, f"{said} words taken for somebody who reads none"
            if not rig.short:  # of few readers the first count and the loop's own noise are most of it
                assert memory < MIB / 2, f"{memory / MIB:.2f} MiB each"
                assert in_kernel < MIB, f"{in_kernel / MIB:.2f} MiB each in the kernel"
            slowest = max(line["total_ms"] for line in lines) / 1e3
    return (
        f"{count}: {memory / 1024:.0f} KiB each, in the kernel {in_kernel / 1024:.0f}; cut after {slowest:.1f} s at most; left {left}; "
        f"another tenant's {rig.others[-1]}"
    )


async def _count_once(proxy: Proxy) -> None:
    """A reader that leaves at once: the ranks by which its words are counted are loaded, once for all."""
    async with _crowd("readers", proxy, 1, first=999_999) as one:
        await one.opened()
        await asyncio.sleep(0.2)
    await proxy.call_lines(1)


@row(
    "B3",
    "clients that leave in their request, before the answer, in mid-stream, at its end",
    "the upstream is cancelled within 1 s, what it had said is billed, one record each",
    tests=("tests/whole/test_aborts.py",),
)
async def leaving(rig: Rig) -> str:
    most = rig.times(short=200, long=10_000)
    with tempfile.TemporaryDirectory() as name:
        async with contextlib.AsyncExitStack() as undo:
            model = await undo.enter_async_context(ModelServer(Path(name) / "model.jsonl"))
            proxy = await undo.enter_async_context(rig.proxy(model.url, rules=_CAPS, growth=96 * MIB))
            kinds = ("leaves", "leaves_early", "leaves_at_once")
            orders = Orders(proxy.port, 7, 120, f"{name}/clients", kinds, ("app",), workers=32, pause_s=0.02, most=most)
            made, wrong = await loaded(orders)
            assert not wrong, wrong[0]
            await proxy.guard.quiet()
            await model.close()
            told: dict[str, Told] = {}
            for line in await proxy.call_lines():
                id = line["request_id"]
                told[id] = Told.of(line, times=told[id].times + 1 if id in told else 1)
            ledger = Ledger(told, seen_of(Path(orders.file)), served_of(model.file))
            ledger.check()
            assert not ledger.wrong, f"{len(ledger.wrong)} wrong, such as {ledger.wrong[0]}"
    return (
        f"{sum(made.values()):,} clients left; {ledger.cancelled:,} calls were cancelled at the upstream, "
        f"after {ledger.slowest_s:.2f} s at most"
    )
