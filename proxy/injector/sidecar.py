"""The file that says what is put into pods, as the chart renders it: YAML, or JSON.

    native: true                  # a native sidecar, the first init container; else a plain container
    container: {name: tollhouse, image: ..., ...}
    volumes: [{name: tollhouse-policy, configMap: {name: tollhouse-policy}}, ...]
    env: [{name: OPENAI_BASE_URL, value: http://127.0.0.1:8080/v1}]   # for the pod's other containers
    grace_s: 45                   # the least that the pod's terminationGracePeriodSeconds may be
    version: "0.1.0"

What of it this program relies on is checked; the rest is the API server's to judge. The rule a reader could break: a mistake has a
place, and all of them are told at once.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proxy.injector.asked import Asked
from proxy.injector.manifest import Manifest
from proxy.injector.pod import is_label
from proxy.policy.document import Enough, Trail
from proxy.policy.scalar import did_you_mean

POLICY_VOLUME, SECRETS_VOLUME = "tollhouse-policy", "tollhouse-secrets"
# The kind of each of the two, and where that keeps its object's name.
_NAMED = {POLICY_VOLUME: ("configMap", "name"), SECRETS_VOLUME: ("secret", "secretName")}
_KEYS = ("native", "container", "volumes", "env", "grace_s", "version")
_MOST_GRACE_S = 86_400
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")  # Source: Kubernetes' IsEnvVarName.
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """native: it goes into initContainers, with `restartPolicy: Always`. env: entries for the other containers. ports: that it listens on,
    as far as the file says. grace_s: None leaves a pod's as it is.
    """

    native: bool
    container: Mapping[str, Any]
    volumes: tuple[Mapping[str, Any], ...]
    env: tuple[Mapping[str, Any], ...]
    ports: frozenset[int]
    grace_s: int | None
    version: str

    @property
    def name(self) -> str:
        return str(self.container["name"])

    def names(self, volume: str) -> bool:
        """Whether there is this volume, one of the two whose object a pod may name."""
        return any(v["name"] == volume and _NAMED[volume][0] in v for v in self.volumes)

    def volumes_for(self, asked: Asked) -> list[Mapping[str, Any]]:
        """The volumes with the objects that a pod names."""
        return [_renamed(v, {POLICY_VOLUME: asked.policy, SECRETS_VOLUME: asked.secret}.get(v["name"])) for v in self.volumes]


def _renamed(volume: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    if name is None:
        return volume
    source, key = _NAMED[volume["name"]]
    return {**volume, source: {**volume[source], key: name}}


def read_sidecar(data: bytes, *, file: str) -> Sidecar:
    """The sidecar of a file. Errors: PolicyFileError with every mistake."""
    manifest = Manifest(data, file=file)
    with suppress(Enough):
        manifest.known(_KEYS)
        native = manifest.get(("native",), bool)
        container = manifest.get(("container",), dict)
        volumes = _unique(manifest, ("volumes",), label=True)
        env = _environment(manifest, ("env",))
        if container is not None:
            _check_container(manifest, native=native, volumes=volumes)
        grace_s = manifest.get(("grace_s",), int, default=None)
        if grace_s is not None and not 1 <= grace_s <= _MOST_GRACE_S:
            manifest.wrong(("grace_s",), f"expected seconds, at least 1 and at most {_MOST_GRACE_S}")
        version = manifest.get(("version",), str)
        for at in manifest.each(("volumes",)):
            _check_named(manifest, at)
    manifest.finish()
    if native:
        container = {**container, "restartPolicy": "Always"}
    return Sidecar(
        native=native,
        container=container,
        volumes=tuple(manifest.value.get("volumes", ())),
        env=tuple(manifest.value.get("env", ())),
        ports=frozenset(_ports(container, env)),
        grace_s=grace_s,
        version=version,
    )


def _unique(manifest: Manifest, trail: Trail, *, label: bool = False) -> dict[str, Any]:
    """The items of a list by their names, which may not come twice. label: they are names of objects."""
    found: dict[str, Any] = {}
    for at in manifest.each(trail):
        name = manifest.get((*at, "name"), str)
        if name is None:
            continue
        if label and not is_label(name):
            manifest.wrong((*at, "name"), "expected a name of lower case letters, digits and -, at most 63")
        if name in found:
            manifest.wrong((*at, "name"), f'the name "{name}" stands twice in the list')
        found[name] = manifest.get(at, dict)
    return found


def _environment(manifest: Manifest, trail: Trail) -> dict[str, Any]:
    entries = _unique(manifest, trail)
    for at in manifest.each(trail):
        name = manifest.get((*at, "name"), str, default="-")
        if not _VARIABLE.fullmatch(name):
            manifest.wrong((*at, "name"), "expected the name of a variable: letters, digits, - . and _, and no digit first")
        manifest.get((*at, "value"), str, default="")
    return entries


def _check_container(manifest: Manifest, *, native: bool | None, volumes: Mapping[str, Any]) -> None:
    at: Trail = ("container",)
    name = manifest.get((*at, "name"), str)
    if name is not None and not is_label(name):
        manifest.wrong((*at, "name"), "expected a name of lower case letters, digits and -, at most 63")
    if manifest.get((*at, "image"), str) == "":
        manifest.wrong((*at, "image"), "expected an image")
    _environment(manifest, (*at, "env"))
    for port in manifest.each((*at, "ports")):
        manifest.get((*port, "containerPort"), int)
    for mount in manifest.each((*at, "volumeMounts")):
        volume = manifest.get((*mount, "name"), str)
        if volume is not None and volume not in volumes:
            manifest.wrong((*mount, "name"), f"there is no such volume under `volumes`{did_you_mean(volume, tuple(volumes))}")
    restart = manifest.get((*at, "restartPolicy"), str, default=None)
    if native is not None and restart not in (None, "Always" if native else None):
        manifest.wrong((*at, "restartPolicy"), "a native sidecar's is Always, and a plain container has none; leave it out")


def _check_named(manifest: Manifest, at: Trail) -> None:
    """A volume whose object a pod may name."""
    source, key = _NAMED.get(manifest.get((*at, "name"), str, default=""), ("", ""))
    if source and manifest.get((*at, source), dict, default=None) is not None:
        manifest.get((*at, source, key), str)


def _ports(container: Mapping[str, Any], env: Mapping[str, Any]) -> Iterator[int]:
    """Ports that are declared, that its own settings name, and that the other containers are sent to on loopback."""
    for port in container.get("ports", ()):
        yield port["containerPort"]
    for entry in container.get("env", ()):
        port_text = entry.get("value", "").rpartition(":")[2]
        if entry["name"] in ("TOLLHOUSE_LISTEN", "TOLLHOUSE_ADMIN_LISTEN") and port_text.isascii() and port_text.isdigit():
            yield int(port_text)
    for entry in env.values():
        with suppress(ValueError):  # a value need not be a URL
            url = urlsplit(entry.get("value", ""))
            if url.hostname in _LOOPBACK and url.port is not None:
                yield url.port
