"""What a row of the matrix works with: a serving process under a policy with limits, another tenant beside it, and the invariants.

    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream.url) as proxy:
        status, headers, body = await proxy.post(...)
    # when the block is left: the upstream's connections are let go, I1 to I6 are checked, the process is ended and must end with 0

The rule a reader could break: whoever makes a fault closes its own sockets before it leaves the block.
"""

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import orjson

from tests.fakes import FakeUpstream, Step, json_answer, sse_answer
from tests.faults.bystander import UNCOUNTED
from tests.faults.guard import ANSWER, APP_KEY, MIB, OTHER_KEY, PROMPT, Guard
from tests.house import UPSTREAM_KEY, hash_of
from tests.whole.conversation import chunk
from tests.whole.process import Serving

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 50}
KEY = {"authorization": f"Bearer {APP_KEY}", "content-type": "application/json"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
EVENTS = [chunk(ANSWER), chunk("!"), chunk("", finish="stop"), chunk(None, usage=USAGE), b"data: [DONE]\n\n"]
STREAM: list[Step] = sse_answer(EVENTS)
OK: list[Step] = json_answer(
    200,
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4.1-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
        "usage": USAGE,
    },
)
LIMIT_USD = 5.0
# Timeouts for faults that no deadline is to end: a busy machine is slow.
PATIENT = "connect: 20s, first_byte: 20s, first_token: 20s, idle: 20s, total: 60s, write_stall: 20s"
# Of a loop, on a machine that has other work; the figure of the matrix is 50 ms.
MOST_STALL_S = 1.0
_LAG = re.compile(r'^tollhouse_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
USUAL_CALLS = 25  # of the bystander, before a fault begins
_NOISE_S = 0.005  # a 99th percentile below this is the noise of a shared machine


@dataclass(slots=True)
class Bystanding:
    """How the other tenant's calls went: seconds each, before the fault and during it, and of those past the proxy during it, which say
    what the machine does to whoever hands bytes on; statuses other than 200, with their number.
    """

    before_s: list[float] = field(default_factory=list)
    during_s: list[float] = field(default_factory=list)
    past_s: list[float] = field(default_factory=list)
    failed: dict[int, int] = field(default_factory=dict)

    def ratio(self) -> float:
        """I5: the 99th percentile during the fault by the one before it. What a relay shows meanwhile is told, and excuses nothing."""
        return _p99(self.during_s) / max(_p99(self.before_s), _NOISE_S)

    def __str__(self) -> str:
        before, during, past = (1e3 * _p99(seconds) for seconds in (self.before_s, self.during_s, self.past_s))
        return f"p99 {during:.0f} ms, before {before:.0f} ms, past the proxy {past:.0f} ms"


@dataclass(slots=True)
class Rig:
    """short: the form for every commit; long ones repeat a fault more often. others: of each proxy that ran."""

    short: bool = True
    others: list[Bystanding] = field(default_factory=list)

    def times(self, *, short: int, long: int) -> int:
        return short if self.short else long

    @asynccontextmanager
    async def proxy(
        self,
        upstream: str | FakeUpstream,
        *,
        timeouts: str = "connect: 1s, first_byte: 1s, first_token: 1s, idle: 1s, total: 10s, write_stall: 1s",
        options: str = "retries: {attempts: 1}, breaker: {failures: 0}",
        rules: str = "",
        more: str = "",
        env: Mapping[str, str] | None = None,
        growth: int = 3 * MIB,
        alone: bool = False,
        limit_usd: float = LIMIT_USD,
        within: Sequence[str] = (),
        descriptors: int | None = None,
        usual_calls: int = USUAL_CALLS,
    ) -> AsyncIterator["Proxy"]:
        """A serving process that is checked at the end.

        upstream: its URL without /v1, or the fake one, whose connections are then let go before the check. options: further settings of
        the upstream. rules: YAML items under `policies`; more: further top-level YAML. growth: see Guard. alone: without the other tenant.
        limit_usd: of the budget that all calls are under.
        within, descriptors: see Serving.
        usual_calls: of the other tenant, before anything happens. Their 99th percentile is their slowest, unless they are hundreds.
        """
        url = upstream if isinstance(upstream, str) else upstream.url
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            async with bystander() as other:
                text = _policy(url, other.port, timeouts=timeouts, options=options, rules=rules, more=more, limit_usd=limit_usd)
                serving = Proxy(folder, text, env={"TOLLHOUSE_DRAIN_S": "2", **(env or {})}, within=within, descriptors=descriptors)
                async with serving as proxy:
                    proxy.guard = Guard(proxy, folder, limit_usd=limit_usd)
                    await proxy.ready_to_count()
                    if not alone:
                        await other.begin(proxy.port, usual_calls)
                    proxy.other = other
                    await proxy.begin()
                    usual = proxy.began
                    yield proxy
                    if isinstance(upstream, FakeUpstream):
                        await upstream.hang_up()
                    await proxy.let_go()
                    ended = len(other.lines)
                    await proxy.guard.check(growth=growth)
                    if not alone:
                        self.others.append(other.told(usual, proxy.began, ended))
                        assert not self.others[-1].failed, f"I5: another tenant's calls ended with {self.others[-1].failed}"


class Proxy(Serving):
    """The process that a fault happens to. guard: asks what must hold of it. other: who calls beside it; began: after so many calls."""

    guard: Guard
    other: "_Other"
    began: int
    _lag: Mapping[float, int]

    async def begin(self) -> None:
        """The fault begins here: what is open, used and slow by now was so without it. Again once a first call has loaded what it takes."""
        await self.guard.baseline()
        self._lag = await self._lags()
        self.began = len(self.other.lines)

    async def ready_to_count(self) -> None:
        """Wait for the encoding that a server loads behind its start, or its memory would seem to be the fault's."""
        body = b'{"model":"%b","messages":[{"role":"user","content":"Hello"}],"max_tokens":5}' % UNCOUNTED.encode()
        headers = {"authorization": f"Bearer {OTHER_KEY}", "content-type": "application/json"}
        status, _, _ = await self.post(PATH, body, headers)
        assert status == 200
        await self.let_go()

    async def begin_counting(self, upstream: FakeUpstream) -> None:
        """`begin` after an answer without usage, which is counted: that loads an encoding and its thread for good."""
        upstream.queue(json_answer(200, {"choices": [{"message": {"content": ANSWER}}]}))
        await self.chat()
        await self.begin()

    async def chat(self, **fields: Any) -> tuple[int, Mapping[str, str], bytes]:
        """One call of the app, with these fields beside or instead of the usual ones."""
        return await self.post(PATH, orjson.dumps({**CHAT, **fields}), KEY)

    def forget(self) -> None:
        """Drop what was logged so far of calls that cost nothing: for a row whose many would fill the memory of the test."""
        self._stdout.clear()
        self._lines[:] = [line for line in self._lines if line.get("cost_nanousd")]

    async def lag_s(self) -> float:
        """By how many seconds its loop was late since the fault began, at most: the edge of a bucket."""
        counts = {edge: count - self._lag.get(edge, 0) for edge, count in (await self._lags()).items()}
        return min(edge for edge, count in counts.items() if count == counts[inf])

    async def _lags(self) -> dict[float, int]:
        """How often the loop was late by no more than so many seconds, since the start."""
        _, text = await self.admin("/metrics")
        return {float(edge): int(count) for edge, count in _LAG.findall(text)}

    def disk(self) -> int:
        """Bytes that its state takes."""
        return sum(path.stat().st_blocks * 512 for path in self.state.rglob("*") if path.is_file())

    async def call_lines(self, count: int = 1, *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """Wait until so many of the app's calls have ended, and return all of their lines."""
        async with asyncio.timeout(timeout_s):
            while len(found := [line for line in self.lines("call.finished") if line.get("key") != "other"]) < count:
                await asyncio.sleep(0.02)
        return found


@dataclass(slots=True)
class _Other:
    """The bystander's process. lines: when a call ended, its seconds, its status, the seconds of one past the proxy."""

    process: asyncio.subprocess.Process
    port: int
    lines: list[tuple[float, float, int, float]] = field(default_factory=list)

    async def begin(self, proxy_port: int, calls: int) -> None:
        """Let it call, until it has warmed both up with so many calls."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{proxy_port} {OTHER_KEY}\n".encode())
        async with asyncio.timeout(20 + calls / 5):
            while len(self.lines) < calls:
                await asyncio.sleep(0.02)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            at, seconds, status, past = line.split()
            self.lines.append((float(at), float(seconds), int(status), float(past)))

    def told(self, usual: int, began: int, ended: int) -> Bystanding:
        """usual: so many calls were made before anything happened; began, ended: the fault."""
        found = Bystanding(
            before_s=[seconds for _, seconds, _, _ in self.lines[5:usual]],  # the first ones found nothing made
            during_s=[seconds for _, seconds, _, _ in self.lines[began:ended]],
            past_s=[past for _, _, _, past in self.lines[began:ended]],
        )
        for _, _, status, _ in self.lines[:ended]:
            if status != 200:
                found.failed[status] = found.failed.get(status, 0) + 1
        return found


@asynccontextmanager
async def bystander() -> AsyncIterator[_Other]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.bystander"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    reading = None
    try:
        assert process.stdout is not None
        other = _Other(process, int(await process.stdout.readline()))
        reading = asyncio.create_task(other.read())
        yield other
    finally:
        process.kill()  # once: a second time, asyncio would find it gone and say so
        if reading is not None:
            await reading
        await process.wait()


def _policy(url: str, other_port: int, *, timeouts: str, options: str, rules: str, more: str, limit_usd: float) -> str:
    listed = "".join(f"  {line}\n" for line in rules.strip("\n").splitlines())
    return f"""version: 1
upstreams:
  main: {{base_url: "{url}/v1", api_key: {UPSTREAM_KEY}, timeouts: {{{timeouts}}}, {options}}}
  other: {{base_url: "http://127.0.0.1:{other_port}/v1"}}
routes:
  - {{models: ["bystander-*"], to: [other]}}
  - {{to: [main]}}
keys:
  - {{id: app, hash: "{hash_of(APP_KEY)}", user: {{header: x-user}}}}
  - {{id: other, hash: "{hash_of(OTHER_KEY)}"}}
prices:
  models: {{"bystander-*": {{input: 0.1, output: 0.1}}}}
{more}
policies:
  - {{name: everyone, budget: {{usd: {limit_usd}, per: month, when_spent: reject}}}}
{listed}"""


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] if seconds else 0.0
