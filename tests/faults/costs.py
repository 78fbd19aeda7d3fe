"""Abuse of what costs money: rows B10, B11 and B15."""

import asyncio
import json
from typing import Any

import orjson

from tests.fakes import FakeUpstream, Wait
from tests.faults.fuzzed import fuzzed
from tests.faults.malformed import PATH
from tests.faults.rig import CHAT, KEY, OK, PATIENT, Proxy, Rig
from tests.faults.row import row
from tests.house import error_of
from tests.whole.process import ran

IN_NANOUSD, OUT_NANOUSD = 400, 1600  # of gpt-4.1-mini, for a token


_WRONG: tuple[tuple[str, Any], ...] = tuple(
    (field, value)
    for field in ("max_tokens", "max_completion_tokens", "n", "best_of", "max_tool_calls")
    for value in (1.0, 1.5, "1", "", True, False, [1], {"a": 1}, -1, 10**12, 2**64, 1e30, "1e3")
) + tuple((field, value) for field in ("stream", "background") for value in ("true", 1, 0, [], {})) + (
    ("model", 1), ("model", ""), ("model", ["gpt-4.1-mini"]), ("model", "a\nb"), ("model", None),
    ("messages", "Hello"), ("messages", {"role": "user"}), ("messages", None),
    ("stream_options", True), ("stream_options", []), ("service_tier", 1), ("service_tier",
    "Flex "), ("n_predict", 5), ("n_cmpl", 5),
)  # fmt: skip


@row(
    "B10",
    "wrong types and absurd numbers in the fields that cost money",
    "400 that names the field, nothing upstream; whatever is accepted is held for at least as much as an honest upstream can bill",
)
async def wrong_types(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        for field, value in _WRONG:
            status, _, body = await proxy.post(PATH.decode(), json.dumps({**CHAT, field: value}).encode(), KEY)
            error = error_of(body)
            assert (status, error["param"]) == (400, field), f"{field}={value!r}: {status} {body!r}"
            assert error["code"] in ("invalid_type", "invalid_value", "missing_field"), error
        assert upstream.received_bytes == 0
        for sound in ({"max_tokens": 0}, {"max_tokens": None}, {"n": 1, "stream": None}):
            assert (await proxy.chat(**sound))[0] == 200
        tried = await fuzzed("bodies", rig, seconds=45)
    return f"{len(_WRONG)} wrong values by name; at random {tried}"


@row(
    "B11",
    "128 choices, best of 20, 2,048 prompts",
    "exactly what they can cost is held while they run; refused where that is more than is left",
)
async def many_choices(rig: Rig) -> str:
    chat = {**CHAT, "max_tokens": 1000, "n": 128}
    prompts = {"model": "gpt-4.1-mini", "prompt": ["a"] * 2048, "max_tokens": 100, "n": 2, "best_of": 20}
    calls = (
        ("/v1/chat/completions", chat, 128 * 1000),
        ("/v1/completions", {**prompts, "prompt": "a", "n": 1}, 20 * 100),
        ("/v1/completions", {**prompts, "n": 1, "best_of": None, "max_tokens": 10}, 2048 * 10),
    )
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, alone=True, timeouts=PATIENT) as proxy:
        for number, (path, fields, output) in enumerate(calls, 1):
            go = asyncio.Event()
            upstream.queue([Wait(go), *OK])
            body = orjson.dumps(fields)
            call = asyncio.create_task(proxy.post(path, body, KEY))
            await upstream.arrived(number)
            held = await _held_nanousd(proxy)
            go.set()
            assert (await call)[0] == 200
            assert held == len(body) * IN_NANOUSD + output * OUT_NANOUSD, f"{path}: {held} nanodollars held"
            async with asyncio.timeout(10):
                while await _held_nanousd(proxy):
                    await asyncio.sleep(0.02)
        # 2,048 prompts, 20 tries of 100 tokens each, would be 6.55 dollars of a budget of 5.
        status, headers, body = await proxy.post("/v1/completions", orjson.dumps(prompts), KEY)
        assert status == 200 or error_of(body)["code"] == "budget_exceeded", body
        if status == 200:
            sent = orjson.loads(upstream.requests[-1].body)
            assert 2048 * 20 * sent["max_tokens"] * OUT_NANOUSD <= 5 * 10**9, "it was made to fit"
            assert "max_tokens=100->" in headers["tollhouse-clamped"]
        reached = len(upstream.requests)
        status, _, body = await proxy.post(
            "/v1/completions", orjson.dumps({**prompts, "max_tokens": 2**31 - 1, "prompt": ["a"] * 60_000}), KEY
        )
        assert (status, error_of(body)["code"]) == (429, "budget_exceeded")
        assert len(upstream.requests) == reached
    return "three holds, exact to the nanodollar; one beyond the budget lowered to fit, one refused"


async def _held_nanousd(proxy: Proxy) -> int:
    usage = await asyncio.to_thread(ran, proxy.state.parent, "usage", "--json", "--state-dir", str(proxy.state))
    assert usage.returncode == 0, usage.stderr
    return int(json.loads(usage.stdout)["total"]["held_nanousd"])


@row(
    "B15",
    "200 calls at once where one more fits",
    "as many are let through as fit, to the unit, and the others are told 429: by requests, by running calls, by money",
    tests=("tests/proxy/state/test_conservation.py",),
)
async def burst(rig: Rig) -> str:
    at_once, rounds = rig.times(short=60, long=200), rig.times(short=1, long=20)
    body = orjson.dumps(CHAT)
    hold = len(body) * IN_NANOUSD + CHAT["max_tokens"] * OUT_NANOUSD
    fits = 3
    usd = (hold * fits + CHAT["max_tokens"] * OUT_NANOUSD // 2) / 10**9
    money = f"budget: {{usd: {usd:.9f}, per: month, by: user, when_spent: reject, least_cap: 1000}}"
    rules = f"""
- {{name: few, match: {{keys: [app], paths: [/v1/chat/completions]}}, rate_limit: {{requests: 1, per: hour, by: user}}}}
- {{name: slots, match: {{paths: [/v1/completions]}}, concurrency: {{calls: 1, by: user}}}}
- {{name: money, match: {{paths: [/v1/responses]}}, {money}}}
"""
    async with FakeUpstream() as upstream, rig.proxy(upstream, rules=rules, timeouts=PATIENT) as proxy:
        for number in range(rounds):
            for path, expected in (("/v1/chat/completions", 1), ("/v1/completions", 1), ("/v1/responses", fits)):
                fields = {"model": "gpt-4.1-mini", "max_tokens": CHAT["max_tokens"], "messages": CHAT["messages"]}
                if path == "/v1/completions":
                    fields = {"model": "gpt-4.1-mini", "max_tokens": 50, "prompt": "a"}
                elif path == "/v1/responses":
                    fields = {"model": "gpt-4.1-mini", "max_output_tokens": 50, "input": "a"}
                    fields["input"] = "a" * (len(body) - len(orjson.dumps(fields)) + 1)
                    assert len(orjson.dumps(fields)) == len(body)
                go = asyncio.Event()
                for _ in range(expected):
                    upstream.queue([Wait(go), *OK])
                headers = {**KEY, "x-user": f"user-{number}"}
                before = len(upstream.requests)
                calls = [asyncio.create_task(proxy.post(path, orjson.dumps(fields), headers)) for _ in range(at_once)]
                async with asyncio.timeout(30):
                    while sum(call.done() for call in calls) < at_once - expected:
                        await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
                go.set()
                statuses = [status for status, _, _ in await asyncio.gather(*calls)]
                assert len(upstream.requests) - before == expected, f"{path}: {len(upstream.requests) - before} were let through"
                assert sorted(statuses) == [200] * expected + [429] * (at_once - expected), path
    return f"{rounds} times {at_once} calls at once on each of three limits: 1, 1 and {fits} let through, every time"
