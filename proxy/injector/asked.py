"""What a pod's annotations ask for. They are written by whoever may create pods, so a value is checked before it goes anywhere.

The rule a reader could break: a value that is wrong is not repeated in what is answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.injector.pod import is_label, is_subdomain
from proxy.policy.scalar import did_you_mean

PREFIX = "tollhouse.dev/"
INJECTED = PREFIX + "injected"
_KNOWN = ("inject", "policy", "secret", "containers")


class WrongAnnotation(Exception):
    """Which one is wrong and what is expected, for whoever wrote the pod."""


@dataclass(frozen=True, slots=True)
class Asked:
    """policy, secret: names of the ConfigMap and the Secret to mount instead of the sidecar file's. containers: None is all of them."""

    policy: str | None = None
    secret: str | None = None
    containers: frozenset[str] | None = None


def read_annotations(annotations: Mapping[str, str]) -> Asked | None:
    """What is asked for; None for no sidecar. Errors: WrongAnnotation."""
    inject = annotations.get(PREFIX + "inject")
    if inject is None or inject == "false":
        return None
    if inject != "true":
        raise WrongAnnotation(f'{PREFIX}inject: expected "true" or "false"')
    return Asked(
        policy=_object_name(annotations, "policy", "a ConfigMap"),
        secret=_object_name(annotations, "secret", "a Secret"),
        containers=_containers(annotations.get(PREFIX + "containers")),
    )


def unknown_annotations(annotations: Mapping[str, str]) -> list[str]:
    """A warning for each that looks like one of ours and is none: most are misspelt."""
    words = [name.removeprefix(PREFIX) for name in annotations if name.startswith(PREFIX) and name != INJECTED]
    return [f"an annotation {PREFIX}... is not known{did_you_mean(word, _KNOWN)}" for word in words if word not in _KNOWN]


def _object_name(annotations: Mapping[str, str], word: str, what: str) -> str | None:
    name = annotations.get(PREFIX + word)
    if name is not None and not is_subdomain(name):
        raise WrongAnnotation(f"{PREFIX}{word}: expected the name of {what}: lower case letters, digits, - and .")
    return name


def _containers(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(map(is_label, names)):
        raise WrongAnnotation(f'{PREFIX}containers: expected names of containers with commas between them, such as "app,worker"')
    return frozenset(names)
