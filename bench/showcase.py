"""What a reader sees of a run: the lines below the table, and both with their plot in the README."""

from pathlib import Path

from bench.plot import plot
from bench.report import Report

_ROOT = Path(__file__).resolve().parents[1]
_README = _ROOT / "README.md"
_PLOT = "bench/table.svg"
_BEGIN, _END = "<!-- bench -->", "<!-- end of bench -->"


def lines_below(report: Report, *, rounds: int, stall_rounds: int, machine: str) -> list[str]:
    """How it was measured and what to think of it, a paragraph each."""
    method = (
        f"Medians of {rounds} interleaved rounds (least–most; the event loop's of {stall_rounds}), ratios within a round; the subject "
        "alone on one core, mock upstream and load on another, loopback, keep-alive, no TLS, one process each, all clauses of the "
        "default policy on, log to a pipe that is drained."
    )
    shares = "; ".join(
        f"{kind}, " + ", ".join(f"{name} {share:.0%}" for name, share in report.busy_shares(kind).items())
        for kind in ("calls", "flat out")
    )
    facts = (
        f"{report.replies} replies ({report.reply_bytes} bytes) compared byte by byte, all whole. Share of its core that a subject was "
        f"busy: {shares}; well below 100 % the load was the bottleneck, and the rate a lower bound. "
        f"Windows of streams measured again because the machine fell behind: {report.behind}. "
        + (f"Series of a scrape: {report.series}. " if report.series else "")
        + f"{machine}."
    )
    lines = [report.score(), method, facts]
    if report.limit not in report.names:
        lines.append(f"Without {report.limit}: it is not installed here.")
    if missing := report.left_out():
        lines.append(f"Left out of this run: {'; '.join(missing)}.")
    return [line for line in lines if line]


def publish(report: Report, below: list[str]) -> None:
    """Write the plot, and the table between the marks of the README. Errors: ValueError when the marks are gone."""
    (_ROOT / _PLOT).write_text(plot(report))
    shown = "\n\n".join((f"![CPU, latency and memory beside nginx and a bare relay]({_PLOT})", report.table(), *below))
    _README.write_text(inserted(_README.read_text(), shown))


def inserted(readme: str, shown: str) -> str:
    """The text with what stands between the marks replaced."""
    head, begin, rest = readme.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the README has no {_BEGIN} … {_END}")
    return f"{head}{begin}\n\n{shown}\n\n{end}{tail}"
