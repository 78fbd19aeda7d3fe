"""An app that knows nothing of Tollhouse: the official client, pointed at a process that serves."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from tests.fakes import Abort, FakeUpstream, Send, Step, Wait, json_answer, sse_answer
from tests.house import policy
from tests.whole.conversation import CHAT, OK, RESPONSES_STREAM, STREAM, chunk
from tests.whole.process import Serving

COST_USD = "0.001604"  # of ANSWER: 10 × 0.40 and 1,000 × 1.60 dollars a million
DEFAULTS_WITH_A_KEY = """
- name: everyone
  max_tokens: {cap: 1024}
  rate_limit: {requests: 10, per: minute, by: user}
"""


async def test_each_control_acts_on_the_official_client(tmp_path: Path) -> None:
    """A wrong key, a clamp, a model without a price, and the eleventh call of a burst, each in the client's own words."""
    async with FakeUpstream(default=OK) as upstream:
        async with Serving(tmp_path, policy(DEFAULTS_WITH_A_KEY), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            async with proxy.client("wrong-key") as stranger:
                with pytest.raises(openai.AuthenticationError) as refused:
                    await stranger.chat.completions.create(**CHAT)
            assert (refused.value.code, refused.value.status_code) == ("invalid_api_key", 401)
            assert refused.value.request_id

            clamped = await app.chat.completions.with_raw_response.create(**CHAT, max_tokens=8000)
            assert clamped.headers["tollhouse-clamped"] == "max_tokens=8000->1024"
            assert clamped.headers["tollhouse-cost-usd"] == COST_USD
            assert clamped.parse().choices[0].message.content == "Hi"
            assert orjson.loads((await upstream.arrived()).body)["max_tokens"] == 1024

            with pytest.raises(openai.PermissionDeniedError) as unpriced:
                await app.chat.completions.create(**{**CHAT, "model": "home-made"})
            assert (unpriced.value.code, unpriced.value.param) == ("model_not_priced", "model")

            other = {"x-user": "ben"}
            answers = await asyncio.gather(*(app.chat.completions.create(**CHAT, extra_headers=other) for _ in range(10)))
            assert len(answers) == 10
            with pytest.raises(openai.RateLimitError) as limited:
                await app.chat.completions.create(**CHAT, extra_headers=other)
            assert limited.value.code == "rate_limit_exceeded"
            assert "Policy 'everyone' allows 10 requests per minute. Try again in " in limited.value.message
            assert 1 <= int(limited.value.response.headers["retry-after"]) <= 6
            lines = await proxy.logged("call.finished", 14)
    assert len(upstream.requests) == 11, "nothing that was refused got there"
    assert {line["request_id"] for line in lines} >= {refused.value.request_id, unpriced.value.request_id, limited.value.request_id}


async def test_each_threshold_of_a_budget_sends_one_page_over_restarts_too(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=json_answer(200, {})) as receiver:
        pages = f"pages:\n  team: {{webhook: {{url: '{receiver.url}/pages'}}}}"
        text = policy("- {name: purse, budget: {usd: 0.01, per: month, alarm_at: [50, 100], page: [team]}}", more=pages)
        for threshold in (50, 100):
            async with Serving(tmp_path, text, upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
                for _ in range(6):
                    await app.chat.completions.create(**CHAT)
                [crossed] = await proxy.logged("budget.crossed")
                [delivered] = await proxy.logged("page.delivered")
            assert (crossed["threshold"], delivered["sink"]) == (threshold, "team")
    assert [orjson.loads(request.body)["data"]["threshold_percent"] for request in receiver.requests] == [50, 100]


async def test_a_stream_is_what_the_app_asked_for(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            upstream.queue(sse_answer(STREAM))
            chunks = [c async for c in await app.chat.completions.create(**CHAT, stream=True)]
            upstream.queue(sse_answer(STREAM))
            counted = await app.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
            last = [c async for c in counted][-1]
            upstream.queue(sse_answer(RESPONSES_STREAM))
            events = [e.type async for e in await app.responses.create(model="gpt-4.1", input="Hello", stream=True)]
            lines = await proxy.logged("call.finished", 3)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello"
    assert all(c.usage is None for c in chunks)
    assert last.usage is not None
    assert last.usage.completion_tokens == 2
    assert events == ["response.created", "response.output_text.delta", "response.completed"]
    assert [(line["output_tokens"], line["usage_source"]) for line in lines] == [(2, "reported"), (2, "reported"), (1, "reported")]


# How a chat stream can break, and the code that the app sees.
BREAKS: dict[str, tuple[list[Step], str]] = {
    "cut in mid-answer": (sse_answer(STREAM, cut_after=2), "upstream_broken"),
    "at its end without [DONE]": (sse_answer(STREAM, cut_after=2, framing="close"), "upstream_broken"),
    "reset": ([*sse_answer(STREAM, cut_after=2)[:-1], Abort()], "upstream_broken"),
    "an error within": (sse_answer([*STREAM[:2], b'data: {"error":{"message":"lost"}}\n\n', STREAM[-1]]), "upstream_error"),
}


async def test_a_chat_stream_that_breaks_raises_in_the_app(tmp_path: Path) -> None:
    """An APIError itself, and not one about the connection, which would not name the cause."""
    raised = {}
    async with FakeUpstream() as upstream:
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            for name, (script, _) in BREAKS.items():
                upstream.queue(script)
                stream = await app.chat.completions.create(**CHAT, stream=True)
                with pytest.raises(openai.APIError) as broken:
                    assert [c.choices[0].delta.content async for c in stream] == ["never reached"]
                raised[name] = (type(broken.value), broken.value.code)
    assert raised == {name: (openai.APIError, code) for name, (_, code) in BREAKS.items()}


async def test_a_responses_stream_that_breaks_raises_in_the_app(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer(RESPONSES_STREAM, cut_after=2))
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            stream = await app.responses.create(model="gpt-4.1", input="Hello", stream=True)
            with pytest.raises(openai.APIError) as broken:
                assert [e.type async for e in stream] == ["never reached"]
    assert broken.value.code == "upstream_broken"


async def test_the_client_comes_back_when_a_refusal_says_so(tmp_path: Path) -> None:
    """A slot is promised in a second; the client's own first backoff is at most half of one."""
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue([Wait(go), *OK])
        text = policy("- {name: narrow, concurrency: {calls: 1, by: key}}")
        async with Serving(tmp_path, text, upstream=upstream.url + "/v1") as proxy, proxy.client(max_retries=2) as app:
            first = asyncio.create_task(app.chat.completions.create(**CHAT))
            await upstream.arrived()
            second = asyncio.create_task(app.chat.completions.create(**CHAT, extra_headers={"x-request-id": "again"}))
            [refused] = await proxy.logged("call.finished")
            go.set()
            await asyncio.gather(first, second)
            tries = [line for line in await proxy.logged("call.finished", 3) if line["request_id"] == "again"]
    assert refused["refused_by"] == "narrow.concurrency"
    assert [line["outcome"] for line in tries] == ["refused", "completed"]
    assert arrival_s(tries[1]) - arrival_s(tries[0]) >= 0.99, "and not after half a second"
    assert upstream.requests[1].header("x-stainless-retry-count") == "1"


def arrival_s(line: dict[str, Any]) -> float:
    """When a call came, from its log line."""
    return datetime.fromisoformat(line["ts"]).timestamp() - float(line["total_ms"]) / 1000


async def test_the_client_does_not_come_back_to_a_budget_that_is_spent(tmp_path: Path) -> None:
    text = policy("- {name: purse, budget: {usd: 0.000001, per: day, when_spent: reject}}")
    async with FakeUpstream() as upstream:
        async with Serving(tmp_path, text, upstream=upstream.url + "/v1") as proxy, proxy.client(max_retries=2) as app:
            with pytest.raises(openai.RateLimitError) as spent:
                await app.chat.completions.create(**CHAT)
            upstream.queue(json_answer(200, {"object": "list", "data": []}))
            await app.models.list()
            lines = await proxy.logged("call.finished", 2)
    assert spent.value.code == "budget_exceeded"
    assert [line["surface"] for line in lines] == ["chat", "models"], "one try, then something else"


@pytest.mark.parametrize(("hint", "tries"), [({"retry-after-ms": "1"}, 3), ({"x-should-retry": "false"}, 1)])
async def test_an_upstreams_hints_reach_the_client(tmp_path: Path, hint: dict[str, str], tries: int) -> None:
    async with FakeUpstream(default=json_answer(503, {"error": {"message": "busy"}}, headers=hint)) as upstream:
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client(max_retries=2) as app:
            with pytest.raises(openai.InternalServerError) as failed:
                await app.chat.completions.create(**CHAT)
    assert failed.value.status_code == 503
    assert len(upstream.requests) == tries


async def test_every_answer_has_a_request_id_that_its_log_line_has_too(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            mine = await app.chat.completions.with_raw_response.create(**CHAT, extra_headers={"x-request-id": "mine-1"})
            made = await app.chat.completions.with_raw_response.create(**CHAT)
            upstream.queue(sse_answer(STREAM))
            streamed = await app.chat.completions.with_raw_response.create(**CHAT, stream=True)
            async for _ in streamed.parse():
                pass
            seen = [answer.headers["x-request-id"] for answer in (mine, made, streamed)]
            for path, headers in (("/v1/nowhere", {}), ("/", {}), ("/v1/models", {"authorization": "Basic x"})):
                _, sent, _ = await proxy.post(path, b"", headers)
                seen.append(sent["x-request-id"])
            lines = await proxy.logged("call.finished", 6)
    assert seen[0] == "mine-1"
    assert len(set(seen)) == 6
    assert [line["request_id"] for line in lines] == seen


async def test_a_body_with_every_script_arrives_and_comes_back_unchanged(tmp_path: Path) -> None:
    text = "שלום · مرحبا · e\u0301 · 👩‍👩‍👧 🇳🇱 · 𝄞 · \u200fאבג\u200e · \u2028"
    script = sse_answer([chunk(text), chunk("", finish="stop"), STREAM[-1]], splits=[1] * 150)
    async with FakeUpstream() as upstream:
        upstream.queue([step for step in script if isinstance(step, Send)])
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            messages: Any = [{"role": "user", "content": text}]
            stream = await app.chat.completions.create(model="gpt-4.1-mini", messages=messages, stream=True)
            said = [c.choices[0].delta.content async for c in stream]
    assert "".join(part or "" for part in said) == text
    assert orjson.loads(upstream.requests[0].body)["messages"] == messages
