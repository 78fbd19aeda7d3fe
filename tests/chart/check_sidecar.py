"""The template `tollhouse.sidecar`: what it does to the pods of any chart. The rule: what the app wrote stays."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.charts import NEWEST, Charts, Refused, env_of, one, serving

POD: dict[str, Any] = {
    "serviceAccountName": "web",
    "terminationGracePeriodSeconds": 3600,
    "securityContext": {"fsGroup": 1000660000},
    "initContainers": [{"name": "migrate", "image": "a"}],
    "containers": [
        {
            "name": "web",
            "image": "a",
            "env": [{"name": "OPENAI_BASE_URL", "value": "http://elsewhere"}, {"name": "B", "value": "c"}],
        },
        {"name": "worker", "image": "a", "envFrom": [{"secretRef": {"name": "s"}}]},
    ],
    "volumes": [{"name": "cache", "emptyDir": {}}],
}


class AnyChart:
    """A chart of one pod, made for a test, with the chart as its dependency."""

    def __init__(self, charts: Charts, folder: Path, alias: str | None = None) -> None:
        self._charts, self._folder = charts, folder
        shutil.copytree(charts.folder / "tollhouse", folder / "charts" / "tollhouse")
        (folder / "templates").mkdir()
        needs = {"name": "tollhouse", "version": "0.x.x", **({"alias": alias} if alias else {})}
        (folder / "Chart.yaml").write_text(
            yaml.safe_dump({"apiVersion": "v2", "name": "any", "version": "1.0.0", "dependencies": [needs]})
        )

    def pod(self, pod: Any, arguments: str = '"workload" "Deployment"', *, kube: str = NEWEST, **values: Any) -> dict[str, Any]:
        (self._folder / "templates" / "pod.yaml").write_text(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: any}\nspec:\n"
            f'  {{{{- include "tollhouse.sidecar" (dict "context" $ "pod" (toYaml .Values.pod) {arguments}) | nindent 2 }}}}\n'
        )
        name = str(self._folder.relative_to(self._charts.folder))
        found: dict[str, Any] = one(self._charts.render(name, {"pod": pod, **values}, kube=kube), "Pod")["spec"]
        return found


@pytest.fixture
def chart(charts: Charts, request: pytest.FixtureRequest) -> Iterator[AnyChart]:
    folder = charts.folder / f"any-{abs(hash(request.node.name))}"
    yield AnyChart(charts, folder)
    shutil.rmtree(folder)


def test_what_the_app_wrote_stays(chart: AnyChart) -> None:
    pod = chart.pod(POD)
    assert [c["name"] for c in pod["initContainers"]] == ["tollhouse", "migrate"]  # first, so that the others reach it
    assert [c["name"] for c in pod["containers"]] == ["web", "worker"]
    assert env_of(pod["containers"][0]) == {"OPENAI_BASE_URL": "http://elsewhere", "B": "c"}
    assert env_of(pod["containers"][1]) == env_of(pod["initContainers"][1]) == {"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}
    assert pod["containers"][1]["envFrom"] == POD["containers"][1]["envFrom"]
    assert pod["terminationGracePeriodSeconds"] == 3600  # longer than ours
    assert pod["securityContext"] == POD["securityContext"]
    assert [v["name"] for v in pod["volumes"]] == ["cache", "tollhouse-policy", "tollhouse-secrets", "tollhouse-state"]


def test_beside_a_plain_container_init_containers_are_left_as_they_are(chart: AnyChart) -> None:
    """They run before it, and would call where nobody listens."""
    pod = chart.pod(POD, kube="1.28.0")
    assert pod["initContainers"] == POD["initContainers"]
    with pytest.raises(Refused, match=r"no container .*migrate.* that runs while Tollhouse does"):
        chart.pod(POD, '"workload" "Deployment" "containers" (list "migrate")', kube="1.28.0")


def test_a_pod_of_one_container_is_enough(chart: AnyChart) -> None:
    pod = chart.pod({"containers": [{"name": "web", "image": "a"}]}, tollhouse={"drainSeconds": 5})
    assert (pod["terminationGracePeriodSeconds"], pod["initContainers"][0]["name"]) == (
        30,
        "tollhouse",
    )  # what Kubernetes would take


def test_a_job_completes_beside_a_native_sidecar(chart: AnyChart) -> None:
    pod = chart.pod({"restartPolicy": "Never", "containers": [{"name": "once", "image": "a"}]}, '"workload" "Job"', kube="1.29.0")
    assert serving(pod)["restartPolicy"] == "Always"
    assert pod["restartPolicy"] == "Never"


def test_only_the_containers_that_are_named_are_pointed_at_it(chart: AnyChart) -> None:
    pod = chart.pod(POD, '"workload" "Deployment" "containers" (list "worker")')
    assert ["OPENAI_BASE_URL" in env_of(c) for c in pod["initContainers"]] == [False, False]
    assert "OPENAI_BASE_URL" in env_of(pod["containers"][1])


def test_a_dependency_may_have_an_alias(charts: Charts) -> None:
    folder = charts.folder / "any-alias"
    pod = AnyChart(charts, folder, alias="appLlm").pod(
        POD, '"workload" "Deployment" "alias" "appLlm"', appLlm={"ports": {"data": 18080}}
    )
    assert env_of(pod["containers"][1])["OPENAI_BASE_URL"] == "http://127.0.0.1:18080/v1"
    # Named by the alias, so that a gateway may stand in the same release.
    assert [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v] == ["shop-appllm-policy"]
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("pod", "arguments", "words"),
    [
        (POD, "", ["workload", "Deployment", "CronJob"]),
        (POD, '"workload" "Pod"', ["workload is", "Pod"]),
        (POD, '"workload" "Deployment" "container" "web"', ["no argument", "container", "containers"]),
        (POD, '"workload" "Deployment" "containers" (list "wb")', ["no container", "wb", "migrate, web, worker"]),
        (POD, '"workload" "Deployment" "alias" "llm"', ["no dependency", "llm"]),
        ({"volumes": []}, '"workload" "Deployment"', ["not the text of a pod spec"]),
        ({**POD, "hostNetwork": True}, '"workload" "Deployment"', ["hostNetwork", "gateway"]),
        ({"containers": [{"name": "tollhouse", "image": "a"}]}, '"workload" "Deployment"', ["container named tollhouse already"]),
        (
            {**POD, "volumes": [{"name": "tollhouse-state", "emptyDir": {}}]},
            '"workload" "Deployment"',
            ["volume", "tollhouse-state"],
        ),
        (
            {"containers": [{"name": "web", "image": "a", "ports": [{"containerPort": 9090}]}]},
            '"workload" "Deployment"',
            ["container web uses port 9090", "tollhouse.ports.admin"],
        ),
    ],
)
def test_what_cannot_be_right_is_refused(chart: AnyChart, pod: Any, arguments: str, words: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        chart.pod(pod, arguments)
    assert [word for word in words if word not in str(refused.value)] == [], str(refused.value)
