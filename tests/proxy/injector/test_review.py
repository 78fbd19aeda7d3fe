"""What an API server may send, and what it gets: a review's answer, or a short refusal in which nothing of it stands."""

from typing import Any

import orjson
import pytest

from proxy.injector.pod import Malformed
from proxy.injector.review import review
from proxy.injector.sidecar import read_sidecar
from tests.proxy.injector.pods import ASKS, SIDECAR, UID, bytes_of, container, patched, pod, request, response_of

SIDECAR_OF = read_sidecar(SIDECAR.encode(), file="sidecar.yaml")
UNCHANGED = {"uid": UID, "allowed": True}


def kind(group: str, name: str) -> dict[str, str]:
    return {"group": group, "version": "v1", "kind": name}


@pytest.mark.parametrize(
    "what", [kind("batch", "Job"), kind("batch", "CronJob"), kind("apps", "Deployment"), kind("own.dev", "Pod")]
)
def test_what_is_no_pod_is_allowed_as_it_is(what: dict[str, str]) -> None:
    template = {"metadata": {"annotations": ASKS}, "spec": {"template": pod()}}
    answer = review(bytes_of(template, kind=what), SIDECAR_OF)
    assert (answer.decision, response_of(answer.body)) == ("not_a_pod", UNCHANGED)


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE"])
def test_only_what_is_created_is_changed(operation: str) -> None:
    sent = None if operation == "DELETE" else pod()
    answer = review(bytes_of(sent, operation=operation, oldObject=pod()), SIDECAR_OF)
    assert (answer.decision, response_of(answer.body)) == ("not_created", UNCHANGED)


@pytest.mark.parametrize(
    ("operation", "sub", "sent", "what"),
    [
        ("UPDATE", "ephemeralcontainers", pod(), kind("", "Pod")),
        ("UPDATE", "resize", pod(), kind("", "Pod")),
        ("CREATE", "binding", {"target": {"kind": "Node", "name": "n"}}, kind("", "Binding")),
        ("CREATE", "eviction", {"metadata": {"name": "x"}}, kind("policy", "Eviction")),
        ("CONNECT", "exec", {"command": ["sh"]}, kind("", "PodExecOptions")),
        ("CONNECT", "exec", None, kind("", "Pod")),
    ],
)
def test_a_subresource_is_allowed_as_it_is(operation: str, sub: str, sent: Any, what: dict[str, str]) -> None:
    answer = review(bytes_of(sent, kind=what, operation=operation, subResource=sub), SIDECAR_OF)
    assert (answer.decision, response_of(answer.body)) == ("not_a_pod", UNCHANGED)


def test_a_dry_run_is_answered_as_what_it_tries() -> None:
    assert review(bytes_of(pod(), dryRun=True), SIDECAR_OF).body == review(bytes_of(pod()), SIDECAR_OF).body


def test_the_namespace_is_the_requests_and_the_name_what_there_is() -> None:
    answer = review(bytes_of(pod()), SIDECAR_OF)
    assert (answer.namespace, answer.pod, answer.uid) == ("shop", "shop-7d4b9c-", UID)
    named = pod()
    named["metadata"]["name"] = "shop-7d4b9c-x2x9z"
    assert review(bytes_of(named, name="shop-7d4b9c-x2x9z"), SIDECAR_OF).pod == "shop-7d4b9c-x2x9z"


def test_fields_that_are_not_known_yet_are_no_matter() -> None:
    before = pod(futureField={"a": [1]})
    sent = request(before, futureField=True) | {"futureField": None, "response": {"uid": "x", "allowed": False}}
    response = response_of(review(orjson.dumps(sent), SIDECAR_OF).body)
    assert patched(before, response)["spec"]["futureField"] == {"a": [1]}


def test_text_in_every_language_comes_back_whole() -> None:
    before = pod(containers=[container(env=[{"name": "GREETING", "value": "žluťoučký 🐎 \u2028 \x00"}])])
    after = patched(before, response_of(review(bytes_of(before), SIDECAR_OF).body))
    assert after["spec"]["containers"][0]["env"][-1]["value"] == "žluťoučký 🐎 \u2028 \x00"


def changed(**request_fields: Any) -> bytes:
    sent = request(pod())
    sent["request"] |= request_fields
    return orjson.dumps(sent)


def top(**fields: Any) -> bytes:
    return orjson.dumps(request(pod()) | fields)


CANARY = "canary-secret-value"
MALFORMED = {
    "empty": b"",
    "no JSON": b'{"kind": "AdmissionReview", ' + CANARY.encode(),
    "not UTF-8": b'{"kind": "\xff\xfe"}',
    "cut": bytes_of(pod())[:-20],
    "more behind it": bytes_of(pod()) + b"{}",
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a list": b"[]",
    "a text": f'"{CANARY}"'.encode(),
    "another kind": top(kind="Pod"),
    "no kind": top(kind=None),
    "no version": top(apiVersion=None),
    "no request": top(request=None),
    "request is a list": top(request=[CANARY]),
    "no uid": changed(uid=None),
    "empty uid": changed(uid=""),
    "uid is a number": changed(uid=7),
    "long uid": changed(uid=CANARY * 10),
    "namespace is a list": changed(namespace=[CANARY]),
    "object is a list": changed(object=[CANARY]),
    "object is a text": changed(object=CANARY),
    "annotations are a list": changed(object={"metadata": {"annotations": [CANARY]}}),
    "an annotation is a number": changed(object={"metadata": {"annotations": {"tollhouse.dev/inject": 1}}}),
    "spec is a text": changed(object={"spec": CANARY}),
    "containers are a mapping": changed(object=pod(containers={"a": CANARY})),
    "a container is a text": changed(object=pod(containers=[CANARY])),
    "env is a text": changed(object=pod(containers=[container(env=CANARY)])),
    "a name is a number": changed(object=pod(containers=[container(name=5) | {"name": 5}])),
    "volumes are a text": changed(object=pod(volumes=CANARY)),
    "a volume's name is a list": changed(object=pod(volumes=[{"name": [CANARY]}])),
    "grace is a text": changed(object=pod(terminationGracePeriodSeconds=CANARY)),
    "owners are a text": changed(object={"metadata": {"ownerReferences": CANARY}}),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_told_so_in_words_of_our_own(body: bytes) -> None:
    with pytest.raises(Malformed) as error:
        review(body, SIDECAR_OF)
    assert str(error.value).isascii()
    assert len(str(error.value)) < 120
    assert CANARY not in str(error.value)


def test_an_older_version_is_told_what_to_set() -> None:
    with pytest.raises(Malformed, match="admissionReviewVersions must hold v1"):
        review(top(apiVersion="admission.k8s.io/v1beta1"), SIDECAR_OF)


def test_more_values_than_anybody_means_are_not_read() -> None:
    with pytest.raises(Malformed, match="too many values"):
        review(b'{"kind":"AdmissionReview","a":[' + b"[]," * 1_000_000 + b"[]]}", SIDECAR_OF)


def test_a_pod_as_large_as_the_api_server_takes_is_answered() -> None:
    before = pod(containers=[container(env=[{"name": f"V{n}", "value": "x" * 3000} for n in range(1000)])])
    answer = review(bytes_of(before), SIDECAR_OF)
    assert answer.decision == "injected"
    assert len(answer.body) < 10_000
