"""How pods stop, and what makes them stop: the arithmetic of the grace period, and what an upgrade rolls."""

import json
from typing import Any

import pytest

from proxy.app import _LAST_WORDS_S
from proxy.pager import CLOSE_S
from tests.chart.charts import NEWEST, Charts, containers, env_of, one, pods, serving
from tests.chart.sets import RENDERS, SETS, Render, rendered

# What the process gives itself once the drain is over, and some for writing.
MARGIN_S = _LAST_WORDS_S + CLOSE_S + 5


def pre_stop_s(container: dict[str, Any]) -> int:
    handler = container.get("lifecycle", {}).get("preStop", {})
    if "exec" in handler:
        return int(handler["exec"]["command"][-1].rpartition("(")[2].rstrip(")"))
    return int(handler.get("sleep", {}).get("seconds", 0))


@pytest.mark.parametrize("render", RENDERS, ids="@".join)
def test_the_grace_period_has_room_for_pre_stop_and_drain(charts: Charts, render: Render) -> None:
    for _, pod in pods(rendered(charts, render)):
        if any(container["name"] == "tollhouse" for container in containers(pod)):
            drain = int(env_of(serving(pod))["TOLLHOUSE_DRAIN_S"])
            assert pod["terminationGracePeriodSeconds"] >= pre_stop_s(serving(pod)) + drain + MARGIN_S


@pytest.mark.parametrize(("kube", "native"), [("1.25.0", False), ("1.28.0", False), ("1.29.0", True), (NEWEST, True)])
def test_a_sidecar_is_a_native_one_where_the_cluster_has_them(charts: Charts, kube: str, native: bool) -> None:
    pod = one(charts.render("example-app", {"nightly": {"enabled": False}}, kube=kube), "Deployment")["spec"]["template"]["spec"]
    if native:
        assert [c["name"] for c in pod["initContainers"]] == ["tollhouse"]
        assert serving(pod)["restartPolicy"] == "Always"
        assert pre_stop_s(serving(pod)) == 0  # it is stopped after the app
    else:
        assert [c["name"] for c in pod["containers"]] == ["app", "tollhouse"]
        assert "restartPolicy" not in serving(pod)
        assert pre_stop_s(serving(pod)) == 10  # it is stopped with the app, which may still call


@pytest.mark.parametrize(("kube", "handler"), [("1.25.0", "exec"), ("1.29.0", "exec"), ("1.30.0", "sleep"), (NEWEST, "sleep")])
def test_waiting_takes_what_the_cluster_has(charts: Charts, kube: str, handler: str) -> None:
    pod = one(rendered(charts, ("gateway", kube)), "Deployment")["spec"]["template"]["spec"]
    assert list(serving(pod)["lifecycle"]["preStop"]) == [handler]


def templates(charts: Charts, chart: str, values: dict[str, Any]) -> str:
    """The pod templates of the workloads: when they change, pods are replaced."""
    return json.dumps([d["spec"] for d in charts.render(chart, values) if d["kind"] in ("Deployment", "CronJob")], sort_keys=True)


def policy_of(charts: Charts, values: dict[str, Any]) -> str:
    [text] = one(charts.render("tollhouse", values), "ConfigMap", "shop-tollhouse-policy")["data"].values()
    return text


def test_a_new_policy_rolls_nothing_and_going_back_brings_the_old_one(charts: Charts) -> None:
    old = SETS["gateway"]
    new = {**old, "policy": {"inline": old["policy"]["inline"] + "# stricter\n"}}
    assert policy_of(charts, new) == new["policy"]["inline"]
    assert policy_of(charts, old) == old["policy"]["inline"]  # byte for byte: its version is that of the file
    assert templates(charts, "tollhouse", new) == templates(charts, "tollhouse", old)
    app = {"tollhouse": {"policy": {"inline": "version: 1\npolicies: []\n"}}}
    assert templates(charts, "example-app", app) == templates(charts, "example-app", {})


@pytest.mark.parametrize(
    "change",
    [
        {"drainSeconds": 33},
        {"settings": {"logLevel": "warning"}},
        {"ports": {"data": 8888}},
        {"admin": {"expose": False}},
        {"image": {"tag": "0.2.0"}},
        {"resources": {"limits": {"memory": "300Mi"}}},
        {"extraEnv": [{"name": "A", "value": "b"}]},
        {"secrets": {"existingSecret": "other"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_needs_a_restart_rolls(charts: Charts, change: dict[str, Any]) -> None:
    gateway = SETS["gateway"]
    assert templates(charts, "tollhouse", {**gateway, **change}) != templates(charts, "tollhouse", gateway)
    assert templates(charts, "example-app", {"tollhouse": change}) != templates(charts, "example-app", {})


def test_with_a_volume_the_old_process_ends_before_the_new_one_starts(charts: Charts) -> None:
    kept = one(rendered(charts, ("gateway", NEWEST)), "Deployment")["spec"]
    assert (kept["replicas"], kept["strategy"]) == (1, {"type": "Recreate"})
    rolled = one(rendered(charts, ("gateway-replicas", NEWEST)), "Deployment")["spec"]
    assert (rolled["replicas"], rolled["strategy"]["rollingUpdate"]["maxUnavailable"]) == (3, 0)
    assert len(rolled["template"]["spec"]["topologySpreadConstraints"]) == 2
    assert "replicas" not in one(rendered(charts, ("gateway-autoscaled", NEWEST)), "Deployment")["spec"]


def test_the_policy_is_checked_before_an_upgrade_and_not_before_a_rollback(charts: Charts) -> None:
    documents = rendered(charts, ("gateway", NEWEST))
    job, copy = one(documents, "Job"), one(documents, "ConfigMap", "shop-tollhouse-policy-check")
    hooks = [d["metadata"]["annotations"] for d in (copy, job)]
    assert [hook["helm.sh/hook"] for hook in hooks] == ["pre-install,pre-upgrade"] * 2
    assert int(hooks[0]["helm.sh/hook-weight"]) < int(hooks[1]["helm.sh/hook-weight"])
    assert all("hook-failed" not in hook["helm.sh/hook-delete-policy"] for hook in hooks)  # its log can be read
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["check", "/etc/tollhouse/policy/policy.yaml"]
    assert [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v] == [copy["metadata"]["name"]]
    assert copy["data"] == one(documents, "ConfigMap", "shop-tollhouse-policy")["data"]
    # It says which file is missing, where a pod of the gateway waits for it.
    assert [source["optional"] for v in pod["volumes"] for name, source in v.items() if name != "name"] == [True, True]
    served = one(documents, "Deployment")["spec"]["template"]["spec"]
    assert [v["secret"]["optional"] for v in served["volumes"] if "secret" in v] == [False]


def test_selectors_of_workloads_do_not_move(charts: Charts) -> None:
    """They cannot be changed: an upgrade that tries fails."""
    for name, component in (("gateway-placed", "gateway"), ("injector", "injector")):
        deployment = one(rendered(charts, (name, NEWEST)), "Deployment")["spec"]
        expected = {
            "app.kubernetes.io/name": "tollhouse",
            "app.kubernetes.io/instance": "shop",
            "app.kubernetes.io/component": component,
        }
        assert deployment["selector"]["matchLabels"] == expected
        assert expected.items() <= deployment["template"]["metadata"]["labels"].items()
