"""Dashboard, rules, alerts and runbook name what is there: metrics as they are declared, their labels, and each other.

What takes a real Prometheus is in run.py (`make alerts-test`).
"""

import re
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from policies import KINDS
from proxy.errors import CODES
from proxy.telemetry.declared import DECLARED, MODES, STAGES
from tests.alerts.files import ROOT, Query, alerts, cases, charts, dashboard, panels, queries, recordings, rules
from tests.alerts.promql import Matcher, Named, named

README = (ROOT / "README.md").read_text("utf-8")
TARGET = frozenset(("namespace", "job", "instance", "endpoint", "pod"))  # what a scrape adds; the last two, the operator's
OTHERS: dict[str, frozenset[str]] = {  # metrics of Prometheus, of Python's client and of alerts
    "up": frozenset(),
    "scrape_samples_scraped": frozenset(),
    "scrape_duration_seconds": frozenset(),
    "process_resident_memory_bytes": frozenset(),
    "process_cpu_seconds_total": frozenset(),
    "process_open_fds": frozenset(),
    "process_max_fds": frozenset(),
    "ALERTS": frozenset(("alertname", "alertstate")),
}
WORDS: dict[str, frozenset[str]] = {  # labels whose values are a closed list that the code knows
    "code": frozenset((*CODES, "other")),
    "stage": frozenset(STAGES),
    "mode": frozenset(MODES),
    "result": frozenset(("delivered", "failed", "given_up", "activated", "rejected")),
    "clause": frozenset(kind.clause for kind in KINDS),
}
UNITS = frozenset(("short", "reqps", "percentunit", "s", "bytes", "currencyUSD", "cps", "bool"))
EXPRESSIONS = [
    *((query.panel, query.expression) for query in queries()),
    *((rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()),
    *((note["name"], note["expr"]) for note in dashboard()["annotations"]["list"]),
]


def declared(metric: str) -> tuple[str, str]:
    """(name in DECLARED, suffix) of a metric's series."""
    for suffix in ("_bucket", "_count", "_sum"):
        base = metric.removesuffix(suffix)
        if base != metric and base in DECLARED and DECLARED[base].type == "histogram":
            return base, suffix
    return metric, ""


def labels_of(metric: str) -> frozenset[str] | None:
    """All labels that a metric may have, without those of its target; None where there is no such metric."""
    if metric in OTHERS:
        return OTHERS[metric]
    if metric in recordings():
        inner = named(recordings()[metric])
        if inner.by:
            return frozenset(inner.by) - TARGET - ({"le"} if "histogram_quantile" in recordings()[metric] else set())
        below = frozenset[str]().union(*(labels_of(name) or () for name in inner.metrics))
        return below - inner.without - ({"le"} if "histogram_quantile" in recordings()[metric] else set())
    name, suffix = declared(metric)
    declaration = DECLARED.get(name)
    if declaration is None or (declaration.type == "histogram") != bool(suffix):
        return None
    return frozenset(declaration.labels) | ({"le"} if suffix == "_bucket" else set())


def wrong_matcher(metric: str, matcher: Matcher) -> str | None:
    known = labels_of(metric)
    if known is None or matcher.label not in known | TARGET:
        return f"{metric} has no label {matcher.label}"
    if matcher.label == "le":
        bounds = {str(float(bound)) for bound in DECLARED[declared(metric)[0]].buckets} | {"+Inf"}
        return None if matcher.value in bounds else f"{metric} has no bucket {matcher.value}"
    if matcher.label in WORDS:
        parts = matcher.value.split("|") if "~" in matcher.operator else [re.escape(matcher.value)]
        unknown = [part for part in parts if not any(re.fullmatch(part, word) for word in WORDS[matcher.label])]
        return f"{matcher.label} is never {unknown}" if unknown else None
    return None


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_every_expression_names_metrics_and_labels_that_exist(where: str, expression: str) -> None:
    found = named(expression)
    assert found.metrics
    assert [metric for metric in found.metrics if labels_of(metric) is None] == []
    assert [w for metric, matchers in found.metrics.items() for m in matchers if (w := wrong_matcher(metric, m))] == []
    known = TARGET.union(*(labels_of(metric) or () for metric in found.metrics))
    assert (found.by | found.without | found.others) - known == set()


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel}: {query.legend}")
def test_a_legend_names_labels_that_its_series_have(query: Query) -> None:
    found = named(query.expression)
    shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    aggregated = re.match(r"(?:\w+\()?[\d., ]*(?:sum|max|min|count)\b", query.expression) is not None
    have = found.by if aggregated else TARGET.union(*(labels_of(metric) or () for metric in found.metrics))
    assert shown - have == set()


def test_the_dashboard_filters_every_metric_of_ours_by_the_chosen_instances() -> None:
    """But for those that have no instance, and on the right side of `and on (job, instance)`."""
    unfiltered = [
        f"{query.panel}: {metric}"
        for query in queries()
        for metric, matchers in named(query.expression).metrics.items()
        if metric not in OTHERS and metric != "tollhouse_build_info" and not any(m.label == "instance" for m in matchers)
    ]
    assert unfiltered == ["First token p99: tollhouse:first_token_seconds:p99_rate10m"]


@pytest.mark.parametrize("panel", charts(), ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_and_in_what_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert panel["type"] == "table" or all(target["legendFormat"] for target in panel["targets"])


def test_no_two_panels_have_a_name_or_an_id_in_common() -> None:
    for what in ("id", "title"):
        assert [one for one, times in Counter(panel[what] for panel in panels()).items() if times > 1] == []


def test_panels_stand_side_by_side_and_never_on_each_other() -> None:
    places = {panel["title"]: panel["gridPos"] for panel in panels()}
    assert [title for title, at in places.items() if at["x"] + at["w"] > 24 or at["h"] < 1] == []
    over = [
        (one, other)
        for (one, a), (other, b) in combinations(places.items(), 2)
        if a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    ]
    assert over == []
    filled = Counter[int]()
    for at in places.values():
        for y in range(at["y"], at["y"] + at["h"]):
            filled[y] += at["w"]
    assert {y: width for y, width in filled.items() if width != 24} == {}, "a gap"


def test_errors_never_count_as_other_for_want_of_series() -> None:
    """What the error ratio relies on."""
    assert len(WORDS["code"]) <= DECLARED["tollhouse_errors_total"].most


def test_the_dashboard_shows_every_metric_there_is() -> None:
    used = {declared(metric)[0] for _, expression in EXPRESSIONS for metric in named(expression).metrics}
    assert set(DECLARED) - used == set()


def test_every_recording_rule_is_used_and_named_by_the_convention() -> None:
    used = {metric for _, expression in EXPRESSIONS for metric in named(expression).metrics}
    assert set(recordings()) - used == set()
    assert [name for name in recordings() if not re.fullmatch(r"tollhouse:[a-z_]+:[a-z0-9_]+", name)] == []


@pytest.mark.parametrize("alert", alerts().values(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_what_is_wrong_and_what_to_read(alert: dict[str, Any]) -> None:
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"README.md#{alert['alert'].lower()}"
    # Names of the policy file, of Tollhouse and of the installation; nothing that a client sends.
    shown = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["description"]))
    assert shown <= {"job", "instance", "policy", "upstream", "kind", "model"}
    known = TARGET.union(*(labels_of(metric) or () for metric in named(alert["expr"]).metrics))
    assert shown <= known


def test_every_alert_has_an_entry_in_the_runbook_and_every_entry_an_alert() -> None:
    entries = re.findall(r"^### (Tollhouse\w+)$", README.partition("\n## Runbook\n")[2].partition("\n## ")[0], re.M)
    assert entries == list(alerts())


def test_every_panel_that_the_runbook_names_exists() -> None:
    runbook = README.partition("\n## Runbook\n")[2].partition("\n## ")[0]
    named_there = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", runbook))
    assert named_there
    assert named_there - {panel["title"] for panel in panels()} == set()


@pytest.mark.parametrize("name", alerts())
def test_every_alert_is_shown_firing_and_not_firing(name: str) -> None:
    shown = [bool(rule["exp_alerts"]) for case in cases() for rule in case.get("alert_rule_test", ()) if rule["alertname"] == name]
    assert set(shown) == {True, False}


def test_the_cases_of_the_alerts_use_series_as_they_are() -> None:
    wrong = []
    for case in cases():
        for series in case["input_series"]:
            metric, matchers = next(iter(named(series["series"]).metrics.items()))
            wrong += [f"no {metric}"] * (labels_of(metric) is None)
            wrong += [w for matcher in matchers if (w := wrong_matcher(metric, matcher))]
    assert wrong == []
    asked = {rule["alertname"] for case in cases() for rule in case.get("alert_rule_test", ())}
    assert asked == set(alerts())


@pytest.mark.parametrize(
    ("expression", "metrics", "by"),
    [
        ('sum by (a, b) (rate(m_total{c="x{y}", d=~"a|b"}[5m] offset 1h)) > 0.5', {"m_total": ["c", "d"]}, {"a", "b"}),
        ("a:b:rate5m / on (job) group_left (x) up == 1 and time() - 3e2 > 1", {"a:b:rate5m": [], "up": []}, set()),
    ],
)
def test_what_an_expression_names_is_found(expression: str, metrics: dict[str, list[str]], by: set[str]) -> None:
    found: Named = named(expression)
    assert {name: [m.label for m in matchers] for name, matchers in found.metrics.items()} == metrics
    assert found.by == by
