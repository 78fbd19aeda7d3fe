"""What every pod of the chart may do, and where secrets are."""

import json
from copy import deepcopy

import pytest

from tests.chart.charts import NEWEST, Charts, containers, env_of, one, pods, serving
from tests.chart.podsecurity import violations
from tests.chart.sets import RENDERS, Render, rendered


@pytest.mark.parametrize("render", RENDERS, ids="@".join)
def test_every_pod_is_restricted(charts: Charts, render: Render) -> None:
    found = {name: list(violations(pod)) for name, pod in pods(rendered(charts, render))}
    assert found or render[0] == "sidecar-existing-policy"
    assert {name: said for name, said in found.items() if said} == {}


def test_a_pod_that_is_not_restricted_is_found(charts: Charts) -> None:
    """The check above can fail, for each of its reasons."""
    [pod] = [pod for name, pod in pods(rendered(charts, ("gateway", NEWEST))) if name.startswith("Deployment")]
    wrong = deepcopy(pod)
    wrong |= {"hostNetwork": True, "automountServiceAccountToken": True, "securityContext": {}}
    wrong["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    container = wrong["containers"][0]
    container |= {"securityContext": {"privileged": True, "runAsUser": 0, "capabilities": {"add": ["SYS_ADMIN"]}}, "resources": {}}
    container["ports"][0]["hostPort"] = 80
    assert len(list(violations(wrong))) == 12


@pytest.mark.parametrize("render", RENDERS, ids="@".join)
def test_every_mount_has_its_volume_and_the_policy_is_a_folder(charts: Charts, render: Render) -> None:
    for _, pod in pods(rendered(charts, render)):
        volumes = [volume["name"] for volume in pod["volumes"]]
        assert len(volumes) == len(set(volumes))
        for container in containers(pod):
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes
                assert "subPath" not in mount


@pytest.mark.parametrize("render", RENDERS, ids="@".join)
def test_a_sidecar_takes_calls_on_loopback_alone_and_a_gateway_on_all(charts: Charts, render: Render) -> None:
    for name, pod in pods(rendered(charts, render)):
        if not any(container["name"] == "tollhouse" for container in containers(pod)):
            continue
        env = env_of(serving(pod))
        gateway = name.startswith("Deployment") and render[0].startswith("gateway")
        assert env["TOLLHOUSE_LISTEN"].rpartition(":")[0] == ("0.0.0.0" if gateway else "127.0.0.1")
        probe = serving(pod)["startupProbe"]
        assert ("httpGet" in probe) == (env["TOLLHOUSE_ADMIN_LISTEN"].rpartition(":")[0] in ("0.0.0.0", "[::]"))


def test_secrets_come_as_files_or_references_and_never_as_text(charts: Charts) -> None:
    documents = rendered(charts, ("sidecar-everything", NEWEST))
    container = one(documents, "Job")["spec"]["template"]["spec"]["containers"][0]
    for name in ("TOLLHOUSE_ADMIN_TOKEN", "TOLLHOUSE_RECORD_KEY", "OPENAI_API_KEY"):
        assert set(env_of(container)[name]) == {"secretKeyRef"}
    for name, kube in RENDERS:
        assert [
            d["metadata"]["name"] for d in rendered(charts, (name, kube)) if d["kind"] == "Secret" and "injector" not in name
        ] == []


def test_an_app_does_not_see_the_vendors_key(charts: Charts) -> None:
    for _, pod in pods([d for d in rendered(charts, ("example-app", NEWEST)) if d["kind"] != "Job"]):
        assert [c["name"] for c in containers(pod) if "tollhouse-secrets" in json.dumps(c)] == ["tollhouse"]


def test_the_gateways_files_are_for_its_group_and_a_sidecars_for_whoever_runs_in_it(charts: Charts) -> None:
    """A pod has one fsGroup. A gateway's is its own; beside an app it is the app's, and the kubelet makes files root's."""
    gateway = one(rendered(charts, ("gateway", NEWEST)), "Deployment")["spec"]["template"]["spec"]
    modes = {v["name"]: v["secret"]["defaultMode"] for v in gateway["volumes"] if "secret" in v}
    assert (modes, gateway["securityContext"]["fsGroup"]) == ({"tollhouse-secrets": 0o440}, 65532)
    app = one(rendered(charts, ("example-app", NEWEST)), "Deployment")["spec"]["template"]["spec"]
    assert [v["secret"]["defaultMode"] for v in app["volumes"] if "secret" in v] == [0o444]


def test_the_network_policy_names_who_may_come_and_keeps_from_metadata(charts: Charts) -> None:
    spec = one(rendered(charts, ("gateway", NEWEST)), "NetworkPolicy")["spec"]
    assert [rule["ports"][0]["port"] for rule in spec["ingress"]] == [8080, 9090]
    assert all(rule["from"] for rule in spec["ingress"])
    blocks = [to["ipBlock"] for rule in spec["egress"] for to in rule.get("to", [])]
    assert [block["except"] for block in blocks] == [["169.254.0.0/16"], ["fe80::/10", "fd00:ec2::254/128"]]
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [53, 53, 5353, 5353, 443]
