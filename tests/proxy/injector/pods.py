"""Reviews and pods as an API server sends them: decoded, defaulted, with the service account's volume, and not yet validated."""

import base64
import copy
from collections.abc import Mapping
from typing import Any

import orjson

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
POD = {"group": "", "version": "v1", "kind": "Pod"}
ASKS = {"tollhouse.dev/inject": "true"}
TOKEN_VOLUME = {
    "name": "kube-api-access-x7b2k",
    "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}], "defaultMode": 420},
}
SIDECAR = """\
native: true
container:
  name: tollhouse
  image: ghcr.io/example/tollhouse:0.1.0
  args: [serve]
  env:
    - {name: TOLLHOUSE_POLICY, value: /etc/tollhouse/policy.yaml}
    - {name: TOLLHOUSE_DRAIN_S, value: "40"}
    - {name: TOLLHOUSE_ADMIN_LISTEN, value: "0.0.0.0:9090"}
  ports: [{name: admin, containerPort: 9090}]
  startupProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 1, failureThreshold: 60}
  securityContext: {runAsNonRoot: true, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  volumeMounts:
    - {name: tollhouse-policy, mountPath: /etc/tollhouse, readOnly: true}
    - {name: tollhouse-secrets, mountPath: /run/secrets/tollhouse, readOnly: true}
    - {name: tollhouse-state, mountPath: /var/lib/tollhouse}
volumes:
  - {name: tollhouse-policy, configMap: {name: tollhouse-policy}}
  - {name: tollhouse-secrets, secret: {secretName: tollhouse-secrets}}
  - {name: tollhouse-state, emptyDir: {}}
env:
  - {name: OPENAI_BASE_URL, value: "http://127.0.0.1:8080/v1"}
  - {name: OPENAI_API_KEY, valueFrom: {secretKeyRef: {name: app-key, key: key, optional: true}}}
grace_s: 45
version: "0.1.0"
"""
PLAIN = SIDECAR.replace("native: true", "native: false")


def container(name: str = "app", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": "ghcr.io/example/app:3",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [
            {"name": TOKEN_VOLUME["name"], "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
        ],
        **fields,
    }


def pod(annotations: Mapping[str, str] | None = ASKS, *, owner: str = "ReplicaSet", **spec: Any) -> dict[str, Any]:
    """One that a controller makes: its name is yet to be generated, and its namespace stands in the request alone. None removes a field."""
    group = "batch/v1" if owner == "Job" else "apps/v1"
    meta = {
        "generateName": "shop-7d4b9c-",
        "creationTimestamp": None,
        "labels": {"app": "shop"},
        "ownerReferences": [
            {"apiVersion": group, "kind": owner, "name": "shop-7d4b9c", "uid": UID, "controller": True, "blockOwnerDeletion": True}
        ],
    }
    if annotations is not None:
        meta["annotations"] = dict(annotations)
    fields = {
        "volumes": [TOKEN_VOLUME],
        "containers": [container()],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "enableServiceLinks": True,
        **spec,
    }
    kept = {name: value for name, value in fields.items() if value is not None}
    return copy.deepcopy({"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": kept, "status": {}})


def request(object: Any, *, kind: Mapping[str, str] = POD, operation: str = "CREATE", **fields: Any) -> dict[str, Any]:
    """A whole review of it."""
    resource = {"group": kind["group"], "version": kind["version"], "resource": kind["kind"].lower() + "s"}
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": UID,
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "namespace": "shop",
            "operation": operation,
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "50211333-a14e-4c1a-9c38-e00d5b1af517",
                "groups": ["system:serviceaccounts", "system:authenticated"],
            },
            "object": object,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **fields,
        },
    }


def bytes_of(object: Any, **fields: Any) -> bytes:
    return orjson.dumps(request(object, **fields))


def response_of(body: bytes) -> dict[str, Any]:
    """The response of an answer, looked at as the API server does before it believes it."""
    answer = orjson.loads(body)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = answer["response"]
    assert response["uid"] == UID
    assert ("patch" in response) is ("patchType" in response)
    assert response.get("patchType", "JSONPatch") == "JSONPatch"
    assert all(w.isascii() and w.isprintable() and len(w) <= 256 for w in response.get("warnings", []))
    return dict(response)


def patched(object: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the response's patch applied; the same one where there is none."""
    assert response["allowed"] is True
    operations = orjson.loads(base64.b64decode(response["patch"], validate=True)) if "patch" in response else []
    assert operations != [] or "patch" not in response
    return applied(object, operations)


def applied(object: Mapping[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """RFC 6902's `add`, and nothing else: it is all there is. A place whose parent is missing is an error, as it is there."""
    whole = copy.deepcopy(dict(object))
    for operation in operations:
        assert operation.keys() == {"op", "path", "value"}
        assert operation["op"] == "add"
        first, *steps, last = (step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/"))
        assert first == ""
        within: Any = whole
        for step in steps:
            within = within[int(step)] if isinstance(within, list) else within[step]
        value = copy.deepcopy(operation["value"])
        if isinstance(within, list):
            position = len(within) if last == "-" else int(last)
            assert 0 <= position <= len(within)
            within.insert(position, value)
        else:
            within[last] = value
    return whole
