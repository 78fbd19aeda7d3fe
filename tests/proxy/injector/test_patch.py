"""What stands in a pod once the patch was applied, whatever the pod had before."""

import itertools
from typing import Any

import pytest

from proxy.injector.patch import pointer
from proxy.injector.review import review
from proxy.injector.sidecar import read_sidecar
from tests.proxy.injector.pods import ASKS, PLAIN, SIDECAR, TOKEN_VOLUME, bytes_of, container, patched, pod, response_of

NATIVE = read_sidecar(SIDECAR.encode(), file="sidecar.yaml")
BESIDE = read_sidecar(PLAIN.encode(), file="sidecar.yaml")
OWN_VOLUMES = ["tollhouse-policy", "tollhouse-secrets", "tollhouse-state"]


def injected(before: dict[str, Any], sidecar: Any = NATIVE) -> dict[str, Any]:
    answer = review(bytes_of(before), sidecar)
    assert answer.decision == "injected"
    return patched(before, response_of(answer.body))


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items]


def env_of(one: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in one.get("env", [])}


def test_a_native_sidecar_is_the_first_init_container_and_stays_running() -> None:
    after = injected(pod(initContainers=[container("migrate")]))
    assert names(after["spec"]["initContainers"]) == ["tollhouse", "migrate"]
    assert after["spec"]["initContainers"][0] == NATIVE.container
    assert after["spec"]["initContainers"][0]["restartPolicy"] == "Always"
    assert names(after["spec"]["containers"]) == ["app"]


def test_a_plain_sidecar_is_the_last_container_and_init_containers_are_not_sent_to_it() -> None:
    before = pod(initContainers=[container("migrate")])
    after = injected(before, BESIDE)
    assert names(after["spec"]["containers"]) == ["app", "tollhouse"]
    assert "restartPolicy" not in after["spec"]["containers"][1]
    assert after["spec"]["initContainers"] == before["spec"]["initContainers"]
    assert "OPENAI_BASE_URL" in env_of(after["spec"]["containers"][0])


def test_every_other_container_is_sent_to_it_and_the_sidecar_is_not() -> None:
    after = injected(pod(containers=[container(), container("worker")], initContainers=[container("migrate")]))
    others = [*after["spec"]["containers"], after["spec"]["initContainers"][1]]
    assert [env_of(one)["OPENAI_BASE_URL"] for one in others] == ["http://127.0.0.1:8080/v1"] * 3
    assert "OPENAI_BASE_URL" not in env_of(after["spec"]["initContainers"][0])


def test_what_a_container_sets_itself_stays_and_may_refer_to_what_is_added() -> None:
    own = [{"name": "OPENAI_BASE_URL", "value": "http://elsewhere/v1"}, {"name": "URL", "value": "$(OPENAI_API_KEY)"}]
    [after] = injected(pod(containers=[container(env=own)]))["spec"]["containers"]
    assert after["env"] == [NATIVE.env[1], *own]
    everything = [{"name": name, "value": ""} for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL")]
    [after] = injected(pod(containers=[container(env=everything)]))["spec"]["containers"]
    assert after["env"] == everything


def test_a_pod_may_name_the_containers_that_are_sent_to_it() -> None:
    before = pod(
        ASKS | {"tollhouse.dev/containers": "worker, migrate"},
        containers=[container(), container("worker")],
        initContainers=[container("migrate"), container("other")],
    )
    after = injected(before)["spec"]
    sent = [one["name"] for one in (*after["containers"], *after["initContainers"]) if "OPENAI_BASE_URL" in env_of(one)]
    assert sent == ["worker", "migrate"]


def test_a_pod_may_name_its_policy_and_its_secret() -> None:
    after = injected(pod(ASKS | {"tollhouse.dev/policy": "strict.v2", "tollhouse.dev/secret": "shop-keys"}))
    volumes = {volume["name"]: volume for volume in after["spec"]["volumes"]}
    assert volumes["tollhouse-policy"]["configMap"] == {"name": "strict.v2"}
    assert volumes["tollhouse-secrets"]["secret"] == {"secretName": "shop-keys"}
    assert NATIVE.volumes[0]["configMap"] == {"name": "tollhouse-policy"}, "the next pod gets the file's again"


def test_a_volume_that_is_there_and_says_the_same_is_used() -> None:
    there = {"name": "tollhouse-policy", "configMap": {"name": "tollhouse-policy", "defaultMode": 420}}
    after = injected(pod(volumes=[there, TOKEN_VOLUME]))
    assert names(after["spec"]["volumes"]) == ["tollhouse-policy", TOKEN_VOLUME["name"], "tollhouse-secrets", "tollhouse-state"]
    assert after["spec"]["volumes"][0] == there


@pytest.mark.parametrize(("given", "becomes"), [(None, 45), (0, 45), (30, 45), (45, 45), (600, 600)])
def test_its_grace_is_raised_to_what_streams_need(given: int | None, becomes: int) -> None:
    assert injected(pod(terminationGracePeriodSeconds=given))["spec"]["terminationGracePeriodSeconds"] == becomes


def test_a_grace_that_is_long_enough_by_default_is_left_out_as_it_was() -> None:
    short = read_sidecar(SIDECAR.replace("grace_s: 45", "grace_s: 20").encode(), file="sidecar.yaml")
    assert "terminationGracePeriodSeconds" not in injected(pod(terminationGracePeriodSeconds=None), short)["spec"]
    none = read_sidecar(SIDECAR.replace("grace_s: 45\n", "").encode(), file="sidecar.yaml")
    assert injected(pod(terminationGracePeriodSeconds=5), none)["spec"]["terminationGracePeriodSeconds"] == 5


MISSING: Any = object()
LACKING = (MISSING, None, [])


def put(fields: dict[str, Any], name: str, value: Any) -> None:
    fields.pop(name, None)
    if value is not MISSING:
        fields[name] = value


@pytest.mark.parametrize("sidecar", [NATIVE, BESIDE], ids=["native", "plain"])
@pytest.mark.parametrize(
    ("volumes", "inits", "env"), list(itertools.product((*LACKING, [TOKEN_VOLUME]), (*LACKING, [container("migrate")]), LACKING))
)
def test_it_fits_whatever_a_pod_lacks(volumes: Any, inits: Any, env: Any, sidecar: Any) -> None:
    before = pod()
    put(before["spec"], "volumes", volumes)
    put(before["spec"], "initContainers", inits)
    put(before["spec"]["containers"][0], "env", env)
    after = injected(before, sidecar)
    spec = after["spec"]
    assert names(spec["volumes"]) == [*(names([TOKEN_VOLUME]) if volumes == [TOKEN_VOLUME] else []), *OWN_VOLUMES]
    assert names([*(spec.get("initContainers") or []), *spec["containers"]]).count("tollhouse") == 1
    assert list(env_of(spec["containers"][0])) == ["OPENAI_BASE_URL", "OPENAI_API_KEY"]
    assert after["metadata"]["annotations"] == {**ASKS, "tollhouse.dev/injected": "0.1.0"}


@pytest.mark.parametrize("sidecar", [NATIVE, BESIDE], ids=["native", "plain"])
def test_a_second_review_of_the_same_pod_changes_nothing_and_says_nothing(sidecar: Any) -> None:
    answer = review(bytes_of(injected(pod(), sidecar)), sidecar)
    assert answer.decision == "present"
    assert response_of(answer.body) == {"uid": response_of(answer.body)["uid"], "allowed": True}


def test_nothing_else_of_a_pod_is_touched() -> None:
    before = pod(containers=[container(env=[{"name": "A", "value": "b"}])], initContainers=[container("migrate")])
    after = injected(before)
    del after["metadata"]["annotations"]["tollhouse.dev/injected"]
    after["spec"]["terminationGracePeriodSeconds"] = 30
    after["spec"]["volumes"] = after["spec"]["volumes"][:1]
    del after["spec"]["initContainers"][0]
    del after["spec"]["containers"][0]["env"][:2], after["spec"]["initContainers"][0]["env"]
    assert after == before


def test_a_name_with_a_slash_or_a_tilde_is_one_step_of_a_pointer() -> None:
    assert pointer("metadata", "annotations", "a/b~c~1") == "/metadata/annotations/a~1b~0c~01"
