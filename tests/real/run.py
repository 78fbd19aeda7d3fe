"""`make real`: an app that knows nothing of Tollhouse talks through it to a real model.

Installs a small model and a model server into `.real`, starts them, a receiver of pages and Tollhouse, runs every scenario, and
prints a table. Ends with 0 only when every scenario passed. It is bounded in time, and ends what it started.

    .venv/bin/python tests/real/run.py [SCENARIO…]     only those whose names contain one of these words
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from checks import Failed
from children import MODEL, LlamaServer
from install import install
from receiver import Receiver
from rig import Rig, Secrets
from scenarios import SCENARIOS, Scenario

_POLICY = Path(__file__).with_name("policy.yaml")
_SCENARIO_S = 60
_WHOLE_S = 280

HEAD = ("scenario", "result", "calls", "tokens in", "tokens out", "cost, USD", "first token, ms", "total, ms", "Tollhouse, ms")


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario's end. calls: the log lines of its calls; failure: None when it passed."""

    scenario: Scenario
    note: str
    failure: str | None
    calls: Sequence[dict[str, Any]]

    def cells(self) -> tuple[str, ...]:
        """Sums over its calls, and the median of their times."""
        calls = self.calls
        result, why = (
            ("ok", self.note) if self.failure is None else ("FAILED", " ".join(self.failure.replace("|", "/").split())[:100])
        )
        if why:
            result += f": {why}"
        tokens = [sum(line.get(name) or 0 for line in calls) for name in ("input_tokens", "output_tokens")]
        cost = sum(line["cost_nanousd"] for line in calls) / 1e9
        return (
            self.scenario.name,
            result,
            *(str(number) if number else "–" for number in (len(calls), *tokens)),
            f"{cost:.6f}" if cost else "–",
            _middle([line.get("first_token_ms") for line in calls], digits=0),
            _middle([line["total_ms"] for line in calls], digits=0),
            _middle([own_ms(line) for line in calls], digits=2),
        )


def own_ms(line: dict[str, Any]) -> float | None:
    """Tollhouse's own share of a call: admitting and settling it, or all of it where no upstream was asked. None where that is unknown."""
    if line.get("upstream") is None:
        return float(line["total_ms"])
    if line.get("admit_ms") is None:
        return None
    return float(line["admit_ms"]) + float(line.get("settle_ms") or 0)


def _middle(values: Sequence[float | None], *, digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.{digits}f}" if known else "–"


async def attempt(rig: Rig, scenario: Scenario) -> Row:
    """Run one scenario, and wait for the log lines of its calls: each must have exactly one."""
    mark = rig.mark()
    note, failure = "", None
    try:
        async with asyncio.timeout(_SCENARIO_S):
            note = await scenario.run(rig)
            await rig.since(mark)
    except TimeoutError:
        failure = f"took longer than {_SCENARIO_S} s"
    except Exception as error:  # the last line of defence: one scenario's failure does not keep the others from being tried
        failure = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Failed):
            await rig.since(mark)
    return Row(scenario, note, failure, rig.calls()[mark.calls :])


async def drive(scenarios: Sequence[Scenario]) -> list[Row]:
    """Start everything, run the scenarios one after the other, and end everything. Errors: Failed, when something does not start."""
    rows: list[Row] = []
    async with contextlib.AsyncExitStack() as undo:
        state = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tollhouse-real-")))
        secrets = Secrets()
        llama = await LlamaServer.start(install(), key=secrets.upstream_key)
        undo.push_async_callback(llama.child.stop)
        receiver = await Receiver.start()
        undo.push_async_callback(receiver.stop)
        rig = Rig(llama, receiver, secrets=secrets, policy=_POLICY, state=state)
        undo.push_async_callback(rig.close)
        await rig.model_loaded()
        await rig.open_gate()
        for scenario in scenarios:
            rows.append(await attempt(rig, scenario))
            tell(f"{'ok    ' if rows[-1].failure is None else 'FAILED'} {scenario.name}")
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown, with columns that line up also for who reads it as text."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def tell(text: str) -> None:
    """Progress goes to standard error: standard output is the table."""
    print(text, file=sys.stderr, flush=True)


async def run(words: Sequence[str]) -> int:
    """The exit code."""
    current = asyncio.current_task()
    assert current is not None
    # SIGTERM ends us as Ctrl-C does: through every `finally`, so that no process of ours stays behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    scenarios = [s for s in SCENARIOS if not words or any(word.lower() in s.name.lower() for word in words)]
    began = time.monotonic()
    try:
        async with asyncio.timeout(_WHOLE_S):
            rows = await drive(scenarios)
    except TimeoutError:
        tell(f"make real: not done after {_WHOLE_S} s")
        return 1
    except Failed as failed:
        tell(f"make real: {failed}")
        return 1
    print(table(rows))
    print(
        f"\n{MODEL} (Q4_K_M) on {os.cpu_count()} CPUs, {time.monotonic() - began:.0f} s. Times are medians of a scenario's calls."
    )
    failures = [row for row in rows if row.failure is not None]
    for row in failures:
        tell(f"FAILED {row.scenario.name}: {row.failure}")
    return 1 if failures or not rows else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(run(sys.argv[1:])))
