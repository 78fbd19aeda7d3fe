"""An AdmissionReview's bytes, and the bytes of its answer. Pure.

What the API server checks of an answer (VerifyAdmissionResponse in k8s.io/apiserver): the version and kind of the question, its uid, and
a patch with its type or neither. The rule a reader could break: nothing that was sent comes back but the uid, and no word of it.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.errors import InvalidCall
from proxy.injector.pod import Malformed, read_pod
from proxy.injector.sidecar import Sidecar
from proxy.injector.verdict import Verdict, judge
from proxy.wire.weight import LIGHT_BYTES, weigh

VERSION = "admission.k8s.io/v1"
_MOST_UID = 128
_POD = {"group": "", "version": "v1", "kind": "Pod"}


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An answer, and what is logged of it. decision: one word. namespace, pod: as they were sent, "" where they were not."""

    body: bytes
    decision: str
    uid: str
    namespace: str
    pod: str


def review(body: bytes, sidecar: Sidecar) -> Reviewed:
    """The answer to a review. Errors: Malformed."""
    request = _request(body)
    uid, namespace = _short(request, "uid"), _short(request, "namespace")
    if not uid:
        raise Malformed("request.uid is missing")
    name = _short(request, "name")
    if request.get("kind") != _POD or request.get("subResource"):
        verdict = Verdict("not_a_pod")
    elif request.get("operation") != "CREATE":
        verdict = Verdict("not_created")
    else:
        pod = read_pod(request.get("object"))
        name = pod.name or name
        verdict = judge(pod, sidecar)
    return Reviewed(_answer(uid, verdict), verdict.decision, uid, namespace, name)


def _request(body: bytes) -> dict[str, Any]:
    try:
        if len(body) > LIGHT_BYTES:
            for _ in weigh(body):
                pass
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Malformed("the body is no JSON") from None
    except InvalidCall as error:
        raise Malformed("the body holds too many values") from error
    if not isinstance(whole, dict) or whole.get("kind") != "AdmissionReview":
        raise Malformed("the body is no AdmissionReview")
    if whole.get("apiVersion") != VERSION:
        raise Malformed(f"only {VERSION} is answered: the webhook's admissionReviewVersions must hold v1")
    request = whole.get("request")
    if not isinstance(request, dict):
        raise Malformed("the AdmissionReview has no request")
    return request


def _short(request: dict[str, Any], field: str) -> str:
    """A text of the request's own; "" where there is none."""
    value = request.get(field)
    if value is None:
        return ""
    if not isinstance(value, str) or (field == "uid" and len(value) > _MOST_UID):
        raise Malformed(f"request.{field} is no text, or too long")
    return value


def _answer(uid: str, verdict: Verdict) -> bytes:
    response: dict[str, Any] = {"uid": uid, "allowed": verdict.refusal is None}
    if verdict.refusal is not None:
        response["status"] = {"code": 400, "reason": "BadRequest", "message": verdict.refusal}
    if verdict.patch:
        response |= {"patchType": "JSONPatch", "patch": b64encode(orjson.dumps(verdict.patch)).decode()}
    if verdict.warnings:
        response["warnings"] = verdict.warnings
    return orjson.dumps({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})
