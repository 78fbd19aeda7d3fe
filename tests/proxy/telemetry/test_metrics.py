import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from proxy.call import Clamp, Kind, Price, Usage
from proxy.policy.contract import Balance, Charge, Limit, Quota, Rate, Unit
from proxy.telemetry.declared import DECLARED, MODES, MOST_LINES, STAGES, TOKEN_CLASSES, USAGE_SOURCES
from proxy.telemetry.metrics import Metrics, disjoint
from tests.clock import FakeClock
from tests.ended import ENDED, KIND, REFUSED, REFUSED_KIND, EndedCall, ended

Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]


def metrics(**names: Any) -> Metrics:
    made = Metrics(version="1.2.3", clock=FakeClock(wall_s=1000.0), surfaces=("chat", "embeddings"))
    made.policy_activated(
        **{
            "version": "v1",
            "models": ("gpt-4.1", "gemma-*"),
            "keys": ("web",),
            "clauses": (("everyone", "rate_limit", "enforce"), ("everyone", "budget", "enforce"), ("batch", "budget", "shadow")),
            **names,
        }
    )
    return made


async def scrape(made: Metrics) -> Scrape:
    """Every sample, as the stock parser reads it. No series may stand twice."""
    samples = [s for family in text_string_to_metric_families((await made.render()).decode()) for s in family.samples]
    found = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def at(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"tollhouse_{name}", frozenset((k.rstrip("_"), v) for k, v in labels.items())


def count(made: Metrics, kind: Kind = KIND, call: EndedCall = ENDED) -> None:
    made.call_finished(made.series(kind), call)


CLAMPED = KIND._replace(clamps=(Clamp("max_tokens", 8000, 1024),))


async def test_a_call_shows_how_it_ended_how_long_it_took_and_what_it_cost() -> None:
    made = metrics()
    series = made.series(KIND)
    made.call_finished(series, ENDED)
    made.call_finished(series, ended(settle_ns=None))
    found = await scrape(made)
    assert found[at("calls_total", surface="chat", model="gpt-4.1", key="web", ending="completed", status="2xx")] == 2
    assert found[at("call_seconds_count", surface="chat")] == 2
    assert found[at("call_seconds_sum", surface="chat")] == pytest.approx(2.601)
    assert found[at("call_seconds_bucket", surface="chat", le="1.28")] == 0
    assert found[at("call_seconds_bucket", surface="chat", le="2.56")] == 2
    assert found[at("first_token_seconds_sum", model="gpt-4.1")] == pytest.approx(0.7)
    assert found[at("tokens_total", model="gpt-4.1", class_="input", source="reported")] == 424
    assert found[at("tokens_total", model="gpt-4.1", class_="cached", source="reported")] == 200
    assert found[at("tokens_total", model="gpt-4.1", class_="output", source="reported")] == 90
    assert found[at("cost_usd_total", model="gpt-4.1", key="web")] == 0.002469134
    assert found[at("usage_source_total", source="reported")] == 2
    assert found[at("usage_mismatch_total")] == 0


async def test_times_that_nobody_scrapes_do_not_pile_up_and_none_is_lost() -> None:
    made = metrics()
    series = made.series(KIND)
    for _ in range(3000):
        made.call_finished(series, ENDED)
    for family in (made.stage_seconds, made.call_seconds, made.first_token_seconds):
        for histogram in family:
            assert len(histogram.waiting) < 300
    found = await scrape(made)
    assert {found[at("stage_seconds_count", stage=stage)] for stage in STAGES} == {3000}
    assert found[at("call_seconds_count", surface="chat")] == found[at("first_token_seconds_count", model="gpt-4.1")] == 3000


@pytest.mark.parametrize(("stage", "seconds"), [("admit", 0.0005), ("first_byte", 0.3), ("stream", 1.0), ("settle", 0.002)])
async def test_the_stages_of_a_call_add_up_to_its_way(stage: str, seconds: float) -> None:
    made = metrics()
    count(made)
    found = await scrape(made)
    assert found[at("stage_seconds_count", stage=stage)] == 1
    assert found[at("stage_seconds_sum", stage=stage)] == pytest.approx(seconds)


async def test_a_class_of_tokens_that_was_not_used_is_not_shown() -> None:
    made = metrics()
    count(made, call=ended(usage=Usage(input_tokens=7)))
    found = await scrape(made)
    assert {dict(labels)["class"]: value for (name, labels), value in found.items() if name == "tollhouse_tokens_total"} == {
        "input": 7
    }


async def test_a_refusal_names_policy_and_clause_and_does_not_count_as_a_fast_answer() -> None:
    made = metrics()
    count(made, REFUSED_KIND._replace(clamps=CLAMPED.clamps), REFUSED)
    made.refusals.child("batch", "budget", "shadow").inc()
    found = await scrape(made)
    assert found[at("calls_total", surface="chat", model="gpt-4.1", key="web", ending="refused", status="4xx")] == 1
    assert found[at("refusals_total", policy="everyone", clause="rate_limit", mode="enforce")] == 1
    assert found[at("refusals_total", policy="batch", clause="budget", mode="shadow")] == 1
    assert found[at("errors_total", code="rate_limit_exceeded")] == 1
    assert found[at("call_seconds_count", surface="chat")] == 0
    assert at("clamps_total", field="max_tokens") not in found
    assert not any(name == "tollhouse_tokens_total" for name, _ in found)


async def test_a_clamp_is_counted_by_its_field() -> None:
    made = metrics()
    count(made, CLAMPED)
    assert (await scrape(made))[at("clamps_total", field="max_tokens")] == 1


async def test_a_usage_block_that_made_no_sense_is_counted() -> None:
    made = metrics()
    count(made, KIND._replace(usage_nonsense=True))
    assert (await scrape(made))[at("usage_mismatch_total")] == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ending": "upstream_broken", "error": "upstream_broken", "status": 502}, "upstream_broken"),
        ({"ending": "timed_out", "error": "upstream_timeout", "status": 504}, "upstream_timeout"),
        ({"ending": "upstream_error", "error": "a word of the upstream's own", "status": 404}, "other"),
    ],
)
async def test_what_an_upstream_failed_is_counted_by_public_codes_only(changes: dict[str, Any], code: str) -> None:
    made = metrics()
    count(made, KIND._replace(**changes))
    found = await scrape(made)
    assert found[at("upstream_errors_total", upstream="openai", code=code)] == 1
    assert found[at("errors_total", code=code)] == 1


@pytest.mark.parametrize(
    ("model", "label"),
    [("gpt-4.1", "gpt-4.1"), ("gemma-3", "gemma-*"), ("gemma-*", "gemma-*"), ("what a client made up", "other"), (None, "none")],
)
async def test_a_model_is_shown_by_name_only_if_the_policy_file_knows_it(model: str | None, label: str) -> None:
    made = metrics()
    count(made, KIND._replace(model=model))
    assert at("calls_total", surface="chat", model=label, key="web", ending="completed", status="2xx") in await scrape(made)


async def test_a_key_is_shown_by_its_declared_id_only() -> None:
    made = metrics()
    count(made, KIND._replace(key="removed"))
    count(made, REFUSED_KIND._replace(key="", surface="unrouted", model=None, error="invalid_api_key", refused_by=None, status=401))
    found = await scrape(made)
    assert at("calls_total", surface="chat", model="gpt-4.1", key="other", ending="completed", status="2xx") in found
    assert at("calls_total", surface="unrouted", model="none", key="none", ending="refused", status="4xx") in found


@pytest.mark.parametrize(
    ("status", "shown"), [(0, "none"), (200, "2xx"), (304, "3xx"), (503, "5xx"), (999, "other"), (-1, "other")]
)
async def test_a_status_is_shown_by_its_class(status: int, shown: str) -> None:
    made = metrics()
    count(made, KIND._replace(status=status))
    assert at("calls_total", surface="chat", model="gpt-4.1", key="web", ending="completed", status=shown) in await scrape(made)


async def test_whoever_keeps_series_is_told_when_labels_change() -> None:
    made = metrics()
    told: list[str] = []
    made.when_labels_change(lambda: told.append("forget"))
    made.policy_rejected()
    assert told == []
    made.policy_activated(version="v2", models=(), keys=(), clauses=())
    assert told == ["forget"]


def budget(*, spent: int, end: int = 2000, policy: str = "everyone") -> Balance:
    limit = Limit(policy=policy, clause="budget", unit=Unit.NANOUSD, rule=Quota(100, "day", "UTC"), error="budget_exceeded")
    return Balance(charge=Charge(limit, "user=x", 1), remaining=0, reset_s=0, spent=spent, window=(end - 1000, end))


@pytest.mark.parametrize(
    ("balances", "ratio"),
    [
        ([], 0),
        ([budget(spent=30)], 0.3),
        ([budget(spent=30), budget(spent=80), budget(spent=10)], 0.8),
        ([budget(spent=80), budget(spent=10, end=3000)], 0.1),
        ([budget(spent=10, end=3000), budget(spent=80)], 0.1),
        ([budget(spent=120)], 1.2),
    ],
)
async def test_a_budget_shows_the_highest_share_of_its_current_window(balances: list[Balance], ratio: float) -> None:
    made = metrics()
    for balance in balances:
        made.budget_settled(balance)
    assert (await scrape(made))[at("budget_spent_ratio", policy="everyone")] == ratio


async def test_a_budget_is_whole_again_when_its_window_has_turned_though_no_call_came() -> None:
    clock = FakeClock(wall_s=1000.0)
    made = Metrics(version="1", clock=clock)
    made.budget_settled(budget(spent=90, end=2000))
    clock.advance(999)
    assert (await scrape(made))[at("budget_spent_ratio", policy="everyone")] == 0.9
    clock.advance(1)
    assert (await scrape(made))[at("budget_spent_ratio", policy="everyone")] == 0


async def test_a_rate_is_not_a_budget() -> None:
    made = metrics()
    limit = Limit(policy="everyone", clause="rate_limit", unit=Unit.REQUESTS, rule=Rate(10, 60, 10), error="rate_limit_exceeded")
    made.budget_settled(Balance(charge=Charge(limit, "user=x", 1), remaining=0, reset_s=6, spent=9))
    assert (await scrape(made))[at("budget_spent_ratio", policy="everyone")] == 0


async def test_only_the_policy_version_in_force_is_shown_and_loads_are_counted() -> None:
    made = metrics()
    made.policy_rejected()
    made.policy_activated(version="v2", models=(), keys=(), clauses=())
    found = await scrape(made)
    assert [labels for name, labels in found if name == "tollhouse_policy_info"] == [frozenset({("version", "v2")})]
    assert found[at("policy_loads_total", result="activated")] == 2
    assert found[at("policy_loads_total", result="rejected")] == 1


async def test_a_rejected_file_shows_until_one_comes_into_force() -> None:
    made = metrics()
    shown = [(await scrape(made))[at("policy_last_load_successful")]]
    made.policy_rejected()
    shown.append((await scrape(made))[at("policy_last_load_successful")])
    made.policy_activated(version="v1", models=(), keys=(), clauses=())
    shown.append((await scrape(made))[at("policy_last_load_successful")])
    assert shown == [1, 0, 1]


async def test_known_labels_are_there_with_zero_from_the_first_scrape() -> None:
    found = await scrape(metrics())
    assert found[at("build_info", version="1.2.3")] == 1
    zeros = [
        *(at("stage_seconds_count", stage=stage) for stage in STAGES),
        *(at("usage_source_total", source=source) for source in USAGE_SOURCES),
        at("call_seconds_count", surface="embeddings"),
        at("refusals_total", policy="everyone", clause="rate_limit", mode="enforce"),
        at("refusals_total", policy="batch", clause="budget", mode="shadow"),
        at("pages_total", kind="slack", result="failed"),
        at("pages_total", kind="none", result="given_up"),
        at("policy_loads_total", result="rejected"),
        at("inflight_calls"),
        at("usage_mismatch_total"),
        at("state_failures_total"),
        at("log_dropped_total"),
        at("loop_lag_seconds_count"),
    ]
    assert {series: found[series] for series in zeros} == dict.fromkeys(zeros, 0)


async def test_what_is_kept_elsewhere_is_read_before_every_scrape() -> None:
    made = metrics()
    lost = iter((3, 5))

    def read_dropped() -> None:
        made.log_dropped.value = next(lost)

    made.before_render(read_dropped)
    assert (await scrape(made))[at("log_dropped_total")] == 3
    assert (await scrape(made))[at("log_dropped_total")] == 5


def test_whatever_happens_a_scrape_stays_small_enough_for_every_scraper() -> None:
    process_lines = 100
    assert sum(d.most_lines for d in DECLARED.values()) + 2 * len(DECLARED) + process_lines <= MOST_LINES


async def test_a_flood_of_names_from_clients_upstreams_and_policy_files_stays_bounded() -> None:
    made = metrics(models=[f"m{n}" for n in range(3000)], keys=[f"k{n}" for n in range(3000)])
    chance = random.Random(7)
    for _ in range(20_000):
        n = chance.randrange(4000)
        kind = KIND._replace(model=f"m{n}", key=f"k{n}", surface=f"s{n}", upstream=f"up{n}", error=f"e{n}", ending="upstream_error")
        count(made, kind)
        count(made, REFUSED_KIND._replace(model=f"m{n}", key=f"k{n}", surface=f"s{n}", refused_by=(f"p{n}", "budget")), REFUSED)
        made.budget_settled(budget(spent=n, policy=f"p{n}"))
    found = await scrape(made)
    assert len(found) < MOST_LINES
    assert sum(value for (name, _), value in found.items() if name == "tollhouse_calls_total") == 40_000


COUNTS = st.integers(min_value=0, max_value=1000)


@given(counts=st.tuples(*[COUNTS] * 7))
def test_token_classes_never_overlap_and_their_sum_is_what_was_used(counts: tuple[int, ...]) -> None:
    usage = Usage(*counts)
    classes = dict(disjoint(usage))
    assert tuple(classes) == TOKEN_CLASSES
    assert min(classes.values()) >= 0
    assert sum(classes.values()) == usage.total_tokens


@given(counts=st.tuples(*[COUNTS] * 7))
def test_token_classes_are_those_that_are_billed(counts: tuple[int, ...]) -> None:
    usage = Usage(*counts)
    price = Price(
        input=1_000_000,
        output=7_000_000,
        cached_input=11_000_000,
        cache_write=13_000_000,
        audio_input=17_000_000,
        audio_output=19_000_000,
    )
    per_token = {"input": 1, "cached": 11, "cache_write": 13, "audio_input": 17, "output": 7, "reasoning": 7, "audio_output": 19}
    assert sum(per_token[name] * count for name, count in disjoint(usage)) == price.cost_nanousd(usage)


def test_every_metric_is_named_by_the_rules_and_explained() -> None:
    for name, declaration in DECLARED.items():
        assert re.fullmatch(r"tollhouse(_[a-z]+)+", name)
        assert (declaration.type == "counter") == name.endswith("_total")
        assert (declaration.type == "histogram") == bool(declaration.buckets)
        assert declaration.buckets == tuple(sorted(set(declaration.buckets)))
        assert declaration.help.endswith(".")
        assert len(declaration.labels) == len(set(declaration.labels))


async def test_every_declared_metric_is_exposed() -> None:
    text = (await metrics().render()).decode()
    for name, declaration in DECLARED.items():
        assert f"# TYPE {name} {declaration.type}\n" in text


def test_modes_are_the_words_of_the_policy_file() -> None:
    assert MODES == ("enforce", "shadow")


def test_the_state_of_the_metrics_shows_in_their_repr() -> None:
    made = metrics()
    made.inflight_calls.inc()
    assert repr(made) == f"<Metrics {len(DECLARED)} families inflight=1>"
