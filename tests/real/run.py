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
from install import Installed, install
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
        tokens = [sum(line.get(name) or 0 for line in calls) for name in ("input_tokens", "output_tokens")]
        cost = sum(line["cost_nanousd"] for line in calls) / 1e9
        return (
            self.scenario.name,
            self._result(),
            *(str(number) if number else "–" for number in (len(calls), *tokens)),
            f"{cost:.6f}" if cost else "–",
            _middle([line.get("first_token_ms") for line in calls], digits=0),
            _middle([line["total_ms"] for line in calls], digits=0),
            _middle([own_ms(line) for line in calls], digits=2),
        )

    def _result(self) -> str:
        if self.failure is not None:
            return "FAILED: " + " ".join(self.failure.replace("|", "/").split())[:100]
        return f"ok: {self.note}" if self.note else "ok"


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
        failure = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
    if failure is not None:
        with contextlib.suppress(Failed):  # so that its calls are not taken for those of the next
            await rig.since(mark)
    return Row(scenario, note, failure, rig.calls()[mark.calls :])


async def drive(scenarios: Sequence[Scenario], installed: Installed, *, rows: list[Row]) -> None:
    """Start everything, run the scenarios one after the other, and end everything.

    rows: where each scenario's end is put, so that those there are can be told when time is up. Errors: Failed, when something does
    not start.
    """
    async with contextlib.AsyncExitStack() as undo:
        state = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tollhouse-real-")))
        secrets = Secrets()
        llama = await LlamaServer.start(installed, key=secrets.upstream_key)
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


async def run(scenarios: Sequence[Scenario], installed: Installed) -> int:
    """The exit code."""
    current = asyncio.current_task()
    assert current is not None
    # SIGTERM ends us as Ctrl-C does: through every `finally`, so that no process of ours stays behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    began, rows = time.monotonic(), list[Row]()
    stopped: str | None = None
    try:
        async with asyncio.timeout(_WHOLE_S):
            await drive(scenarios, installed, rows=rows)
    except TimeoutError:
        stopped = f"not done after {_WHOLE_S} s"
    except asyncio.CancelledError:
        stopped = "interrupted"
    except Failed as failed:
        stopped = str(failed)
    print(table(rows))
    print(f"\n{MODEL} (Q4_K_M), {os.cpu_count()} CPUs, {time.monotonic() - began:.0f} s. Times are medians of a scenario's calls.")
    for row in rows:
        if row.failure is not None:
            tell(f"FAILED {row.scenario.name}: {row.failure}")
    if stopped is not None:
        tell(f"make real: {stopped}")
    return 0 if stopped is None and all(row.failure is None for row in rows) else 1


def main(words: Sequence[str]) -> int:
    """The exit code. words: as on the command line."""
    scenarios = [s for s in SCENARIOS if not words or any(word.lower() in s.name.lower() for word in words)]
    if not scenarios:
        tell(f"make real: no scenario's name contains {' or '.join(words)}; there are: {', '.join(s.name for s in SCENARIOS)}")
        return 2
    try:
        installed = install()
    except Failed as failed:
        tell(f"make real: {failed}")
        return 1
    return asyncio.run(run(scenarios, installed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
