"""Every value set renders, alike by every Helm, to what Kubernetes takes."""

import json
import subprocess
from typing import Any

import pytest

from tests.chart.charts import NEWEST, OLDEST, Charts, Document, kinds, one, serving
from tests.chart.sets import KUBES, RENDERS, SETS, Render, rendered
from tests.chart.tools import HELMS, VALIDATOR, Helm

# Fields of the operator's kinds, which no schema of Kubernetes knows. Source: prometheus-operator, API reference.
OPERATOR_FIELDS = {
    "PodMonitor": {"selector", "namespaceSelector", "podMetricsEndpoints"},
    "ServiceMonitor": {"selector", "namespaceSelector", "endpoints"},
    "PrometheusRule": {"groups"},
    "Issuer": {"selfSigned", "ca"},
    "Certificate": {"secretName", "issuerRef", "dnsNames", "privateKey", "isCA", "commonName", "duration"},
}


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.version)
@pytest.mark.parametrize("chart", ["tollhouse", "example-app"])
def test_lint_is_strict_and_content(charts: Charts, chart: str, helm: Helm) -> None:
    said = charts.run(helm, "lint", "--strict", str(charts.folder / chart))
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


def test_there_are_sets_of_all_three_ways() -> None:
    ways = [values.get("mode", "sidecar") for values in SETS.values()]
    assert {way: ways.count(way) >= 4 for way in ways} == {"sidecar": True, "gateway": True, "injector": True}
    assert len(SETS) >= 12


def comparable(documents: list[Document]) -> list[Any]:
    """Without what differs at every render: a certificate that was just made, and the order, which is Helm's own."""
    text = [json.loads(json.dumps(document)) for document in documents]
    for document in text:
        if document["kind"] == "Secret":
            document["data"] = sorted(document["data"])
        if document["kind"] == "MutatingWebhookConfiguration":
            document["webhooks"][0]["clientConfig"].pop("caBundle", None)
    return sorted(
        text, key=lambda document: (document["kind"], document["metadata"]["name"], document["metadata"].get("annotations") is None)
    )


@pytest.mark.parametrize("render", RENDERS, ids="@".join)
def test_both_helms_render_the_same(charts: Charts, render: Render) -> None:
    first, *others = (comparable(rendered(charts, render, helm)) for helm in HELMS)
    assert first
    assert others == [first] * (len(HELMS) - 1)


@pytest.mark.parametrize("kube", KUBES)
def test_kubernetes_takes_every_manifest(charts: Charts, kube: str) -> None:
    documents = [
        (f"{name} {document['kind']}/{document['metadata']['name']}", document)
        for name, version in RENDERS
        if version == kube
        for document in rendered(charts, (name, version))
        if document["kind"] not in OPERATOR_FIELDS
    ]
    ran = subprocess.run(
        [VALIDATOR, "-P", "tests/chart/validate.py", kube.rpartition(".")[0]],
        input=json.dumps(documents),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(ran.stdout) == []
    assert len(documents) > 50


def test_a_manifest_with_a_mistake_is_not_taken() -> None:
    """The check above can fail."""
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}}
    ran = subprocess.run(
        [VALIDATOR, "-P", "tests/chart/validate.py", "1.37"],
        input=json.dumps([("a", wrong)]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "portz" in ran.stdout


@pytest.mark.parametrize("render", RENDERS, ids="@".join)
def test_the_operators_kinds_have_only_known_fields_and_all_names_are_short(charts: Charts, render: Render) -> None:
    for document in rendered(charts, render):
        assert set(document["spec"]) <= OPERATOR_FIELDS[document["kind"]] if document["kind"] in OPERATOR_FIELDS else True
        assert len(document["metadata"]["name"]) <= 63


def test_long_release_names_are_cut(charts: Charts) -> None:
    for mode in ("sidecar", "injector"):
        for document in charts.render("tollhouse", {"mode": mode}, name="a" * 53):
            assert len(document["metadata"]["name"]) <= 63 + len("web-") * (document["kind"] == "MutatingWebhookConfiguration")


def test_the_operators_kinds_come_only_where_the_cluster_has_them(charts: Charts) -> None:
    values = SETS["sidecar-everything"]
    with_operator = set(kinds(charts.render("tollhouse", values)))
    assert with_operator - set(kinds(charts.render("tollhouse", values, apis=()))) == {"PodMonitor", "PrometheusRule"}


def test_rules_come_whole_and_lead_to_the_runbook_that_was_named(charts: Charts) -> None:
    rules = one(rendered(charts, ("sidecar-everything", NEWEST)), "PrometheusRule")["spec"]["groups"]
    alerts = [rule for group in rules for rule in group["rules"] if "alert" in rule]
    assert [rule for group in rules for rule in group["rules"] if "record" in rule]
    assert alerts
    assert all(alert["annotations"]["runbook_url"].startswith("https://wiki.example/llm#") for alert in alerts)
    assert any("{{ $labels." in json.dumps(alert) for alert in alerts)  # for Prometheus, not for Helm
    dashboard = one(rendered(charts, ("sidecar-everything", NEWEST)), "ConfigMap", "llm-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["tollhouse.json"])["title"]


def test_a_gateway_is_scraped_by_its_service_and_sidecars_by_the_name_of_their_port(charts: Charts) -> None:
    """An injector's PodMonitor looks at all pods: a gateway's must not have that port, or it would be counted twice."""
    monitor = one(rendered(charts, ("injector-existing-certificate", NEWEST)), "PodMonitor")["spec"]
    [port] = [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    app = one(rendered(charts, ("example-app", NEWEST)), "Deployment")["spec"]["template"]["spec"]
    assert port in [p["name"] for p in serving(app)["ports"]]
    documents = rendered(charts, ("gateway-autoscaled", NEWEST))
    gateway = serving(one(documents, "Deployment")["spec"]["template"]["spec"])
    names = [p["name"] for p in gateway["ports"]]
    service = one(documents, "Service", "shop-tollhouse-admin")["spec"]["ports"][0]
    assert port not in names
    assert service["targetPort"] in names
    assert service["name"] == one(documents, "ServiceMonitor")["spec"]["endpoints"][0]["port"]


def test_an_autoscaler_goes_by_a_core_and_not_by_the_small_request(charts: Charts) -> None:
    [metric] = one(rendered(charts, ("gateway-autoscaled", NEWEST)), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["resource"]["target"] == {"type": "AverageValue", "averageValue": "700m"}


def test_what_each_way_is_made_of(charts: Charts) -> None:
    assert kinds(rendered(charts, ("sidecar", NEWEST))) == ["ConfigMap", "ConfigMap", "Job"]
    assert kinds(rendered(charts, ("gateway-autoscaled", OLDEST))) == [
        *["ConfigMap", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job"],
        *["NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceMonitor"],
    ]
    assert kinds(rendered(charts, ("injector", NEWEST))) == [
        *["ConfigMap", "Deployment", "MutatingWebhookConfiguration", "PodDisruptionBudget", "Secret", "Service"]
    ]
