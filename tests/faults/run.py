"""The fault matrix, played row by row: `make faults`, or `make faults ROWS="A1 B2"`. Prints what was seen, and
writes it to RESULTS.md and the table of the README: all of it, or the lines of the rows that were named.

A row fails when what must happen does not, when an invariant is broken, or when another tenant's calls got slower than I5 allows.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.rig import Rig
from tests.faults.row import MOST_RATIO, Row, rows

RESULTS = Path(__file__).parent / "RESULTS.md"
_ROOT = Path(__file__).parents[2]
README = _ROOT / "README.md"
BEGIN, END = "<!-- faults: made by `make faults` -->", "<!-- end of faults -->"
_TRIES = 3  # of a row in which only I5 failed: other processes on the machine slow calls too


@dataclass(frozen=True, slots=True)
class Result:
    """ratio: of the other tenant's p99 during the fault to the one before; None where there was none. seen: in a line."""

    row: Row
    passed: bool
    seen: str
    seconds: float
    ratio: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description="Play the fault matrix.")
    parser.add_argument("ids", nargs="*", metavar="ROW", help="rows to play; all without")
    parser.add_argument("--short", action="store_true", help="the form that every commit is tested with")
    arguments = parser.parse_args()
    known = {row.id: row for row in rows()}
    unknown = [id for id in arguments.ids if id not in known]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    results = []
    for row in [known[id] for id in arguments.ids] or list(known.values()):
        print(f"{row.id:4} {row.fault} … ", end="", flush=True)
        result = _played(row, short=arguments.short)
        results.append(result)
        print(f"{'ok' if result.passed else 'FAILED'} ({result.seconds:.1f} s): {result.seen}", flush=True)
    failed = [result.row.id for result in results if not result.passed]
    print(f"\n{len(results) - len(failed)} of {len(results)} rows passed{': not ' + ', '.join(failed) if failed else ''}.")
    _publish(results, whole=not arguments.ids, short=arguments.short)
    return 1 if failed else 0


def _played(row: Row, *, short: bool) -> Result:
    began = time.monotonic()
    for _ in range(_TRIES):
        rig = Rig(short=short)
        seen, passed = [], True
        try:
            if row.play is not None:
                seen.append(asyncio.run(row.play(rig)))
            if row.tests:
                seen.append(_tested(row.tests))
        except AssertionError as error:
            passed, seen = False, [str(error).splitlines()[0] if str(error) else "an assertion without words"]
        except Exception as error:  # a row that breaks has failed, and the others are played
            passed, seen = False, [f"{type(error).__name__}: {error}"]
        ratio = max((other.ratio() for other in rig.others if other.during_s), default=None)
        if not passed or ratio is None or ratio <= row.most_ratio:
            break
        passed, seen = False, [f"I5: another tenant's p99 grew {ratio:.1f}-fold"]
    return Result(row, passed, "; ".join(seen), time.monotonic() - began, ratio)


def _tested(tests: tuple[str, ...]) -> str:
    """Run tests of the suite. Errors: AssertionError with pytest's last line."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", *tests], cwd=_ROOT, capture_output=True, encoding="utf-8", check=False
    )
    last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr.strip()
    assert run.returncode == 0, last
    return last.strip("= ").replace(" in ", " of the suite in ")


def _publish(results: list[Result], *, whole: bool, short: bool) -> None:
    """Write the results down. whole: they are all rows; else the lines of these rows change, where they stand already."""
    document, readme = RESULTS.read_text("utf-8") if RESULTS.exists() else "", README.read_text("utf-8")
    begin, end = readme.index(BEGIN), readme.index(END)
    summary = readme[begin:end]
    if whole:
        document, summary = _document(results, short=short), f"{BEGIN}\n{_summary(results, short=short)}"
    else:
        document = _amended(document, [_long_line(r) for r in results])
        summary = _amended(summary, [_short_line(r) for r in results])
    RESULTS.write_text(document, "utf-8")
    README.write_text(readme[:begin] + summary + readme[end:], "utf-8")


def _amended(text: str, lines: list[str]) -> str:
    """The same with these lines of its table instead of those of the same rows, and counted anew."""
    for line in lines:
        start = line[: line.index("|", 2) + 1]
        text = "\n".join(line if old.startswith(start) else old for old in text.split("\n"))
    passed, failed = text.count("| passed |"), text.count("| **failed** |")
    return re.sub(r"\d+ of \d+ rows passed", f"{passed} of {passed + failed} rows passed", text)


def _summary(results: list[Result], *, short: bool) -> str:
    """The README's table."""
    passed, form = sum(r.passed for r in results), "short" if short else "long"
    head = f"{passed} of {len(results)} rows passed, {form} form, {datetime.now(UTC):%Y-%m-%d}."
    return "\n".join([head, "", "| row | fault | what must happen | |", "|---|---|---|---|", *map(_short_line, results)]) + "\n"


def _short_line(r: Result) -> str:
    return _line(r.row.id, r.row.fault, r.row.required, _verdict(r))


def _long_line(r: Result) -> str:
    ratio = "–" if r.ratio is None else f"{r.ratio:.2f}×"
    return _line(r.row.id, r.row.fault, r.row.required, _verdict(r), r.seen, ratio, f"{r.seconds:.1f}")


def _verdict(r: Result) -> str:
    return "passed" if r.passed else "**failed**"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _document(results: list[Result], *, short: bool) -> str:
    lines = [
        "# Faults and what happened",
        "",
        "Every row was made to happen to a real process, and afterwards the invariants were checked: the process lives with no more",
        "descriptors and memory than before (I1), the books hold exactly what the log says and nothing is held (I2), no limit was passed",
        "(I3), none of the planted keys and texts stands in log, metrics or on disk (I4), another tenant's calls all succeeded, with a",
        f"99th percentile below {MOST_RATIO:g} times the one before, or 10 ms (I5), and each call was told of once (I6).",
        "",
        f"`make faults`, {'short' if short else 'long'} form, {datetime.now(UTC):%Y-%m-%d}: "
        f"{sum(r.passed for r in results)} of {len(results)} rows passed.",
        "",
        "| row | fault | what must happen | result | what was seen | others' p99 | s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += map(_long_line, results)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
