"""Writes policies/prices.yaml anew. A developer's script; nothing imports it at run time.

    python -m policies.update_prices --as-of 2026-11-22            # prices from the newest litellm wheel
    python -m policies.update_prices --as-of 2026-11-22 --litellm 1.106.2
    python -m policies.update_prices --from FILE                   # prices from a JSON file of the same shape

The litellm package carries a JSON table of prices. Its wheel is downloaded and that one file read out of it; the package is
neither installed nor imported. Where the package genai-prices is installed (`pip install tollhouse[prices]`), both must agree
on every price that both name, else the script lists the differences, writes nothing and exits with 1.

The same input gives the same file, byte for byte. A model's own prices are the standard service tier's, below its long-context
threshold; `long` and `tiers` hold the others. What is not sold by the token is priced by the character, the second or the call.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZipFile

SHIPPED = Path(__file__).parent / "prices.yaml"
TABLE = "litellm/model_prices_and_context_window_backup.json"
SOURCE = "price table of the package litellm (MIT)"
PROVIDERS = ("openai", "text-completion-openai")

# The surfaces that have a meter.
MODES = (
    *("chat", "completion", "responses", "embedding", "moderation"),
    *("image_generation", "audio_speech", "audio_transcription", "realtime"),
)
# These take lists, and the source's limit is that of one item, not of a call.
LIST_MODES = ("embedding", "moderation")

# Our word for each class of token, and the source's, which is in dollars per token.
CLASSES: Mapping[str, str] = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "output": "output_cost_per_token",
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
    "image_output": "output_cost_per_image_token",
}
# What is read again of a conversation costs the dearest of these, since our table has one class for it.
CACHED = tuple(f"cache_read_input_{kind}token_cost" for kind in ("", "audio_", "image_"))
# What is not sold by the token, in dollars each.
UNITS: Mapping[str, str] = {"character": "input_cost_per_character", "second": "input_cost_per_second"}
TIERS = ("flex", "priority", "ultrafast")
LONG = re.compile(re.escape(CLASSES["input"]) + r"_above_([0-9]+)k_tokens")
# Chat models that search in every call, and the source's word for what that costs.
SEARCHING, SEARCH = re.compile(r"-search-(preview|api)"), "search_context_cost_per_query"
# A picture of a known price, as a name of the source: quality/size/model.
PICTURE = re.compile(r"(?:low|medium|high|standard)/[0-9]+-x-[0-9]+/(.+)")
PLAIN_NAME = re.compile(r"[a-z][\w.:-]*\w")
HEADER = """\
# What OpenAI's models cost, in US dollars per million tokens, at the standard service tier; `tiers` are the others, `long` is a call
# whose input is `above` so many tokens. `character`, `second` and `call` are US dollars each.
# `context` is the most input tokens of one call, `most_output` the most output tokens of one answer, or of one picture.
# Written by `python -m policies.update_prices`: edit your policy file's `prices`, not this one.
"""

Row = dict[str, Any]  # class → US dollars per million tokens; and `long` and `tiers`, which hold such rows
Opinion = Callable[[str], Mapping[str, Decimal] | None]


class Unusable(Exception):
    """The source cannot be made into a table. The message lists why, one reason a line."""


def rows_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """The models of the source that have a meter. models: by name, its amounts as Decimal. Errors: Unusable."""
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    for name, entry in sorted(models.items()):
        if entry.get("mode") not in MODES or entry.get("litellm_provider", PROVIDERS[0]) not in PROVIDERS:
            continue
        row = _classes(entry)
        if "input" not in row:
            row = {ours: _each(entry[theirs]) for ours, theirs in UNITS.items() if entry.get(theirs) is not None}
            if not row or entry["mode"] == "realtime":
                continue  # priced by something else, or by the time that a session lasts
            row["input"] = row["output"] = Decimal(0)
        if entry["mode"] == "realtime" and "cached_input" in row:
            row["cached_input"] = max(Decimal(entry[theirs]) * 10**6 for theirs in CACHED if entry.get(theirs) is not None)
        if entry["mode"] in LIST_MODES:
            row.setdefault("output", Decimal(0))  # they answer with numbers, not with tokens
        elif "image_output" in row:
            row.setdefault("output", row["image_output"])
        elif "output" not in row:
            wrong.append(f"{name}: no price for output")
        if SEARCHING.search(name) and entry.get(SEARCH):
            row["call"] = max(map(Decimal, entry[SEARCH].values()))
        wrong += _mend(name, row)
        tiers = {tier: _classes(entry, f"_{tier}") for tier in TIERS}
        row["tiers"] = {tier: classes for tier, classes in tiers.items() if {"input", "output"} <= classes.keys()}
        row["long"] = _long(entry)
        for tier, classes in row["tiers"].items():
            wrong += _mend(f"{name} at {tier}", classes)
            classes["long"] = _long(entry, f"_{tier}") or _dearer(row["long"], classes)
        rows[name] = row
    if wrong or not rows:
        raise Unusable("\n".join(wrong) or "the source names no model that has a meter")
    return rows


def _classes(entry: Mapping[str, Any], end: str = "") -> Row:
    found = {ours: entry.get(theirs + end) for ours, theirs in CLASSES.items()}
    return {ours: Decimal(usd) * 10**6 for ours, usd in found.items() if usd is not None}


def _each(usd: Decimal) -> Decimal:
    """Dollars for one second or character, in whole nanodollars: never less than they are."""
    return Decimal(usd).quantize(Decimal("1e-9"), rounding=ROUND_UP)


def _mend(name: str, row: Row) -> list[str]:
    """Leave out what is there by mistake. Returns what is wrong beyond that, one reason a line."""
    # A cache write is never cheaper than plain input: such an entry has put the price of a read under the wrong name.
    if row.get("cache_write", row["input"]) < row["input"]:
        del row["cache_write"]
    wrong = [f"{name}: {ours} is {usd}" for ours, usd in row.items() if not _is_price(usd)]
    if row.get("cached_input", row["input"]) > row["input"]:
        wrong.append(f"{name}: cached input costs more than input")
    return wrong


def _long(entry: Mapping[str, Any], tier: str = "") -> Row | None:
    """What a call with a long input costs at a tier, and above how many tokens that is; None where it is not dearer, as far as is known."""
    above = next((match[1] for word in entry if (match := LONG.fullmatch(word))), None)
    row = _classes(entry, f"_above_{above}k_tokens{tier}") if above is not None else {}
    return {"above": Decimal(above) * 1000, **row} if above is not None and {"input", "output"} <= row.keys() else None


def _dearer(long: Row | None, classes: Row) -> Row | None:
    """For a tier whose long prices nobody names: of each class the dearer of its own and the standard tier's."""
    if long is None:
        return None
    fallen = {
        name: max(classes.get(name, Decimal(0)), long.get(name, Decimal(0))) for name in CLASSES if name in {**classes, **long}
    }
    return {"above": long["above"], **fallen}


def _is_price(usd: Decimal) -> bool:
    """Whether an amount is in whole nanodollars, which is all that the ledger can hold."""
    return usd >= 0 and usd * 10**9 == (usd * 10**9).to_integral_value()


def disagreements(rows: Mapping[str, Row], opinion: Opinion) -> list[str]:
    """One line for each price that a second source knows and gives otherwise."""
    lines: list[str] = []
    for name, row in rows.items():
        other = opinion(name) or {}
        known = [ours for ours in CLASSES if ours in row and ours in other]
        lines += [f"{name}: {ours} is {row[ours]}, elsewhere {other[ours]}" for ours in known if other[ours] != row[ours]]
    return lines


def genai_opinion(as_of: str) -> Opinion | None:
    """What the package genai-prices says of a model at a date, or None where it is not installed."""
    try:
        genai = import_module("genai_prices")
    except ImportError:
        return None
    at = datetime.fromisoformat(as_of).replace(tzinfo=UTC)

    def opinion(model: str) -> Row | None:
        def usd(**tokens: int) -> Decimal:
            # A thousand tokens: below every long-context threshold.
            usage = genai.Usage(**{name: 1000 * count for name, count in tokens.items()})
            asked = genai.calc_price(usage, model_ref=model, provider_id="openai", genai_request_timestamp=at)
            return Decimal(asked.total_price) * 1000

        try:
            plain = {"input": usd(input_tokens=1), "output": usd(output_tokens=1)}
            cache = {
                "cached_input": usd(input_tokens=1, cache_read_tokens=1),
                "cache_write": usd(input_tokens=1, cache_write_tokens=1),
            }
        except LookupError:
            return None
        # It answers with the input price where it names no price for the cache.
        return plain | {name: amount for name, amount in cache.items() if amount != plain["input"]}

    return opinion


def render(rows: Mapping[str, Row], limits: Mapping[str, Mapping[str, int]], *, as_of: str, source: str) -> str:
    """The text of prices.yaml: one line a model, so that a change of price is a line in a review. limits: by word, by model."""
    lines = [HEADER, f"as_of: {as_of}\n", f"source: {json.dumps(source)}\n", "models:\n"]
    for name, row in rows.items():
        cells = [_cells(row)] + [f"{word}: {known[name]}" for word, known in limits.items() if name in known]
        lines.append(f"  {name if PLAIN_NAME.fullmatch(name) else json.dumps(name)}: {{{', '.join(cells)}}}\n")
    return "".join(lines)


def _cells(row: Row) -> str:
    cells = [f"above: {row['above']}"] if "above" in row else []
    cells += [f'{ours}: "{_decimal(row[ours])}"' for ours in (*CLASSES, *UNITS, "call") if ours in row]
    cells += [f"long: {{{_cells(row['long'])}}}"] if row.get("long") else []
    if tiers := row.get("tiers"):
        cells.append(f"tiers: {{{', '.join(f'{tier}: {{{_cells(classes)}}}' for tier, classes in tiers.items())}}}")
    return ", ".join(cells)


def _decimal(usd: Decimal) -> str:
    """Plain decimal text with two places or as many as it needs."""
    text = format(usd.normalize(), "f")
    whole, _, part = text.partition(".")
    return f"{whole}.{part:0<2}"


def table(models: Mapping[str, Mapping[str, Any]], *, as_of: str, source: str, opinion: Opinion | None) -> str:
    """prices.yaml from the source's models by name. as_of: ISO date. Errors: Unusable."""
    rows = rows_of(models)
    contexts = {
        name: int(models[name]["max_input_tokens"])
        for name in rows
        if models[name].get("max_input_tokens") and models[name]["mode"] not in LIST_MODES
    }
    outputs = {name: int(models[name]["max_output_tokens"]) for name in rows if models[name].get("max_output_tokens")}
    outputs |= _pictures(models, rows)
    if opinion is not None and (lines := disagreements(rows, opinion)):
        raise Unusable("the two sources disagree:\n" + "\n".join(lines))
    return render(rows, {"context": contexts, "most_output": outputs}, as_of=as_of, source=source)


def _pictures(models: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Row]) -> dict[str, int]:
    """The most tokens of one picture of a model that makes none larger or better than those whose price the source knows."""
    most: dict[str, int] = {}
    for name, entry in models.items():
        match = PICTURE.fullmatch(name)
        row = rows.get(match[1], {}) if match is not None else {}
        if match is not None and "image_output" in row and name.startswith("high/"):
            tokens = Decimal(entry["input_cost_per_image"]) * 10**6 / row["image_output"]
            most[match[1]] = max(most.get(match[1], 0), int(tokens.to_integral_value(ROUND_UP)))
    return most


def read_wheel(wheel: Path) -> tuple[str, str]:
    """The JSON text inside a litellm wheel, and the package's version."""
    with ZipFile(wheel) as archive:
        return archive.read(TABLE).decode(), wheel.name.split("-")[1]


def _download(version: str | None, folder: Path) -> Iterator[Path]:
    """The litellm wheel, fetched by pip. Only a wheel will do: building from source would run the package's code."""
    wanted = f"litellm=={version}" if version else "litellm"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(folder), wanted], check=True)  # noqa: S603 - no shell, and the developer's own arguments
    return folder.glob("litellm-*.whl")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m policies.update_prices", description="Writes policies/prices.yaml anew.")
    parser.add_argument("--from", dest="file", type=Path, metavar="FILE", help="read this JSON file instead of the litellm wheel")
    parser.add_argument("--litellm", metavar="VERSION", help="take the wheel of this version (default: the newest)")
    parser.add_argument("--as-of", metavar="DATE", help="the day the prices were read, YYYY-MM-DD (default: what FILE says)")
    parser.add_argument("--to", type=Path, default=SHIPPED, metavar="FILE", help="write here (default: the shipped table)")
    asked = parser.parse_args(arguments)
    if asked.file is not None:
        text, source = asked.file.read_text(encoding="utf-8"), SOURCE
    else:
        with tempfile.TemporaryDirectory() as folder:
            text, version = read_wheel(next(_download(asked.litellm, Path(folder))))
        source = f"{SOURCE} {version}"
    # Decimal from the text itself: a float would carry its binary error into the table.
    document = json.loads(text, parse_float=Decimal)
    as_of = asked.as_of or document.get("_read", "")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", as_of):
        parser.error("the day the prices were read is not known: give --as-of YYYY-MM-DD")
    opinion = genai_opinion(as_of)
    if opinion is None:
        print("genai-prices is not installed: the prices were not checked against a second source", file=sys.stderr)
    try:
        written = table(document.get("models", document), as_of=as_of, source=source, opinion=opinion)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    asked.to.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
