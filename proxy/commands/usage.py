"""`tollhouse usage`: what was used and what it cost, by key, user, model or time; beside a running server too."""

import argparse
import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import get_args

from proxy.clock import SystemClock
from proxy.errors import StateUnavailable
from proxy.settings import SettingsError, read_settings
from proxy.state.books import CLASSES, read_books
from proxy.state.books import Column as BookColumn
from proxy.state.totals import HOUR_S
from proxy.statement import SOURCES, WORDS, Group, Statement, Word, moment, statement
from proxy.terminal import Column, Screen, count, percent, table, usd, usd_places, write

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_WIDTH = 100  # where there is no terminal
_TOP = 40  # groups in a table: more than that nobody reads
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # what spreadsheets begin a formula with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", type=_words, default="key,model", metavar="WORDS", help=f"a list of {', '.join(WORDS)} (key,model)")
    parser.add_argument("--since", type=_moment, default="24h", metavar="WHEN", help="so long ago, or a date or time in UTC (24h)")
    parser.add_argument("--until", type=_moment, metavar="WHEN", help="likewise; whole UTC hours count (now)")
    parser.add_argument("--top", type=int, default=_TOP, metavar="N", help=f"most groups in the table, 0: all ({_TOP})")
    parser.add_argument("--state-dir", metavar="DIR", help="folder of the server's state [TOLLHOUSE_STATE_DIR]")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object with exact figures: integers of nanodollars and tokens")
    form.add_argument("--csv", action="store_true", help="one line a group, with the same exact figures")


def run(arguments: argparse.Namespace) -> int:
    now_s = SystemClock().wall_s()
    since_s = _epoch_s(arguments.since, now_s) // HOUR_S * HOUR_S
    until_s = now_s if arguments.until is None else -(-_epoch_s(arguments.until, now_s) // HOUR_S) * HOUR_S
    if until_s <= since_s:
        print("tollhouse usage: --until comes before --since", file=sys.stderr)
        return 2
    columns: list[BookColumn] = [word for word in get_args(BookColumn) if word in arguments.by]
    try:
        settings = read_settings(os.environ, {"state_dir": arguments.state_dir})
        books = read_books(settings.state_dir, since_s=since_s, until_s=until_s, by=columns)
    except SettingsError as error:
        print(*(f"tollhouse: {mistake}" for mistake in error.mistakes), sep="\n", file=sys.stderr)
        return 2
    except StateUnavailable as error:
        print(f"tollhouse usage: {error.detail}", file=sys.stderr)
        return 2
    told = statement(books, arguments.by)
    span = moment(since_s), moment(until_s)
    screen = Screen(shutil.get_terminal_size((_WIDTH, 24)).columns, sys.stdout.encoding or "ascii")
    if arguments.json:
        write(_json(told, span))
    elif arguments.csv:
        write(_csv(told, screen))
    else:
        write("\n".join(_text(told, span, screen=screen, top=arguments.top)) + "\n")
    return 0


def _words(text: str) -> tuple[Word, ...]:
    words = tuple(word for word in WORDS for name in text.split(",") if name.strip() == word)
    if len(words) != text.count(",") + 1 or len(set(words)) != len(words):
        raise argparse.ArgumentTypeError(f"expected a list of {', '.join(WORDS)}, each once, got {text!r}")
    return tuple(sorted(words, key=[name.strip() for name in text.split(",")].index))


def _moment(text: str) -> float:
    """Epoch seconds, or how many seconds ago as a number < 0."""
    ago = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if ago is not None:
        return -float(int(ago[1]) * _UNITS_S[ago[2]])
    try:
        when = datetime.fromisoformat(text)
        return max((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp(), 0.0)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected 24h, 7d, or a date such as 2026-11-01, got {text!r}") from None


def _epoch_s(when: float, now_s: float) -> float:
    return when if when >= 0 else max(now_s + when, 0.0)


def _json(told: Statement, span: tuple[str, str]) -> str:
    rows = [{**dict(zip(told.by, group.name, strict=True)), **group.figures()} for group in told.groups]
    since, until = (f"{text.replace(' ', 'T')}Z" for text in span)
    return json.dumps({"since": since, "until": until, "total": told.total.figures(), "rows": rows}, indent=2) + "\n"


def _csv(told: Statement, screen: Screen) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    sources = [f"{source}_nanousd" for source in SOURCES]
    writer.writerow(
        [*told.by, "calls", *CLASSES, "cost_nanousd", "cost_usd", *sources, "holds", "held_nanousd", "held_usd", "held_tokens"]
    )
    for group in told.groups:
        writer.writerow(
            [
                *(_cell(text, screen) for text in group.name),
                group.calls,
                *group.tokens.values(),
                group.cost_nanousd,
                usd(group.cost_nanousd).replace(",", ""),
                *(group.sources.get(source, (0, 0))[0] for source in SOURCES),
                group.holds,
                group.held_nanousd,
                usd(group.held_nanousd).replace(",", ""),
                group.held_tokens,
            ]
        )
    return out.getvalue()


def _cell(text: str, screen: Screen) -> str:
    """A text that is one in a spreadsheet too, whoever chose it. Source: OWASP, CSV injection."""
    plain = screen.plain(text)
    return f"'{plain}" if plain.lstrip().startswith(_FORMULA) else plain


def _text(told: Statement, span: tuple[str, str], *, screen: Screen, top: int) -> list[str]:
    if not told.groups:
        return [f"No usage from {span[0]} to {span[1]} UTC: send a call through the proxy, or look further back with --since 30d."]
    shown = told.groups[:top] if top > 0 else told.groups
    lines = [f"Usage from {span[0]} to {span[1]} UTC, by {', '.join(told.by)}", ""]
    lines += table(_columns(told, shown, screen), screen, bars=_bars(shown))
    if len(shown) < len(told.groups):
        lines.append(f"{len(told.groups) - len(shown):,} more groups are in the total; --top 0 shows all.")
    return [*lines, "", *_provenance(told.total, screen), _held(told.total)]


def _columns(told: Statement, shown: Sequence[Group], screen: Screen) -> list[Column]:
    rows = [*shown, told.total]
    names = [[screen.plain(group.name[at]) for group in shown] for at in range(len(told.by))]
    columns = [
        Column(word, [*cells, "" if at else "total"], name=word not in ("hour", "day"))
        for at, (word, cells) in enumerate(zip(told.by, names, strict=True))
    ]
    columns.append(Column("calls", [count(group.calls) for group in rows], number=True))
    for title, name in (("input", "input_tokens"), ("output", "output_tokens")):
        columns.append(Column(title, [count(group.tokens[name]) for group in rows], number=True))
    places = usd_places([group.cost_nanousd for group in rows])
    columns.append(Column("cost USD", [usd(group.cost_nanousd, places=places) for group in rows], number=True))
    if told.total.holds:
        places = usd_places([group.held_nanousd for group in rows])
        columns.append(
            Column("held USD", [usd(group.held_nanousd, places=places) if group.holds else "0" for group in rows], number=True)
        )
    if "source" not in told.by:
        cells = [percent(*group.share("reported")) if group.calls else screen.none for group in rows]
        columns.append(Column("reported", cells, number=True))
    return columns


def _bars(shown: Sequence[Group]) -> list[float]:
    """Of the cost, the dearest group's whole; of the calls, where nothing cost anything."""
    costs = [group.cost_nanousd for group in shown]
    if not any(costs):
        costs = [group.calls for group in shown]
    return [cost / (max(costs) or 1) for cost in costs]


def _provenance(total: Group, screen: Screen) -> list[str]:
    if not total.calls:
        return []
    of = "cost" if total.cost_nanousd else "calls, which cost nothing"
    sources = [*SOURCES, *sorted(set(total.sources) - set(SOURCES))]
    return [f"Of the {of}: {', '.join(f'{percent(*total.share(source))} {screen.plain(source)}' for source in sources)}."]


def _held(total: Group) -> str:
    if not total.holds:
        return "Open now: no holds."
    calls = "1 hold" if total.holds == 1 else f"{total.holds:,} holds"
    return f"Open now: {calls}, at most {usd(total.held_nanousd)} USD that are not in the cost yet."
