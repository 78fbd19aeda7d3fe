"""Calls in a closed loop: the subjects take turns under clients that each send the next call when one is answered."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench import wire
from bench.load import Load
from bench.plan import CONNECTIONS, JUDGED, PROMPTS, Plan
from bench.report import Report, percentiles
from bench.subject import Subject


@dataclass(slots=True)
class _Turns:
    """What one subject did in its slices of a round."""

    subject: Subject
    load: Load
    calls: int = 0
    cpu_s: float = 0.0
    took_s: float = 0.0


async def round_of_calls(subjects: Sequence[Subject], mock: Subject, *, plan: Plan, report: Report) -> None:
    """Every size of prompt under every number of connections. With one connection the mock is asked directly, too."""
    for size, prompt_bytes in PROMPTS.items():
        for clients in CONNECTIONS:
            asked = [mock, *subjects] if clients == 1 else list(subjects)
            slices = plan.slices * (plan.times_judged if (size, clients) in JUDGED else 1)
            runs = await _take_turns(asked, prompt_bytes=prompt_bytes, clients=clients, slices=slices, slice_s=plan.slice_s)
            for run in runs:
                report.compared(run.load.calls, run.load.body_bytes)
            if clients == 1:
                direct, *runs = runs
                _latencies(size, runs, direct, report)
            for run in runs:
                cpu_us, calls_s = run.cpu_s / run.calls * 1e6, run.calls / run.took_s
                report.add(run.subject.name, {f"call_{size}_{clients}_us": cpu_us, f"calls_{size}_{clients}_s": calls_s})
                if clients != 1:
                    report.busy(run.subject.name, run.cpu_s / run.took_s)


def _latencies(size: str, runs: Sequence[_Turns], direct: _Turns, report: Report) -> None:
    base = percentiles(direct.load.calls_ns)
    for run in runs:
        p50, p99 = percentiles(run.load.calls_ns)
        report.add(run.subject.name, {f"added_p50_{size}_us": p50 - base[0], f"added_p99_{size}_us": p99 - base[1]})


async def _take_turns(subjects: Sequence[Subject], *, prompt_bytes: int, clients: int, slices: int, slice_s: float) -> list[_Turns]:
    async with AsyncExitStack() as stack:
        runs = []
        for subject in subjects:
            load = Load(subject.port, wire.calls(subject.port, prompt_bytes=prompt_bytes), expected=wire.REPLY, clients=clients)
            runs.append(_Turns(subject, await stack.enter_async_context(load)))
        for _ in range(slices):
            for run in runs:
                await _slice(run, slice_s)
        return runs


async def _slice(run: _Turns, length_s: float) -> None:
    """From the first request to the last answer, so that no call counts in part."""
    calls, cpu_s, begun = run.load.calls, run.subject.cpu_s(), time.perf_counter()
    run.load.resume()
    await asyncio.sleep(length_s)
    await run.load.pause()
    run.calls += run.load.calls - calls
    run.cpu_s += run.subject.cpu_s() - cpu_s
    run.took_s += time.perf_counter() - begun
