import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from proxy.telemetry.instruments import OTHER, Counter, Declaration, Family, Gauge, Histogram

ONE_LABEL = Declaration("counter", "Help.", ("model",), most=3)
TWO_LABELS = Declaration("counter", "Help.", ("policy", "clause"), most=3)


def test_a_counter_counts_and_shows_its_value() -> None:
    counter = Counter("calls_total", Declaration("counter", "Help."), "")
    counter.inc()
    counter.inc(41)
    assert counter.lines() == ["calls_total 42"]


def test_money_is_added_in_whole_nanodollars_and_shown_in_dollars() -> None:
    counter = Counter("usd_total", Declaration("counter", "Help.", scale=1_000_000_000), "")
    for _ in range(1000):
        counter.inc(100_000_001)
    assert counter.value == 100_000_001_000
    assert counter.lines() == ["usd_total 100.000001"]


def test_a_gauge_goes_up_and_down() -> None:
    gauge = Gauge("inflight", Declaration("gauge", "Help."), "")
    gauge.inc()
    gauge.inc()
    gauge.dec()
    assert gauge.lines() == ["inflight 1"]
    gauge.set(0.5)
    assert gauge.lines() == ["inflight 0.5"]


def test_an_observation_counts_in_every_bucket_from_its_own_bound_up() -> None:
    histogram = Histogram("seconds", Declaration("histogram", "Help.", buckets=(0.1, 1.0)), 'stage="admit"')
    for value in (0.05, 0.1, 0.5, 7):
        histogram.observe(value)
    assert histogram.lines() == [
        'seconds_bucket{stage="admit",le="0.1"} 2',
        'seconds_bucket{stage="admit",le="1.0"} 3',
        'seconds_bucket{stage="admit",le="+Inf"} 4',
        'seconds_count{stage="admit"} 4',
        'seconds_sum{stage="admit"} 7.65',
    ]
    assert histogram.count == 4


def test_the_same_label_values_are_the_same_child() -> None:
    family = Family("calls_total", ONE_LABEL, Counter)
    assert family.child("gpt-4.1") is family.child("gpt-4.1")
    assert family.child("gpt-4.1") is not family.child("gpt-4o")


def test_a_full_family_counts_everything_new_as_other_and_loses_nothing() -> None:
    family = Family("refusals_total", TWO_LABELS, Counter)
    for n in range(1000):
        family.child(f"policy{n}", "budget").inc()
    children = list(family)
    assert len(children) == 4
    assert children[-1].lines() == ['refusals_total{policy="other",clause="other"} 997']
    assert family.child("policy0", "budget").value == 1
    assert repr(family) == "<Family refusals_total 4/3>"


def test_a_wrong_number_of_label_values_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="calls_total"):
        Family("calls_total", ONE_LABEL, Counter).child("a", "b")


def test_a_family_that_was_cleared_shows_only_what_came_after() -> None:
    family = Family("policy_info", Declaration("gauge", "Help.", ("version",)), Gauge)
    family.child("v1").set(1)
    family.clear()
    family.child("v2").set(1)
    assert [child.lines() for child in family] == [['policy_info{version="v2"} 1']]


@given(values=st.lists(st.text(alphabet=st.characters(exclude_categories=()), max_size=300), max_size=20))
def test_whatever_the_label_values_the_text_can_be_read_and_no_series_stands_twice(values: list[str]) -> None:
    declaration = Declaration("counter", "Help.", ("model",), most=10)
    family = Family("calls_total", declaration, Counter)
    for value in values:
        family.child(value).inc()
    lines = [line for child in family for line in child.lines()]
    assert len(lines) <= 11
    samples = [s for f in text_string_to_metric_families("\n".join(["# TYPE calls_total counter", *lines, ""])) for s in f.samples]
    assert len({s.labels["model"] for s in samples}) == len(lines)
    assert sum(s.value for s in samples) == len(values)
    short = {v for v in values if len(v) <= 128 and v.isprintable()}
    if len(values) <= 10:
        assert short <= {s.labels["model"] for s in samples}


def test_other_is_an_ordinary_value_until_the_family_is_full() -> None:
    family = Family("calls_total", ONE_LABEL, Counter)
    family.child(OTHER).inc()
    for n in range(10):
        family.child(str(n)).inc()
    assert [child.lines()[0] for child in family] == [
        'calls_total{model="other"} 9',
        'calls_total{model="0"} 1',
        'calls_total{model="1"} 1',
    ]


@pytest.mark.parametrize("together", [1, 7, 10_000])
def test_observations_count_the_same_one_by_one_and_many_together(together: int) -> None:
    histogram = Histogram("seconds", Declaration("histogram", "Help.", buckets=(0.1, 1.0), scale=1000), "")
    for n in range(10_000):
        if together == 1:
            histogram.observe(n % 2000)
            assert not histogram.waiting
        else:
            histogram.waiting.append(n % 2000)
            if n % together == 0:
                histogram.sort_in()
    assert histogram.count == 10_000
    assert histogram.sum == sum(n % 2000 for n in range(10_000)) / 1000
    assert histogram.lines() == [
        'seconds_bucket{le="0.1"} 505',
        'seconds_bucket{le="1.0"} 5005',
        'seconds_bucket{le="+Inf"} 10000',
        "seconds_count 10000",
        "seconds_sum 9995.0",
    ]
