"""Faults of the process itself and of the machine it stands on: rows C1 to C3, C6, C8, C10, C11 and C13. What the disk does is in `disk`,
what clauses do in `hooks`, what weighs on the event loop in `heavy`.

The rule a reader could break: a process that ends has no invariants that it could be asked for; its log and its books are compared.
"""

import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fakes import FakeUpstream, UntilClosed, Wait, raw_exchange
from tests.faults.guard import APP_KEY, MIB
from tests.faults.rig import OK, PATH, STREAM, Rig
from tests.faults.row import row, shown_by
from tests.house import policy
from tests.soak.run import soak
from tests.whole.conversation import CHAT
from tests.whole.process import Serving, ran

_RULES = """
- {name: capped, max_tokens: {cap: 1000}}
- {name: purse, budget: {usd: 5, per: month, when_spent: reject}}
"""
HELD_NANOUSD = 1_000 * 1_600  # of each call at least: its whole cap
_HANG_S = 90.0

shown_by(
    "C1",
    "`kill -9` at any moment under load",
    "nothing recorded is lost, what ran is charged as held, no budget is passed, the next start is ready within 2 s",
    tests=("tests/whole/test_kills.py", "tests/whole/test_crashes.py"),
)
shown_by(
    "C3",
    "loss of power: any prefix of what was not synced yet, pages that never reached the disk",
    "the ledger opens, what is torn is dropped and said, no more is lost than the last 20 ms and what the disk was writing",
    tests=("tests/proxy/state/test_journal.py", "tests/proxy/state/test_recovery.py"),
)
shown_by(
    "C8",
    "the clock is set by an hour or a day, daylight saving, the edge of a window",
    "durations do not move, no window is charged twice or skipped",
    tests=("tests/proxy/state/test_arithmetic.py", "tests/proxy/state/test_store.py", "tests/proxy/state/test_sqlite.py"),
)


async def balanced(proxy: Serving, folder: Path, *, held: bool = False) -> int:
    """What the books of a process say, nanodollars, which must be what its log says. held: calls may be running."""
    usage = await asyncio.to_thread(ran, folder, "usage", "--json", "--state-dir", str(proxy.state))
    assert usage.returncode == 0, usage.stderr
    total = json.loads(usage.stdout)["total"]
    logged = sum(line.get("cost_nanousd", 0) for line in proxy.lines("call.finished"))
    assert total["cost_nanousd"] == logged, f"I2: {total['cost_nanousd']} on the books, {logged} in the log"
    assert held or total["held_nanousd"] == 0, f"I2: {total['held_nanousd']} held"
    twice = [id for id, times in Counter(line["request_id"] for line in proxy.lines("call.finished")).items() if times > 1]
    assert not twice, f"I6: told of twice: {twice}"
    return int(total["cost_nanousd"])


def request(*, key: str = "app-key", stream: bool = False, close: bool = True) -> bytes:
    """One call, byte for byte."""
    body = json.dumps({**CHAT, "stream": stream}).encode()
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"connection: {'close' if close else 'keep-alive'}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _until_closed(port: int, data: bytes) -> bytes:
    """What comes until the other side ends, for answers that take longer than other tests wait."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(_HANG_S):
            return await reader.read()
    finally:
        writer.transport.abort()


@row(
    "C2",
    "SIGTERM while streams run",
    "no new calls; what ends within the grace is whole, the rest ends in an error event at its end; all settled; exit 0",
    tests=("tests/whole/test_shutdown.py",),
)
async def terminated(rig: Rig) -> str:
    count, grace_s = rig.times(short=40, long=200), rig.times(short=1, long=3)
    head, first, *rest = STREAM
    go = asyncio.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with FakeUpstream() as upstream:
            for n in range(count):
                upstream.queue([head, first, Wait(go), *rest] if n % 2 else [head, first, UntilClosed()])
            env = {"TOLLHOUSE_DRAIN_S": str(grace_s)}
            async with Serving(folder, policy(_RULES), upstream=upstream.url + "/v1", env=env) as proxy:
                asked = [asyncio.create_task(raw_exchange("127.0.0.1", proxy.port, request(stream=True))) for _ in range(count)]
                await upstream.arrived(count)
                proxy.terminate()
                [draining] = await proxy.logged("server.draining")
                began = time.monotonic()
                assert draining["running"] == count
                assert await proxy.admin("/readyz") == (503, "not ready\n")
                go.set()
                said = await asyncio.gather(*asked)
                took = time.monotonic() - began
                assert await proxy.ended() == 0
            whole = [one for one in said if b"data: [DONE]" in one]
            ended = [one for one in said if b"data: [DONE]" not in one]
            if not rig.short:  # the event waits for its words to be counted, which a busy machine may not do in the 2 s that it has
                assert all(b'"code":"draining"' in one for one in ended), "a stream was ended without a word"
            assert (len(whole), len(ended)) == (count // 2, count // 2), f"{len(whole)} whole, {len(ended)} ended of {count}"
            assert took >= grace_s - 0.5, f"the grace was over after {took:.2f} s"
            outcomes = Counter(line["outcome"] for line in proxy.lines("call.finished"))
            assert outcomes["completed"] == count // 2, outcomes
            assert set(outcomes) <= {"completed", "drained", *(("client_gone",) if rig.short else ())}, outcomes
            await balanced(proxy, folder)
    return f"{count} streams: half of them whole, half ended with `draining` after {took:.1f} s; exit 0"


@row(
    "C6",
    "SIGSTOP for a while, then SIGCONT, with calls under way",
    "deadlines that passed meanwhile are applied at once, what had come is passed on, no stampede towards the upstream",
)
async def stopped(rig: Rig) -> str:
    stop_s, count = rig.times(short=2, long=30), 20
    head, first, *rest = STREAM
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        for n in range(count):
            upstream.queue([head, first, Wait(go), *rest] if n % 2 else [head, first, UntilClosed()])
        # Without another tenant: its calls stand still too.
        async with rig.proxy(upstream, alone=True, growth=96 * MIB) as proxy:
            data = request(key=APP_KEY, stream=True)
            asked = [asyncio.create_task(_until_closed(proxy.port, data)) for _ in range(count)]
            await upstream.arrived(count)
            accepted = upstream.accepted
            proxy.signal(signal.SIGSTOP)
            go.set()
            await asyncio.sleep(stop_s)
            proxy.signal(signal.SIGCONT)
            began = time.monotonic()
            status, _, _ = await proxy.chat()
            answered = time.monotonic() - began
            said = await asyncio.gather(*asked)
            took = time.monotonic() - began
            assert status == 200
            assert took < rig.times(short=30, long=3), f"the last call ended {took:.1f} s after"
            outcomes = Counter(line["outcome"] for line in await proxy.call_lines(count + 1))
            assert set(outcomes) <= {"completed", "timed_out"}, outcomes
            assert outcomes["timed_out"] >= count // 2, "deadlines were not applied"
            for one in said:
                assert (b"data: [DONE]" in one) != (b"upstream_timeout" in one), f"neither whole nor an error: {one[-200:]!r}"
            assert upstream.accepted <= accepted + 1, f"{upstream.accepted - accepted} new connections to the upstream"
    return (
        f"stopped for {stop_s} s: a new call answered after {answered * 1e3:.0f} ms, all ended after {took:.1f} s: "
        f"{outcomes['timed_out']} by their deadlines, {outcomes['completed']} whole"
    )


@row(
    "C10",
    "the process dies: one a pod, without workers",
    "the next one on its folder serves within 2 s, with all that ran charged as held",
)
async def died(rig: Rig) -> str:
    count = rig.times(short=10, long=50)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with FakeUpstream(default=OK) as upstream:
            for _ in range(count):
                upstream.queue([UntilClosed()])
            first = Serving(folder, policy(_RULES), upstream=upstream.url + "/v1")
            await first.__aenter__()
            asked = [asyncio.create_task(raw_exchange("127.0.0.1", first.port, request())) for _ in range(count)]
            await upstream.arrived(count)
            first.signal(signal.SIGKILL)
            assert await first.ended() == -signal.SIGKILL
            await first._session.close()
            assert await asyncio.gather(*asked) == [b""] * count
            began = time.monotonic()
            async with Serving(folder, policy(_RULES), upstream=upstream.url + "/v1") as proxy:
                took = time.monotonic() - began
                answer = await raw_exchange("127.0.0.1", proxy.port, request())
                assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
                [recovered] = proxy.lines("state.recovered")
                assert (recovered["holds"], recovered["journal_damaged"]) == (count, 0)
                assert recovered["held_nanousd"] >= count * HELD_NANOUSD
                usage = await asyncio.to_thread(ran, folder, "usage", "--json", "--by", "source", "--state-dir", str(proxy.state))
                sources = {r["source"]: r for r in json.loads(usage.stdout)["rows"]}
                assert sources["recovered"]["calls"] == count
                assert sources["recovered"]["cost_nanousd"] == recovered["held_nanousd"]
                assert took < rig.times(short=20, long=2), f"ready after {took:.1f} s"
    return f"{count} calls ran: {recovered['held_nanousd'] / 1e9:.4f} USD charged as recovered, ready {took:.2f} s after the start"


@row("C11", "a second process on one state folder", "it refuses with words that say why, exit 2; the first goes on unharmed")
async def doubled(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        free = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--pretend")
        for _ in range(rig.times(short=2, long=20)):
            second = await asyncio.to_thread(ran, proxy.file.parent, "serve", *free, "--state-dir", str(proxy.state))
            assert (second.returncode, second.stdout.count("server.ready")) == (2, 0)
            assert second.stderr == f"tollhouse: another process uses {proxy.state}: give each its own TOLLHOUSE_STATE_DIR\n"
            status, _, _ = await proxy.chat()
            assert status == 200
    return "refused with exit 2"


@row(
    "C13",
    "a soak of mixed calls and faults: `make soak`, 30 minutes",
    "each call's usage and cost as model server and client saw them; memory, descriptors and the pace of others do not drift",
)
async def soaked(rig: Rig) -> str:
    """Too short here for drifts, which `make soak` is for."""
    with tempfile.TemporaryDirectory() as name:
        result = await soak(rig.times(short=5, long=45), seed=13, folder=Path(name))
    assert not result.wrong, result.wrong[0]
    return result.said()
