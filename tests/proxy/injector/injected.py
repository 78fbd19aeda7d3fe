"""Prints pods as they are after the webhook, one document each, for a validator of Kubernetes' own schema:

python -m tests.proxy.injector.injected | kubernetes-validate --strict -k 1.29 -
"""

import json
from collections.abc import Iterator
from typing import Any

from proxy.injector.review import review
from proxy.injector.sidecar import read_sidecar
from tests.proxy.injector.pods import ASKS, PLAIN, SIDECAR, bytes_of, container, patched, pod, response_of

NAMED = ASKS | {"tollhouse.dev/policy": "strict", "tollhouse.dev/secret": "keys", "tollhouse.dev/containers": "app"}
WITH_ENV = container(env=[{"name": "A", "value": "b"}], ports=[{"containerPort": 8080, "protocol": "TCP"}])
PODS = (
    pod(),
    pod(NAMED, containers=[WITH_ENV, container("worker")], initContainers=[container("migrate")]),
    pod(volumes=None, terminationGracePeriodSeconds=None),
    pod(owner="Job", restartPolicy="Never"),
    pod(volumes=[{"name": "tollhouse-policy", "configMap": {"name": "tollhouse-policy", "defaultMode": 420}}]),
)


def injected() -> Iterator[dict[str, Any]]:
    for text in (SIDECAR, PLAIN):
        for before in PODS:
            before["metadata"]["name"] = "shop-7d4b9c-x2x9z"  # which the validator wants to call it by
            yield patched(before, response_of(review(bytes_of(before), read_sidecar(text.encode(), file="sidecar")).body))


if __name__ == "__main__":
    for after in injected():
        print("---")
        print(json.dumps(after))
