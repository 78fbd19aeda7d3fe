"""`python bench/run.py`: what Tollhouse costs, beside a bare aiohttp relay, in one run on this machine.

Every measurement is made on both subjects in turn and compared within its round. See bench/README.md for what is
measured and what is not.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
import yaml

from bench import wire
from bench.load import BadReply, Load
from bench.report import Report
from bench.subject import Failed, Subject, free_port

_HERE = Path(__file__).resolve().parent
_POLICY = _HERE / "policy.yaml"
_DEFAULT_POLICY = _HERE.parent / "policies" / "default.yaml"
_WATCHDOG_S = 400
_STREAMS = 100
_EVENTS_S = 50
_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, in seconds: settling and measuring at 32 connections, measuring at one, and over streams; and how often."""

    rounds: int
    cold_starts: int
    settle_s: float
    busy_s: float
    single_s: float
    stream_s: float
    apart_s: float  # between the starts of two streams

    @property
    def events(self) -> int:
        """Of one stream: the first lasts until the window is over."""
        return round((_STREAMS * self.apart_s + self.settle_s + self.stream_s + 0.5) * _EVENTS_S)


# Many short rounds rather than a few long ones: a neighbour's load then falls on both subjects alike.
FULL = Plan(rounds=13, cold_starts=5, settle_s=0.25, busy_s=0.6, single_s=0.4, stream_s=1.5, apart_s=0.006)
QUICK = Plan(rounds=5, cold_starts=3, settle_s=0.15, busy_s=0.5, single_s=0.3, stream_s=0.8, apart_s=0.005)


class Bench:
    """One run. cores: of the subjects, and of the mock and the load."""

    def __init__(self, plan: Plan, *, cores: tuple[int, int], self_check: bool, folder: Path) -> None:
        self._plan, self._cores, self._folder = plan, cores, folder
        self._self_check = self_check
        self._mock_port = free_port()
        self.report = Report("bare relay", "second relay" if self_check else "Tollhouse")
        self.replies = 0
        self.reply_bytes = 0
        self.idlest = 1.0  # share of its core that the least busy subject used under load

    @contextmanager
    def _start(self, name: str) -> Iterator[Subject]:
        if name == "mock":
            command = ["mock.py", "--port", str(self._mock_port), "--events", str(self._plan.events)]
            port, core = self._mock_port, self._cores[1]
        else:
            port, core = free_port(), self._cores[0]
            command = self._relay(port) if name != "Tollhouse" else self._tollhouse(port)
        subject = Subject(
            name, [sys.executable, *_at_home(command)], port=port, core=core, drain_core=self._cores[1], env=_environment()
        )
        try:
            yield subject
        finally:
            subject.stop()

    def _relay(self, port: int) -> list[str]:
        return ["relay.py", "--upstream", f"http://127.0.0.1:{self._mock_port}", "--port", str(port)]

    def _tollhouse(self, port: int) -> list[str]:
        state = tempfile.mkdtemp(dir=self._folder)
        upstream = f"http://127.0.0.1:{self._mock_port}/v1"
        serve = ["-m", "proxy", "serve", "--policy", str(_POLICY), "--upstream", upstream, "--state-dir", state]
        return [*serve, "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{free_port()}"]

    async def run(self) -> None:
        names = (self.report.baseline, self.report.subject)
        with ExitStack() as stack:
            mock = stack.enter_context(self._start("mock"))
            await mock.first_200(None)
            for _ in range(self._plan.cold_starts):
                for name in names:
                    with self._start(name) as subject:
                        self.report.add(name, cold_start_s=await subject.first_200(self._hello(subject)))
            subjects = [stack.enter_context(self._start(name)) for name in names]
            for subject in subjects:
                await subject.first_200(self._hello(subject))
                self.report.add(subject.name, rss_idle_mib=subject.rss_mib())
            gc.collect()
            gc.freeze()
            for at in range(self._plan.rounds):
                _say(f"round {at + 1} of {self._plan.rounds}")
                await self._round(subjects, mock)
                subjects.reverse()  # neither always goes first
            for subject in subjects:
                self.report.add(subject.name, rss_after_mib=subject.rss_mib())

    def _hello(self, subject: Subject) -> bytes:
        return wire.request(subject.port, prompt_bytes=100, capped=True)

    async def _round(self, subjects: Sequence[Subject], mock: Subject) -> None:
        for subject in subjects:
            cost_us, rate = await self._busy(subject, prompt_bytes=1000)
            self.report.add(subject.name, request_1k_us=cost_us, requests_s=rate)
        for subject in subjects:
            cost_us, _ = await self._busy(subject, prompt_bytes=32_000)
            self.report.add(subject.name, request_32k_us=cost_us)
        direct = await self._single(mock)
        for subject in subjects:
            p50, p99 = (through - straight for through, straight in zip(await self._single(subject), direct, strict=True))
            self.report.add(subject.name, added_p50_us=p50, added_p99_us=p99)
        for subject in subjects:
            await self._streams(subject)

    def _load(self, subject: Subject, *, prompt_bytes: int, clients: int) -> Load:
        """Half of the calls say max_tokens, half do not."""
        requests = [wire.request(subject.port, prompt_bytes=prompt_bytes, capped=capped) for capped in (True, False)]
        return Load(subject.port, requests, expected=wire.REPLY, clients=clients)

    async def _busy(self, subject: Subject, *, prompt_bytes: int) -> tuple[float, float]:
        """CPU µs per request, and requests per second, of a subject that has as much to do as it can."""
        async with self._load(subject, prompt_bytes=prompt_bytes, clients=_CONNECTIONS) as load:
            await asyncio.sleep(self._plan.settle_s)
            calls, cpu_s, begun = load.calls, subject.cpu_s(), time.perf_counter()
            await asyncio.sleep(self._plan.busy_s)
            calls, cpu_s, took_s = load.calls - calls, subject.cpu_s() - cpu_s, time.perf_counter() - begun
        self._count(load)
        if not calls:
            raise Failed(f"{subject.name} answered nothing in {took_s:.1f} s")
        self.idlest = min(self.idlest, cpu_s / took_s)
        return cpu_s / calls * 1e6, calls / took_s

    async def _single(self, subject: Subject) -> tuple[float, float]:
        """p50 and p99 of the latency of calls one after the other, µs."""
        async with self._load(subject, prompt_bytes=1000, clients=1) as load:
            await asyncio.sleep(self._plan.single_s)
        self._count(load)
        return _percentiles(load.clients[0].calls)

    async def _streams(self, subject: Subject) -> None:
        """CPU per event in a window in which all streams run."""
        expected = wire.EVENT * self._plan.events + wire.DONE
        requests = [wire.request(subject.port, prompt_bytes=1000, capped=capped, stream=True) for capped in (True, False)]
        load = Load(subject.port, requests, expected=expected, clients=_STREAMS, once=True, apart_s=self._plan.apart_s)
        async with load:
            await asyncio.sleep(self._plan.settle_s)
            got, cpu_s = load.body_bytes, subject.cpu_s()
            await asyncio.sleep(self._plan.stream_s)
            got, cpu_s = load.body_bytes - got, subject.cpu_s() - cpu_s
            if load.calls:
                raise Failed("a stream ended before the window did: the load is too slow for this machine")
        self._count(load)
        events = got / len(wire.EVENT)
        due = _STREAMS * _EVENTS_S * self._plan.stream_s
        if not 0.9 * due < events < 1.1 * due:
            raise Failed(f"{subject.name} handed on {events:.0f} events in a window of {due:.0f}")
        first_p50, first_p99 = _percentiles([client.first_ns for client in load.clients])
        self.report.add(subject.name, event_us=cpu_s / events * 1e6, first_token_p50_us=first_p50, first_token_p99_us=first_p99)

    def _count(self, load: Load) -> None:
        self.replies += load.calls
        self.reply_bytes += load.body_bytes


def _at_home(command: Sequence[str]) -> list[str]:
    first, *rest = command
    return [str(_HERE / first) if first.endswith(".py") else first, *rest]


def _environment() -> dict[str, str]:
    """Ours, without what would set up Tollhouse in another way."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("TOLLHOUSE_", "OTEL_", "OPENAI_", "PYTHON"))}


def _percentiles(nanoseconds: Sequence[int]) -> tuple[float, float]:
    """p50 and p99 in µs."""
    ordered = sorted(nanoseconds)
    return tuple(ordered[min(len(ordered) - 1, int(len(ordered) * part))] / 1000 for part in (0.50, 0.99))  # type: ignore[return-value]


def _check_policy() -> None:
    """Every clause that runs by default runs here too. Errors: Failed."""

    def clauses(path: Path) -> set[str]:
        policies = yaml.safe_load(path.read_text())["policies"]
        return {clause for policy in policies for clause in policy} - {"name", "match", "mode"}

    missing = clauses(_DEFAULT_POLICY) - clauses(_POLICY)
    if missing:
        raise Failed(f"{_POLICY.name} lacks clauses of the default policy: {', '.join(sorted(missing))}")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?"
    )
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def _cores() -> tuple[int, int]:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Failed("the benchmark needs two cores: one for the subject, one for the load")
    return allowed[0], allowed[1]


async def measure(given: argparse.Namespace) -> None:
    cores = _cores()
    os.sched_setaffinity(0, {cores[1]})
    if not given.self_check:
        _check_policy()
    plan = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(plan, cores=cores, self_check=given.self_check, folder=Path(folder))
        async with asyncio.timeout(_WATCHDOG_S):
            await bench.run()
    replies = f"{bench.replies} replies ({bench.reply_bytes} bytes) compared byte by byte, all whole"
    if given.json:
        print(
            json.dumps({"machine": _machine(), "replies": replies, "rounds": plan.rounds, "figures": bench.report.json()}, indent=2)
        )
        return
    print(bench.report.table())
    print()
    print(
        f"Medians of {plan.rounds} interleaved rounds (least–most), ratios within a round; the subject alone on one core, mock upstream "
        "and load on another, loopback, keep-alive, no TLS, all clauses of the default policy on, log to a pipe that is drained."
    )
    print(f"{replies}; least busy subject under load: {bench.idlest:.0%} of its core. {_machine()}.")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Tollhouse beside a bare aiohttp relay.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under a minute, more noise")
    parser.add_argument("--json", action="store_true", help="every round's figures as JSON instead of the table")
    parser.add_argument(
        "--self-check", action="store_true", help="a second bare relay in Tollhouse's place: its ratios are the noise"
    )
    try:
        uvloop.run(measure(parser.parse_args()))
    except (Failed, BadReply, OSError, TimeoutError) as error:
        _say(f"bench: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
