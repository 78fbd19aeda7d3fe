"""Which pods get a sidecar, which are let in without, and which are refused; and what their authors are told."""

import inspect
import re
from typing import Any

import pytest

import proxy.injector.review
import proxy.injector.verdict
from proxy.injector.review import review
from proxy.injector.sidecar import read_sidecar
from proxy.telemetry.logs import FIELDS
from tests.proxy.injector.pods import ASKS, PLAIN, SIDECAR, bytes_of, container, pod, response_of

NATIVE = read_sidecar(SIDECAR.encode(), file="sidecar.yaml")
BESIDE = read_sidecar(PLAIN.encode(), file="sidecar.yaml")
BARE = read_sidecar(
    b'native: true\ncontainer: {name: tollhouse, image: x}\nversion: "1"\nvolumes: [{name: tollhouse-policy, emptyDir: {}}]\n',
    file="bare",
)


def test_every_decision_is_documented() -> None:
    decisions = {
        word
        for module in (proxy.injector.verdict, proxy.injector.review)
        for word in re.findall(r'(?:Verdict\(|^    \(|^        )"([a-z_]+)"', inspect.getsource(module), re.M)
    }
    assert len(decisions) == 12
    assert {word for word in decisions if not re.search(rf"\b{word}\b", FIELDS["decision"].meaning)} == set()


def judged(before: dict[str, Any], sidecar: Any = NATIVE) -> tuple[str, dict[str, Any]]:
    answer = review(bytes_of(before), sidecar)
    return answer.decision, response_of(answer.body)


def left_as_it_is(before: dict[str, Any], decision: str, sidecar: Any = NATIVE) -> list[str]:
    """The warnings of a pod that is let in without a sidecar."""
    found, response = judged(before, sidecar)
    assert (found, response["allowed"]) == (decision, True)
    assert "patch" not in response
    return list(response.get("warnings", []))


def refused(before: dict[str, Any], decision: str, sidecar: Any = NATIVE) -> str:
    found, response = judged(before, sidecar)
    assert (found, response["allowed"]) == (decision, False)
    assert response["status"].keys() == {"code", "reason", "message"}
    return str(response["status"]["message"])


@pytest.mark.parametrize("annotations", [None, {}, {"tollhouse.dev/inject": "false"}, {"tollhouse.dev/policy": "NOT A NAME"}])
def test_who_does_not_ask_is_left_alone(annotations: Any) -> None:
    assert left_as_it_is(pod(annotations), "not_asked") == []


@pytest.mark.parametrize("value", ["True", "yes", "", "1", "true "])
def test_who_asks_in_other_words_is_told_the_right_ones(value: str) -> None:
    message = refused(pod({"tollhouse.dev/inject": value}), "wrong_annotation")
    assert message == 'tollhouse: tollhouse.dev/inject: expected "true" or "false"'


@pytest.mark.parametrize("where", ["containers", "initContainers"])
def test_a_container_of_that_name_is_taken_for_the_sidecar_and_a_stranger_is_told_so(where: str) -> None:
    there = {"containers": [container()], where: [container("tollhouse")]}
    assert left_as_it_is(pod(ASKS | {"tollhouse.dev/injected": "0.0.9"}, **there), "present") == []
    [warning] = left_as_it_is(pod(**there), "present")
    assert warning == 'tollhouse: no sidecar was added: there is a container "tollhouse" already'


def test_a_pod_on_the_hosts_network_gets_none() -> None:
    [warning] = left_as_it_is(pod(hostNetwork=True), "host_network")
    assert "the node's" in warning


@pytest.mark.parametrize("spec", [{"os": {"name": "windows"}}, {"nodeSelector": {"kubernetes.io/os": "windows"}}])
def test_a_pod_on_windows_gets_none(spec: Any) -> None:
    [warning] = left_as_it_is(pod(**spec), "windows")
    assert "Windows" in warning


def test_a_pod_on_linux_that_says_so_gets_one() -> None:
    assert judged(pod(os={"name": "linux"}, nodeSelector={"kubernetes.io/os": "linux"}))[0] == "injected"


@pytest.mark.parametrize("restart", ["Never", "OnFailure", None])
def test_a_job_gets_a_native_sidecar_and_no_plain_one(restart: str | None) -> None:
    job = pod(owner="Job", restartPolicy=restart)
    assert judged(job)[0] == "injected"
    [warning] = left_as_it_is(job, "would_not_end", BESIDE)
    assert "completing" in warning


def test_a_pod_that_runs_to_its_end_is_as_a_job_is_whoever_owns_it() -> None:
    left_as_it_is(pod(owner="Workflow", restartPolicy="Never"), "would_not_end", BESIDE)


def test_a_mirror_of_a_static_pod_is_left_as_it_is() -> None:
    [warning] = left_as_it_is(pod(ASKS | {"kubernetes.io/config.mirror": "abc"}), "mirror")
    assert "static pod" in warning


def test_a_pod_without_containers_is_not_made_valid() -> None:
    assert left_as_it_is(pod(containers=[]), "no_containers", BESIDE) == []


@pytest.mark.parametrize("name", ["", "Upper", "a_b", "a/b", "../x", "a" * 254, "-a", "a.", "a b", "a\nb", "ä", "${env:X}"])
@pytest.mark.parametrize("word", ["policy", "secret"])
def test_a_name_that_is_none_is_refused_and_not_repeated(word: str, name: str) -> None:
    message = refused(pod(ASKS | {f"tollhouse.dev/{word}": name}), "wrong_annotation")
    assert message.startswith(f"tollhouse: tollhouse.dev/{word}: expected the name of a ")
    assert len(name) < 4 or name not in message


@pytest.mark.parametrize("text", ["", ",", "app,", "app worker", "App", "app,a/b", "a" * 64])
def test_a_list_of_containers_that_is_none_is_refused(text: str) -> None:
    message = refused(pod(ASKS | {"tollhouse.dev/containers": text}), "wrong_annotation")
    assert "with commas between them" in message


def test_a_container_that_is_not_there_is_a_mistake() -> None:
    message = refused(pod(ASKS | {"tollhouse.dev/containers": "app,web"}), "wrong_annotation")
    assert message == 'tollhouse: tollhouse.dev/containers: "web" is no container of this pod'


def test_an_init_container_does_not_reach_a_plain_sidecar() -> None:
    before = pod(ASKS | {"tollhouse.dev/containers": "migrate"}, initContainers=[container("migrate")])
    assert judged(before)[0] == "injected"
    assert "run before the sidecar" in refused(before, "wrong_annotation", BESIDE)


@pytest.mark.parametrize(("word", "volume"), [("policy", "tollhouse-policy"), ("secret", "tollhouse-secrets")])
def test_a_name_that_the_sidecar_has_no_use_for_is_refused(word: str, volume: str) -> None:
    assert f'no volume "{volume}"' in refused(pod(ASKS | {f"tollhouse.dev/{word}": "mine"}), "wrong_annotation", BARE)


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "tollhouse-policy", "emptyDir": {}},
        {"name": "tollhouse-policy", "configMap": {"name": "other", "defaultMode": 420}},
    ],
)
def test_a_volume_of_the_same_name_is_told(volume: dict[str, Any]) -> None:
    message = refused(pod(volumes=[volume]), "volume_conflict")
    assert '"tollhouse-policy"' in message
    assert "rename" in message


def test_a_volume_is_compared_with_the_one_that_the_pod_asks_for() -> None:
    volume = {"name": "tollhouse-policy", "configMap": {"name": "strict"}}
    assert judged(pod(ASKS | {"tollhouse.dev/policy": "strict"}, volumes=[volume]))[0] == "injected"


@pytest.mark.parametrize("port", [8080, 9090])
def test_a_port_that_both_use_is_warned_of(port: int) -> None:
    decision, response = judged(pod(containers=[container(ports=[{"containerPort": port}, {"containerPort": 3000}])]))
    assert decision == "injected"
    assert response["warnings"] == [f'tollhouse: container "app" and the sidecar both use port {port}: one of them will not start']


def test_a_shared_process_namespace_is_warned_of() -> None:
    [warning] = judged(pod(shareProcessNamespace=True))[1]["warnings"]
    assert "credentials" in warning


def test_a_misspelt_annotation_is_warned_of() -> None:
    [warning] = judged(pod(ASKS | {"tollhouse.dev/polcy": "strict"}))[1]["warnings"]
    assert warning == "tollhouse: an annotation tollhouse.dev/... is not known; did you mean policy?"


def test_names_that_are_none_do_not_get_into_a_warning() -> None:
    bad = [container("evil\nname" * 100, ports=[{"containerPort": 8080}]) for _ in range(50)]
    warnings = judged(pod(containers=bad))[1]["warnings"]
    assert len(warnings) == 8
    assert set(warnings) == {"tollhouse: a container and the sidecar both use port 8080: one of them will not start"}
