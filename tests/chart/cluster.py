"""As much of an API server as Helm asks for: it keeps objects, and runs `tollhouse check` where a Job asks for it.

    with Cluster(folder) as cluster:
        charts.run(helm, "install", "llm", ..., env=cluster.environment)
        cluster.get("ConfigMap", "llm-tollhouse-policy")

The rule a reader could break: it judges nothing. What Kubernetes would refuse is for its schemas; here is seen what Helm sends, and
when.
"""

import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.chart.protobuf import MAGIC, secret

Object = dict[str, Any]

# group and version → kind → its plural, and whether it is in a namespace
KINDS: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "ConfigMap": ("configmaps", True),
        "Secret": ("secrets", True),
        "Service": ("services", True),
        "PersistentVolumeClaim": ("persistentvolumeclaims", True),
    },
    "apps/v1": {"Deployment": ("deployments", True)},
    "batch/v1": {"Job": ("jobs", True), "CronJob": ("cronjobs", True)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", True)},
    "networking.k8s.io/v1": {"NetworkPolicy": ("networkpolicies", True)},
    "admissionregistration.k8s.io/v1": {"MutatingWebhookConfiguration": ("mutatingwebhookconfigurations", False)},
}
_PLURALS = {plural: (api, kind) for api, kinds in KINDS.items() for kind, (plural, _) in kinds.items()}
_ALL_SENT = {"annotations": {"k8s.io/initial-events-end": "true"}}
_KEYED = ("name", "containerPort", "key")  # by which lists of a strategic patch are merged


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, Object] = {}  # by path
        self.written: list[str] = []  # kind/name of what was created or changed, in order, without Helm's own records
        self._folder = folder
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *arguments: _Request(self, *arguments))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        server = {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": server}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "namespace": "web"}}],
            "current-context": "c",
        }
        (self._folder / "kubeconfig").write_text(yaml.safe_dump(config), "utf-8")
        self.environment = {"KUBECONFIG": str(self._folder / "kubeconfig")}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def get(self, kind: str, name: str) -> Object:
        [found] = [o for o in self.objects.values() if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return found

    def has(self, kind: str, name: str) -> bool:
        return any((o["kind"], o["metadata"]["name"]) == (kind, name) for o in self.objects.values())

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Object, kind: str) -> tuple[int, Object]:
        with self._lock:
            return self._discovery(path) or self._change(method, path, query, body, kind)

    def _discovery(self, path: str) -> tuple[int, Object] | None:
        groups = [api for api in KINDS if "/" in api]
        if path == "/version":
            return 200, {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            listed = [{"groupVersion": api, "version": api.partition("/")[2]} for api in groups]
            named = [{"name": g["groupVersion"].partition("/")[0], "versions": [g], "preferredVersion": g} for g in listed]
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
        if path == "/openapi/v3":
            return 200, {"paths": {_place(api): {"serverRelativeURL": f"/openapi/v3/{_place(api)}"} for api in KINDS}}
        if path.startswith("/openapi/v3/"):
            return 200, _validated_here(path.removeprefix("/openapi/v3/"))
        api = path.removeprefix("/apis/" if path.startswith("/apis/") else "/api/")
        if api in KINDS:
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            resources = [
                {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}
                for kind, (plural, namespaced) in KINDS[api].items()
            ]
            return 200, {"kind": "APIResourceList", "groupVersion": api, "resources": resources}
        return None

    def _change(self, method: str, path: str, query: Mapping[str, str], body: Object, kind: str) -> tuple[int, Object]:
        last = path.rpartition("/")[2]
        if last in _PLURALS:  # a collection
            if method == "POST":
                return self._put(f"{path}/{body['metadata']['name']}", body, new=True)
            items = [o for p, o in self.objects.items() if p.startswith(path + "/") and _selected(o, query)]
            return 200, {
                "kind": _PLURALS[last][1] + "List",
                "apiVersion": _PLURALS[last][0],
                "metadata": {"resourceVersion": "1"},
                "items": items,
            }
        held = self.objects.get(path)
        if method == "PATCH" and ("apply" in kind or held):
            return self._put(path, body if "apply" in kind else _merged(held, body))
        if held is None:
            return 404, {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "NotFound",
                "code": 404,
                "message": f"{path} not found",
            }
        if method == "PUT":
            return self._put(path, body)
        if method == "DELETE":
            del self.objects[path]
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return 200, held

    def _put(self, path: str, body: Object, *, new: bool = False) -> tuple[int, Object]:
        if new and path in self.objects:
            return 409, {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "AlreadyExists",
                "code": 409,
                "message": "exists",
            }
        api, kind = _PLURALS[path.split("/")[-2]]
        body = {**body, "apiVersion": api, "kind": kind}
        place = {"namespace": "web"} if KINDS[api][kind][1] else {}
        body["metadata"] = {**place, "uid": path, "resourceVersion": str(len(self.written) + 1), **body["metadata"]}
        if kind == "Job":
            body["status"] = self._ran(body)
        changed = self.objects.get(path, {}).get("data") != body.get("data") or self.objects.get(path, {}).get("spec") != body.get(
            "spec"
        )
        self.objects[path] = body
        if changed and not body["metadata"]["name"].startswith("sh.helm."):
            self.written.append(f"{kind}/{body['metadata']['name']}")
        return (201 if new else 200), body

    def _ran(self, job: Object) -> Object:
        """The status of a Job, after what it runs was run here on the file that its ConfigMap holds."""
        pod = job["spec"]["template"]["spec"]
        [name] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        verb, place = pod["containers"][0]["args"]
        file = self._folder / Path(place).name
        file.write_text(self.get("ConfigMap", name)["data"][file.name], "utf-8")
        done = subprocess.run([sys.executable, "-m", "proxy", verb, str(file)], capture_output=True, timeout=60, check=False)
        end = "Failed" if done.returncode else "Complete"
        reason = (
            {"reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"} if done.returncode else {}
        )
        return {"failed" if done.returncode else "succeeded": 1, "conditions": [{"type": end, "status": "True", **reason}]}


def _place(api: str) -> str:
    return f"apis/{api}" if "/" in api else f"api/{api}"


def _validated_here(place: str) -> Object:
    """What tells Helm that fields are judged by the server, so that it needs no schemas."""
    api = place.partition("/")[2]
    group, _, version = api.rpartition("/")
    paths = {
        f"/{place}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
            }
        }
        for kind, (plural, _) in KINDS[api].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "", "version": ""}, "paths": paths}


def _selected(found: Object, query: Mapping[str, str]) -> bool:
    labels = found["metadata"].get("labels", {})
    wanted = [term.split("=") for term in query.get("labelSelector", "").split(",") if "=" in term]
    fields = dict(term.split("=") for term in query.get("fieldSelector", "").split(",") if "=" in term)
    return (
        all(labels.get(name) == value for name, value in wanted)
        and fields.get("metadata.name", found["metadata"]["name"]) == found["metadata"]["name"]
    )


def _merged(old: Any, new: Any) -> Any:
    """A strategic merge, as far as this chart's objects need one."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {**old, **{key: _merged(old.get(key), value) for key, value in new.items() if not key.startswith("$")}}
        return {key: value for key, value in both.items() if value is not None}
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(item, dict) for item in (*old, *new)):
        for key in _KEYED:
            if new and all(key in item for item in (*old, *new)):
                held = {item[key]: item for item in old}
                for item in new:
                    held[item[key]] = _merged(held.get(item[key]), item)
                return [item for item in held.values() if item.get("$patch") != "delete"]
    return new


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, cluster: Cluster, *arguments: Any) -> None:
        self._cluster = cluster
        super().__init__(*arguments)

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        text = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = secret(text) if text.startswith(MAGIC) else yaml.safe_load(text) if text else {}
        status, found = self._cluster.answer(self.command, path, asked, body, self.headers.get("content-type", ""))
        if asked.get("watch") in ("1", "true"):  # what is there, and that this was all; whoever wants more asks again
            events = [{"type": "ADDED", "object": item} for item in found.get("items", ())]
            end = {
                "kind": found["kind"].removesuffix("List"),
                "apiVersion": found["apiVersion"],
                "metadata": {**found["metadata"], **_ALL_SENT},
            }
            data = b"".join(json.dumps(event).encode() + b"\n" for event in [*events, {"type": "BOOKMARK", "object": end}])
        else:
            data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""
