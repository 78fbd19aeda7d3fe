"""Fuzzing, for a while: `make fuzz`, or `make fuzz SECONDS=600 TARGETS="edge streams" PROCESSES=2`. Says what was tried and what broke.

Coverage guides it (atheris, which is libFuzzer for Python); --blind changes the corpus without it, five times as often. Inputs begin
with the seeds and the corpus; with --keep the corpus becomes the smallest set of inputs that reaches all that any of them reached.
An input that breaks something is kept in any case, as corpus/TARGET/broke-…, and is replayed by the suite from then on.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.fuzz.reduce import reduced
from tests.fuzz.targets import CORPUS, TARGETS, stored

_ROOT = Path(__file__).parents[2]
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_LATE_S = 120  # that a process may take to end, beyond its time


@dataclass(slots=True)
class Fuzzing:
    """One process. folder: new inputs and what broke go there."""

    folder: Path
    process: subprocess.Popen[str]


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the targets.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"any of {', '.join(TARGETS)}; all without")
    parser.add_argument("--seconds", type=int, default=10, help="for each target (10)")
    parser.add_argument("--processes", type=int, default=1, help="of each target, at once (1)")
    parser.add_argument("--keep", action="store_true", help="add what reaches something new to the corpus")
    parser.add_argument("--blind", action="store_true", help="without coverage, and with the more inputs")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    broken = total = 0
    for name in arguments.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            tried, broke = _fuzzed(name, Path(folder), arguments)
        total += tried
        broken += len(broke)
        print(f"{name:9} {tried:>10,} inputs in {arguments.seconds} s: {', '.join(broke) or 'nothing broke'}", flush=True)
    print(f"{total:,} inputs in all, {broken} of them broke something.")
    return 1 if broken else 0


def _fuzzed(name: str, folder: Path, arguments: argparse.Namespace) -> tuple[int, list[str]]:
    """How many inputs were tried, and the names of those that broke something."""
    seconds: int = arguments.seconds
    seeds = folder / "seeds"
    seeds.mkdir()
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (seeds / f"seed-{number}").write_bytes(seed)
    running = []
    for number in range(arguments.processes):
        own = folder / str(number)
        (own / "new").mkdir(parents=True)
        if arguments.blind:
            process = _spawned("tests.fuzz.blind", name, str(own), str(seconds), str(time.time_ns() + number))
        else:
            process = _started(name, [str(own / "new"), str(seeds), str(CORPUS / name)], own, f"-max_total_time={seconds}")
        running.append(Fuzzing(own, process))
    tried, broke = 0, []
    for fuzzing in running:
        said, _ = fuzzing.process.communicate(timeout=seconds + _LATE_S)
        match = _RUNS.search(said)
        tried += int(match[1]) if match else 0
        if fuzzing.process.returncode:
            broke += [_kept(name, path) for path in fuzzing.folder.glob("broke-*")] or [
                f"a process that ended with: {said[-2000:]}"
            ]
            print(said[-3000:], file=sys.stderr)
    if arguments.keep and not arguments.blind:
        _keep(name, [path.read_bytes() for fuzzing in running for path in (fuzzing.folder / "new").iterdir()])
    return tried, broke


def _started(name: str, folders: list[str], own: Path, *options: str) -> subprocess.Popen[str]:
    limits = ("-print_final_stats=1", f"-artifact_prefix={own}/broke-", "-timeout=20", "-rss_limit_mb=2048")
    return _spawned("tests.fuzz.targets", name, *folders, *limits, *options)


def _spawned(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def _kept(name: str, path: Path) -> str:
    kept = CORPUS / name / path.name[:24]
    kept.write_bytes(path.read_bytes())
    return kept.name


def _keep(name: str, new: list[bytes]) -> None:
    """Make the corpus of a target the smallest set of inputs that reaches all that these and it do."""
    before = {known: data for known, data in stored(name) if not known.startswith("broke-")}
    kept = reduced(TARGETS[name].one(), TARGETS[name].seeds(), [*before.values(), *new])
    for known in before:
        (CORPUS / name / known).unlink()
    for data in kept:
        (CORPUS / name / sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
