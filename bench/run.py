"""`python bench/run.py`: what Tollhouse costs, beside a bare aiohttp relay, in one run on this machine.

Every measurement is made on both subjects in turn and compared within its round. See bench/README.md for what is
measured and what is not.
"""

import argparse
import asyncio
import fcntl
import gc
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
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
    """How often and how long. Times in seconds.

    A round has so many slices of each closed loop, in which the subjects take turns, and one window of streams for each.
    Short turns, because a neighbour's load on a shared machine then falls on both subjects alike.
    """

    rounds: int
    cold_starts: int
    slices: int
    slice_s: float
    stream_s: float
    apart_s: float  # between the starts of two streams
    settle_s: float = 0.03

    @property
    def events(self) -> int:
        """Of one stream: the first lasts until the window is over."""
        return round((_STREAMS * self.apart_s + self.settle_s + self.stream_s + 0.5) * _EVENTS_S)


FULL = Plan(rounds=9, cold_starts=5, slices=8, slice_s=0.12, stream_s=1.8, apart_s=0.006)
QUICK = Plan(rounds=4, cold_starts=3, slices=5, slice_s=0.10, stream_s=1.0, apart_s=0.005)


@dataclass(slots=True)
class Tally:
    """What one subject did in its slices of a round."""

    calls: int = 0
    cpu_s: float = 0.0
    took_s: float = 0.0


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
        small = await self._closed_loop(subjects, prompt_bytes=1000, clients=_CONNECTIONS)
        large = await self._closed_loop(subjects, prompt_bytes=32_000, clients=_CONNECTIONS)
        single = await self._closed_loop([mock, *subjects], prompt_bytes=1000, clients=1)
        direct, *through = (_percentiles(load.calls_ns) for load, _ in single)
        for subject, (_, one), (_, other), latency in zip(subjects, small, large, through, strict=True):
            self.idlest = min(self.idlest, one.cpu_s / one.took_s)
            self.report.add(
                subject.name,
                request_1k_us=one.cpu_s / one.calls * 1e6,
                request_32k_us=other.cpu_s / other.calls * 1e6,
                requests_s=one.calls / one.took_s,
                added_p50_us=latency[0] - direct[0],
                added_p99_us=latency[1] - direct[1],
            )
        for subject in subjects:
            await self._streams(subject)

    async def _closed_loop(self, subjects: Sequence[Subject], *, prompt_bytes: int, clients: int) -> list[tuple[Load, Tally]]:
        """The subjects in turn under clients that each send the next call when one is answered. Half of the calls say max_tokens."""
        async with AsyncExitStack() as stack:
            runs = []
            for subject in subjects:
                requests = [wire.request(subject.port, prompt_bytes=prompt_bytes, capped=capped) for capped in (True, False)]
                load = Load(subject.port, requests, expected=wire.REPLY, clients=clients)
                runs.append((subject, await stack.enter_async_context(load), Tally()))
            for _ in range(self._plan.slices):
                for subject, load, tally in runs:
                    await self._slice(subject, load, tally)
            return [(load, tally) for _, load, tally in runs]

    async def _slice(self, subject: Subject, load: Load, tally: Tally) -> None:
        before = load.body_bytes, load.calls
        load.resume()
        await asyncio.sleep(self._plan.settle_s)
        calls, cpu_s, begun = load.calls, subject.cpu_s(), time.perf_counter()
        await asyncio.sleep(self._plan.slice_s)
        tally.calls += load.calls - calls
        tally.cpu_s += subject.cpu_s() - cpu_s
        tally.took_s += time.perf_counter() - begun
        await load.pause()
        self.reply_bytes += load.body_bytes - before[0]
        self.replies += load.calls - before[1]
        if load.calls == calls:
            raise Failed(f"{subject.name} answered nothing in {self._plan.slice_s} s")

    async def _streams(self, subject: Subject) -> None:
        """CPU per event in a window in which all streams run."""
        expected = wire.EVENT * self._plan.events + wire.DONE
        requests = [wire.request(subject.port, prompt_bytes=1000, capped=capped, stream=True) for capped in (True, False)]
        async with Load(subject.port, requests, expected=expected, clients=_STREAMS) as load:
            await load.once(apart_s=self._plan.apart_s)
            await asyncio.sleep(self._plan.settle_s)
            got, cpu_s, begun = load.body_bytes, subject.cpu_s(), time.perf_counter()
            await asyncio.sleep(self._plan.stream_s)
            got, cpu_s, took_s = load.body_bytes - got, subject.cpu_s() - cpu_s, time.perf_counter() - begun
            ended = load.calls
            await load.pause()
        if ended:
            raise Failed("a stream ended before the window did: this machine is too slow for the load")
        events, due = got / len(wire.EVENT), _STREAMS * _EVENTS_S * took_s
        if not 0.9 * due < events < 1.1 * due:
            raise Failed(f"{subject.name} handed on {events:.0f} events where {due:.0f} were due")
        self.replies += load.calls
        self.reply_bytes += load.body_bytes
        first_p50, first_p99 = _percentiles(load.first_ns)
        self.report.add(subject.name, event_us=cpu_s / events * 1e6, first_token_p50_us=first_p50, first_token_p99_us=first_p99)


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


@contextmanager
def _alone() -> Iterator[None]:
    """Two runs at once would measure each other. Errors: Failed."""
    with Path(__file__).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Failed("another run is measuring on this machine; wait for its end") from exc
        yield


async def measure(given: argparse.Namespace) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)  # so that the children end and the folder goes
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
    if bench.idlest < 0.8:
        _say("note: a subject got less than its core: other work runs here, or the load is the bottleneck; trust the ratios only")
    print(f"{replies}; least busy subject under load: {bench.idlest:.0%} of its core. {_machine()}.")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Tollhouse beside a bare aiohttp relay.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under a minute, more noise")
    parser.add_argument("--json", action="store_true", help="every round's figures as JSON instead of the table")
    parser.add_argument(
        "--self-check", action="store_true", help="a second bare relay in Tollhouse's place: its ratios are the noise"
    )
    try:
        given = parser.parse_args()
        with _alone():
            uvloop.run(measure(given))
    except asyncio.CancelledError:
        _say("bench: told to stop")
        return 1
    except (Failed, BadReply, OSError, TimeoutError) as error:
        _say(f"bench: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
