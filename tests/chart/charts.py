"""Rendering the charts with a real Helm, and looking at what came.

The rule a reader could break: a render names its Kubernetes; what Helm takes for granted changes from version to version.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.chart.tools import HELMS, TOOLS, Helm

ROOT = Path(__file__).parents[2]
OLDEST, NEWEST = "1.25.0", "1.37.0"
OPERATOR = ("monitoring.coreos.com/v1",)

Document = dict[str, Any]


class Refused(Exception):
    """Helm refused the values. The text is what a person would read."""


class Charts:
    """Copies of the two charts in a folder of its own: `tollhouse`, and `example-app` with its dependency in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = {
            "PATH": os.environ["PATH"],
            **{name: str(folder / "helm-home") for name in ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")},
        }
        for name in ("tollhouse", "example-app"):
            shutil.copytree(ROOT / "helm" / name, folder / name, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        self.run(HELMS[0], "dependency", "update", str(folder / "example-app"))

    def run(self, helm: Helm, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Standard output. Errors: Refused with standard error."""
        done = subprocess.run(
            [helm.path, *arguments], env={**self._env, **(env or {})}, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise Refused(done.stderr + done.stdout)
        return done.stdout

    def render(
        self,
        chart: str,
        values: Mapping[str, Any] | None = None,
        *,
        helm: Helm = HELMS[0],
        kube: str = NEWEST,
        apis: tuple[str, ...] = OPERATOR,
        name: str = "shop",
    ) -> list[Document]:
        """What `helm template` makes of values, hooks included, as parsed documents. Errors: Refused."""
        file = self.folder / f"values-{os.getpid()}.json"
        file.write_text(yaml.safe_dump(dict(values or {})), "utf-8")
        arguments = [
            "template",
            name,
            str(self.folder / chart),
            "--namespace",
            "web",
            "--values",
            str(file),
            "--kube-version",
            kube,
        ]
        text = self.run(helm, *arguments, *(f"--api-versions={api}" for api in apis))
        return [document for document in yaml.load_all(text, Loader=_loader()) if document]


@cache
def _loader() -> type[yaml.SafeLoader]:
    """A key that stands twice is a mistake; YAML's loaders take the last one."""

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        found = [loader.construct_object(key, deep=True) for key, _ in node.value]
        assert len(found) == len(set(found)), f"a key stands twice: {node.start_mark}"
        return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(found, node.value, strict=True)}

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Strict


def one(documents: list[Document], kind: str, name: str | None = None) -> Document:
    """The document of a kind, and of a name where there are several."""
    [found] = [d for d in documents if d["kind"] == kind and (name is None or d["metadata"]["name"] == name)]
    return found


def kinds(documents: list[Document]) -> list[str]:
    return sorted(document["kind"] for document in documents)


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """(name, spec) of every pod: of workloads, of Jobs, and the one that the injector's sidecar would make of an empty pod."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        match document["kind"]:
            case "Deployment" | "Job":
                yield name, document["spec"]["template"]["spec"]
            case "CronJob":
                yield name, document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            case "ConfigMap" if "sidecar.yaml" in document["data"]:
                sidecar = yaml.safe_load(document["data"]["sidecar.yaml"])
                place = "initContainers" if sidecar["native"] else "containers"
                spec = {"containers": [], "volumes": sidecar["volumes"], "terminationGracePeriodSeconds": sidecar["grace_s"]}
                yield name, {**spec, "automountServiceAccountToken": False, place: [sidecar["container"]]}


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def serving(pod: Document) -> Document:
    """The container that runs `tollhouse serve`."""
    [found] = [container for container in containers(pod) if container["name"] == "tollhouse"]
    return found


def env_of(container: Document) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


def podman_environment() -> dict[str, str]:
    """With the store that `make image` builds into, where there is one."""
    own = TOOLS / "containers"
    files = {"CONTAINERS_CONF": own / "containers.conf", "CONTAINERS_STORAGE_CONF": own / "storage.conf"}
    return {**os.environ, **{name: str(path) for name, path in files.items() if path.exists()}}
