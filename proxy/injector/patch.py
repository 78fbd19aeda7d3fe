"""The JSON Patch (RFC 6902) that puts the sidecar into a pod. Pure.

Operations apply one after the other, so those that name a container by its position come before the one that shifts positions. The
rule a reader could break: nothing is replaced that the pod has, but its grace where that is too short for the sidecar's streams.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from proxy.injector.asked import INJECTED, Asked
from proxy.injector.pod import DEFAULT_GRACE_S, Container, Pod
from proxy.injector.sidecar import Sidecar

Operation = dict[str, Any]


def pointer(*steps: str | int) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def patch(pod: Pod, sidecar: Sidecar, asked: Asked) -> tuple[Operation, ...]:
    """For a pod that is to have it: its annotations are there, and volumes of the sidecar's names are as the sidecar wants them."""
    return (
        *_environments("containers", pod.containers, sidecar, asked),
        *(_environments("initContainers", pod.init_containers, sidecar, asked) if sidecar.native else ()),
        _container(pod, sidecar),
        *_appended(("spec", "volumes"), pod.volumes, _missing_volumes(pod, sidecar, asked)),
        *_grace(pod, sidecar),
        _add(("metadata", "annotations", INJECTED), sidecar.version),
    )


def _environments(where: str, containers: Sequence[Container], sidecar: Sidecar, asked: Asked) -> Iterator[Operation]:
    """In front of what a container has, so that its own entries may refer to ours as `$(NAME)`."""
    for position, container in enumerate(containers):
        if asked.containers is not None and container.name not in asked.containers:
            continue
        entries = [entry for entry in sidecar.env if entry["name"] not in container.env]
        at = ("spec", where, position, "env")
        if container.has_env:
            yield from (_add((*at, index), entry) for index, entry in enumerate(entries))
        elif entries:
            yield _add(at, entries)


def _container(pod: Pod, sidecar: Sidecar) -> Operation:
    """A native one comes first, so that the other init containers reach it; a plain one last, so that the app stays the pod's first."""
    if not sidecar.native:
        return _add(("spec", "containers", "-"), sidecar.container)
    if not pod.init_containers:
        return _add(("spec", "initContainers"), [sidecar.container])
    return _add(("spec", "initContainers", 0), sidecar.container)


def _missing_volumes(pod: Pod, sidecar: Sidecar, asked: Asked) -> list[Mapping[str, Any]]:
    there = {volume.get("name") for volume in pod.volumes}
    return [volume for volume in sidecar.volumes_for(asked) if volume["name"] not in there]


def _appended(at: tuple[str, ...], there: Sequence[Any], more: Iterable[Any]) -> Iterator[Operation]:
    """To a list that may be missing."""
    if there:
        yield from (_add((*at, "-"), item) for item in more)
    elif items := list(more):
        yield _add(at, items)


def _grace(pod: Pod, sidecar: Sidecar) -> Iterator[Operation]:
    given = DEFAULT_GRACE_S if pod.grace_s is None else pod.grace_s
    if sidecar.grace_s is not None and given < sidecar.grace_s:
        yield _add(("spec", "terminationGracePeriodSeconds"), sidecar.grace_s)


def _add(at: tuple[str | int, ...], value: Any) -> Operation:
    """What is there at a name is replaced, at a position shifted."""
    return {"op": "add", "path": pointer(*at), "value": value}
