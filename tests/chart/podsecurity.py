"""The Pod Security Standard "restricted", as far as a pod's spec can break it. Source: kubernetes.io, Pod Security Standards.

The rule a reader could break: what is absent is judged as Kubernetes would judge it, and that is mostly against the pod.
"""

from collections.abc import Iterator

from tests.chart.charts import Document, containers

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: Document) -> Iterator[str]:
    """What of a pod the standard forbids, and what this chart asks of a pod beyond it."""
    yield from (f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    for volume in pod.get("volumes", []):
        if other := set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is of kind {', '.join(other)}"
    if pod.get("automountServiceAccountToken") is not False:
        yield "a token of the service account is mounted"
    whole = pod.get("securityContext", {})
    for container in containers(pod):
        yield from (f"container {container['name']}: {text}" for text in _of_container(container, whole))


def _of_container(container: Document, whole: Document) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("privileged") or own.get("procMount", "Default") != "Default":
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    capabilities = own.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "has capabilities"
    if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
        yield "may run as root"
    if own.get("runAsUser", whole.get("runAsUser")) == 0:
        yield "runs as root"
    if own.get("seccompProfile", whole.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "has a port of the host"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root file system"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "has no limit of memory"
