"""`tollhouse reconcile FILE`: the books against a provider's export. Exit 0: they agree; 1: they do not; 2: it cannot be used."""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from proxy.errors import StateUnavailable
from proxy.export import Export, ExportError, read_export
from proxy.reconciliation import Comparison, Reconciliation, reconcile
from proxy.settings import SettingsError, read_settings
from proxy.state.books import DAY_S, read_books
from proxy.statement import moment
from proxy.terminal import Column, Screen, percent, table, usd, usd_places, write

_WIDTH = 100  # where there is no terminal
_NAMES = {
    "cost_nanousd": "cost USD",
    "calls": "calls",
    "input_tokens": "input tokens",
    "cached_tokens": "cached tokens",
    "output_tokens": "output tokens",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="JSON of OpenAI's costs or usage API, or CSV with columns such as date, model, cost"
    )
    parser.add_argument(
        "--tolerance", type=_tolerance, default="1%", metavar="PERCENT", help="differences up to so much of theirs pass (1%%)"
    )
    parser.add_argument("--state-dir", metavar="DIR", help="folder of the server's state [TOLLHOUSE_STATE_DIR]")
    parser.add_argument("--json", action="store_true", help="one object: every comparison, and which differ")


def run(arguments: argparse.Namespace) -> int:
    try:
        settings = read_settings(os.environ, {"state_dir": arguments.state_dir})
        export = read_export(arguments.file.read_bytes(), name=str(arguments.file))
        books = read_books(settings.state_dir, since_s=export.since_s, until_s=export.until_s, by=("day", "model", "surface"))
    except (SettingsError, ExportError) as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{arguments.file}: cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    except StateUnavailable as error:
        print(f"tollhouse reconcile: {error.detail}", file=sys.stderr)
        return 2
    found = reconcile(books, export)
    differing = found.differing(arguments.tolerance)
    if arguments.json:
        write(_json(found, differing, export, arguments.tolerance))
    else:
        screen = Screen(shutil.get_terminal_size((_WIDTH, 24)).columns, sys.stdout.encoding or "ascii")
        write("\n".join(_text(found, differing, export, screen=screen, tolerance=arguments.tolerance)) + "\n")
    return 1 if differing else 0


def _tolerance(text: str) -> Fraction:
    """A share of 1."""
    number = text.removesuffix("%").strip()
    if not re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]{1,6})?", number):
        raise argparse.ArgumentTypeError(f"expected percent, such as 1% or 0.5%, got {text!r}")
    return Fraction(Decimal(number)) / 100


def _json(found: Reconciliation, differing: Sequence[Comparison], export: Export, tolerance: Fraction) -> str:
    told = set(differing)
    return (
        json.dumps(
            {
                "since": _utc(export.since_s),
                "until": _utc(export.until_s),
                "whole": export.whole,
                "tolerance_percent": float(tolerance * 100),
                "agrees": not differing,
                "totals": [_row(total) for total in found.totals],
                "rows": [{**_row(one), "differs": one in told} for one in found.compared],
            },
            indent=2,
        )
        + "\n"
    )


def _row(one: Comparison) -> dict[str, Any]:
    place = {} if one.day_s is None else {"day": moment(one.day_s, step_s=DAY_S), "model": one.model}
    return {**place, "measure": one.measure, "ours": one.ours, "theirs": one.theirs, "difference": one.difference}


def _utc(epoch_s: int) -> str:
    return moment(epoch_s).replace(" ", "T") + "Z"


def _text(
    found: Reconciliation, differing: Sequence[Comparison], export: Export, *, screen: Screen, tolerance: Fraction
) -> list[str]:
    by = "UTC day and model" if found.by_model else "UTC day: the export does not tell models apart"
    lines = [f"Our books against the export, {moment(export.since_s)} to {moment(export.until_s)} UTC, by {by}"]
    if not export.whole:
        lines.append("The export says that more pages follow: only what it covers is compared.")
    if found.totals:
        lines += ["", *_table([*differing, *found.totals], screen, found.by_model), ""]
    allowed = f"{float(tolerance * 100):g} %"
    if differing:
        lines.append(f"{_lines(len(differing), 'differs', 'differ')} by more than {allowed}, of {len(found.compared):,}.")
    elif found.compared:
        lines.append(f"{_lines(len(found.compared), 'agrees', 'agree')} within {allowed}: all of them.")
    else:
        lines.append("There is nothing to compare: neither side has anything there.")
    return lines


def _lines(number: int, one: str, several: str) -> str:
    return f"1 line {one}" if number == 1 else f"{number:,} lines {several}"


def _table(compared: Sequence[Comparison], screen: Screen, by_model: bool) -> list[str]:
    places = usd_places([n for one in compared if one.measure == "cost_nanousd" for n in (one.ours or 0, one.theirs or 0)])

    def figure(one: Comparison, number: int | None, *, sign: str = "") -> str:
        if number is None:
            return screen.none
        text = usd(number, places=places) if one.measure == "cost_nanousd" else f"{number:,}"
        return f"{sign}{text}" if number > 0 else text

    columns = [Column("day", ["total" if one.day_s is None else moment(one.day_s, step_s=DAY_S) for one in compared])]
    if by_model:
        models = ["" if one.day_s is None else screen.plain(one.model or "(none)") for one in compared]
        columns.append(Column("model", models, name=True))
    money = all(one.measure == "cost_nanousd" for one in compared)
    if not money:
        columns.append(Column("measure", [_NAMES[one.measure] for one in compared]))
    unit = " USD" if money else ""
    columns += [
        Column(f"ours{unit}", [figure(one, one.ours) for one in compared], number=True),
        Column(f"theirs{unit}", [figure(one, one.theirs) for one in compared], number=True),
        Column("difference", [figure(one, one.difference, sign="+") for one in compared], number=True),
        Column("of theirs", [_relative(one, screen) for one in compared], number=True),
        Column("", [_note(one) for one in compared]),
    ]
    return table(columns, screen)


def _relative(one: Comparison, screen: Screen) -> str:
    if not one.theirs:
        return screen.none
    tenths = round(Fraction(one.difference * 1000, abs(one.theirs)))
    sign = "+" if one.difference > 0 else "-" if one.difference < 0 else ""
    if tenths == 0 and one.difference:
        return f"{sign}<0.1 %"
    return f"{sign}{abs(tenths) // 10:,}.{abs(tenths) % 10} %"


def _note(one: Comparison) -> str:
    """What may explain a difference: how much of our figure is none that an upstream reported."""
    if one.ours is None:
        return "only theirs"
    if one.theirs is None:
        return "only ours"
    part, whole = one.unreported
    return f"{percent(part, whole)} not reported" if part else ""
