"""Sessions through the whole proxy: the opening, what passes, what each turn costs, and every way in which they end."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.fakes import raw_exchange
from tests.house import UPSTREAM_KEY, House, error_of, policy
from tests.proxy.realtime.talks import COST_NANOUSD, CREATED, USAGE, answering, created, delta, done, sound
from tests.sockets import FakeSockets, Link, RawSocket

BUDGET = "- {name: purse, budget: {usd: 5, per: day, by: user, when_spent: reject}}"
TARGET = "/v1/realtime?model=gpt-realtime"


def port_of(house: House) -> int:
    return int(house.app.data_address[1])


async def open_at(house: House, target: str = TARGET, **more: Any) -> RawSocket:
    return await RawSocket.open(port_of(house), target, **more)


def quotas(house: House) -> list[tuple[int, int]]:
    """(spent, held) of every quota in use."""
    return [(spent, held) for _, _, spent, held, _ in house.app.store.quotas()]


async def ended(house: House, count: int) -> list[dict[str, Any]]:
    """So many lines of ended calls, and no quota holds anything."""
    lines = await house.logged("call.finished", count)
    assert len(lines) == count
    assert all(held == 0 for _, held in quotas(house))
    return lines


# ── the opening ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_opening_goes_through_the_edge_and_says_who_it_is(tmp_path: Path) -> None:
    async with FakeSockets() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        headers = {"x-request-id": "mine-1", "user-agent": "app/1", "cookie": "c", "x-secret": "s", "openai-beta": "realtime=v1"}
        client = await open_at(house, headers=headers)
        assert (client.status, client.field("x-request-id"), client.field("upgrade")) == (101, "mine-1", "websocket")
        link = await upstream.linked()
        assert link.request is not None
        assert link.request.path == "/v1/realtime?model=gpt-realtime"
        assert link.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert link.headers["x-request-id"] == "mine-1"
        assert (link.headers["user-agent"], link.headers["openai-beta"]) == ("app/1", "realtime=v1")
        assert {"cookie", "x-secret", "sec-websocket-extensions", "sec-websocket-protocol"}.isdisjoint(link.headers)
        assert link.headers["traceparent"].startswith("00-")
        client.close()
        [line] = await ended(house, 1)
    assert (line["surface"], line["status"], line["outcome"], line["request_id"]) == ("realtime", 101, "completed", "mine-1")
    assert (line["model_asked"], line["cost_nanousd"], line["usage_source"]) == ("gpt-realtime", 0, None)


async def test_a_browser_s_key_is_known_swapped_and_never_given_back(tmp_path: Path) -> None:
    async with FakeSockets() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        offered = "realtime, openai-insecure-api-key.app-key, openai-organization.org-1, openai-beta.realtime-v1"
        headers = {
            "sec-websocket-protocol": offered,
            "origin": "https://app.test",
            "sec-websocket-extensions": "permessage-deflate",
        }
        client = await open_at(house, key=None, headers=headers)
        assert (client.status, client.field("sec-websocket-protocol")) == (101, "realtime")
        assert b"app-key" not in client.head
        assert client.field("sec-websocket-extensions") is None
        link = await upstream.linked()
        assert link.headers["sec-websocket-protocol"] == "realtime, openai-beta.realtime-v1"
        assert link.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert "app-key" not in str(dict(link.headers))
        client.close()
        [line] = await ended(house, 1)
    assert line["key"] == "app"
    assert "app-key" not in (tmp_path / "log").read_text()


ANONYMOUS = """version: 1
upstreams: {main: {base_url: "${env:UPSTREAM}", api_key: sk-upstreamcanary0123456789}}
keys: [{id: here, anonymous: true}]
policies: []
"""

REFUSED: dict[str, tuple[str, dict[str, str], int, str]] = {
    "no key": (TARGET, {"authorization": ""}, 401, "missing_api_key"),
    "a wrong key": (TARGET, {"authorization": "Bearer no"}, 401, "invalid_api_key"),
    "two keys": (TARGET, {"sec-websocket-protocol": "openai-insecure-api-key.app-key"}, 400, "ambiguous_credentials"),
    "three keys": (TARGET, {"api-key": "app-key"}, 400, "ambiguous_credentials"),
    "a wrong key of a browser": (
        TARGET,
        {"authorization": "", "sec-websocket-protocol": "realtime, openai-insecure-api-key.no"},
        401,
        "invalid_api_key",
    ),
    "no model": ("/v1/realtime", {}, 400, "missing_field"),
    "two models": (TARGET + "&model=x", {}, 400, "duplicate_field"),
    "a model in disguise": (TARGET + "&%4Dodel=x", {}, 400, "duplicate_field"),
    "a call of another": (TARGET + "&call_id=x", {}, 400, "invalid_value"),
    "a model without a price": ("/v1/realtime?model=home-made", {}, 403, "model_not_priced"),
    "a model that is sold by the second": ("/v1/realtime?model=gpt-realtime-whisper", {}, 403, "model_not_priced"),
    "h2c": (TARGET, {"upgrade": "h2c"}, 403, "path_not_metered"),
    "an old version": (TARGET, {"sec-websocket-version": "8"}, 403, "path_not_metered"),
    "a short nonce": (TARGET, {"sec-websocket-key": "YWJj"}, 403, "path_not_metered"),
    "another path": ("/v1/models", {}, 400, "upgrade_not_supported"),
    "a path below": ("/v1/realtime/sessions", {}, 403, "path_not_metered"),
    "a path without a meter": ("/v1/files", {}, 403, "path_not_metered"),
}


@pytest.mark.parametrize(("target", "headers", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_an_opening_that_is_refused_reaches_no_upstream(
    target: str, headers: Mapping[str, str], status: int, code: str, tmp_path: Path
) -> None:
    async with FakeSockets() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, target, headers=headers)
        assert (client.status, error_of(await client.body())["code"]) == (status, code)
        await ended(house, 1)
        assert upstream.links == []


async def test_a_page_in_a_browser_is_not_known_by_where_it_stands(tmp_path: Path) -> None:
    async with FakeSockets() as upstream, House(ANONYMOUS, upstream.url + "/v1", tmp_path) as house:
        page = await open_at(house, key=None, headers={"origin": "https://evil.test"})
        assert (page.status, error_of(await page.body())["code"]) == (401, "missing_api_key")
        guess = {"origin": "https://evil.test", "sec-websocket-protocol": "openai-insecure-api-key.guess"}
        assert (await open_at(house, key=None, headers=guess)).status == 401
        assert upstream.links == []
        assert (await open_at(house, key=None)).status == 101


@pytest.mark.parametrize("key", ["", "x"])
async def test_without_an_upgrade_the_paths_are_what_they_were(key: str, tmp_path: Path) -> None:
    async with FakeSockets() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        headers = {"authorization": "Bearer app-key"}
        status, _, body = await house.request("GET", TARGET, headers=headers)
        assert (status, error_of(body)["code"]) == (403, "path_not_metered")
        status, _, body = await house.request("GET", "/v1/responses", headers=headers)
        assert (status, error_of(body)["code"]) == (405, "method_not_allowed")
        for path in ("sessions", "client_secrets", "calls", "transcription_sessions"):
            status, _, body = await house.post(f"/v1/realtime/{path}", {})
            assert (status, error_of(body)["code"]) == (403, "path_not_metered")
            assert "around this proxy" in error_of(body)["message"]
        assert upstream.links == []


async def test_nothing_is_spoken_before_the_upgrade_is_agreed_to(tmp_path: Path) -> None:
    """Source: the class of CVE-2026-2833, where bytes behind a head were let through to the upstream."""
    async with FakeSockets() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        smuggled = b"GET /v1/admin HTTP/1.1\r\nhost: x\r\n\r\n"
        client = await open_at(house, early=smuggled)
        assert (client.status, error_of(await client.body())["code"]) == (400, "bad_request")
        await ended(house, 1)
        assert all(link.raw == [] for link in upstream.links)
        with_body = await open_at(house, headers={"content-length": "5"})
        assert with_body.status == 400


async def test_a_refusal_of_the_upstream_is_told_as_any_other(tmp_path: Path) -> None:
    said = b'{"error":{"message":"slow down at gpu.internal:8000","type":"requests","code":"rate_limit_exceeded","param":null}}'
    head = b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-length: %d\r\n\r\n" % len(said)
    async with FakeSockets(refuse=head + said) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        error = error_of(await client.body())
        assert (client.status, client.field("retry-after"), error["code"]) == (429, "7", "rate_limit_exceeded")
        assert "gpu.internal" not in error["message"]
        upstream.refuse = b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"
        assert (await open_at(house)).status == 502
        upstream.refuse = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        assert (await open_at(house)).status == 502
        upstream.refuse = b"HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: no\r\n\r\n"
        assert (await open_at(house)).status == 502
        upstream.refuse = b"no http\r\n\r\n"
        assert (await open_at(house)).status == 502
        upstream.refuse = b""
        assert (await open_at(house)).status == 502
        await ended(house, 6)


async def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    async with FakeSockets() as upstream:
        url = upstream.url
    async with House(policy(), url + "/v1", tmp_path) as house:
        client = await open_at(house)
        assert (client.status, error_of(await client.body())["code"]) == (502, "upstream_unreachable")


async def test_an_alias_is_what_the_upstream_is_asked_for(tmp_path: Path) -> None:
    rules = '- {name: m, models: {alias: {voice: gpt-realtime}, allow: ["gpt-realtime", "gpt-4o-mini-transcribe"]}}'
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        refused = await open_at(house, "/v1/realtime?model=gpt-realtime-2")
        assert (refused.status, error_of(await refused.body())["code"]) == (403, "model_not_allowed")
        client = await open_at(house, "/v1/realtime?x=1&model=voice")
        link = await upstream.linked()
        assert link.request is not None
        assert link.request.path == "/v1/realtime?x=1&model=gpt-realtime"
        client.say({"type": "response.create"})
        await client.told("response.done")
        heard = {"audio": {"input": {"transcription": {"model": "whisper-1", "language": "en"}}}}
        client.say({"type": "session.update", "event_id": "mine", "session": {"type": "realtime", **heard}})
        error = (await client.told("error"))["error"]
        assert (error["code"], error["event_id"]) == ("model_not_allowed", "mine")
        client.say({"type": "session.update", "session": {"type": "realtime", "model": "voice"}})
        await client.told("session.updated")
        assert link.got[-1]["session"] == {"type": "realtime", "model": "gpt-realtime"}
        client.close()
        lines = await ended(house, 4)
    assert [(line["model_asked"], line["error"]) for line in lines] == [
        ("gpt-realtime-2", "model_not_allowed"),
        ("voice", None),
        ("whisper-1", "model_not_allowed"),
        ("voice", None),
    ]


async def test_a_session_is_a_call_for_rates_and_holds_a_slot(tmp_path: Path) -> None:
    rules = "- {name: r, rate_limit: {requests: 3, per: hour}, concurrency: {calls: 1}}"
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        for _ in range(3):
            client.say({"type": "response.create"})
            await client.told("response.done")
        crowded = await open_at(house)
        assert (crowded.status, error_of(await crowded.body())["code"]) == (429, "concurrency_limit_exceeded")
        client.close()
        await house.logged("call.finished", 5)
        for status in (101, 101, 429):
            other = await open_at(house)
            assert other.status == status
            if status == 101:
                other.close()
                assert (await other.ending()).code == 1000
                await other.reader.read()


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_turn_is_a_call_that_is_held_and_settled_once(tmp_path: Path) -> None:
    held: list[tuple[int, int]] = []

    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("response.create")
        held.extend(quotas(house))
        await link.say(created(), delta("Hi"), done())

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        event = b'{ "type" : "conversation.item.create", "item": {"type":"message","role":"user","content":[]}, "n": 1e3 }'
        client.say(event)
        client.say({"type": "response.create", "event_id": "mine"})
        said = [(await client.told())["type"] for _ in range(4)]
        assert said == ["session.created", "response.created", "response.output_text.delta", "response.done"]
        assert quotas(house)[0][0] == COST_NANOUSD, "settled before the client sees the end"
        link = await upstream.linked()
        assert link.raw[0] == event, "what costs nothing passes byte for byte"
        assert orjson.loads(link.raw[1]) == {"type": "response.create", "event_id": "mine"}
        client.close(1000, "bye")
        await link.ended.wait()
        assert link.closed is not None
        assert (link.closed.code, link.closed.reason) == (1000, "bye")
        turn, session = await ended(house, 2)
        metrics = await house.metrics()
    # All that the model can make as sound, and what was said so far as sound, by the byte; and one token of the session's.
    [(spent, amount)] = held
    assert spent == 0
    assert 4096 * 64_000 < amount < 4096 * 64_000 + 1000 * 32_000
    assert (turn["request_id"], turn["surface"], turn["status"]) == (f"{session['request_id']}.1", "realtime", 200)
    assert (turn["input_tokens"], turn["cached_tokens"], turn["output_tokens"]) == (100, 20, 50)
    assert (turn["usage_source"], turn["cost_nanousd"], turn["first_token_ms"] is None) == ("reported", COST_NANOUSD, False)
    assert 'tollhouse_calls_total{surface="realtime",model="gpt-realtime",key="app",ending="completed",status="2xx"} 1' in metrics
    assert 'tollhouse_tokens_total{model="gpt-realtime",class="audio_output",source="reported"} 40' in metrics


async def test_a_turn_that_does_not_fit_is_made_to_or_refused_before_it_is_sent(tmp_path: Path) -> None:
    rules = "- {name: purse, budget: {usd: 0.02, per: day, when_spent: reject}}"
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        await client.told("response.done")
        link = await upstream.linked()
        assert 16 <= link.got[0]["response"]["max_output_tokens"] < 313, "what 0.02 dollars pay for"
        codes = []
        for number in range(9):
            client.say({"type": "response.create", "event_id": f"mine-{number}", "response": {"instructions": "x" * 100}})
            while (told := await client.told())["type"] not in ("error", "response.done"):
                pass
            if told["type"] == "error":
                codes.append((told["error"]["code"], told["error"]["event_id"], told["error"]["type"]))
        assert len(codes) >= 5
        assert codes[0][0::2] == ("budget_exceeded", "budget_error")
        assert codes[0][1].startswith("mine-")
        assert sum(event["type"] == "response.create" for event in link.got) == 10 - len(codes)
        client.close()
        lines = await ended(house, 11)
        later = await open_at(house)
    assert [line["error"] for line in lines].count("budget_exceeded") == len(codes)
    assert sum(line["cost_nanousd"] for line in lines) == quotas(house)[0][0] == COST_NANOUSD * (10 - len(codes)) <= 20_000_000
    assert later.status in (101, 429)


async def test_what_has_no_length_is_held_at_the_model_s_context(tmp_path: Path) -> None:
    rules = "- {name: purse, budget: {usd: 0.5, per: day, when_spent: reject}}"
    picture = {"type": "input_image", "image_url": "https://x.test/a.png"}
    asked = {"conversation": "none", "input": [{"type": "message", "role": "user", "content": [picture]}], "max_output_tokens": 9}
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create", "response": {"max_output_tokens": 9}})
        await client.told("response.done")
        client.say({"type": "response.create", "response": asked})
        assert (await client.told("error"))["error"]["code"] == "budget_exceeded"
        assert len((await upstream.linked()).got) == 1


async def test_a_spent_budget_refuses_before_the_upgrade(tmp_path: Path) -> None:
    rules = "- {name: purse, budget: {usd: 0.01, per: day, when_spent: reject}}"
    dear = {**USAGE, "input_tokens": 2100, "total_tokens": 2150}
    async with FakeSockets(answering(usage=dear)) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create", "response": {"max_output_tokens": 1}})
        await client.told("response.done")
        client.close()
        await ended(house, 2)
        refused = await open_at(house)
        assert (refused.status, error_of(await refused.body())["code"]) == (429, "budget_exceeded")
        assert refused.field("x-should-retry") == "false"
    assert len(upstream.links) == 1


CLAMPED: dict[str, tuple[Any, Any]] = {
    "lowered": ({"max_output_tokens": 5000}, {"max_output_tokens": 100}),
    "no cap": ({"max_output_tokens": "inf"}, {"max_output_tokens": 100}),
    "none": ({"instructions": "x"}, {"max_output_tokens": 100, "instructions": "x"}),
    "null": ({"max_output_tokens": None}, {"max_output_tokens": 100}),
    "small": ({"max_output_tokens": 50}, {"max_output_tokens": 50}),
    "the older name": ({"max_response_output_tokens": 5000}, {"max_response_output_tokens": 100}),
    "the older name without one": ({"max_response_output_tokens": "inf"}, {"max_response_output_tokens": 100}),
    "both": (
        {"max_output_tokens": 7, "max_response_output_tokens": "inf"},
        {"max_output_tokens": 7, "max_response_output_tokens": "inf"},
    ),
}


@pytest.mark.parametrize(("sent", "received"), CLAMPED.values(), ids=CLAMPED.keys())
async def test_caps_of_a_turn_are_clamped(sent: Any, received: Any, tmp_path: Path) -> None:
    rules = "- {name: c, max_tokens: {cap: 100}}"
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create", "event_id": "mine", "response": sent})
        await client.told("response.done")
        link = await upstream.linked()
        assert link.got[0]["session"] == {"type": "realtime", "max_output_tokens": 100}, "turns that the server begins have it too"
        assert link.got[1] == {"type": "response.create", "event_id": "mine", "response": received}


async def test_the_session_s_cap_is_clamped_and_the_client_is_not_told_of_ours(tmp_path: Path) -> None:
    rules = "- {name: c, max_tokens: {cap: 100}}"
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        assert (await client.told())["type"] == "session.created"
        client.say({"type": "session.update", "session": {"type": "realtime", "max_output_tokens": "inf", "instructions": "a"}})
        assert (await client.told())["session"] == {"type": "realtime", "max_output_tokens": 100, "instructions": "a"}
        client.say({"type": "session.update", "session": {"type": "realtime", "instructions": "b"}})
        assert (await client.told())["session"] == {"type": "realtime", "instructions": "b"}
        client.say({"type": "session.update", "session": {"type": "realtime", "max_output_tokens": 20}})
        assert (await client.told())["session"]["max_output_tokens"] == 20
        client.say({"type": "response.create"})
        await client.told("response.done")
        assert (await upstream.linked()).got[-1]["response"] == {"max_output_tokens": 20}, "a clamp never raises"


async def test_a_cap_is_refused_where_the_policy_rejects(tmp_path: Path) -> None:
    rules = "- {name: c, max_tokens: {cap: 100, when_over: reject}}"
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create", "event_id": "a", "response": {"max_output_tokens": 101}})
        client.say({"type": "session.update", "event_id": "b", "session": {"max_output_tokens": 4096}})
        errors = [(await client.told("error"))["error"] for _ in range(2)]
        assert [(e["code"], e["event_id"], e["param"]) for e in errors] == [
            ("max_tokens_exceeded", "a", "max_output_tokens"),
            ("max_tokens_exceeded", "b", "max_output_tokens"),
        ]
        client.say({"type": "response.create"})
        await client.told("response.done")
        assert [event["type"] for event in (await upstream.linked()).got] == ["session.update", "response.create"]


BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "invalid_json"),
    "no object": (b"[]", "invalid_json"),
    "no type": (b"{}", "invalid_type"),
    "a type that is none": (b'{"type":7}', "invalid_type"),
    "two types": (b'{"type":"input_audio_buffer.append","type":"response.create"}', "duplicate_field"),
    "two types in disguise": (b'{"type":"input_audio_buffer.append","t\\u0079pe":"response.create"}', "duplicate_field"),
    "too deep": (b'{"type":"x","a":' + b"[" * 1000 + b"]" * 1000 + b"}", "nested_too_deeply"),
    "two caps": (b'{"type":"response.create","response":{"max_output_tokens":1,"max_output_tokens":9999}}', "duplicate_field"),
    "a cap that is none": (b'{"type":"response.create","response":{"max_output_tokens":"many"}}', "invalid_type"),
    "a cap below zero": (b'{"type":"response.create","response":{"max_output_tokens":-1}}', "invalid_value"),
    "a response that is none": (b'{"type":"response.create","response":[]}', "invalid_type"),
    "a session that is none": (b'{"type":"session.update","session":"x"}', "invalid_type"),
    "a model that is none": (b'{"type":"session.update","session":{"model":7}}', "invalid_type"),
}


async def test_what_is_no_event_is_answered_with_an_error_and_not_passed_on(tmp_path: Path) -> None:
    async with FakeSockets(answering()) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        for name, (sent, code) in BAD.items():
            client.say(sent)
            assert (await client.told("error"))["error"]["code"] == code, name
        client.frame(2, b'{"type":"response.create"}')
        assert (await client.told("error"))["error"]["code"] == "invalid_json"
        assert (await upstream.linked()).raw == []
        client.say({"type": "response.create"})
        await client.told("response.done")


async def test_a_turn_that_the_upstream_refuses_costs_nothing_and_its_words_are_masked(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        while True:
            asked = await link.event("response.create")
            error = {"type": "invalid_request_error", "code": "conversation_already_has_active_response", "param": None}
            said = {**error, "message": "busy: see http://gpu.internal/x", "event_id": asked["event_id"]}
            await link.say({"type": "error", "event_id": "e", "error": said})

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        for event_id in ({"event_id": "mine"}, {}):
            client.say({"type": "response.create", **event_id})
            error = (await client.told("error"))["error"]
            assert error["code"] == "conversation_already_has_active_response"
            assert "gpu.internal" not in error["message"]
        client.close()
        lines = await ended(house, 3)
    assert [(line["cost_nanousd"], line["outcome"]) for line in lines] == [(0, "upstream_error")] * 2 + [(0, "completed")]


async def test_a_turn_that_the_server_begins_is_held_when_it_does(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("input_audio_buffer.append")
        await link.say(
            {"type": "input_audio_buffer.committed", "event_id": "e", "item_id": "i"}, created(), sound("A" * 6400), done()
        )

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "input_audio_buffer.append", "audio": "A" * 64_000})
        await client.told("response.done")
        assert quotas(house)[0][0] == COST_NANOUSD
        client.close()
        turn, _ = await ended(house, 2)
    assert (turn["usage_source"], turn["cost_nanousd"], turn["outcome"]) == ("reported", COST_NANOUSD, "completed")


async def test_a_turn_that_the_server_begins_past_a_budget_is_cancelled_and_ends_the_session(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED, created())
        cancel = await link.event("response.cancel")
        assert cancel["response_id"] == "resp_1"
        await link.say(done(status="cancelled"))

    rules = "- {name: purse, budget: {usd: 0.0001, per: day, when_spent: reject}}"
    async with FakeSockets(script) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        error = (await client.told("error"))["error"]
        assert (error["code"], error["type"]) == ("budget_exceeded", "budget_error")
        assert (await client.told("response.done"))["response"]["status"] == "cancelled"
        again = await client.told("error")
        assert again["error"]["code"] == "budget_exceeded"
        assert (await client.ending()).code == 1008
        turn, session = await ended(house, 2)
        assert quotas(house)[0][0] == COST_NANOUSD, "what was used is spent all the same"
    assert (turn["outcome"], turn["refused_by"], turn["cost_nanousd"]) == ("refused", "purse.budget", COST_NANOUSD)
    assert (session["outcome"], session["error"]) == ("refused", "budget_exceeded")


TRANSCRIPTS: dict[str, tuple[Any, int, str]] = {
    "tokens": ({"type": "tokens", "input_tokens": 20, "output_tokens": 10, "total_tokens": 30, "input_token_details": {"audio_tokens": 20}},
               20 * 1250 + 10 * 5000, "reported"),
    "seconds": ({"type": "duration", "seconds": 2.0}, 20 * 1250, "reported"),
    "nothing": (None, 10 * 1250, "estimated"),
}  # fmt: skip


@pytest.mark.parametrize(("usage", "cost", "source"), TRANSCRIPTS.values(), ids=TRANSCRIPTS.keys())
async def test_what_is_written_down_is_paid_for_at_its_model_s_price(usage: Any, cost: int, source: str, tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        pcm = {"input": {"format": {"type": "audio/pcm", "rate": 24000}}}
        await link.say({**CREATED, "session": {"audio": pcm}})
        update = await link.event("session.update")
        await link.say({"type": "session.updated", "event_id": "e", "session": {**update["session"]}})
        await link.event("input_audio_buffer.append")
        completed = "conversation.item.input_audio_transcription.completed"
        await link.say({"type": "input_audio_buffer.committed", "event_id": "e", "item_id": "i"})
        await link.say({"type": completed, "event_id": "e", "item_id": "i", "transcript": "hi", "usage": usage})

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        await client.told("session.created")
        heard = {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}
        client.say({"type": "session.update", "session": {"type": "realtime", "audio": heard}})
        client.say({"type": "input_audio_buffer.append", "audio": "A" * 64_000})
        await client.told("conversation.item.input_audio_transcription.completed")
        client.close()
        turn, _ = await ended(house, 2)
        assert quotas(house)[0][0] == cost
    assert (turn["model_asked"], turn["cost_nanousd"], turn["usage_source"]) == ("gpt-4o-mini-transcribe", cost, source)


async def test_a_model_without_a_price_writes_nothing_down(tmp_path: Path) -> None:
    async with FakeSockets(answering()) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "session.update", "session": {"input_audio_transcription": {"model": "home-made"}}})
        assert (await client.told("error"))["error"]["code"] == "model_not_priced"
        assert (await upstream.linked()).raw == []


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_leaves_in_mid_turn_has_it_stopped_and_pays_what_it_used(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("response.create")
        await link.say(created(), delta("Hi"))
        assert (await link.event())["type"] == "response.cancel"
        await link.say(done(status="cancelled"))

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        await client.told("response.output_text.delta")
        client.leave()
        turn, session = await ended(house, 2)
        assert (await upstream.linked()).ended.is_set() or await upstream.links[0].ended.wait()
    assert (turn["cost_nanousd"], turn["usage_source"]) == (COST_NANOUSD, "reported")
    assert session["outcome"] == "client_gone"


async def test_a_turn_that_nobody_tells_the_usage_of_is_not_free(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("response.create")
        await link.say(created(), delta("Hi there"), sound("A" * 10_667))
        await link.event("response.cancel")
        link.writer.transport.abort()

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        await client.told("response.output_audio.delta")
        client.leave()
        turn, _ = await ended(house, 2)
        assert quotas(house)[0][0] == turn["cost_nanousd"]
    assert (turn["usage_source"], turn["outcome"]) == ("estimated", "client_gone")
    assert turn["output_tokens"] == 22, "a second of sound, and the text"
    assert turn["cost_nanousd"] > 20 * 64_000


async def test_an_upstream_that_is_lost_is_told_of_and_paid_for(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("response.create")
        await link.say(created(), delta("Hi"))
        link.writer.transport.abort()

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        error = (await client.told("error"))["error"]
        assert error["code"] == "upstream_broken"
        ending = await client.ending()
        assert (ending.code, ending.reason) == (1011, "upstream_broken")
        turn, session = await ended(house, 2)
        await house.logged("upstream.broke")
    assert (turn["outcome"], session["outcome"]) == ("upstream_broken", "upstream_broken")
    assert turn["cost_nanousd"] > 0


async def test_a_goodbye_of_the_upstream_passes_with_its_reason_masked(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.close(4001, "expired at gpu.internal:8000")

    async with FakeSockets(script) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        ending = await client.ending()
        assert (ending.code, ending.reason) == (4001, "expired at [host]")
        client.close(4001)
        assert await client.reader.read() == b""
        [line] = await ended(house, 1)
    assert line["outcome"] == "completed"


async def test_a_goodbye_in_mid_turn_leaves_it_broken_and_paid_for(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("response.create")
        await link.say(created(), delta("Hi"))
        await link.close(1000)

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        assert (await client.ending()).code == 1000
        assert quotas(house)[0][0] > 0, "settled before the client is told"
        turn, session = await ended(house, 2)
    assert (turn["outcome"], turn["usage_source"], session["outcome"]) == ("upstream_broken", "estimated", "completed")


async def test_the_older_dialect_is_spoken_to_who_speaks_it(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say({"type": "session.created", "event_id": "e", "session": {"max_response_output_tokens": "inf"}})
        ours = await link.event("session.update")
        assert ours["session"] == {"max_response_output_tokens": 100}
        refusal = {"type": "invalid_request_error", "message": "no", "event_id": ours["event_id"]}
        await link.say({"type": "error", "event_id": "e", "error": refusal})
        asked = await link.event("response.create")
        assert asked["response"] == {"max_response_output_tokens": 100}
        await link.say(created(), done())

    rules = "- {name: c, max_tokens: {cap: 100}}"
    async with FakeSockets(script) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, headers={"openai-beta": "realtime=v1"})
        client.say({"type": "response.create"})
        said = [(await client.told())["type"] for _ in range(3)]
        assert said == ["session.created", "response.created", "response.done"], "what is said to our own event is ours"


async def test_a_goodbye_without_a_code_stays_one(tmp_path: Path) -> None:
    async with FakeSockets() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        link = await upstream.linked()
        client.frame(8, b"")
        await link.ended.wait()
        assert link.closed is not None
        assert link.closed.code == 1005


async def test_a_session_is_cut_at_its_total_with_an_honest_error(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("response.create")
        await link.say(created())

    rules = "- {name: t, timeouts: {total: 500ms}}"
    async with FakeSockets(script) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        error = (await client.told("error"))["error"]
        assert (error["code"], "session" in error["message"]) == ("upstream_timeout", True)
        assert (await client.ending()).code == 1001
        turn, session = await ended(house, 2)
    assert (turn["outcome"], session["outcome"]) == ("timed_out", "timed_out")
    assert turn["cost_nanousd"] > 0


async def test_an_answer_that_falls_silent_is_cut_and_a_session_between_answers_is_not(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        while True:
            asked = await link.event("response.create")
            await link.say(created(), *([] if asked["event_id"] == "stall" else [done()]))

    rules = "- {name: t, timeouts: {idle: 100ms}}"
    async with FakeSockets(script) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        patient = await open_at(house)
        for _ in range(3):  # each takes longer than the deadline
            client = await open_at(house)
            client.say({"type": "response.create", "event_id": "stall"})
            assert (await client.told("error"))["error"]["code"] == "upstream_timeout"
            assert (await client.ending()).code == 1001
        patient.say({"type": "response.create", "event_id": "mine"})
        await patient.told("response.done")
        patient.close()
        lines = await ended(house, 8)
    assert [line["outcome"] for line in lines].count("timed_out") == 6


async def test_a_client_that_does_not_read_stops_the_upstream_and_is_cut(tmp_path: Path) -> None:
    sent = 0
    blob = delta("x" * 60_000)

    async def script(link: Link) -> None:
        nonlocal sent
        await link.say(CREATED)
        await link.event("response.create")
        await link.say(created())
        while True:
            await link.say(blob)
            sent += 60_000

    rules = BUDGET + "\n- {name: t, timeouts: {write_stall: 300ms}}"
    async with FakeSockets(script) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, limit=1024)
        client.say({"type": "response.create"})
        lines = await house.logged("call.finished", 2)
    assert [(line["outcome"], line["error"]) for line in lines] == [("client_gone", "client_stalled")] * 2
    assert lines[0]["cost_nanousd"] > 0
    assert sent < 40 << 20, "sockets hold some, we hold next to nothing"


async def test_an_upstream_that_does_not_read_stops_the_client(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(link: Link) -> None:
        await go.wait()

    async with FakeSockets(script) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        event = orjson.dumps({"type": "input_audio_buffer.append", "audio": "A" * 1_000_000})
        sending = asyncio.ensure_future(_pour(client, event, 60))
        done_early, _ = await asyncio.wait([sending], timeout=1.0)
        assert not done_early, "60 MB are in nobody's memory"
        go.set()
        await sending
        link = await upstream.linked()
        await link.received(60)
        assert link.raw == [event] * 60


async def _pour(client: RawSocket, event: bytes, count: int) -> None:
    for _ in range(count):
        client.say(event)
        await client.writer.drain()


FAULTS: dict[str, tuple[bytes, int]] = {
    "unmasked": (b"\x81\x02{}", 1002),
    "reserved bits": (b"\xc1\x82\0\0\0\0{}", 1002),
    "an opcode that is none": (b"\x83\x82\0\0\0\0{}", 1002),
    "a long ping": (b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126, 1002),
    "a ping in fragments": (b"\x09\x81\0\0\0\0x", 1002),
    "a continuation of nothing": (b"\x80\x82\0\0\0\0{}", 1002),
    "a message within a message": (b"\x01\x81\0\0\0\0{\x81\x81\0\0\0\0}", 1002),
    "too large": (b"\x81\xff" + (17 << 20).to_bytes(8, "big") + b"\0\0\0\0", 1009),
    "an absurd length": (b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0", 1009),
    "not UTF-8": (b"\x81\x82\0\0\0\0\xff\xfe", 1007),
    "a bad code": (b"\x88\x82\0\0\0\0\x03\xed", 1002),
}


@pytest.mark.parametrize(("sent", "code"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_broken_frame_ends_the_session_by_its_code(sent: bytes, code: int, tmp_path: Path) -> None:
    async with FakeSockets() as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.writer.write(sent)
        assert (await client.ending()).code == code
        client.leave()
        link = await upstream.linked()
        await link.ended.wait()
        assert link.raw == []
        await ended(house, 1)


async def test_fragments_are_bounded_by_the_policy_and_joined(tmp_path: Path) -> None:
    rules = "- {name: s, request_size: {max: 10KiB}}"
    async with FakeSockets() as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        text = b'{"type":"input_audio_buffer.clear"}'
        client.frame(1, text[:1], fin=False)
        for at in range(1, len(text)):
            client.frame(0, text[at : at + 1], fin=False)
            client.frame(9, b"")
        client.frame(0, b"", fin=True)
        link = await upstream.linked()
        await link.received(1)
        assert link.raw == [text]
        client.frame(1, b"{", fin=False)
        for _ in range(11):
            client.frame(0, b" " * 1024, fin=False)
        assert (await client.ending()).code == 1009


async def test_a_broken_frame_of_the_upstream_is_its_fault(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.event()
        link.writer.write(b"\x81\x82\0\0\0\0{}")

    async with FakeSockets(script) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "input_audio_buffer.clear"})
        assert (await client.told("error"))["error"]["code"] == "upstream_broken"
        assert (await client.ending()).code == 1011


async def test_a_policy_that_changes_holds_for_the_next_turn(tmp_path: Path) -> None:
    async with FakeSockets(answering()) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        await client.told("response.done")
        house.file.write_text(policy("- {name: c, max_tokens: {cap: 33}}"))
        await house.logged("policy.activated", 2)
        client.say({"type": "response.create"})
        await client.told("response.done")
        assert (await upstream.linked()).got[-1]["response"] == {"max_output_tokens": 33}
        house.file.write_text(policy().replace("id: app", "id: other"))
        await house.logged("policy.activated", 3)
        client.say({"type": "response.create"})
        assert (await client.told("error"))["error"]["code"] == "invalid_api_key"
        client.close()
        lines = await house.logged("call.finished", 4)
    assert [line["error"] for line in lines] == [None, None, "invalid_api_key", None]


async def test_sessions_end_when_the_proxy_does(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.say(CREATED)
        await link.event("response.create")
        await link.say(created())
        await link.event("response.cancel")
        await link.say(done(status="cancelled"))

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house)
        client.say({"type": "response.create"})
        await client.told("response.created")
        stopping = asyncio.ensure_future(house.stop())
        assert (await client.told("error"))["error"]["code"] == "draining"
        assert (await client.ending()).code == 1001
        await stopping
        lines = house.lines("call.finished")
    assert [(line["outcome"], line["cost_nanousd"]) for line in lines] == [("completed", COST_NANOUSD), ("drained", 0)]
    assert USAGE["total_tokens"] == lines[0]["input_tokens"] + lines[0]["output_tokens"]


async def test_a_request_behind_another_is_no_opening_but_in_its_turn(tmp_path: Path) -> None:
    async with FakeSockets() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        first = b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\n\r\n"
        second = first.replace(b"\r\n\r\n", b"\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        got = await raw_exchange("127.0.0.1", port_of(house), first + second)
        assert got.count(b"path_not_metered") == 2
        assert upstream.links == []
