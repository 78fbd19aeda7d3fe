"""A pod as it stands in a review: the few things of it that decide what is done, and where.

The API server sends what was decoded into its own types, with defaults filled in, but not yet validated: names may be anything. The
rule a reader could break: a name of a pod's is shown or compared, and never trusted to be a name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_GRACE_S = 30  # Source: PodSpec.terminationGracePeriodSeconds.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Malformed(Exception):
    """What was sent is no review of a pod. Its text is ours."""


def is_label(text: str) -> bool:
    """Whether it may name a container or a volume. Source: RFC 1123, as Kubernetes reads it."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Whether it may name a ConfigMap or a Secret."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Container:
    """One of a pod's. env: names that it sets itself, by `env`; what `envFrom` brings stands elsewhere. ports: that it declares."""

    name: str
    env: frozenset[str]
    has_env: bool
    ports: frozenset[int]

    @property
    def shown(self) -> str:
        """For a message."""
        return f'container "{self.name}"' if is_label(self.name) else "a container"


@dataclass(frozen=True, slots=True)
class Pod:
    """name: or the prefix that it will be generated from. volumes: as they were sent. grace_s: None where it has none. ends: it runs to
    its end and is done, as those of Jobs. mirror: a static pod's shadow, which the kubelet keeps as it is.
    """

    name: str
    annotations: Mapping[str, str]
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...]
    volumes: tuple[Mapping[str, Any], ...]
    grace_s: int | None
    host_network: bool
    shares_processes: bool
    windows: bool
    ends: bool
    mirror: bool


def read_pod(value: Any) -> Pod:
    """The pod of a review's object. Errors: Malformed."""
    whole = _mapping(value, "the object")
    meta = _mapping(whole.get("metadata"), "metadata")
    spec = _mapping(whole.get("spec"), "spec")
    annotations = {name: _text(text) for name, text in _mapping(meta.get("annotations"), "annotations").items()}
    owners = _mappings(meta.get("ownerReferences"), "ownerReferences")
    selector = _mapping(spec.get("nodeSelector"), "nodeSelector")
    volumes = _mappings(spec.get("volumes"), "volumes")
    for volume in volumes:
        _text(volume.get("name"))
    grace_s = spec.get("terminationGracePeriodSeconds")
    if grace_s is not None and type(grace_s) is not int:
        raise Malformed("terminationGracePeriodSeconds is no whole number")
    return Pod(
        name=_text(meta.get("name")) or _text(meta.get("generateName")),
        annotations=annotations,
        containers=tuple(map(_container, _mappings(spec.get("containers"), "containers"))),
        init_containers=tuple(map(_container, _mappings(spec.get("initContainers"), "initContainers"))),
        volumes=tuple(volumes),
        grace_s=grace_s,
        host_network=spec.get("hostNetwork") is True,
        shares_processes=spec.get("shareProcessNamespace") is True,
        windows="windows" in (_mapping(spec.get("os"), "os").get("name"), selector.get("kubernetes.io/os")),
        ends=spec.get("restartPolicy") in ("Never", "OnFailure") or any(owner.get("kind") == "Job" for owner in owners),
        mirror="kubernetes.io/config.mirror" in annotations,
    )


def _container(value: Mapping[str, Any]) -> Container:
    env = _mappings(value.get("env"), "env")
    ports = _mappings(value.get("ports"), "ports")
    return Container(
        name=_text(value.get("name")),
        env=frozenset(_text(entry.get("name")) for entry in env),
        has_env=bool(env),
        ports=frozenset(port for entry in ports if type(port := entry.get("containerPort")) is int),
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    """None, as everywhere in Kubernetes' API, is nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed(f"{what}: no JSON object")
    return value


def _mappings(value: Any, what: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(f"{what}: no list of JSON objects")
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed("a name or an annotation is no text")
    return value
