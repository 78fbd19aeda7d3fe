"""`python -m bench.run`: what Tollhouse costs, between nginx and a bare aiohttp relay, in one run on this machine.

Every measurement is made on all subjects in turn and compared within its round. See bench/README.md for what is measured and what
is not.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from bench import nginx
from bench.closed_loop import round_of_calls
from bench.lineup import BASELINE, LIMIT, MOCK, Lineup, check_policy, hello
from bench.plan import FULL, QUICK, Plan
from bench.reply import BadReply
from bench.report import Report
from bench.showcase import lines_below, publish
from bench.stalls import round_of_stalls
from bench.streams import round_of_crowds, round_of_streams
from bench.subject import Failed, Subject

_WATCHDOG_S = 900


async def _measure(plan: Plan, *, cores: tuple[int, int], folder: Path, self_check: bool) -> Report:
    lineup = Lineup(cores=cores, folder=folder, self_check=self_check)
    report = Report(lineup.names, LIMIT, BASELINE, lineup.subject, judged=not self_check)
    with ExitStack() as stack:
        mock = stack.enter_context(lineup.start(MOCK))
        await mock.first_200(None)
        subjects = [stack.enter_context(lineup.start(name)) for name in lineup.names]
        for subject in subjects:
            await subject.first_200(hello(subject))
            report.add(subject.name, {"rss_idle_mib": subject.rss_mib()})
        gc.collect()
        gc.freeze()
        for at in range(plan.rounds):
            _say(f"round {at + 1} of {plan.rounds}")
            await _round(at, subjects, mock, plan=plan, lineup=lineup, report=report)
            subjects.append(subjects.pop(0))  # none always goes first
            if at < plan.stall_rounds and not self_check:
                await round_of_stalls(lineup, folder=folder, report=report)
        for subject in subjects:
            report.add(subject.name, {"rss_after_mib": subject.rss_mib()})
    return report


async def _round(at: int, subjects: Sequence[Subject], mock: Subject, *, plan: Plan, lineup: Lineup, report: Report) -> None:
    for name in lineup.names:
        with lineup.start(name) as subject:
            report.add(name, {"cold_start_s": await subject.first_200(hello(subject))})
    await round_of_calls(subjects, mock, plan=plan, report=report)
    await round_of_streams(subjects, mock, plan=plan, report=report)
    if plan.crowd is not None:
        await round_of_crowds(lineup, plan.crowd, report=report)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?"
    )
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"


def _cores() -> tuple[int, int]:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Failed("the benchmark needs two cores: one for the subject, one for the load")
    return allowed[0], allowed[1]


def _allow_files() -> None:
    """A thousand streams are two thousand sockets in a subject, which inherits this. Errors: Failed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 4096:
        raise Failed(f"only {hard} open files are allowed here, and the benchmark needs 4096: ulimit -n")


@contextmanager
def _alone() -> Iterator[None]:
    """Two runs at once would measure each other. Errors: Failed."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind("\0tollhouse-bench")  # one name for the whole machine, gone with the process
        except OSError as error:
            raise Failed("another run is measuring on this machine; wait for its end") from error
        yield


async def run(given: argparse.Namespace) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)  # so that the children end and the folder goes
    cores = _cores()
    os.sched_setaffinity(0, {cores[1]})
    _allow_files()
    check_policy()
    if nginx.found() is None:
        _say(f"note: {nginx.MISSING}")
    plan = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(_WATCHDOG_S):
            report = await _measure(plan, cores=cores, folder=Path(folder), self_check=given.self_check)
    below = lines_below(report, rounds=plan.rounds, stall_rounds=plan.stall_rounds, machine=_machine())
    if given.readme:
        publish(report, below)
    if given.json:
        print(json.dumps({"machine": _machine(), "rounds": plan.rounds, "notes": below, "figures": report.json()}, indent=2))
    else:
        print(report.table(), *below, sep="\n\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Tollhouse between nginx and a bare aiohttp relay.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under a minute, more noise")
    parser.add_argument("--json", action="store_true", help="every round's figures as JSON instead of the table")
    parser.add_argument("--readme", action="store_true", help="write table and plot where the README shows them")
    parser.add_argument(
        "--self-check", action="store_true", help="a second bare relay in Tollhouse's place: its ratios are the noise"
    )
    given = parser.parse_args()
    if given.readme and given.self_check:
        parser.error("the README shows Tollhouse, not a second relay")
    try:
        with _alone():
            uvloop.run(run(given))
    except asyncio.CancelledError:
        _say("bench: told to stop")
        return 1
    except (Failed, BadReply, OSError, TimeoutError) as error:
        _say(f"bench: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
