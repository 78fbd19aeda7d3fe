"""The opening of a WebSocket, as a table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidCall
from proxy.wire.request import RequestHead
from proxy.wire.upgrade import is_beta, is_opening, key_among, passed_on, protocols_of, read_query

OPENING = {
    "connection": "keep-alive, Upgrade",
    "upgrade": "WebSocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def head(method: str = "GET", *, modern: bool = True, **more: str) -> RequestHead:
    fields = {**OPENING, **{name.replace("_", "-"): value for name, value in more.items()}}
    return RequestHead(method=method, target="/v1/realtime", headers=fields, keep=True, modern=modern)


def test_an_opening_is_one() -> None:
    assert is_opening(head())


@pytest.mark.parametrize(
    "change",
    [
        {"method": "POST"},
        {"modern": False},
        {"connection": "keep-alive"},
        {"upgrade": "h2c"},
        {"upgrade": "websocket, websocket"},
        {"sec_websocket_version": "8"},
        {"sec_websocket_version": "13, 13"},
        {"sec_websocket_key": ""},
        {"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ"},
        {"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="},
        {"sec_websocket_key": "ü" * 24},
        {"transfer_encoding": "chunked"},
    ],
)
def test_anything_else_is_none(change: dict[str, str]) -> None:
    assert not is_opening(head(**change))  # type: ignore[arg-type]


def test_a_key_among_subprotocols() -> None:
    offered = protocols_of({"sec-websocket-protocol": "realtime, openai-insecure-api-key.k-1, OpenAI-Beta.realtime-v1"})
    assert key_among(offered, None) == "k-1"
    assert passed_on(offered) == ("realtime",)
    assert key_among(("realtime",), "k-2") == "k-2"
    for offers, presented in ((offered, "k-2"), ((*offered, "openai-insecure-api-key.k-3"), None)):
        with pytest.raises(InvalidCall) as refused:
            key_among(offers, presented)
        assert refused.value.code == "ambiguous_credentials"
    with pytest.raises(InvalidCall):
        protocols_of({"sec-websocket-protocol": ",".join(map(str, range(99)))})


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["realtime", "x", "openai-insecure-api-key.s", "openai-organization.o", "openai-beta.realtime-v1"]))
)
def test_no_key_is_ever_passed_on(offered: list[str]) -> None:
    assert not any("key" in word or "organization" in word for word in passed_on(tuple(offered)))


def test_the_older_dialect_is_named_in_a_header_or_a_subprotocol() -> None:
    assert is_beta({"openai-beta": "realtime=v1"})
    assert is_beta({"sec-websocket-protocol": "realtime, openai-beta.realtime-v1"})
    assert not is_beta({})


def test_a_query_names_one_model() -> None:
    query = read_query("a=1&model=gpt%20x&b=", model_required=True)
    assert query.model == "gpt x"
    assert query.target("/realtime", "other/y") == "/realtime?a=1&model=other%2Fy&b="
    assert read_query("", model_required=False).target("/responses", "ignored") == "/responses"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "a=1",
        "model=",
        "model=a&model=b",
        "Model=a",
        "model=a&MODEL=b",
        "%6dodel=a&model=b",
        "model=a&call_id=c",
        "intent=x&model=a",
    ],
)
def test_a_query_that_can_be_read_in_two_ways_is_refused(query: str) -> None:
    with pytest.raises(InvalidCall):
        read_query(query, model_required=True)
