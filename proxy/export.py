"""A provider's export of costs or usage, read into lines that can be held against the books.

Three forms: pages of OpenAI's costs API, pages of its usage API (one page, or a list of pages), and CSV with a header. The rule a
reader could break: figures stay text until they are exact integers, so no money passes through a float; and what an export does not
say is absent, never zero.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

Measure = Literal["cost_nanousd", "calls", "input_tokens", "cached_tokens", "output_tokens"]

DAY_S = 86_400
_MOST_USD = 10**9
_MOST_MISTAKES = 20
_NUMBER = re.compile(r"[-+]?[0-9]{1,40}(?:\.[0-9]{0,60})?(?:[eE][-+]?[0-9]{1,3})?")

# By the name of an amount, the columns of CSV that may hold it, the likeliest first.
_COLUMNS: Mapping[str, Sequence[str]] = {
    "day": ("date", "day", "start_time", "start_time_iso"),
    "model": ("model", "line_item"),
    "cost_nanousd": ("cost_usd", "amount_value", "cost", "amount"),
    "currency": ("amount_currency", "currency"),
    "calls": ("requests", "num_model_requests"),
    "input_tokens": ("input_tokens",),
    "cached_tokens": ("input_cached_tokens", "cached_tokens"),
    "output_tokens": ("output_tokens",),
}
_FIELDS: Mapping[Measure, str] = {  # of the usage API
    "calls": "num_model_requests",
    "input_tokens": "input_tokens",
    "cached_tokens": "input_cached_tokens",
    "output_tokens": "output_tokens",
}
# What calls a kind of the usage API's results is about, by the names of surfaces.
_SURFACES: Mapping[str, frozenset[str]] = {
    "organization.usage.completions.result": frozenset(["chat", "completions", "responses"]),
    "organization.usage.embeddings.result": frozenset(["embeddings"]),
    "organization.usage.moderations.result": frozenset(["moderations"]),
}


class ExportError(Exception):
    """Why an export cannot be used, one line each: `file:line: …`, or `file: place in the JSON: …`."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Line:
    """What the provider says of one model on one UTC day; there can be several of both. model: None where it is not told apart."""

    day_s: int
    model: str | None
    amounts: Mapping[Measure, int]


@dataclass(frozen=True, slots=True)
class Export:
    """since_s, until_s: what it covers. whole: no page is said to follow. surfaces: the only ones it is about, None for all."""

    lines: tuple[Line, ...]
    since_s: int
    until_s: int
    whole: bool
    surfaces: frozenset[str] | None


def read_export(data: bytes, *, name: str) -> Export:
    """name: of the file, for messages. Errors: ExportError with every mistake, up to 20."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExportError([f"{name}:{data.count(bytes([10]), 0, error.start) + 1}: expected UTF-8"]) from None
    if text.lstrip()[:1] in ("{", "["):
        return _Pages(name).read(text)
    return _Sheet(name).read(text)


def model_of(line_item: str) -> str:
    """`gpt-4.1-mini` of `gpt-4.1-mini, input`, `priority | gpt-4.1-mini, cached input` and `gpt-4.1-mini audio, output`.

    A line item that names no class of tokens, such as `web search tool calls`, is its own.
    """
    head, comma, _ = line_item.rpartition("|")[2].partition(",")
    words = head.split()
    return words[0] if comma and words else line_item.strip()


def nanousd_of(text: str) -> int:
    """Nanodollars of an amount in US dollars, half to even. Errors: ValueError."""
    if not _NUMBER.fullmatch(text) or (amount := Decimal(text)).adjusted() > 9 or abs(amount) > _MOST_USD:
        raise ValueError(text)
    return int(amount.scaleb(9).to_integral_value(ROUND_HALF_EVEN))


def count_of(text: str) -> int:
    """Errors: ValueError."""
    if not re.fullmatch(r"[0-9]{1,18}(?:\.0+)?", text):
        raise ValueError(text)
    return int(text.partition(".")[0])


class _Mistakes:
    """What is wrong so far. More than a few are one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: list[str] = []

    def add(self, place: str | int, message: str) -> None:
        self._found.append(f"{self._name}:{place}: {message}" if isinstance(place, int) else f"{self._name}: {place}: {message}")
        if len(self._found) == _MOST_MISTAKES:
            self.check()

    def check(self) -> None:
        if self._found:
            raise ExportError(self._found)


class _Pages:
    """JSON. Numbers are read as the text that they are."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._mistakes = _Mistakes(name)
        self._surfaces: set[frozenset[str] | None] = set()

    def read(self, text: str) -> Export:
        try:
            found = json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
        except json.JSONDecodeError as error:
            raise ExportError([f"{self._name}:{error.lineno}:{error.colno}: not JSON: {error.msg}"]) from None
        except RecursionError:
            raise ExportError([f"{self._name}: nested too deeply"]) from None
        pages = found if isinstance(found, list) else [found]
        lines: list[Line] = []
        spans: list[tuple[int, int]] = []
        for at, page in enumerate(pages):
            where = f"[{at}]." if isinstance(found, list) else ""
            buckets = page.get("data") if isinstance(page, dict) else None
            if not isinstance(buckets, list):
                self._mistakes.add(f"{where}data", "expected the buckets of a page of OpenAI's costs or usage API")
                continue
            for number, bucket in enumerate(buckets):
                span = self._span(bucket, f"{where}data[{number}]")
                if span is not None:
                    spans.append(span)
                    lines += self._bucket(bucket, span[0], f"{where}data[{number}]")
        self._mistakes.check()
        if not spans:
            raise ExportError([f"{self._name}: there is no bucket in it"])
        # Pages that follow each other say so, but for the last one.
        whole = bool(pages) and not (isinstance(pages[-1], dict) and pages[-1].get("has_more") is True)
        surfaces = None if None in self._surfaces or not self._surfaces else frozenset().union(*(s for s in self._surfaces if s))
        return Export(tuple(lines), min(s for s, _ in spans), max(u for _, u in spans), whole, surfaces)

    def _span(self, bucket: Any, where: str) -> tuple[int, int] | None:
        if not isinstance(bucket, dict):
            self._mistakes.add(where, "expected a bucket, an object")
            return None
        try:
            start_s = _epoch_s(count_of(_text(bucket.get("start_time"))))
        except ValueError:
            self._mistakes.add(f"{where}.start_time", f"expected epoch seconds, got {_shown(bucket.get('start_time'))}")
            return None
        try:
            end_s = _epoch_s(count_of(_text(bucket.get("end_time"))))
        except ValueError:
            end_s = start_s + DAY_S
        return start_s, max(end_s, start_s)

    def _bucket(self, bucket: Mapping[str, Any], start_s: int, where: str) -> Iterator[Line]:
        key = "result" if "results" not in bucket and "result" in bucket else "results"  # older pages had it so
        results = bucket.get(key)
        if not isinstance(results, list):
            self._mistakes.add(f"{where}.{key}", "expected a list")
            return
        for at, result in enumerate(results):
            place = f"{where}.{key}[{at}]"
            if not isinstance(result, dict):
                self._mistakes.add(place, "expected an object")
                continue
            named = result.get("line_item") if "amount" in result else result.get("model")
            model = model_of(named) if isinstance(named, str) and named.strip() else None
            amounts = self._cost(result, place) if "amount" in result else self._usage(result, place)
            yield Line(start_s // DAY_S * DAY_S, model, amounts)

    def _cost(self, result: Mapping[str, Any], place: str) -> Mapping[Measure, int]:
        self._surfaces.add(None)
        amount = result["amount"] if isinstance(result["amount"], dict) else {}
        currency = amount.get("currency", "usd")
        if _text(currency).lower() != "usd":
            self._mistakes.add(f"{place}.amount.currency", f"expected usd, got {_shown(currency)}")
        try:
            return {"cost_nanousd": nanousd_of(_text(amount.get("value")))}
        except ValueError:
            self._mistakes.add(f"{place}.amount.value", f"expected US dollars, got {_shown(amount.get('value'))}")
            return {}

    def _usage(self, result: Mapping[str, Any], place: str) -> Mapping[Measure, int]:
        self._surfaces.add(_SURFACES.get(_text(result.get("object"))))
        amounts: dict[Measure, int] = {}
        for measure, name in _FIELDS.items():
            if result.get(name) is None:
                continue
            try:
                amounts[measure] = count_of(_text(result[name]))
            except ValueError:
                self._mistakes.add(f"{place}.{name}", f"expected a count, got {_shown(result[name])}")
        if not amounts and not any(name in result for name in _FIELDS.values()):
            self._mistakes.add(place, "it has neither an amount nor tokens nor requests")
        return amounts


class _Sheet:
    """CSV with a header; columns are found by name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._mistakes = _Mistakes(name)

    def read(self, text: str) -> Export:
        header = text.lstrip("\r\n").partition("\n")[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
        lines: list[Line] = []
        columns: dict[str, list[int]] = {}
        try:
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if not columns:
                    columns = self._columns(cells, reader.line_num)
                elif (line := self._line(cells, columns, reader.line_num)) is not None:
                    lines.append(line)
        except csv.Error as error:
            raise ExportError([f"{self._name}:{reader.line_num}: not CSV: {error}"]) from None
        self._mistakes.check()
        if not lines:
            raise ExportError([f"{self._name}: there is no line in it"])
        days = [line.day_s for line in lines]
        return Export(tuple(lines), min(days), max(days) + DAY_S, True, None)

    def _columns(self, header: Sequence[str], line: int) -> dict[str, list[int]]:
        names = [cell.strip().lower() for cell in header]
        columns = {word: [names.index(name) for name in known if name in names] for word, known in _COLUMNS.items()}
        if not columns["day"]:
            self._mistakes.add(line, f"expected a header with a column {' or '.join(_COLUMNS['day'])}")
        if not any(columns[word] for word in ("cost_nanousd", *_FIELDS)):
            self._mistakes.add(line, f"expected a header with a column {' or '.join(_COLUMNS['cost_nanousd'])}, or one of tokens")
        if twice := sorted({name for name in names if name and names.count(name) > 1}):
            self._mistakes.add(line, f"there are several columns {', '.join(map(_shown, twice))}")
        self._mistakes.check()
        return columns

    def _line(self, cells: Sequence[str], columns: Mapping[str, list[int]], line: int) -> Line | None:
        def cell(word: str) -> str:
            """The first that says something."""
            return next((cells[at].strip() for at in columns[word] if at < len(cells) and cells[at].strip()), "")

        try:
            day_s = _day_s(cell("day"))
        except (ValueError, OverflowError, OSError):
            self._mistakes.add(line, f"expected a date such as 2026-11-01, got {_shown(cell('day'))}")
            return None
        if cell("currency").lower() not in ("", "usd"):
            self._mistakes.add(line, f"expected usd, got {_shown(cell('currency'))}")
        amounts: dict[Measure, int] = {}
        for measure in ("cost_nanousd", *_FIELDS):
            text = cell(measure)
            if not text:
                continue
            try:
                amounts[measure] = nanousd_of(text.removeprefix("$")) if measure == "cost_nanousd" else count_of(text)
            except ValueError:
                expected = "US dollars" if measure == "cost_nanousd" else "a count"
                self._mistakes.add(line, f"expected {expected}, got {_shown(text)}")
        return Line(day_s, model_of(cell("model")) or None, amounts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    """A value in a message: short, and nothing a terminal could obey."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _epoch_s(seconds: int) -> int:
    if seconds >= 2**33:  # milliseconds, or nonsense
        raise ValueError(seconds)
    return seconds


def _day_s(text: str) -> int:
    """Epoch second at which the UTC day of a date, a time or epoch seconds begins."""
    if text.isdecimal() and text.isascii() and len(text) != 8:  # eight digits are a date
        return _epoch_s(count_of(text)) // DAY_S * DAY_S
    when = datetime.fromisoformat(text.removesuffix(" UTC"))
    start_s = int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    if start_s < 0:
        raise ValueError(text)
    return start_s // DAY_S * DAY_S
