"""Whatever stands where in a review: a refusal in words of our own, or an answer whose patch applies. Never anything else."""

import copy
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.injector.pod import Malformed
from proxy.injector.review import Reviewed, review
from proxy.injector.sidecar import Sidecar, read_sidecar
from tests.proxy.injector.pods import ASKS, PLAIN, SIDECAR, UID, container, patched, pod, request, response_of

SIDECARS = [read_sidecar(text.encode(), file="sidecar.yaml") for text in (SIDECAR, PLAIN)]
WHOLE = request(
    pod(
        ASKS | {"tollhouse.dev/policy": "strict", "tollhouse.dev/secret": "keys", "tollhouse.dev/containers": "app"},
        containers=[container(env=[{"name": "A", "value": "b"}], ports=[{"containerPort": 8080}])],
        initContainers=[container("migrate")],
        os={"name": "linux"},
        nodeSelector={"a": "b"},
    )
)
ANYTHING = st.sampled_from(
    [None, True, 0, -1, 1.5, "", "tollhouse", "a/b~c", "tollhouse-policy", [], {}, [None], [{}], {"name": None}]
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for step, one in inner for place in places(one, (*at, step)))]


PLACES = [place for place in places(WHOLE) if place]
# Most changes should be where they matter.
OF_THE_POD = [place for place in PLACES if place[:2] == ("request", "object")]


def answered(body: bytes, sidecar: Sidecar) -> Reviewed | None:
    """The answer, if it is a review."""
    try:
        return review(body, sidecar)
    except Malformed:
        return None


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.sampled_from(PLACES) | st.sampled_from(OF_THE_POD), ANYTHING), min_size=1, max_size=4),
    st.sampled_from(SIDECARS),
)
def test_whatever_stands_where(changes: list[tuple[tuple[Any, ...], Any]], sidecar: Sidecar) -> None:
    sent = copy.deepcopy(WHOLE)
    for place, value in changes:
        within: Any = sent
        try:
            for step in place[:-1]:
                within = within[step]
            if isinstance(within, dict) and not isinstance(place[-1], str):
                continue  # a list became a mapping
            within[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    answer = answered(orjson.dumps(sent), sidecar)
    if answer is None:
        return
    if sent["request"]["uid"] != UID:
        assert orjson.loads(answer.body)["response"]["uid"] == sent["request"]["uid"]
        return
    response = response_of(answer.body)
    if "patch" in response:
        again = request(patched(sent["request"]["object"], response))
        second = review(orjson.dumps(again), sidecar)
        assert "patch" not in response_of(second.body)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes(body: bytes) -> None:
    answered(body, SIDECARS[0])
