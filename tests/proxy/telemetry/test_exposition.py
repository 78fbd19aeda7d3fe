import asyncio

from prometheus_client.parser import text_string_to_metric_families

from proxy.telemetry.exposition import SLICE_LINES, AnyFamily, render, slices
from proxy.telemetry.instruments import Counter, Declaration, Family, Histogram

BUCKETS = tuple(float(n) for n in range(17))


def counters(count: int) -> Family[Counter]:
    family = Family("calls_total", Declaration("counter", "Calls\nof \\ all.", ("model",), most=count), Counter)
    for n in range(count):
        family.child(f"model-{n}").inc(n)
    return family


def histograms(count: int) -> Family[Histogram]:
    family = Family("call_seconds", Declaration("histogram", "Time.", ("model",), BUCKETS, most=count), Histogram)
    for n in range(count):
        family.child(f"model-{n}").observe(n)
    return family


def test_five_thousand_series_are_rendered_in_slices_that_no_stream_notices() -> None:
    lengths = [len(lines) for lines in slices([counters(2000), histograms(150)])]
    assert sum(lengths) == 2000 + 150 * 20 + 2 * 2
    assert max(lengths) < SLICE_LINES + 20 + 2
    assert len(lengths) >= 5000 // (SLICE_LINES + 20)


async def test_other_tasks_have_their_turn_between_slices() -> None:
    families: list[AnyFamily] = [counters(2000), histograms(150)]
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(count_turns())
    await render(families)
    task.cancel()
    assert turns >= len(list(slices(families)))


async def test_the_stock_parser_reads_every_value() -> None:
    families = {f.name: f for f in text_string_to_metric_families((await render([counters(300), histograms(3)])).decode())}
    assert families["calls"].type == "counter"
    assert families["calls"].documentation == "Calls\nof \\ all."
    assert {s.labels["model"]: s.value for s in families["calls"].samples} == {f"model-{n}": n for n in range(300)}
    seconds = families["call_seconds"]
    assert seconds.type == "histogram"
    of_second = {(s.name, s.labels.get("le")): s.value for s in seconds.samples if s.labels["model"] == "model-2"}
    assert of_second[("call_seconds_bucket", "1.0")] == 0
    assert of_second[("call_seconds_bucket", "2.0")] == 1
    assert of_second[("call_seconds_bucket", "+Inf")] == of_second[("call_seconds_count", None)] == 1
    assert of_second[("call_seconds_sum", None)] == 2


async def test_the_process_and_python_are_described_too() -> None:
    names = {family.name for family in text_string_to_metric_families((await render([])).decode())}
    assert {"python_info", "python_gc_collections"} <= names


async def test_a_child_that_comes_in_the_middle_of_a_scrape_does_not_break_it() -> None:
    family = counters(1000)
    rendering = slices([family])
    first = next(rendering)
    family.child("latecomer").inc()
    assert len(first) + sum(map(len, rendering)) == 1000 + 2


async def test_nothing_at_all_is_a_valid_scrape() -> None:
    assert list(slices([])) == []
