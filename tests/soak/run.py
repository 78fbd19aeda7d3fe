"""A soak: mixed calls, faults among them, against one serving process for as long as is asked, and what became of it over time.

    python -m tests.soak.run [MINUTES] [--seed N] [--write]      --write: also into RESULT.md

It fails when memory grew by 5 % between the first window that counts and the last, descriptors are not flat, the steady probe's calls fail
or their 99th percentile doubled, or any call's usage, cost or record is not what model server and client saw. The rule a reader could
break: load, model server and probe are processes of their own, and the runner does little, or the proxy would be measured with them.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from tests.faults.guard import MIB, OTHER_KEY, Guard
from tests.faults.rig import USUAL_CALLS, bystander
from tests.house import UPSTREAM_KEY, hash_of
from tests.soak.ledger import Ledger, Told, seen_of, served_of
from tests.soak.load import KEYS, Orders
from tests.soak.processes import ModelServer, loaded
from tests.soak.series import SETTLED, Sample, Series, drift, table
from tests.whole.process import Serving

RESULT = Path(__file__).parent / "RESULT.md"
MOST_RSS_DRIFT = 0.05
_LEAST_S = 600.0  # of a soak whose drifts are judged: a shorter one is all warming up
MOST_P99_RATIO = 2.0
_LIMIT_USD = 5000.0
_SAMPLE_S = 2.0
_RELOAD_S = 7.0
# From before the first call, the tokenizer's ranks among it; how memory goes on from there is judged by the series.
_GROWTH = 128 * MIB


class Soaked(Serving):
    """A serving process that runs for long: of the calls' lines only what is compared is kept, and all that could be a leak of content."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.told: dict[str, Told] = {}
        self.others_nanousd = 0

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        if event != "call.finished":
            return super().lines(event)
        of_calls = [
            {"request_id": id, "cost_nanousd": told.cost_nanousd} for id, told in self.told.items() for _ in range(told.times)
        ]
        return [*of_calls, {"request_id": "others", "cost_nanousd": self.others_nanousd}]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        saying = asyncio.create_task(self._process.stderr.read())
        async for line in self._process.stdout:
            if b'"call.finished"' in line:
                self._take(orjson.loads(line))
                if b"Canary" in line:
                    self._stdout += line
            else:
                self._stdout += line
                self._lines.append(orjson.loads(line))
            self._grew.set()
        self.stderr = await saying
        self._grew.set()

    def _take(self, line: dict[str, Any]) -> None:
        id = line["request_id"]
        if line.get("key") == "other" or id.startswith("req_"):
            self.others_nanousd += line.get("cost_nanousd", 0)
        else:
            known = self.told.get(id)
            self.told[id] = Told.of(line, times=1 if known is None else known.times + 1)


@dataclass(slots=True)
class Soak:
    """What became of one. wrong: what must not be, in words."""

    series: Series
    ledger: Ledger | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    reloads: int = 0
    rejected: int = 0
    failed_probes: int = 0
    wrong: list[str] = field(default_factory=list)

    def judge(self) -> None:
        windows = self.series.windows()
        if len(windows) > SETTLED and self.series.seconds >= _LEAST_S:
            if (grown := drift([w.rss for w in windows])) >= MOST_RSS_DRIFT:
                self.wrong.append(f"memory grew by {grown:.1%}")
            if (more := drift([w.descriptors for w in windows])) > 0.5:  # a running call has two, and their number varies
                self.wrong.append(f"{more:.0%} more descriptors")
            if (slower := self._slower()) >= MOST_P99_RATIO:
                self.wrong.append(f"the probe's p99 grew {slower:.1f}-fold beside that of the machine")
        if self.failed_probes:
            self.wrong.append(f"{self.failed_probes} calls of the probe failed")

    def _slower(self) -> float:
        """By what the probe's 99th percentile grew, in what the same calls past the proxy grew by. Medians of three windows."""
        windows = self.series.windows()
        return (drift([w.p99_s for w in windows], over=3) + 1) / max(1.0, drift([w.control_s for w in windows], over=3) + 1)

    def said(self) -> str:
        windows = self.series.windows()
        assert self.ledger is not None
        drifts = ""
        if len(windows) > SETTLED and self.series.seconds >= _LEAST_S:
            drifts = (
                f" From window {SETTLED + 1} to the last: memory {drift([w.rss for w in windows]):+.1%}, "
                f"descriptors {drift([w.descriptors for w in windows]):+.0%}, "
                f"the probe's p99 {drift([w.p99_s for w in windows], over=3):+.0%} (medians of three), "
                f"past Tollhouse {drift([w.control_s for w in windows], over=3):+.0%}."
            )
        return (
            f"{self.ledger.document()} {len(self.series.probes):,} calls of the probe, {self.failed_probes} failed; "
            f"{self.reloads} policy reloads, {self.rejected} of them of files with mistakes.{drifts}"
        )


async def soak(seconds: float, *, seed: int, folder: Path) -> Soak:
    """Run one, check the invariants of the fault matrix after it, and compare what everybody saw."""
    result = Soak(Series(seconds))
    async with contextlib.AsyncExitStack() as undo:
        model = await undo.enter_async_context(ModelServer(folder / "model.jsonl"))
        other = await undo.enter_async_context(bystander())
        texts = [_policy(model.port, other.port, cap=cap) for cap in (512, 640)]
        env = {"TOLLHOUSE_DRAIN_S": "2"}
        proxy = await undo.enter_async_context(Soaked(folder, texts[0], env=env))
        guard = Guard(proxy, folder, limit_usd=_LIMIT_USD)
        await other.begin(proxy.port, USUAL_CALLS)
        await guard.baseline()
        began, before = time.monotonic(), len(other.lines)
        orders = Orders(proxy.port, seed, seconds, str(folder / "clients.jsonl"))
        watching = asyncio.create_task(_watch(result.series, proxy, guard, began))
        reloading = asyncio.create_task(_reload(result, proxy, texts))
        result.kinds, wrong = await loaded(orders)
        for task in (watching, reloading):
            task.cancel()
        outcomes = await asyncio.gather(watching, reloading, return_exceptions=True)
        result.wrong += [f"{error!r}" for error in outcomes if not isinstance(error, asyncio.CancelledError)]
        result.wrong += wrong[:20]
        during = other.lines[before:]
        result.series.probes = [(at - began, took) for at, took, status, _ in during if status == 200]
        result.series.controls = [(at - began, past) for at, _, _, past in during]
        result.failed_probes = len(during) - len(result.series.probes)
        await model.close()
        await proxy.let_go()
        try:
            await guard.check(growth=_GROWTH)
        except AssertionError as error:
            result.wrong.append(str(error))
        result.ledger = Ledger(proxy.told, seen_of(folder / "clients.jsonl"), served_of(model.file))
        result.ledger.check()
        result.wrong += result.ledger.wrong[:20]
        result.wrong += [f"{line}" for line in proxy.lines() if line["event"] in ("fault.caught", "state.failed", "log.dropped")][
            :20
        ]
    result.judge()
    return result


async def _watch(series: Series, proxy: Soaked, guard: Guard, began: float) -> None:
    """Scrape and look, again and again."""
    while True:
        status, metrics = await proxy.admin("/metrics")
        assert status == 200
        at_s = time.monotonic() - began
        series.samples.append(Sample.of(at_s, rss=guard.rss(), descriptors=guard.descriptors(), metrics=metrics))
        await asyncio.sleep(min(_SAMPLE_S, series.seconds / 60))


async def _reload(result: Soak, proxy: Soaked, texts: list[str]) -> None:
    """Another policy file now and then; one of five has a mistake."""
    turn = 0
    while True:
        await asyncio.sleep(_RELOAD_S)
        turn += 1
        broken = turn % 5 == 0
        text = f"{texts[0]}  - {{name: mistake}}\n" if broken else texts[turn % 2]
        following = proxy.file.with_suffix(".new")
        following.write_text(f"# {turn}\n{text}", "utf-8")
        following.rename(proxy.file)
        event = "policy.rejected" if broken else "policy.activated"
        await proxy.logged(event, len(proxy.lines(event)) + 1)
        result.reloads += 1
        result.rejected += broken


def _policy(port: int, other_port: int, *, cap: int) -> str:
    keys = "\n".join(
        f'  - {{id: {id}, hash: "{hash_of(key)}", tags: [{id}], user: {{header: x-user}}}}' for id, key in KEYS.items()
    )
    timeouts = "connect: 20s, first_byte: 20s, first_token: 20s, idle: 20s, total: 60s, write_stall: 2s"
    return f"""version: 1
upstreams:
  main: {{base_url: "http://127.0.0.1:{port}/v1", api_key: {UPSTREAM_KEY}, timeouts: {{{timeouts}}}, retries: {{attempts: 1}}}}
  other: {{base_url: "http://127.0.0.1:{other_port}/v1"}}
routes:
  - {{models: ["bystander-*"], to: [other]}}
  - {{to: [main]}}
keys:
{keys}
  - {{id: other, hash: "{hash_of(OTHER_KEY)}"}}
prices:
  models: {{"bystander-*": {{input: 0.1, output: 0.1}}}}
policies:
  - {{name: everyone, max_tokens: {{cap: {cap}}}, budget: {{usd: {_LIMIT_USD}, per: month, when_spent: reject}}}}
  - {{name: fair, concurrency: {{calls: 200, by: key}}, rate_limit: {{requests: 100000, per: minute, by: user}}}}
  - {{name: patient, match: {{tags: [drain]}}, on_disconnect: {{do: drain, for_at_most: 2s}}}}
  - {{name: poor, match: {{tags: [poor]}}, budget: {{usd: 0.001, per: minute, by: key, when_spent: reject, least_cap: {cap // 8}}}}}
"""


def _document(result: Soak, *, minutes: float, seed: int) -> str:
    kinds = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(result.kinds.items(), key=lambda kind: -kind[1])
    )
    verdict = "passed" if not result.wrong else "**failed**: " + "; ".join(result.wrong)
    return "\n".join(
        (
            "# A soak",
            "",
            "Mixed calls by 40 clients, faults of clients and model server among them, policies reloaded meanwhile, against one serving",
            "process; another tenant's small calls, 25 a second, are the probe, and the same calls past the proxy show what the machine",
            "did. Each call's log line was compared with what its client and the model server saw, the books with the log, and the",
            "invariants of the fault matrix were checked at the end.",
            "",
            f"`make soak MINUTES={minutes:g}` (seed {seed}), {datetime.now(UTC):%Y-%m-%d}: {verdict}.",
            "",
            result.said(),
            "",
            f"Calls: {kinds}.",
            "",
            table(result.series.windows()),
            "",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a soak.")
    parser.add_argument("minutes", nargs="?", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"also into {RESULT.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = asyncio.run(soak(arguments.minutes * 60, seed=arguments.seed, folder=Path(name)))
    said = _document(result, minutes=arguments.minutes, seed=arguments.seed)
    print(said)
    if arguments.write:
        RESULT.write_text(said, "utf-8")
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
