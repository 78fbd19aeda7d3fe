"""A release's life, by both helms against an API server that only keeps objects: install, upgrade, a policy with a mistake, rollback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.charts import Charts, Refused
from tests.chart.cluster import Cluster
from tests.chart.sets import SETS
from tests.chart.tools import HELMS, Helm

KEYED = SETS["gateway"]["policy"]["inline"].replace("${file:/run/secrets/tollhouse/openai}", "none")
MAP = "llm-tollhouse-policy"


class Release:
    def __init__(self, charts: Charts, cluster: Cluster, folder: Path, helm: Helm) -> None:
        self.cluster = cluster
        self._charts, self._folder, self._helm = charts, folder, helm

    def helm(self, verb: str, *arguments: str, **values: Any) -> str:
        """Run `helm VERB llm`. values: of the chart, if it takes one. Errors: Refused."""
        if values:
            file = self._folder / "values.yaml"
            file.write_text(yaml.safe_dump(values), "utf-8")
            arguments = (str(self._charts.folder / "tollhouse"), "--values", str(file), *arguments)
        self.cluster.written.clear()
        return self._charts.run(self._helm, verb, "llm", *arguments, "--namespace", "web", env=self.cluster.environment)

    def policy(self) -> str:
        [text] = self.cluster.get("ConfigMap", MAP)["data"].values()
        return str(text)

    def pods(self) -> str:
        return json.dumps(self.cluster.get("Deployment", "llm-tollhouse")["spec"]["template"], sort_keys=True)


@pytest.fixture(params=HELMS, ids=lambda helm: helm.version)
def release(request: pytest.FixtureRequest, charts: Charts, tmp_path: Path) -> Iterator[Release]:
    with Cluster(tmp_path) as cluster:
        yield Release(charts, cluster, tmp_path, request.param)


def gateway(policy: str, **more: Any) -> dict[str, Any]:
    return {"mode": "gateway", "policy": {"inline": policy}, **more}


def test_a_policy_goes_forth_and_back_and_no_pod_is_replaced(release: Release) -> None:
    release.helm("install", **gateway(KEYED))
    assert release.cluster.written[:2] == [f"ConfigMap/{MAP}-check", f"Job/{MAP}-check"]  # before all others
    assert not release.cluster.has("Job", f"{MAP}-check")  # it succeeded and is gone
    pods = release.pods()
    stricter = KEYED.replace("policies: []", "policies:\n  - {name: all, max_tokens: {cap: 10}}")
    release.helm("upgrade", **gateway(stricter))
    assert release.cluster.written == [f"ConfigMap/{MAP}-check", f"Job/{MAP}-check", f"ConfigMap/{MAP}"]
    assert (release.policy(), release.pods()) == (stricter, pods)
    release.helm("rollback", "1")
    assert release.cluster.written == [f"ConfigMap/{MAP}"]  # at once, without a check
    assert (release.policy(), release.pods()) == (KEYED, pods)


def test_a_policy_with_a_mistake_changes_nothing(release: Release) -> None:
    release.helm("install", **gateway(KEYED))
    with pytest.raises(Refused, match="pre-upgrade hooks failed"):
        release.helm("upgrade", **gateway(KEYED + "polices: []\n", drainSeconds=5))
    assert release.cluster.written == [f"ConfigMap/{MAP}-check", f"Job/{MAP}-check"]
    assert release.policy() == KEYED
    assert release.cluster.has("Job", f"{MAP}-check")  # its log can be read
    release.helm("upgrade", **gateway(KEYED, drainSeconds=5))  # and the next one starts afresh
    assert f"Deployment/{MAP.removesuffix('-policy')}" in release.cluster.written


def test_a_new_setting_rolls_and_a_rollback_rolls_back(release: Release) -> None:
    release.helm("install", **gateway(KEYED))
    before = release.pods()
    release.helm("upgrade", **gateway(KEYED, settings={"logLevel": "debug"}))
    assert '"debug"' in release.pods()
    release.helm("rollback", "1")
    assert release.pods() == before


def test_an_upgrade_keeps_the_injectors_certificate(release: Release) -> None:
    release.helm("install", mode="injector")
    certificate = release.cluster.get("Secret", "llm-tollhouse-injector-tls")["data"]
    release.helm("upgrade", mode="injector", drainSeconds=33)
    assert release.cluster.get("Secret", "llm-tollhouse-injector-tls")["data"] == certificate
    assert release.cluster.written == ["ConfigMap/llm-tollhouse-sidecar"]  # the injector reads it again; nothing restarts
    [webhook] = release.cluster.get("MutatingWebhookConfiguration", "web-llm-tollhouse-injector")["webhooks"]
    assert webhook["clientConfig"]["caBundle"] == certificate["ca.crt"]
    assert "grace_s: 53" in release.cluster.get("ConfigMap", "llm-tollhouse-sidecar")["data"]["sidecar.yaml"]
