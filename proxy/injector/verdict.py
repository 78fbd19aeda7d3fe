"""What becomes of a pod: whether the sidecar is put into it, and if not, why. Pure.

A pod for which there can be no sidecar is let in as it is, with a warning. One with a mistake in it is refused: only a person sees
warnings, a controller passes them over, and its pods would run without the policy that they ask for. The rule a reader could break: a
pod that has the sidecar is left alone, whatever else is true of it, since the API server may ask again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.injector.asked import INJECTED, PREFIX, Asked, WrongAnnotation, read_annotations, unknown_annotations
from proxy.injector.patch import Operation, patch
from proxy.injector.pod import Container, Pod
from proxy.injector.sidecar import POLICY_VOLUME, SECRETS_VOLUME, Sidecar

_MOST_WARNINGS = 8  # kubectl shows each on a line of its own; the API server passes 4,096 characters on, 256 of each

# Why there can be no sidecar in a pod: the decision, when it is that, and what is said.
_HINDRANCES: tuple[tuple[str, Callable[[Pod, Sidecar], bool], str], ...] = (
    ("mirror", lambda pod, _: pod.mirror, "this is the mirror of a static pod, which cannot be changed"),
    (
        "host_network",
        lambda pod, _: pod.host_network,
        "the pod uses the host's network, where the sidecar's ports would be the node's",
    ),
    ("windows", lambda pod, _: pod.windows, "the pod runs on Windows, and the sidecar's image does not"),
    (
        "would_not_end",
        lambda pod, sidecar: pod.ends and not sidecar.native,
        "one that is no native sidecar would keep this pod from completing; native ones take Kubernetes 1.29",
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """decision: one word, for the log. patch: None where nothing is changed. refusal: why the pod is not let in, None where it is."""

    decision: str
    patch: tuple[Operation, ...] | None = None
    warnings: tuple[str, ...] = ()
    refusal: str | None = None


def judge(pod: Pod, sidecar: Sidecar) -> Verdict:
    """What becomes of it."""
    try:
        asked = read_annotations(pod.annotations)
        if asked is None:
            return Verdict("not_asked")
        if any(container.name == sidecar.name for container in (*pod.containers, *pod.init_containers)):
            return _present(pod, sidecar)
        if not pod.containers:  # the API server refuses it, and would not if ours were added
            return Verdict("no_containers")
        for decision, holds, why in _HINDRANCES:
            if holds(pod, sidecar):
                return Verdict(decision, warnings=(_said(f"no sidecar was added: {why}"),))
        _compare(pod, sidecar, asked)
    except WrongAnnotation as error:
        return Verdict("wrong_annotation", refusal=_said(str(error)))
    conflict = next((v["name"] for v in sidecar.volumes_for(asked) if not _as_wanted(v, pod)), None)
    if conflict is not None:
        why = f'the pod has a volume "{conflict}", which is the name of another one that the sidecar needs: rename the pod\'s'
        return Verdict("volume_conflict", refusal=_said(why))
    warnings = tuple(_said(warning) for warning in _warnings(pod, sidecar))
    return Verdict("injected", patch(pod, sidecar, asked), warnings[:_MOST_WARNINGS])


def _present(pod: Pod, sidecar: Sidecar) -> Verdict:
    """Ours from before, a chart's, or something else of the same name: then whoever wrote it wants to know."""
    warning = _said(f'no sidecar was added: there is a container "{sidecar.name}" already')
    return Verdict("present", warnings=() if INJECTED in pod.annotations else (warning,))


def _beside(pod: Pod, sidecar: Sidecar) -> tuple[Container, ...]:
    """The containers that run while the sidecar does."""
    return (*pod.containers, *pod.init_containers) if sidecar.native else pod.containers


def _compare(pod: Pod, sidecar: Sidecar, asked: Asked) -> None:
    """What is asked for with what there is. Errors: WrongAnnotation."""
    for word, name, volume in (("policy", asked.policy, POLICY_VOLUME), ("secret", asked.secret, SECRETS_VOLUME)):
        if name is not None and not sidecar.names(volume):
            raise WrongAnnotation(f'{PREFIX}{word}: this cluster\'s sidecar has no volume "{volume}" that it could name')
    if asked.containers is None:
        return
    unknown = sorted(asked.containers - {container.name for container in _beside(pod, sidecar)})
    if unknown:
        early = any(container.name == unknown[0] for container in pod.init_containers)
        why = "is an init container, and those run before the sidecar" if early else "is no container of this pod"
        raise WrongAnnotation(f'{PREFIX}containers: "{unknown[0]}" {why}')


def _as_wanted(volume: Mapping[str, Any], pod: Pod) -> bool:
    """Whether the pod has no volume of that name, or the same one."""
    return all(_holds(there, volume) for there in pod.volumes if there.get("name") == volume["name"])


def _holds(there: Any, wanted: Any) -> bool:
    """Whether it says what is wanted. It may say more: the API server fills in defaults."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(_holds(there.get(name), value) for name, value in wanted.items())
    return bool(there == wanted)


def _warnings(pod: Pod, sidecar: Sidecar) -> Iterator[str]:
    yield from unknown_annotations(pod.annotations)
    for container in _beside(pod, sidecar):
        for port in sorted(container.ports & sidecar.ports):
            yield f"{container.shown} and the sidecar both use port {port}: one of them will not start"
    if pod.shares_processes:
        yield "with shareProcessNamespace, other containers may read the sidecar's files, and so the upstream's credentials"


def _said(text: str) -> str:
    """Among the warnings and refusals of other webhooks."""
    return f"tollhouse: {text}"
