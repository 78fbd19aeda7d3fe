"""Responses over a WebSocket: a `response.create` is a call of /v1/responses in everything but its framing."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.house import House, policy
from tests.proxy.realtime.test_session import BUDGET, ended, open_at, quotas
from tests.sockets import FakeSockets, Link

TARGET = "/v1/responses"
USAGE = {"input_tokens": 10, "output_tokens": 1000, "total_tokens": 1010, "input_tokens_details": {"cached_tokens": 0}}
COST_NANOUSD = 1_604_000  # with gpt-4.1-mini
ASK: dict[str, Any] = {"type": "response.create", "model": "gpt-4.1-mini", "input": "Hello"}


def response(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "object": "response", "model": "gpt-4.1-mini-2025", "output": [], **more}


def answer(id: str, *, end: str = "completed", usage: Any = USAGE, **more: Any) -> list[dict[str, Any]]:
    return [
        {"type": "response.created", "sequence_number": 0, "response": response(id, status="in_progress"), **more},
        {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Hi", **more},
        {"type": f"response.{end}", "sequence_number": 2, "response": response(id, status=end, usage=usage), **more},
    ]


def answering(**more: Any) -> Callable[[Link], Coroutine[Any, Any, None]]:
    async def script(link: Link) -> None:
        count = 0
        while True:
            await link.event("response.create")
            count += 1
            await link.say(*answer(f"resp_{count}", **more))

    return script


async def test_a_reply_is_a_call_of_responses(tmp_path: Path) -> None:
    rules = BUDGET + "\n- {name: c, match: {paths: [/v1/responses]}, max_tokens: {cap: 500}, rate_limit: {requests: 3, per: hour}}"
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say({**ASK, "max_output_tokens": 4000})
        assert (await client.told("response.completed"))["response"]["usage"] == USAGE
        assert quotas(house) == [(COST_NANOUSD, 0)]
        client.say(ASK)
        await client.told("response.completed")
        client.say(ASK)
        error = await client.told("error")
        assert (error["code"], error["error"]["code"], error["status"]) == ("rate_limit_exceeded", "rate_limit_exceeded", 429)
        link = await upstream.linked()
        assert [event["max_output_tokens"] for event in link.got] == [500, 500]
        client.close()
        lines = await ended(house, 4)
    assert [(line["surface"], line["status"], line["cost_nanousd"]) for line in lines] == [
        ("responses", 200, COST_NANOUSD),
        ("responses", 200, COST_NANOUSD),
        ("responses", 429, 0),
        ("realtime", 101, 0),
    ]
    assert lines[0]["model_served"] == "gpt-4.1-mini-2025"
    assert lines[0]["clamped"] == "max_output_tokens=4000->500"


async def test_models_tools_and_doubles_are_judged_as_in_a_body(tmp_path: Path) -> None:
    rules = '- {name: m, models: {allow: ["gpt-4.1*"], alias: {small: gpt-4.1-nano}}}'
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        for change, code in (
            ({"model": "o3"}, "model_not_allowed"),
            ({"model": "gpt-4.1-unheard"}, "model_not_priced"),
            ({"tools": [{"type": "web_search"}]}, "tool_not_priced"),
            ({"stream_id": 7}, "invalid_type"),
            ({"max_output_tokens": "x"}, "invalid_type"),
        ):
            client.say({**ASK, **change})
            assert (await client.told("error"))["code"] == code
        client.say(b'{"type":"response.create","model":"o3","model":"gpt-4.1","input":"x"}')
        assert (await client.told("error"))["code"] == "duplicate_field"
        client.say({**ASK, "model": "small"})
        await client.told("response.completed")
        assert (await upstream.linked()).got == [{**ASK, "model": "gpt-4.1-nano"}]


async def test_what_a_reply_goes_on_from_is_held_at_what_it_was(tmp_path: Path) -> None:
    """0.05 dollars are far less than the model's context costs, which is what is held where nobody knows."""
    rules = "- {name: purse, max_tokens: {cap: 2000}, budget: {usd: 0.05, per: day, when_spent: reject, least_cap: 2000}}"
    async with FakeSockets(answering()) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say(ASK)
        await client.told("response.completed")
        client.say({**ASK, "previous_response_id": "resp_1"})
        await client.told("response.completed")
        client.say({**ASK, "previous_response_id": "resp_unknown"})
        assert (await client.told("error"))["code"] == "budget_exceeded"


async def test_lanes_are_told_apart(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        for _ in range(2):
            await link.event("response.create")
        one, two = answer("resp_a", stream_id="a"), answer("resp_b", stream_id="b", usage={**USAGE, "output_tokens": 500})
        await link.say(one[0], two[0], two[1], two[2], one[1], one[2])

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say({**ASK, "stream_id": "a"})
        client.say({**ASK, "stream_id": "b"})
        for _ in range(2):
            await client.told("response.completed")
        client.close()
        lines = await ended(house, 3)
    assert [line["output_tokens"] for line in lines] == [500, 1000, 0]


async def test_a_successor_that_begins_by_itself_is_held_and_paid_for(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.event("response.create")
        await link.say(*answer("resp_1", end="incomplete"), *answer("resp_2"))

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say(ASK)
        await client.told("response.completed")
        assert quotas(house) == [(2 * COST_NANOUSD, 0)]


async def test_one_that_may_not_ends_the_session_and_is_paid_for(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.event("response.create")
        await link.say(*answer("resp_1", end="incomplete"), answer("resp_2")[0])

    rules = "- {name: purse, budget: {usd: 0.01, per: day, when_spent: reject}}"
    async with FakeSockets(script) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say(ASK)
        assert (await client.told("error"))["code"] == "budget_exceeded"
        assert (await client.ending()).code == 1008
        lines = await ended(house, 3)
    assert lines[1]["cost_nanousd"] > 0


BROKEN: dict[str, tuple[list[Any], str, bool]] = {
    "an error before it begins": ([{"type": "error", "status": 400, "error": {"message": "no", "code": "x"}}], "upstream_error", False),
    "an error within": ([answer("r")[0], answer("r")[1], {"type": "error", "code": "x", "message": "at gpu.internal:80"}],
                        "upstream_error", True),
    "failed": ([answer("r")[0], {"type": "response.failed", "response": response("r", status="failed", error={"code": "server_error"})}],
               "upstream_error", True),
}  # fmt: skip


@pytest.mark.parametrize(("said", "outcome", "paid"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_reply_that_breaks_is_paid_for_by_what_came(said: list[Any], outcome: str, paid: bool, tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.event("response.create")
        await link.say(*said)

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say({**ASK, "max_output_tokens": 100})
        while (told := await client.told())["type"] not in ("error", "response.failed"):
            pass
        assert "gpu.internal" not in str(told)
        client.close()
        reply, _ = await ended(house, 2)
    assert (reply["outcome"], reply["cost_nanousd"] > 0) == (outcome, paid)


async def test_a_client_that_leaves_pays_for_what_came(tmp_path: Path) -> None:
    async def script(link: Link) -> None:
        await link.event("response.create")
        await link.say(*answer("resp_1")[:2])

    async with FakeSockets(script) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say(ASK)
        await client.told("response.output_text.delta")
        client.leave()
        reply, _ = await ended(house, 2)
    assert (reply["usage_source"], reply["outcome"], reply["output_tokens"]) == ("counted", "client_gone", 1)


async def test_a_policy_may_have_it_read_on(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def script(link: Link) -> None:
        await link.event("response.create")
        await link.say(*answer("resp_1")[:2])
        await left.wait()
        await link.say(answer("resp_1")[2])

    rules = BUDGET + "\n- {name: d, on_disconnect: {do: drain, for_at_most: 5s}}"
    async with FakeSockets(script) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        client = await open_at(house, TARGET)
        client.say(ASK)
        await client.told("response.output_text.delta")
        client.leave()
        left.set()
        reply, session = await ended(house, 2)
    assert (reply["usage_source"], reply["cost_nanousd"]) == ("reported", COST_NANOUSD)
    assert session["outcome"] == "client_gone"


async def test_the_official_client_talks_through_it(tmp_path: Path) -> None:
    async with FakeSockets(answering()) as upstream, House(policy(BUDGET), upstream.url + "/v1", tmp_path) as house:
        async with openai.AsyncOpenAI(base_url=house.url + "/v1", api_key="app-key") as app, app.responses.connect() as link:
            await link.response.create(model="gpt-4.1-mini", input="Hello")
            kinds = []
            async for event in link:
                kinds.append(event.type)
                if event.type == "response.completed":
                    break
        assert kinds == ["response.created", "response.output_text.delta", "response.completed"]
        await ended(house, 2)
