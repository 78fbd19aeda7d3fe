"""Every policy the product was ordered for, acting on calls through the whole proxy."""

import asyncio
import time
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fakes import FakeUpstream, UntilClosed, Wait, json_answer
from tests.house import CHAT, House, error_of, hash_of, policy

CHAT_PATH = "/v1/chat/completions"
ANSWER = {
    "model": "gpt-4.1-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1000, "total_tokens": 1010},
}
OK = json_answer(200, ANSWER)
COST_NANOUSD = 10 * 400 + 1000 * 1600  # of ANSWER, for gpt-4.1-mini


async def test_the_eleventh_call_of_a_burst_is_told_which_policy_which_limit_and_when(tmp_path: Path) -> None:
    rules = "- {name: everyone, rate_limit: {requests: 10, per: minute, by: user}}"
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        for left in range(9, -1, -1):
            status, headers, _ = await house.post(CHAT_PATH, CHAT)
            assert (status, headers["x-ratelimit-remaining-requests"]) == (200, str(left))
        status, headers, body = await house.post(CHAT_PATH, CHAT)
        other, _, _ = await house.post(CHAT_PATH, CHAT, headers={"x-user": "somebody else"})
        text = await house.metrics()
    error = error_of(body)
    assert status == 429
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "'everyone'" in error["message"]
    assert "10 requests per minute" in error["message"]
    assert 1 <= int(headers["retry-after"]) <= 6
    assert int(headers["retry-after-ms"]) <= 6000
    assert headers["ratelimit-policy"] == '"everyone";q=10;w=60'
    assert headers["ratelimit"].startswith('"everyone";r=0;t=')
    assert other == 200, "each user has a bucket"
    assert len(upstream.requests) == 11
    assert 'tollhouse_refusals_total{policy="everyone",clause="rate_limit",mode="enforce"} 1' in text


async def test_no_more_calls_run_at_once_than_are_allowed(tmp_path: Path) -> None:
    rules = "- {name: narrow, concurrency: {calls: 2, by: key}}"
    go = asyncio.Event()
    async with FakeUpstream(default=[Wait(go), *OK]) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        running = [asyncio.create_task(house.post(CHAT_PATH, CHAT)) for _ in range(2)]
        await upstream.arrived(2)
        refused, _, body = await house.post(CHAT_PATH, CHAT)
        go.set()
        finished = [(await call)[0] for call in running]
        after, _, _ = await house.post(CHAT_PATH, CHAT)
    assert (refused, error_of(body)["code"]) == (429, "concurrency_limit_exceeded")
    assert finished == [200, 200]
    assert after == 200


async def test_a_token_limit_holds_the_worst_case_and_gives_back_what_was_not_used(tmp_path: Path) -> None:
    rules = "- {name: tokens, max_tokens: {cap: 4000}, token_limit: {tokens: 7000, per: hour, by: key, least_cap: 4000}}"
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        left = []
        for _ in range(3):
            status, headers, _ = await house.post(CHAT_PATH, CHAT)
            assert status == 200
            left.append(int(headers["x-ratelimit-remaining-tokens"]))
        refused, headers, body = await house.post(CHAT_PATH, CHAT)
    assert [round(n, -2) for n in left] == [6000, 5000, 4000], "1,010 were used each time, not 4,000"
    assert (refused, error_of(body)["code"]) == (429, "token_limit_exceeded")
    assert 0 < int(headers["retry-after"]) <= 3600


async def test_a_call_that_asks_for_more_tokens_than_the_whole_limit_is_told_that_waiting_is_no_use(tmp_path: Path) -> None:
    rules = "- {name: tokens, token_limit: {tokens: 1000, per: minute, by: key}}"
    long = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "budget " * 1200}]}
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        status, headers, body = await house.post(CHAT_PATH, {**long, "max_tokens": 5000})
    assert status == 429
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    assert "lower output cap" in error_of(body)["message"]


async def test_the_tokenizer_is_asked_before_a_byte_bound_refuses(tmp_path: Path) -> None:
    """A prompt of 6,000 bytes and about 1,000 tokens fits into a limit of 2,000."""
    rules = "- {name: tokens, max_tokens: {cap: 50}, token_limit: {tokens: 2000, per: minute, by: key}}"
    long = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "budget " * 900}]}
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        status, _, _ = await house.post(CHAT_PATH, long)
    assert status == 200


async def test_a_budget_that_rejects_refuses_what_it_cannot_pay_and_says_when_it_turns(tmp_path: Path) -> None:
    rules = "- {name: purse, max_tokens: {cap: 1000}, budget: {usd: 0.005, per: day, by: everyone, when_spent: reject, least_cap: 1000}}"
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        statuses = []
        for _ in range(4):
            status, headers, body = await house.post(CHAT_PATH, CHAT)
            statuses.append(status)
        text = await house.metrics()
    assert statuses == [200, 200, 200, 429], "three calls of 0.0016 dollars each leave too little for a fourth"
    error = error_of(body)
    assert error["code"] == "budget_exceeded"
    assert "'purse'" in error["message"]
    assert "0.005 USD per day" in error["message"]
    assert headers["x-should-retry"] == "false"
    assert 0 < int(headers["retry-after"]) <= 86_400
    assert 'tollhouse_budget_spent_ratio{policy="purse"} 0.9624' in text
    turns_s = next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("tollhouse_budget_reset_timestamp_seconds{")
    )
    assert turns_s % 86_400 == 0
    assert 0 < turns_s - time.time() <= 86_400


async def test_parallel_calls_do_not_get_past_a_budget(tmp_path: Path) -> None:
    rules = "- {name: purse, max_tokens: {cap: 1000}, budget: {usd: 0.0101, per: day, when_spent: reject, least_cap: 1000}}"
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        answers = await asyncio.gather(*(house.post(CHAT_PATH, CHAT) for _ in range(60)))
        lines = await house.logged("call.finished", 60)
    spent = sum(line["cost_nanousd"] for line in lines)
    assert {status for status, _, _ in answers} == {200, 429}
    assert spent <= 10_100_000
    assert spent == 6 * COST_NANOUSD


async def test_crossing_half_of_a_budget_sends_exactly_one_page(tmp_path: Path) -> None:
    pages: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        pages.append(await request.read())
        return web.Response()

    receiver = web.Application()
    receiver.router.add_post("/pages", take)
    async with TestServer(receiver) as server, FakeUpstream(default=OK) as upstream:
        more = f"pages:\n  team: {{webhook: {{url: '{server.make_url('/pages')}'}}}}"
        rules = "- {name: purse, budget: {usd: 0.01, per: day, by: everyone, alarm_at: [50], page: [team]}}"
        async with House(policy(rules, more=more), upstream.url + "/v1", tmp_path) as house:
            for _ in range(2):
                await house.post(CHAT_PATH, CHAT)
            assert pages == [], "0.0032 of 0.01 dollars is below half"
            for _ in range(6):
                await house.post(CHAT_PATH, CHAT)
            [line] = await house.logged("page.delivered")
            [crossed] = await house.logged("budget.crossed")
        async with House(house.file.read_text(), upstream.url + "/v1", tmp_path) as again:
            await again.post(CHAT_PATH, CHAT)
            await again.logged("call.finished", 9)
    assert len(pages) == 1, "also after a restart"
    said = orjson.loads(pages[0])
    assert said["type"] == "budget.threshold_crossed"
    assert line["sink"] == "team"
    assert (crossed["policy"], crossed["threshold"], crossed["limit_nanousd"]) == ("purse", 50, 10_000_000)


async def test_a_restart_keeps_what_was_spent(tmp_path: Path) -> None:
    rules = "- {name: purse, max_tokens: {cap: 1000}, budget: {usd: 0.003, per: day, when_spent: reject, least_cap: 1000}}"
    async with FakeUpstream(default=OK) as upstream:
        async with House(policy(rules), upstream.url + "/v1", tmp_path) as house:
            first, _, _ = await house.post(CHAT_PATH, CHAT)
        async with House(policy(rules), upstream.url + "/v1", tmp_path) as house:
            second, _, body = await house.post(CHAT_PATH, CHAT)
    assert (first, second) == (200, 429)
    assert "0.001396 USD are left" in error_of(body)["message"]


async def test_an_alarm_budget_counts_and_lets_pass(tmp_path: Path) -> None:
    rules = "- {name: purse, budget: {usd: 0.001, per: day, when_spent: alarm, alarm_at: [100]}}"
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        statuses = [(await house.post(CHAT_PATH, CHAT))[0] for _ in range(3)]
        crossed = await house.logged("budget.crossed")
    assert statuses == [200, 200, 200]
    assert len(crossed) == 1


async def test_every_choice_is_held_for(tmp_path: Path) -> None:
    rules = "- {name: purse, budget: {usd: 0.01, per: day, when_spent: reject, least_cap: 1000}}"
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        one, _, _ = await house.post(CHAT_PATH, {**CHAT, "max_tokens": 1000})
        many, _, _ = await house.post(CHAT_PATH, {**CHAT, "max_tokens": 1000, "n": 10})
        prompts = {"model": "gpt-3.5-turbo-instruct", "prompt": ["a"] * 10, "max_tokens": 1000}
        array, _, _ = await house.post("/v1/completions", prompts)
    assert (one, many, array) == (200, 429, 429)


async def test_a_shadowed_policy_counts_what_it_would_refuse_and_refuses_nothing(tmp_path: Path) -> None:
    rules = (
        """- {name: strict, mode: shadow, models: {allow: [other]}, rate_limit: {requests: 1, per: hour}, max_tokens: {cap: 5}}"""
    )
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        for _ in range(3):
            status, headers, _ = await house.post(CHAT_PATH, CHAT)
            assert status == 200
            assert "tollhouse-clamped" not in headers
        text = await house.metrics()
    assert 'tollhouse_refusals_total{policy="strict",clause="rate_limit",mode="shadow"} 2' in text
    assert 'tollhouse_refusals_total{policy="strict",clause="models",mode="shadow"} 3' in text
    assert orjson.loads(upstream.requests[0].body) == CHAT


@pytest.mark.parametrize(
    ("rules", "body", "status", "code"),
    [
        ("- {name: a, models: {allow: ['gpt-4.1*']}}", CHAT, 200, None),
        ("- {name: a, models: {allow: ['gpt-5*']}}", CHAT, 403, "model_not_allowed"),
        ("- {name: a, models: {allow: ['gpt-4.1*']}}", {**CHAT, "model": "GPT-4.1-mini"}, 403, "model_not_allowed"),
        ("", {**CHAT, "model": "home-made"}, 403, "model_not_priced"),
        ("- {name: a, max_tokens: {cap: 100, when_over: reject}}", {**CHAT, "max_tokens": 101}, 400, "max_tokens_exceeded"),
        ("- {name: a, max_tokens: {cap: 100, when_over: reject}}", {**CHAT, "max_tokens": 100}, 200, None),
        ("- {name: a, request_size: {max: 40B}}", CHAT, 413, "request_too_large"),
        ("- {name: a, match: {models: ['gpt-4.1*']}, request_size: {max: 40B}}", CHAT, 413, "request_too_large"),
        ("- {name: a, match: {tags: [batch]}, request_size: {max: 40B}}", CHAT, 200, None),
        ("- {name: a, match: {paths: [/v1/embeddings]}, request_size: {max: 40B}}", CHAT, 200, None),
    ],
)
async def test_a_policy_refuses_what_it_names_and_nothing_else(
    tmp_path: Path, rules: str, body: object, status: int, code: str | None
) -> None:
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        seen, _, answer = await house.post(CHAT_PATH, body)
        [line] = await house.logged("call.finished")
    assert seen == status
    if code is not None:
        assert error_of(answer)["code"] == code
        assert line["outcome"] == "refused"
        assert upstream.received_bytes == 0


async def test_an_alias_sends_another_model_and_the_price_is_of_the_one_sent(tmp_path: Path) -> None:
    rules = "- {name: a, models: {alias: {fast: gpt-4.1-mini}, allow: [gpt-4.1-mini]}, max_tokens: {cap: 10}}"
    async with FakeUpstream(default=OK) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        status, headers, _ = await house.post(CHAT_PATH, {**CHAT, "model": "fast"})
        [line] = await house.logged("call.finished")
    assert status == 200
    assert orjson.loads(upstream.requests[0].body) == {**CHAT, "max_completion_tokens": 10}
    assert headers["tollhouse-clamped"] == "max_completion_tokens=none->10"
    assert (line["model_asked"], line["cost_nanousd"]) == ("fast", COST_NANOUSD)


async def test_a_responses_cap_is_never_clamped_below_what_the_api_takes(tmp_path: Path) -> None:
    answer = {"model": "gpt-4.1", "status": "completed", "output": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    async with FakeUpstream(default=json_answer(200, answer)) as upstream:
        async with House(policy("- {name: a, max_tokens: {cap: 3}}"), upstream.url + "/v1", tmp_path) as house:
            _, headers, _ = await house.post("/v1/responses", {"model": "gpt-4.1", "input": "x", "max_output_tokens": 500})
    assert headers["tollhouse-clamped"] == "max_output_tokens=500->16"
    assert orjson.loads(upstream.requests[0].body)["max_output_tokens"] == 16


async def test_a_background_run_is_billed_at_its_bound_since_nobody_knows_better(tmp_path: Path) -> None:
    receipt = {"id": "resp_1", "model": "gpt-4.1", "status": "queued", "output": [], "usage": None}
    async with FakeUpstream(default=json_answer(200, receipt)) as upstream:
        async with House(policy("- {name: a, max_tokens: {cap: 100}}"), upstream.url + "/v1", tmp_path) as house:
            await house.post("/v1/responses", {"model": "gpt-4.1", "input": "x", "background": True})
            [line] = await house.logged("call.finished")
    assert line["usage_source"] == "estimated"
    assert line["output_tokens"] == 100
    assert line["cost_nanousd"] >= 100 * 8000


@pytest.mark.parametrize(
    ("keys", "presented", "status", "code"),
    [
        ("- {id: app, anonymous: true}", None, 200, None),
        ("- {id: app, anonymous: true}", "whatever the SDK sends", 200, None),
        (f"- {{id: app, anonymous: true}}\n  - {{id: web, hash: '{hash_of('right')}'}}", "right", 200, None),
        (f"- {{id: app, anonymous: true}}\n  - {{id: web, hash: '{hash_of('right')}'}}", "wrong", 401, "invalid_api_key"),
        (f"- {{id: web, hash: '{hash_of('right')}', expires: 2020-01-01}}", "right", 401, "expired_api_key"),
        (f"- {{id: web, hash: '{hash_of('right')}'}}", None, 401, "missing_api_key"),
    ],
)
async def test_who_may_call(tmp_path: Path, keys: str, presented: str | None, status: int, code: str | None) -> None:
    before, _, rest = policy().partition("keys:\n")
    text = before + "keys:\n  " + keys + "\n" + rest.partition("\n")[2]
    async with FakeUpstream(default=OK) as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        seen, _, body = await house.post(CHAT_PATH, CHAT, key=presented)
    assert seen == status
    if code is not None:
        assert error_of(body)["code"] == code
    else:
        sent = dict(upstream.requests[0].headers)
        assert "right" not in str(sent)
        assert "whatever" not in str(sent)


async def test_a_call_that_times_out_gives_its_slot_back(tmp_path: Path) -> None:
    rules = "- {name: a, concurrency: {calls: 1}, timeouts: {first_byte: 100ms}}"
    async with FakeUpstream() as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        upstream.queue([UntilClosed()])
        upstream.queue(OK)
        first, _, _ = await house.post(CHAT_PATH, CHAT)
        second, _, _ = await house.post(CHAT_PATH, CHAT)
    assert (first, second) == (504, 200)
