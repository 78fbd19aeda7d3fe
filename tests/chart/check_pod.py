"""The example app's pod, as Helm renders it, run: the app reaches Tollhouse at 127.0.0.1 and knows nothing of it.

TOLLHOUSE_IMAGE names the image; by default it is what `make image` built. Podman knows no native sidecars and no kubelet's probes, so
the pod has the plain container, and the probes' paths are asked by hand. The rule a reader could break: the manifest that runs is the
rendered one, and what is changed of it stands in `for_podman`.
"""

import base64
import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.charts import ROOT, Charts, Document, one, podman_environment

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
IMAGE = os.environ.get("TOLLHOUSE_IMAGE", f"localhost/tollhouse:{VERSION}")
REPOSITORY, _, TAG = IMAGE.rpartition(":")

RELEASE = "chart-test"  # in the names of all that Podman makes

# The upstream is the pretend one. The secret is asked for by a sink that is never used, so the process would not start without the file.
POLICY = """version: 1
keys:
  - {id: app, anonymous: true, user: {header: x-user-id}}
pages:
  nobody: {slack: {url: "https://hooks.invalid/${file:/run/secrets/tollhouse/slack}"}}
policies:
  - {name: everyone, max_tokens: {cap: 64}, rate_limit: {requests: 3, per: hour}, budget: {usd: 1, per: day, page: [nobody]}}
"""
VALUES: dict[str, Any] = {
    "image": IMAGE,
    "pullPolicy": "Never",
    "replicas": 1,
    "nightly": {"enabled": False},
    "tollhouse": {
        "image": {"repository": REPOSITORY, "tag": TAG, "pullPolicy": "Never"},
        "policy": {"inline": POLICY},
        "secrets": {"existingSecret": f"{RELEASE}-secrets"},
        "extraArgs": ["--pretend"],
        "sidecar": {"native": False, "preStopSeconds": 0},
        "drainSeconds": 5,
    },
}
VOLUMES = (f"{RELEASE}-secrets", f"{RELEASE}-example-app", f"{RELEASE}-tollhouse-policy")
CANARY = base64.b64encode(b"slack-url-canary-0").decode()  # Podman 4.3 gives it to the pod as it is, later ones what it encodes


def podman(*arguments: str, with_errors: bool = False) -> str:
    """Standard output. with_errors: and standard error, in order."""
    errors = subprocess.STDOUT if with_errors else subprocess.PIPE
    done = subprocess.run(
        ["podman", *arguments], env=podman_environment(), stdout=subprocess.PIPE, stderr=errors, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, f"podman {arguments[0]}: {done.stderr}"
    return done.stdout


def played(name: str, spec: Document, others: list[Document], file: Path) -> tuple[int, str]:
    """Run a pod spec of one container to its end: exit code, and what it said."""
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    file.write_text(yaml.safe_dump_all([*others, whole]), "utf-8")
    volumes = [d["metadata"]["name"] for d in others]
    try:
        podman("play", "kube", "--network", "none", str(file))
        container = f"{name}-{spec['containers'][0]['name']}"
        return int(podman("wait", container)), podman("logs", container, with_errors=True)
    finally:
        podman("play", "kube", "--down", str(file))
        podman("volume", "rm", *volumes)


@pytest.mark.parametrize(
    ("cap", "code", "said"), [("64", 0, "policy.yaml: ok, version "), ("lots", 1, "policy.yaml:7:40: policies[0].max_tokens.cap")]
)
def test_a_policy_with_a_mistake_stops_the_release(charts: Charts, tmp_path: Path, cap: str, code: int, said: str) -> None:
    """The Job that Helm runs before anything changes, as a pod: it fails with the mistake and its place."""
    text = POLICY.replace("cap: 64", f"cap: {cap}").replace(
        'slack: {url: "https://hooks.invalid/${file:/run/secrets/tollhouse/slack}"}', "log: {}"
    )
    values = {"image": VALUES["tollhouse"]["image"], "policy": {"inline": text}, "secrets": {"existingSecret": ""}}
    documents = charts.render("tollhouse", values, name=RELEASE)
    spec, policy = (
        one(documents, "Job")["spec"]["template"]["spec"],
        one(documents, "ConfigMap", f"{RELEASE}-tollhouse-policy-check"),
    )
    ended, found = played(f"{RELEASE}-check", spec, [policy], tmp_path / "check.yaml")
    assert (ended, said in found) == (code, True), found


def for_podman(documents: list[Document]) -> str:
    """The release without its hooks and Service, and the Secret that a person makes.

    No probes, since Podman's need systemd, and no ports, since it has no network but its loopback.
    """
    kept = [d for d in documents if d["kind"] in ("ConfigMap", "Deployment") and "annotations" not in d["metadata"]]
    for container in one(kept, "Deployment")["spec"]["template"]["spec"]["containers"]:
        for key in ("startupProbe", "readinessProbe", "livenessProbe", "ports"):
            container.pop(key, None)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{RELEASE}-secrets"}, "data": {"slack": CANARY}}
    return yaml.safe_dump_all([secret, *kept])


class Pod:
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def run(self, container: str, script: str) -> Any:
        """What a Python script prints in a container, as JSON."""
        return json.loads(podman("exec", self.names[container], "python3", "-c", script))

    def ask(self, url: str) -> tuple[int, str]:
        """Asked by the app's container: status and text. It waits until the port is open."""
        script = (
            "import http.client, json, time, urllib.parse\n"
            f"url = urllib.parse.urlsplit({url!r})\n"
            "for _ in range(150):\n"
            "    connection = http.client.HTTPConnection(url.netloc, timeout=30)\n"
            "    try: connection.connect()\n"
            "    except OSError: time.sleep(0.1)\n"
            "    else: break\n"
            "else: raise SystemExit('nobody listens at ' + url.netloc)\n"
            "connection.request('GET', url.path + '?' + url.query)\n"
            "answer = connection.getresponse()\n"
            "print(json.dumps([answer.status, answer.read().decode()]))"
        )
        status, text = self.run("app", script)
        return status, text

    def said(self) -> str:
        return podman("logs", self.names["tollhouse"], with_errors=True)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(podman("inspect", self.names[container]))[0]
        return found


@pytest.fixture(scope="module")
def pod(charts: Charts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    images = podman("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert IMAGE in images, (
        f"there is no image {IMAGE}: `make image` builds it, TOLLHOUSE_IMAGE=… names another; there are: {images}"
    )
    file: Path = tmp_path_factory.mktemp("pod") / "pod.yaml"
    file.write_text(for_podman(charts.render("example-app", VALUES, name=RELEASE)), "utf-8")
    try:
        podman("play", "kube", "--network", "none", str(file))
        ids = [
            c
            for c in json.loads(podman("ps", "--format", "json"))
            if f"{RELEASE}-example-app" in c["Names"][0] and not c["IsInfra"]
        ]
        pod = Pod({container["Names"][0].rpartition("-")[2]: container["Id"] for container in ids})
        try:
            assert pod.ask("http://127.0.0.1:9090/readyz") == (200, "ready\n")
        except AssertionError as error:
            raise AssertionError(f"Tollhouse said: {pod.said()}") from error
        yield pod
    finally:
        podman("play", "kube", "--down", str(file))
        podman("secret", "rm", VOLUMES[0])
        podman("volume", "rm", *VOLUMES)  # Podman would take what is in them for the next pod of these names


def test_the_app_reaches_tollhouse_and_is_held_to_its_policy(pod: Pod) -> None:
    status, text = pod.ask("http://127.0.0.1:8000/?q=hello")
    assert (status, "pretend" in text) == (200, True), text
    [call] = [line for line in pod.log() if line["event"] == "call.finished"]
    assert (call["key"], call["status"], call["outcome"]) == ("app", 200, "completed")
    assert [pod.ask("http://127.0.0.1:8000/?q=hello")[0] for _ in range(3)] == [200, 200, 429]


def test_probes_and_metrics_answer_on_the_ports_that_the_manifest_names(pod: Pod) -> None:
    assert pod.ask("http://127.0.0.1:9090/readyz")[0] == pod.ask("http://127.0.0.1:9090/healthz")[0] == 200
    assert "tollhouse_calls_total" in pod.ask("http://127.0.0.1:9090/metrics")[1]


def test_it_runs_as_restricted_as_the_manifest_says(pod: Pod) -> None:
    status = pod.run(
        "tollhouse", "import json; print(json.dumps(dict(l.split(':\\t') for l in open('/proc/1/status').read().splitlines())))"
    )
    assert status["Uid"].split() == status["Gid"].split() == ["65532"] * 4
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    writable = (
        "import json, pathlib\n"
        "def tried(folder):\n"
        "    try: pathlib.Path(folder, 'x').write_text('x')\n"
        "    except OSError as error: return error.strerror\n"
        "    return 'written'\n"
        "print(json.dumps([tried(f) for f in ('/', '/etc', '/etc/tollhouse/policy', '/run/secrets/tollhouse', '/var/lib/tollhouse')]))"
    )
    *others, state = pod.run("tollhouse", writable)
    assert (set(others) <= {"Read-only file system", "Permission denied"}, state) == (True, "written"), others


def test_the_app_sees_neither_the_secret_nor_the_policy(pod: Pod) -> None:
    look = "import json, os; print(json.dumps([os.path.exists('/run/secrets/tollhouse'), os.path.exists('/etc/tollhouse')]))"
    assert pod.run("app", look) == [False, False]
    assert pod.run("tollhouse", look) == [True, True]
    assert not any(text in pod.said() for text in (CANARY, "slack-url-canary"))


def test_it_ends_well_when_the_pod_is_stopped(pod: Pod) -> None:
    podman("stop", "--time", "20", pod.names["tollhouse"])
    assert pod.inspect("tollhouse")["State"]["ExitCode"] == 0
    assert [line["event"] for line in pod.log()][-1].startswith("server.")
