"""Writes policies/prices.yaml anew. A developer's script; nothing imports it at run time.

    python -m policies.update_prices --as-of 2026-11-22            # prices from the newest litellm wheel
    python -m policies.update_prices --as-of 2026-11-22 --litellm 1.106.2
    python -m policies.update_prices --from FILE                   # prices from a JSON file of the same shape

The litellm package carries a JSON table of prices. Its wheel is downloaded and that one file read out of it; the package is
neither installed nor imported. Where the package genai-prices is installed (`pip install tollhouse[prices]`), both must agree
on every price that both name, else the script lists the differences, writes nothing and exits with 1.

The same input gives the same file, byte for byte. Prices are the standard service tier's, below any long-context threshold.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZipFile

SHIPPED = Path(__file__).parent / "prices.yaml"
TABLE = "litellm/model_prices_and_context_window_backup.json"
SOURCE = "price table of the package litellm (MIT)"
PROVIDERS = ("openai", "text-completion-openai")

# The surfaces that are metered in tokens.
MODES = ("chat", "completion", "responses", "embedding", "moderation")
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
}
PLAIN_NAME = re.compile(r"[a-z][\w.:-]*\w")
HEADER = """\
# What OpenAI's models cost, in US dollars per million tokens, at the standard service tier.
# `context` is the most input tokens of one call.
# Written by `python -m policies.update_prices`: edit your policy file's `prices`, not this one.
"""

Row = Mapping[str, Decimal]  # class → US dollars per million tokens
Opinion = Callable[[str], Row | None]


class Unusable(Exception):
    """The source cannot be made into a table. The message lists why, one reason a line."""


def rows_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """The token-metered models of the source. models: by name, its amounts as Decimal. Errors: Unusable."""
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    for name, entry in sorted(models.items()):
        if entry.get("mode") not in MODES or entry.get("litellm_provider", PROVIDERS[0]) not in PROVIDERS:
            continue
        if entry.get(CLASSES["input"]) is None:
            continue  # priced by something else than tokens
        row = {ours: Decimal(entry[theirs]) * 10**6 for ours, theirs in CLASSES.items() if entry.get(theirs) is not None}
        if entry["mode"] in LIST_MODES:
            row.setdefault("output", Decimal(0))  # they answer with numbers, not with tokens
        elif "output" not in row:
            wrong.append(f"{name}: no price for output")
        # A cache write is never cheaper than plain input: such an entry has put the price of a read under the wrong name.
        if row.get("cache_write", row["input"]) < row["input"]:
            del row["cache_write"]
        if row.get("cached_input", row["input"]) > row["input"]:
            wrong.append(f"{name}: cached input costs more than input")
        wrong += [f"{name}: {ours} is {usd}" for ours, usd in row.items() if not _is_price(usd)]
        rows[name] = row
    if wrong or not rows:
        raise Unusable("\n".join(wrong) or "the source names no model that is metered in tokens")
    return rows


def _is_price(usd: Decimal) -> bool:
    """Whether an amount is in whole nanodollars, which is all that the ledger can hold."""
    return usd >= 0 and usd * 10**9 == (usd * 10**9).to_integral_value()


def disagreements(rows: Mapping[str, Row], opinion: Opinion) -> list[str]:
    """One line for each price that a second source knows and gives otherwise."""
    lines: list[str] = []
    for name, row in rows.items():
        other = opinion(name) or {}
        lines += [
            f"{name}: {ours} is {row[ours]}, elsewhere {other[ours]}" for ours in row if ours in other and other[ours] != row[ours]
        ]
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


def render(rows: Mapping[str, Row], contexts: Mapping[str, int], *, as_of: str, source: str) -> str:
    """The text of prices.yaml: one line a model, so that a change of price is a line in a review."""
    lines = [HEADER, f"as_of: {as_of}\n", f"source: {json.dumps(source)}\n", "models:\n"]
    for name, row in rows.items():
        cells = [f'{ours}: "{_decimal(row[ours])}"' for ours in CLASSES if ours in row]
        cells += [f"context: {contexts[name]}"] if name in contexts else []
        lines.append(f"  {name if PLAIN_NAME.fullmatch(name) else json.dumps(name)}: {{{', '.join(cells)}}}\n")
    return "".join(lines)


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
    if opinion is not None and (lines := disagreements(rows, opinion)):
        raise Unusable("the two sources disagree:\n" + "\n".join(lines))
    return render(rows, contexts, as_of=as_of, source=source)


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
