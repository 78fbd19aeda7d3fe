"""Only what is on a list passes, either way; a client can strike out nothing of ours."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import proxy
from proxy.errors import InvalidCall
from proxy.wire.failure import PASSED_HINTS
from proxy.wire.headers import READ_OF_ANSWERS, presented_key, refuse_ambiguous, sane_request_id, towards_client
from proxy.wire.headers import towards_upstream as lines_upstream

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


def towards_upstream(headers: Mapping[str, str], *, extra: Sequence[str], ours: Sequence[str]) -> list[str]:
    return lines_upstream(headers, extra=extra, ours=ours, own=("traceparent",))


OURS = ["authorization: Bearer upstream-key", "x-request-id: req_1", "via: 1.1 tollhouse"]
SDK = {
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "OpenAI/Python 3.54.0",
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "0",
}
STAYS = [
    *["authorization", "api-key", "cookie", "x-api-key", "proxy-authorization", "openai-organization", "openai-project"],
    *[
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "max-forwards",
    ],
    *[
        "proxy-connection",
        "accept-encoding",
        "x-user-id",
        "x-forwarded-for",
        "forwarded",
        "via",
        "traceparent",
        "tracestate",
        "baggage",
    ],
    *["idempotency-key", "prefer", "last-event-id", "x-request-id", "range", "x-stainless", "acceptx", "x_stainless_lang"],
]


def test_an_apps_fields_pass_in_order_and_ours_follow() -> None:
    assert towards_upstream(SDK, extra=(), ours=OURS) == [f"{name}: {value}" for name, value in SDK.items()] + OURS


@pytest.mark.parametrize("name", STAYS)
@pytest.mark.parametrize("extra", [(), ("x-team",)])
def test_what_is_not_on_the_list_stays_here(name: str, extra: tuple[str, ...]) -> None:
    assert towards_upstream({name: "canary"}, extra=extra, ours=OURS) == OURS


@pytest.mark.parametrize("name", ["authorization", "via", "x-request-id"])
def test_a_field_of_ours_replaces_the_clients(name: str) -> None:
    assert towards_upstream({name: "canary"}, extra=(name,), ours=OURS) == OURS


def test_the_policy_file_lets_more_pass() -> None:
    assert towards_upstream({"x-team": "a, b", "x-other": "c"}, extra=("x-team",), ours=OURS) == ["x-team: a, b", *OURS]


@pytest.mark.parametrize("connection", ["user-agent, X-Team", "close,User-Agent ,\tx-team", "user-agent,, x-team,"])
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_fields_that_connection_names_are_for_us_only(connection: str, first: bool) -> None:
    fields = {"user-agent": "x", "x-team": "y", "accept": "z"}
    named = {"connection": connection}
    sent = {**named, **fields} if first else {**fields, **named}
    assert towards_upstream(sent, extra=("x-team",), ours=OURS) == ["accept: z", *OURS]


def test_a_percent_sign_is_a_sign_like_any_other() -> None:
    sent = {"user-agent": "100 % %s %(x)s", "x-stainless-%s": "a", "accept": "%"}
    assert towards_upstream(sent, extra=(), ours=OURS) == [f"{name}: {value}" for name, value in sent.items()] + OURS


def test_a_client_cannot_strike_out_a_field_of_ours() -> None:
    sent = {"connection": "authorization, x-request-id, via", "authorization": "Bearer canary"}
    assert towards_upstream(sent, extra=(), ours=OURS) == OURS


def test_only_what_helps_an_app_comes_back() -> None:
    answered = {
        "content-type": "text/event-stream",
        "content-encoding": "gzip",
        "retry-after": "7",
        "retry-after-ms": "6500",
        "x-should-retry": "true",
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
    }
    secret = {
        "set-cookie": "canary",
        "openai-organization": "canary",
        "openai-project": "canary",
        "server": "canary",
        "via": "canary",
        "x-envoy-upstream-service-time": "canary",
        "x-ratelimit-remaining-tokens": "1",
        "www-authenticate": "canary",
        "location": "http://10.0.0.1/",
        "transfer-encoding": "chunked",
        "content-length": "5",
        "connection": "close",
        "date": "now",
    }
    assert towards_client({**secret, **answered}, request_id=None) == [f"{name}: {value}" for name, value in answered.items()]


def test_the_upstreams_request_id_comes_back_under_a_name_of_its_own() -> None:
    assert towards_client({"x-request-id": "req_Ab-1"}, request_id="req_Ab-1") == ["x-upstream-request-id: req_Ab-1"]
    assert towards_client({"x-request-id": "a b"}, request_id=None) == []


@pytest.mark.parametrize("value", ["a", "req_123", "a.b:c/d+e=f@g-h", "x" * 128])
def test_a_short_safe_request_id_is_kept(value: str) -> None:
    assert sane_request_id(value) == value


@pytest.mark.parametrize(
    "value", [None, "", " a", "a ", "a b", "a\n", "a\r\nb", "a\0", "é", "👋", "a" * 129, "a" * 4096, "{}", '"', "<a>"]
)
def test_any_other_request_id_is_not(value: str | None) -> None:
    assert sane_request_id(value) is None


@pytest.mark.parametrize("name", ["authorization", "api-key"])
def test_two_keys_of_one_kind_are_ambiguous(name: str) -> None:
    with pytest.raises(InvalidCall) as caught:
        refuse_ambiguous(["accept", name])
    assert caught.value.code == "ambiguous_credentials"


@pytest.mark.parametrize("name", ["content-type", "content-length", "idempotency-key", "host"])
def test_a_field_that_may_stand_once_is_refused_twice(name: str) -> None:
    with pytest.raises(InvalidCall) as caught:
        refuse_ambiguous([name])
    assert (caught.value.code, caught.value.status) == ("bad_request", 400)
    assert name in caught.value.message


def test_fields_that_may_stand_twice_may() -> None:
    refuse_ambiguous(["accept", "x-forwarded-for"])


@pytest.mark.parametrize(
    ("authorization", "api_key", "key"),
    [
        (None, None, None),
        ("Bearer k", None, "k"),
        ("bearer k", None, "k"),
        ("BEARER  k ", None, "k"),
        (None, "k", "k"),
        (None, "", ""),
    ],
)
def test_a_key_is_shown_as_a_bearer_token_or_an_api_key(authorization: str | None, api_key: str | None, key: str | None) -> None:
    assert presented_key(authorization, api_key) == key


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic abc", "k", "Bearer\tk", "Bearerk"])
def test_another_scheme_is_refused_without_repeating_what_was_sent(authorization: str) -> None:
    with pytest.raises(InvalidCall) as caught:
        presented_key(authorization, None)
    assert caught.value.code == "bad_request"
    assert caught.value.message == "The header 'authorization' must read 'Bearer KEY'."


def test_two_keys_of_two_kinds_are_ambiguous_even_if_they_are_one() -> None:
    with pytest.raises(InvalidCall) as caught:
        presented_key("Bearer k", "k")
    assert caught.value.code == "ambiguous_credentials"


NAMES = st.sampled_from([*STAYS, *SDK, "x-team", "connection"]) | st.text(
    st.characters(codec="ascii", categories=["Ll", "N"], include_characters="-_"), min_size=1, max_size=20
)


@PATIENT
@given(
    st.dictionaries(NAMES, st.sampled_from(["canary", "close", "via, authorization", "x-team"])), st.sampled_from([(), ("x-team",)])
)
def test_whatever_a_client_sends_ours_go_whole_and_nothing_unknown_does(sent: dict[str, str], extra: tuple[str, ...]) -> None:
    got = towards_upstream(sent, extra=extra, ours=OURS)
    assert got[len(got) - len(OURS) :] == OURS
    passed = {line.partition(":")[0] for line in got[: len(got) - len(OURS)]}
    known = {*SDK, "openai-beta", "priority", "x-client-request-id", *extra}
    assert all(name in known or name.startswith("x-stainless-") for name in passed)


def test_what_is_asked_of_an_answer_is_what_the_client_keeps() -> None:
    """A name that is not on the list would be asked for in vain."""
    asked = set(PASSED_HINTS)
    for module in ("dispatch", "pipeline"):
        source = (Path(proxy.__file__).parent / f"{module}.py").read_text("utf-8")
        asked |= set(re.findall(r'answer\.headers\.get\("([^"]+)"', source))
        asked |= set(re.findall(r'"([^"]+)" in answer\.headers', source))
    assert {"content-type", "content-encoding", "x-request-id", "retry-after"} <= asked <= READ_OF_ANSWERS
