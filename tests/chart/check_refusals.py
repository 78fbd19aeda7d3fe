"""Wrong values are refused, by both helms, and the message leads to the mistake."""

from typing import Any

import pytest

from tests.chart.charts import NEWEST, Charts, Refused
from tests.chart.sets import SETS
from tests.chart.tools import HELMS, Helm

GATEWAY = SETS["gateway"]
APP = {"nightly": {"enabled": False}}


def gateway(**more: Any) -> dict[str, Any]:
    return {**GATEWAY, "gateway": more}


def injector(**more: Any) -> dict[str, Any]:
    return {"mode": "injector", "injector": more}


# name → (values of the chart, what the message must hold)
WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown-value": ({"replicaCount": 2}, ["replicaCount", "not allowed"]),
    "misspelt-below": (gateway(replicaz=2), ["gateway", "replicaz", "not allowed"]),
    "unknown-mode": ({"mode": "daemonset"}, ["mode", "sidecar", "gateway", "injector"]),
    "two-replicas": (gateway(replicas=2), ["up to 2 replicas", "share no limits", "gateway.limits: perReplica"]),
    "two-replicas-one-folder": (gateway(replicas=2, limits="perReplica"), ["gateway.persistence.enabled to false"]),
    "two-replicas-with-exact-limits": (gateway(replicas=2, persistence={"enabled": False}), ["gateway.limits: perReplica"]),
    "autoscaled": (gateway(autoscaling={"enabled": True}), ["replicas", "gateway.limits: perReplica"]),
    "no-keys": ({"mode": "gateway"}, ["gateway", "refuse every call", "tollhouse keys new", "--set-file policy.inline"]),
    "no-policy": ({"policy": {"inline": ""}}, ["policy", "inline"]),
    "policy-as-a-map": ({"policy": {"inline": {"version": 1}}}, ["policy", "inline", "string"]),
    "drain-without-time": ({"drainSeconds": 0}, ["drainSeconds", "1"]),
    "drain-as-text": ({"drainSeconds": "2m"}, ["drainSeconds", "integer"]),
    "log-level": ({"settings": {"logLevel": "trace"}}, ["logLevel", "debug", "warning"]),
    "privileged-port": ({"ports": {"data": 80}}, ["ports", "data"]),
    "same-ports": ({"ports": {"data": 9090}}, ["ports.data", "ports.admin", "9090"]),
    "root": ({"runAsUser": 0}, ["runAsUser", "1"]),
    "digest": ({"image": {"digest": "sha256:abc"}}, ["digest", "sha256"]),
    "tag-in-repository": ({"image": {"repository": "ghcr.io/tollhouse/tollhouse:1"}}, ["repository"]),
    "own-certificate-without-one": (injector(tls={"source": "existingSecret"}), ["tls", "existingSecret", "caBundle"]),
    "failure-policy": (injector(failurePolicy="Closed"), ["failurePolicy", "Ignore", "Fail"]),
    "webhook-timeout": (injector(timeoutSeconds=60), ["timeoutSeconds", "30"]),
    "monitor-of-nothing": (
        {"admin": {"expose": False}, "monitoring": {"podMonitor": {"enabled": True}}},
        ["podMonitor", "admin.expose is false"],
    ),
    "service-monitor-of-sidecars": (
        {"monitoring": {"serviceMonitor": {"enabled": True}}},
        ["serviceMonitor is for a gateway", "monitoring.podMonitor"],
    ),
    "pod-monitor-of-a-gateway": (
        {**GATEWAY, "monitoring": {"podMonitor": {"enabled": True}}},
        ["podMonitor is for sidecars", "monitoring.serviceMonitor"],
    ),
    "cpu-in-percent": (gateway(autoscaling={"targetCPU": "70%"}), ["targetCPU", "pattern"]),
    "minimum-above-maximum": (
        gateway(
            limits="perReplica", persistence={"enabled": False}, autoscaling={"enabled": True, "minReplicas": 5, "maxReplicas": 4}
        ),
        ["minReplicas", "maxReplicas"],
    ),
    "secret-in-a-setting": ({"extraEnv": [{"name": "TOLLHOUSE_ADMIN_TOKEN", "value": "x"}]}, ["extraEnv", "TOLLHOUSE_ADMIN_TOKEN"]),
}


@pytest.mark.parametrize("helm", HELMS, ids=lambda helm: helm.version)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_with_what_is_wrong(charts: Charts, name: str, helm: Helm) -> None:
    values, words = WRONG[name]
    with pytest.raises(Refused) as refused:
        charts.render("tollhouse", values, helm=helm)
    assert [word for word in words if word not in str(refused.value)] == [], str(refused.value)


def test_values_of_the_chart_below_are_checked_too(charts: Charts) -> None:
    for helm in HELMS:
        with pytest.raises(Refused, match="drainSecs"):
            charts.render("example-app", {"tollhouse": {"drainSecs": 3}}, helm=helm)


def test_an_unsupported_kubernetes_is_refused(charts: Charts) -> None:
    with pytest.raises(Refused, match=r"kubeVersion: >=1\.25\.0-0.*incompatible with Kubernetes v?1\.24"):
        charts.render("tollhouse", kube="1.24.0")


@pytest.mark.parametrize(
    ("values", "kube", "words"),
    [
        ({"nightly": {"enabled": True}}, "1.28.0", ["CronJob would never complete", "1.29", "gateway"]),
        ({"nightly": {"enabled": True}, "tollhouse": {"sidecar": {"native": False}}}, NEWEST, ["CronJob would never complete"]),
        ({**APP, "tollhouse": {"sidecar": {"native": True}}}, "1.27.0", ["sidecar.native is true", "1.27.0"]),
        ({**APP, "tollhouse": {"mode": "injector"}}, NEWEST, ["tollhouse.mode is injector", "must be sidecar"]),
        ({**APP, "tollhouse": {"ports": {"data": 8000}}}, NEWEST, ["container app uses port 8000", "tollhouse.ports.data"]),
    ],
    ids=["job-on-an-old-cluster", "job-with-a-plain-container", "native-where-there-is-none", "mode", "port"],
)
def test_a_sidecar_that_would_not_work_is_refused(charts: Charts, values: dict[str, Any], kube: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        charts.render("example-app", values, kube=kube)
    assert [word for word in words if word not in str(refused.value)] == [], str(refused.value)
