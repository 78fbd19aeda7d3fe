"""Exports: each form in which a provider tells of costs or usage, and every mistake with its place."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.export import ExportError, Line, count_of, model_of, nanousd_of, read_export
from tests.books import DAY, NOV_1

MINI = "gpt-4.1-mini"


def page(*buckets: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"object": "page", "data": buckets, "has_more": False, "next_page": None, **more}).encode()


def bucket(*results: dict[str, Any], start_s: int = NOV_1, end_s: int | None = None) -> dict[str, Any]:
    return {"object": "bucket", "start_time": start_s, "end_time": end_s or start_s + DAY, "results": list(results)}


def cost(value: Any, line_item: str | None = None, currency: str = "usd") -> dict[str, Any]:
    amount = {"value": value, "currency": currency}
    return {"object": "organization.costs.result", "amount": amount, "line_item": line_item, "project_id": None}


def usage(model: str | None = MINI, kind: str = "completions", **counts: Any) -> dict[str, Any]:
    return {"object": f"organization.usage.{kind}.result", "model": model, "project_id": None, "batch": None, **counts}


def mistakes(data: bytes) -> tuple[str, ...]:
    with pytest.raises(ExportError) as raised:
        read_export(data, name="x.json")
    return raised.value.mistakes


def test_costs_by_line_item_belong_to_their_models() -> None:
    export = read_export(
        page(bucket(cost(0.06, f"{MINI}, input"), cost("1.5e-05", "web search tool calls")), bucket(start_s=NOV_1 + DAY)),
        name="x",
    )
    assert export.lines == (
        Line(NOV_1, MINI, {"cost_nanousd": 60_000_000}),
        Line(NOV_1, "web search tool calls", {"cost_nanousd": 15_000}),
    )
    assert (export.since_s, export.until_s, export.whole, export.surfaces) == (NOV_1, NOV_1 + 2 * DAY, True, None)


def test_costs_that_do_not_tell_models_apart_name_none() -> None:
    assert read_export(page(bucket(cost(1))), name="x").lines == (Line(NOV_1, None, {"cost_nanousd": 10**9}),)


def test_money_passes_through_no_float() -> None:
    """The float nearest to this is 123456789.12345679."""
    data = page(bucket(cost("VALUE"))).replace(b'"VALUE"', b"123456789.123456789")
    assert read_export(data, name="x").lines[0].amounts == {"cost_nanousd": 123_456_789_123_456_789}


def test_usage_says_what_it_is_about_and_an_hour_belongs_to_its_day() -> None:
    counts = {"input_tokens": 5000, "output_tokens": 1000, "input_cached_tokens": 4000, "num_model_requests": 5}
    start_s = NOV_1 + 13 * 3600
    export = read_export(page(bucket(usage(**counts), start_s=start_s, end_s=start_s + 3600)), name="x")
    amounts = {"input_tokens": 5000, "output_tokens": 1000, "cached_tokens": 4000, "calls": 5}
    assert export.lines == (Line(NOV_1, MINI, amounts),)  # type: ignore[arg-type]
    assert (export.since_s, export.until_s) == (start_s, start_s + 3600)
    assert export.surfaces == {"chat", "completions", "responses"}


def test_what_an_export_does_not_say_is_not_zero() -> None:
    data = page(bucket(usage("text-embedding-3-small", "embeddings", input_tokens=7, input_cached_tokens=None)))
    export = read_export(data, name="x")
    assert export.lines[0].amounts == {"input_tokens": 7}
    assert export.surfaces == {"embeddings"}


def test_several_pages_in_a_list_are_one_export() -> None:
    first = json.loads(page(bucket(cost(1)), has_more=True))
    second = json.loads(page(bucket(cost(2), start_s=NOV_1 + DAY)))
    export = read_export(json.dumps([first, second]).encode(), name="x")
    assert (len(export.lines), export.whole) == (2, True)
    assert not read_export(json.dumps([second, first]).encode(), name="x").whole


@pytest.mark.parametrize(
    ("line_item", "model"),
    [
        ("gpt-4.1-mini-2025-04-14, cached input", "gpt-4.1-mini-2025-04-14"),
        ("gpt-4.1-mini", MINI),
        ("priority | gpt-4.1-mini, output, long context", MINI),
        ("gpt-audio-mini audio, input", "gpt-audio-mini"),
        ("ft:gpt-4o:org, output", "ft:gpt-4o:org"),
        ("web search tool calls", "web search tool calls"),
        (" Vector storage ", "Vector storage"),
        (", input", ", input"),
    ],
)
def test_a_line_item_belongs_to_the_model_that_it_names(line_item: str, model: str) -> None:
    assert model_of(line_item) == model


def csv_of(*lines: str) -> bytes:
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "data",
    [
        csv_of("date,model,cost", f"2026-11-01,{MINI},0.06"),
        csv_of("\ufeffDay , Line_Item,AMOUNT", "", f'2026-11-01,"{MINI}, input",$0.06', ",,"),
        csv_of("amount_value\tstart_time\tline_item\tamount_currency", f"0.060000000\t{NOV_1}\t{MINI}\tUSD"),
        csv_of("model;cost_usd;start_time", f"{MINI};6e-2;2026-11-01T23:59:59Z\r"),
        csv_of("project,start_time,model,cost", f"x,2026-11-02T01:00:00+02:00,{MINI},.06".replace(",.06", ",0.06")),
    ],
    ids=["plain", "spaces and case", "as OpenAI's page gives it", "semicolons", "another zone"],
)
def test_csv_is_read_by_the_names_of_its_columns(data: bytes) -> None:
    export = read_export(data, name="x")
    assert export.lines == (Line(NOV_1, MINI, {"cost_nanousd": 60_000_000}),)
    assert (export.since_s, export.until_s, export.whole, export.surfaces) == (NOV_1, NOV_1 + DAY, True, None)


def test_csv_with_tokens_and_empty_cells() -> None:
    data = csv_of("date,model,cost,input_tokens,output_tokens,requests", f"2026-11-01,{MINI},,10,5,2", "2026-11-03,,1,,,")
    export = read_export(data, name="x")
    assert export.lines == (
        Line(NOV_1, MINI, {"calls": 2, "input_tokens": 10, "output_tokens": 5}),
        Line(NOV_1 + 2 * DAY, None, {"cost_nanousd": 10**9}),
    )
    assert export.until_s == NOV_1 + 3 * DAY


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"data": [\n  {"start_time": }]}', ["x.json:2:18: not JSON: Expecting value"]),
        (b"[" * 100_000, ["x.json: nested too deeply"]),
        (b"a,b\n\xff\n", ["x.json:2: expected UTF-8"]),
        (b"{}", ["x.json: data: expected the buckets of a page of OpenAI's costs or usage API"]),
        (b"[7]", ["x.json: [0].data: expected the buckets of a page of OpenAI's costs or usage API"]),
        (page(), ["x.json: there is no bucket in it"]),
        (page({"start_time": "then"}), ['x.json: data[0].start_time: expected epoch seconds, got "then"']),
        (page({"start_time": NOV_1}), ["x.json: data[0].results: expected a list"]),
        (page(bucket({"object": "other"})), ["x.json: data[0].results[0]: it has neither an amount nor tokens nor requests"]),
        (
            page(bucket(cost(1, currency="eur"), cost(None)), bucket(cost("much"), usage(input_tokens=-1))),
            [
                'x.json: data[0].results[0].amount.currency: expected usd, got "eur"',
                "x.json: data[0].results[1].amount.value: expected US dollars, got null",
                'x.json: data[1].results[0].amount.value: expected US dollars, got "much"',
                'x.json: data[1].results[1].input_tokens: expected a count, got "-1"',
            ],
        ),
        (b"", ["x.json: there is no line in it"]),
        (csv_of("date,model,cost"), ["x.json: there is no line in it"]),
        (
            csv_of("when,what"),
            [
                "x.json:1: expected a header with a column date or day or start_time or start_time_iso",
                "x.json:1: expected a header with a column cost_usd or amount_value or cost or amount, or one of tokens",
            ],
        ),
        (csv_of("date,cost,cost"), ['x.json:1: there are several columns "cost"']),
        (
            csv_of("date,model,cost,requests,currency", "11/01/2026,m,1,1,usd", '2026-11-01,"a', 'b",1.5.0,x,eur'),
            [
                'x.json:2: expected a date such as 2026-11-01, got "11/01/2026"',
                'x.json:4: expected usd, got "eur"',
                'x.json:4: expected US dollars, got "1.5.0"',
                'x.json:4: expected a count, got "x"',
            ],
        ),
        (csv_of("date,cost", '2026-11-01,"1'), ["x.json:2: not CSV: unexpected end of data"]),
    ],
)
def test_every_mistake_is_told_with_its_place(data: bytes, told: list[str]) -> None:
    assert list(mistakes(data)) == told


def test_of_many_mistakes_the_first_twenty_are_enough() -> None:
    assert len(mistakes(csv_of("date,cost", *["never,1"] * 1000))) == 20


def test_a_message_holds_nothing_that_a_terminal_could_obey() -> None:
    (told,) = mistakes(csv_of("date,cost", "\x1b[2J\u202e,1"))
    assert told.isprintable()


@pytest.mark.parametrize(
    ("text", "nanousd"),
    [("0", 0), ("1.", 10**9), ("-0.5", -500_000_000), ("1e-9", 1), ("0.0000000005", 0), ("0.0000000015", 2), ("1E9", 10**18)],
)
def test_dollars_become_nanodollars(text: str, nanousd: int) -> None:
    assert nanousd_of(text) == nanousd


@pytest.mark.parametrize(
    "text", ["", "NaN", "Infinity", "1e10", "1e999", "1e9999999999", "1_000", "1,5", "٣", " 1", "0x1", "1" * 41]
)
def test_nothing_else_is_money(text: str) -> None:
    with pytest.raises(ValueError):
        nanousd_of(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", "1" * 19, "٣"])
def test_nothing_but_a_whole_number_is_a_count(text: str) -> None:
    with pytest.raises(ValueError):
        count_of(text)


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_every_nanodollar_survives(nanousd: int) -> None:
    whole, rest = divmod(abs(nanousd), 10**9)
    assert nanousd_of(f"{'-' if nanousd < 0 else ''}{whole}.{rest:09d}") == nanousd


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "results", "start_time", "end_time", "amount", "value", "model"]), inner)
    ),
)


@given(
    JSON.map(lambda value: json.dumps(value).encode()) | st.binary() | st.text().map(lambda text: b"date,cost\n" + text.encode())
)
def test_any_garbage_is_told_of_as_such(data: bytes) -> None:
    with suppress(ExportError):
        export = read_export(data, name="x")
        assert export.since_s <= export.until_s
