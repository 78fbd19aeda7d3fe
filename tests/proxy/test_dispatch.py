"""What happens when an upstream does not take a call: tried again, sent elsewhere, or told; and nobody pays twice."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import orjson
import pytest

from tests.fakes import Abort, FakeUpstream, Send, Step, UntilClosed, Wait, json_answer, sse_answer
from tests.house import CHAT, House, error_of, hash_of
from tests.proxy.test_pipeline import ANSWER, STREAM

OK = json_answer(200, ANSWER, headers={"x-request-id": "up-ok"})
COST = 8_400
QUICK = {"retry-after-ms": "20"}


def refused(
    status: int, *, headers: Mapping[str, str] = QUICK, code: str = "rate_limit_exceeded", type: str = "requests"
) -> list[Step]:
    error = {"message": "Come again.", "type": type, "param": None, "code": code}
    return json_answer(status, {"error": error}, headers={"x-request-id": f"up-{status}", **headers})


def closed_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def road(*, first: str = "", second: str = "", rules: str = "", to: str = "[first, second]") -> str:
    """Two upstreams, `first` and its fallback, and a budget that tells whether anything stays held. first, second: more of each."""
    return f"""version: 1
upstreams:
  first: {{base_url: "${{env:UPSTREAM}}", api_key: sk-firstcanary0123456789, {first}}}
  second: {{base_url: "${{env:SECOND}}", api_key: sk-secondcanary0123456789, {second}}}
routes: [{{to: {to}}}]
unmetered: [/v1/files]
keys:
  - {{id: app, hash: "{hash_of("app-key")}"}}
policies:
  - {{name: purse, budget: {{usd: 100, per: month, when_spent: reject}}}}
  - {{name: few, match: {{paths: [/v1/chat/completions]}}, concurrency: {{calls: 2000, by: everyone}}}}
{rules}"""


ONLY = "[first]"


class Road:
    """A house before two upstreams."""

    def __init__(self, house: House, first: FakeUpstream, second: FakeUpstream) -> None:
        self.house = house
        self.first = first
        self.second = second
        self.calls = 0

    async def call(self, payload: Any = CHAT, **more: Any) -> tuple[int, Mapping[str, str], bytes]:
        self.calls += 1
        return await self.house.post("/v1/chat/completions", payload, **more)

    async def line(self) -> dict[str, Any]:
        """Of the last call."""
        return (await self.house.logged("call.finished", self.calls))[-1]

    def books(self) -> tuple[int, int]:
        """What is spent and what is held."""
        quotas = [(spent, held) for limit, _, spent, held, _ in self.house.app.store.quotas() if limit.policy == "purse"]
        return sum(spent for spent, _ in quotas), sum(held for _, held in quotas)

    async def metric(self, line: str) -> float:
        text = await self.house.metrics()
        return float(next((one.rpartition(" ")[2] for one in text.splitlines() if one.startswith(line + " ")), "0"))


@asynccontextmanager
async def driven(
    folder: Path, policy: str, *, first_url: str | None = None, second_url: str | None = None, default: Sequence[Step] = OK
) -> AsyncIterator[Road]:
    """A road; at its end nothing is held."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(FakeUpstream(default=default)) for _ in range(2)]
        env = {"SECOND": second_url or second.url + "/v1"}
        house = await stack.enter_async_context(House(policy, first_url or first.url + "/v1", folder, env=env))
        made = Road(house, first, second)
        yield made
        async with asyncio.timeout(10):
            while made.books()[1]:  # what a client did not wait for may still be counted
                await asyncio.sleep(0.01)
        assert house.lines("fault.caught") == []


# ── again at the same upstream ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_was_refused_unread_is_made_again_and_paid_once(tmp_path: Path, status: int, stream: bool) -> None:
    async with driven(tmp_path, road(to=ONLY)) as made:
        made.first.queue(refused(status))
        made.first.queue(sse_answer(STREAM) if stream else OK)
        got, headers, _ = await made.call({**CHAT, "stream": stream})
        line = await made.line()
        one, two = made.first.requests
        reason = "rate_limited" if status == 429 else "overloaded"
        assert await made.metric(f'tollhouse_upstream_retries_total{{upstream="first",reason="{reason}"}}') == 1
        assert made.books() == (COST, 0)
    assert got == 200
    assert one.body == two.body
    assert one.header("x-request-id") == two.header("x-request-id") == headers["x-request-id"]
    assert (line["tries"], line["upstream"], line["outcome"]) == (2, "first", "completed")
    assert (line["usage_source"], line["cost_nanousd"], line["error"]) == ("reported", COST, None)
    assert line["upstream_request_id"] == (None if stream else "up-ok")


@pytest.mark.parametrize("status", [400, 403, 404, 408, 409, 413, 422, 500, 502, 504])
async def test_no_other_refusal_is_answered_with_another_try_here_or_elsewhere(tmp_path: Path, status: int) -> None:
    async with driven(tmp_path, road()) as made:
        made.first.queue(refused(status, headers={**QUICK, "x-should-retry": "true"}))
        got, headers, _ = await made.call()
        line = await made.line()
        assert (len(made.first.requests), len(made.second.requests)) == (1, 0)
        assert made.books() == (0, 0)
    assert got == status
    assert headers["x-upstream-request-id"] == f"up-{status}"
    assert (line["tries"], line["upstream"], line["usage_source"]) == (1, "first", None)
    assert line["first_byte_ms"] is not None


async def test_a_look_up_that_changes_nothing_is_made_again_after_a_failure(tmp_path: Path) -> None:
    async with driven(tmp_path, road(to=ONLY)) as made:
        made.first.queue(refused(502))
        made.first.queue(json_answer(200, {"object": "list", "data": []}))
        got, _, _ = await made.house.request("GET", "/v1/models", headers={"authorization": "Bearer app-key"})
        assert len(made.first.requests) == 2
    assert got == 200


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_a_call_is_tried_as_often_as_the_file_says_and_then_told_with_its_hints(tmp_path: Path, attempts: int) -> None:
    async with driven(tmp_path, road(first=f"retries: {{attempts: {attempts}}}", to=ONLY), default=refused(429)) as made:
        got, headers, body = await made.call()
        line = await made.line()
        assert len(made.first.requests) == attempts
        assert made.books() == (0, 0)
    assert got == 429
    assert (error_of(body)["code"], error_of(body)["message"]) == ("rate_limit_exceeded", "Come again.")
    assert headers["retry-after-ms"] == "20"
    assert headers["x-upstream-request-id"] == "up-429"
    assert (line["tries"], line["usage_source"]) == (attempts, None)


PAST = formatdate(0, usegmt=True)


@pytest.mark.parametrize(
    ("hints", "least_s"),
    [
        ({"retry-after": "0.3"}, 0.3),
        ({"retry-after": "1"}, 1.0),
        ({"retry-after-ms": "200", "retry-after": "3600"}, 0.2),
        ({"retry-after": PAST}, 0.125),
        ({"retry-after": "soon"}, 0.125),
        ({"retry-after": "-5"}, 0.125),
        ({"retry-after": "0"}, 0.125),
        ({}, 0.125),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_the_upstream_is_not_asked_before_its_time_nor_at_once_where_it_names_none(
    tmp_path: Path, hints: dict[str, str], least_s: float
) -> None:
    loop = asyncio.get_running_loop()
    async with driven(tmp_path, road(to=ONLY)) as made:
        made.first.queue(refused(429, headers=hints))
        began = loop.time()
        got, _, _ = await made.call()
        assert loop.time() - began >= least_s
        assert len(made.first.requests) == 2
    assert got == 200


@pytest.mark.parametrize(
    "hints",
    [
        {"retry-after": "3"},
        {"retry-after": "1e9"},
        {"retry-after": "9" * 400},
        {"retry-after-ms": "2500", "retry-after": "1"},
        {"retry-after": formatdate(time() + 3600, usegmt=True)},
        {"retry-after-ms": "10", "x-should-retry": "false"},
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_takes_too_long_is_not_waited_for(tmp_path: Path, hints: dict[str, str], elsewhere: bool) -> None:
    """The next upstream is asked at once; where there is none, the app hears what the upstream said."""
    async with driven(tmp_path, road(to="[first, second]" if elsewhere else ONLY)) as made:
        made.first.queue(refused(429, headers=hints))
        got, headers, _ = await asyncio.wait_for(made.call(), 2)
        line = await made.line()
        assert (len(made.first.requests), len(made.second.requests)) == (1, int(elsewhere))
        assert made.books() == (COST if elsewhere else 0, 0)
    assert got == (200 if elsewhere else 429)
    assert line["upstream"] == ("second" if elsewhere else "first")
    if not elsewhere:
        assert {name: headers[name] for name in hints} == hints


@pytest.mark.parametrize("code", ["insufficient_quota", "credit_balance_exhausted"])
async def test_what_waiting_does_not_mend_goes_elsewhere(tmp_path: Path, code: str) -> None:
    async with driven(tmp_path, road()) as made:
        made.first.queue(refused(429, code=code, type=code))
        got, _, _ = await made.call()
        assert (len(made.first.requests), len(made.second.requests)) == (1, 1)
    assert got == 200


async def test_a_wait_that_a_deadline_would_end_is_not_begun(tmp_path: Path) -> None:
    async with driven(tmp_path, road(first="timeouts: {first_byte: 500ms}", to=ONLY)) as made:
        made.first.queue(refused(429, headers={"retry-after": "1"}))
        got, _, _ = await made.call()
        assert len(made.first.requests) == 1
    assert got == 429


async def test_the_whole_call_takes_no_longer_than_its_total_however_often_it_is_tried(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    slow = [Wait(asyncio.Event())]
    policy = road(first="retries: {attempts: 9}, timeouts: {total: 1s}", second="timeouts: {total: 30s}")
    async with driven(tmp_path, policy) as made:
        made.first.queue(refused(503, headers={"retry-after-ms": "700"}))
        made.first.queue(slow)
        await made.house.app.tokenizer.count(["warm"], model="gpt-4.1-mini")
        began = loop.time()
        got, _, body = await made.call()
        assert loop.time() - began < 1.6
    assert (got, error_of(body)["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("drain", [False, True])
async def test_a_client_that_leaves_while_we_wait_ends_the_call_at_once_and_pays_nothing(tmp_path: Path, drain: bool) -> None:
    rules = "  - {name: reads-on, on_disconnect: {do: drain}}" if drain else ""
    async with driven(tmp_path, road(to=ONLY, rules=rules)) as made:
        made.first.queue(refused(503, headers={"retry-after": "1.9"}))
        call = asyncio.create_task(made.call())
        await (await made.first.arrived()).played.wait()
        while not made.house.app.healths.of("first", made.house.app.shelf.current.upstreams["first"])._retries._taken:
            await asyncio.sleep(0.01)
        call.cancel()
        line = await asyncio.wait_for(made.line(), 1.5)
        assert made.house.app.pipeline.inflight == 0
        assert len(made.first.requests) == 1
        assert made.books() == (0, 0)
    assert (line["outcome"], line["usage_source"], line["tries"], line["total_ms"] < 1500) == ("client_gone", None, 1, True)


async def test_a_client_that_left_has_nothing_tried_again_for_it(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with driven(tmp_path, road(rules="  - {name: reads-on, on_disconnect: {do: drain}}")) as made:
        made.first.queue([Wait(go), *refused(429)])
        call = asyncio.create_task(made.call())
        await made.first.arrived()
        call.cancel()
        while made.house.app.pipeline.departures._running == 0:
            await asyncio.sleep(0.01)
        go.set()
        line = await made.line()
        assert (len(made.first.requests), len(made.second.requests)) == (1, 0)
        assert made.books() == (0, 0)
    assert (line["outcome"], line["usage_source"]) == ("client_gone", None)


async def test_what_breaks_at_the_second_try_is_paid_for_as_at_the_first(tmp_path: Path) -> None:
    """It was sent, and nobody knows what the upstream did."""
    async with driven(tmp_path, road(to=ONLY)) as made:
        made.first.queue(refused(503))
        made.first.queue([Abort()])
        got, headers, body = await made.call()
        line = await made.line()
        spent, held = made.books()
    assert (got, error_of(body)["code"]) == (502, "upstream_broken")
    assert "x-upstream-request-id" not in headers
    assert (line["tries"], line["usage_source"], line["first_byte_ms"]) == (2, "estimated", None)
    assert (spent, held) == (line["cost_nanousd"], 0)
    assert spent > 0


async def test_a_refusal_whose_explanation_breaks_off_is_still_a_refusal(tmp_path: Path) -> None:
    cut = [Send(b"HTTP/1.1 503 No\r\ncontent-length: 999\r\nretry-after-ms: 20\r\n\r\n{"), Abort()]
    async with driven(tmp_path, road(to=ONLY)) as made:
        made.first.queue(cut)
        got, _, _ = await made.call()
        assert len(made.first.requests) == 2
    assert got == 200


async def test_a_body_that_passed_as_it_came_is_not_sent_twice(tmp_path: Path) -> None:
    async with driven(tmp_path, road()) as made:
        made.first.queue(refused(503))
        got, headers, _ = await made.house.post("/v1/files", b"x" * 100_000)
        assert (len(made.first.requests), len(made.second.requests)) == (1, 0)
    assert got == 503
    assert headers["retry-after-ms"] == "20"


async def test_a_storm_of_refusals_does_not_grow(tmp_path: Path) -> None:
    """1,000 calls, at most 1.2 times as many requests, whatever the calls were allowed each."""
    policy = road(first="retries: {attempts: 10, budget: 20%}, breaker: {failures: 0}", to=ONLY)
    async with driven(tmp_path, policy, default=refused(503, headers={})) as made:
        gate = asyncio.Semaphore(100)

        async def call() -> int:
            async with gate:
                return (await made.call())[0]

        statuses = await asyncio.gather(*(call() for _ in range(1000)))
        assert 1000 < len(made.first.requests) <= 1210
        assert await made.metric('tollhouse_upstream_retries_withheld_total{upstream="first"}') > 0
        tries = sum(line["tries"] for line in await made.house.logged("call.finished", 1000))
        assert tries == len(made.first.requests)
        assert made.books() == (0, 0)
    assert set(statuses) == {503}


# ── elsewhere ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_fallback_is_asked_when_the_first_refuses_for_good_and_gets_the_same_call(tmp_path: Path) -> None:
    rules = "  - {name: shaped, models: {alias: {gpt-4: gpt-4.1-mini}}, max_tokens: {cap: 100}}"
    async with driven(tmp_path, road(rules=rules)) as made:
        for _ in range(2):
            made.first.queue(refused(503))
        got, headers, _ = await made.call({**CHAT, "model": "gpt-4", "max_tokens": 9999})
        line = await made.line()
        bodies = {request.body for request in (*made.first.requests, *made.second.requests)}
        [there] = made.second.requests
        assert len(made.first.requests) == 2
        assert made.books() == (COST, 0)
    assert got == 200
    assert len(bodies) == 1
    assert orjson.loads(bodies.pop()) == {**CHAT, "max_tokens": 100}
    assert there.header("authorization") == "Bearer sk-secondcanary0123456789"
    assert headers["tollhouse-clamped"] == "max_tokens=9999->100"
    assert (line["upstream"], line["tries"], line["upstream_request_id"]) == ("second", 3, "up-ok")


async def test_the_fallback_is_asked_when_the_first_cannot_be_reached(tmp_path: Path) -> None:
    async with driven(tmp_path, road(), first_url=closed_port()) as made:
        got, _, _ = await made.call()
        line = await made.line()
    assert (got, line["upstream"], line["tries"], line["cost_nanousd"]) == (200, "second", 3, COST)


async def test_the_fallback_has_its_own_deadlines(tmp_path: Path) -> None:
    go = asyncio.Event()
    policy = road(first="timeouts: {first_byte: 200ms}, retries: {attempts: 1}", second="timeouts: {first_byte: 20s}")
    async with driven(tmp_path, policy) as made:
        made.first.queue(refused(503))
        made.second.queue([Wait(go), *OK])
        call = asyncio.create_task(made.call())
        await made.second.arrived()
        await asyncio.sleep(0.5)
        go.set()
        got, _, _ = await call
    assert got == 200


async def test_a_refusal_says_more_than_that_the_fallback_cannot_be_reached(tmp_path: Path) -> None:
    async with driven(tmp_path, road(), second_url=closed_port(), default=refused(429, headers={"retry-after": "30"})) as made:
        got, headers, _ = await made.call()
        line = await made.line()
    assert (got, headers["retry-after"], headers["x-upstream-request-id"]) == (429, "30", "up-429")
    assert (line["upstream"], line["upstream_request_id"], line["usage_source"]) == ("first", "up-429", None)
    assert line["first_byte_ms"] is not None


async def test_where_all_refuse_the_last_one_is_told(tmp_path: Path) -> None:
    async with driven(tmp_path, road()) as made:
        made.first.queue(refused(429, headers={"retry-after": "30"}))
        made.second.queue(refused(503, headers={"retry-after": "7"}))
        got, headers, _ = await made.call()
        line = await made.line()
    assert (got, headers["retry-after"], line["upstream"]) == (503, "7", "second")


# ── the breaker ──────────────────────────────────────────────────────────────────────────────────────────────────────

OPENS = "retries: {attempts: 1}, breaker: {failures: 3, open: 2s}"


async def opened(made: Road, *, steps: Sequence[Step] = (), failures: int = 3) -> None:
    for _ in range(failures):
        made.first.queue(steps or refused(500))
        await made.call()


async def probing(made: Road) -> "asyncio.Task[Any]":
    """The call that is sent when the pause is over, once it has come there."""
    there = asyncio.create_task(made.first.arrived(len(made.first.requests) + 1))
    while True:
        call = asyncio.create_task(made.call())
        await asyncio.wait([call, there], return_when=asyncio.FIRST_COMPLETED)
        if there.done():
            return call
        await asyncio.sleep(0.02)


async def closes(made: Road) -> None:
    """Until the pause is over and a call passes."""
    async with asyncio.timeout(10):
        while (await made.call())[0] == 503:
            await asyncio.sleep(0.02)


async def test_an_upstream_that_fails_call_after_call_is_not_asked_until_one_call_found_it_back(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with driven(tmp_path, road(first=OPENS, to=ONLY)) as made:
        assert await made.metric('tollhouse_upstream_open{upstream="first"}') == 0
        await opened(made)
        got, headers, body = await made.call()
        line = await made.line()
        assert (got, error_of(body)["code"]) == (503, "upstream_unavailable")
        assert 0 < int(headers["retry-after-ms"]) <= 2000
        assert 1 <= int(headers["retry-after"]) <= 2
        assert (line["outcome"], line["tries"], line["upstream"], line["usage_source"]) == ("upstream_error", 0, "first", None)
        assert len(made.first.requests) == 3
        assert await made.metric('tollhouse_upstream_open{upstream="first"}') == 1
        [told] = await made.house.logged("upstream.opened")
        assert (told["upstream"], round(told["open_s"], 1)) == ("first", 2.0)

        made.first.queue([Wait(go), *OK])  # the probe
        probe = await probing(made)
        assert {(await made.call())[0] for _ in range(5)} == {503}, "one looks, and no other"
        assert len(made.first.requests) == 4
        go.set()
        assert (await probe)[0] == 200
        [told] = await made.house.logged("upstream.closed")
        assert (await made.call())[0] == 200
        assert await made.metric('tollhouse_upstream_open{upstream="first"}') == 0
    assert told["upstream"] == "first"


async def test_while_it_is_open_the_fallback_is_asked_at_once(tmp_path: Path) -> None:
    async with driven(tmp_path, road(first=OPENS)) as made:
        await opened(made)
        got, _, _ = await made.call()
        line = await made.line()
        assert (len(made.first.requests), len(made.second.requests)) == (3, 1)
    assert (got, line["upstream"], line["tries"]) == (200, "second", 1)


async def test_a_probe_that_fails_opens_it_again(tmp_path: Path) -> None:
    async with driven(tmp_path, road(first=OPENS, to=ONLY), default=refused(500)) as made:
        await opened(made)
        async with asyncio.timeout(10):
            while len(made.first.requests) < 4:
                await made.call()
                await asyncio.sleep(0.02)
        _, headers, _ = await made.call()
        assert len(made.first.requests) == 4
    assert 2000 < int(headers["retry-after-ms"]) <= 4000


async def test_a_probe_whose_client_left_does_not_leave_it_open(tmp_path: Path) -> None:
    async with driven(tmp_path, road(first=OPENS, to=ONLY)) as made:
        await opened(made)
        made.first.queue([UntilClosed()])
        probe = await probing(made)
        probe.cancel()
        await made.first.requests[3].closed_early.wait()
        await closes(made)
        assert len(made.first.requests) == 5


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_refusals_of_calls_are_no_failures_of_the_upstream(tmp_path: Path, status: int) -> None:
    async with driven(tmp_path, road(first=OPENS, to=ONLY)) as made:
        await opened(made, steps=refused(status, headers={"retry-after": "30"}), failures=6)
        assert (await made.call())[0] == 200
        assert made.house.lines("upstream.opened") == []


@pytest.mark.parametrize(
    "steps", [[Abort()], [Send(b"garbage\r\n\r\n"), UntilClosed()], [UntilClosed()]], ids=["gone", "garbage", "silent"]
)
async def test_whatever_keeps_it_from_answering_opens_it(tmp_path: Path, steps: list[Step]) -> None:
    policy = road(first=OPENS + ", timeouts: {first_byte: 200ms}", to=ONLY)
    async with driven(tmp_path, policy) as made:
        await opened(made, steps=steps)
        await made.house.logged("upstream.opened")
        await closes(made)


async def test_an_upstream_that_cannot_be_reached_opens_it(tmp_path: Path) -> None:
    async with driven(tmp_path, road(first=OPENS, to=ONLY), first_url=closed_port()) as made:
        codes = [error_of((await made.call())[2])["code"] for _ in range(4)]
    assert codes == ["upstream_unreachable"] * 3 + ["upstream_unavailable"]


async def test_a_deadline_that_a_policy_shortened_says_nothing_of_the_upstream(tmp_path: Path) -> None:
    rules = "  - {name: hasty, timeouts: {first_byte: 100ms}}"
    async with driven(tmp_path, road(first=OPENS, to=ONLY, rules=rules)) as made:
        await opened(made, steps=[UntilClosed()], failures=4)
        assert (await made.call())[0] == 200


async def test_a_client_that_drains_and_runs_out_of_time_opens_it_all_the_same(tmp_path: Path) -> None:
    """There the try is a task of its own, which hears of the deadline last."""
    policy = road(
        first=OPENS + ", timeouts: {first_byte: 150ms}", to=ONLY, rules="  - {name: reads-on, on_disconnect: {do: drain}}"
    )
    async with driven(tmp_path, policy) as made:
        await opened(made, steps=[UntilClosed()])
        await made.house.logged("upstream.opened")


async def test_it_can_be_turned_off_by_a_reload_and_outlives_any_other(tmp_path: Path) -> None:
    slow = "retries: {attempts: 1}, breaker: {failures: 3, open: 10m}"
    async with driven(tmp_path, road(first=slow, to=ONLY)) as made:
        await opened(made)
        assert (await made.call())[0] == 503
        made.house.file.write_text(road(first=slow, to=ONLY, rules="  - {name: more, max_tokens: {cap: 9}}"))
        await made.house.logged("policy.activated", 2)
        assert (await made.call())[0] == 503
        assert await made.metric('tollhouse_upstream_open{upstream="first"}') == 1
        made.house.file.write_text(road(first="breaker: {failures: 0}", to=ONLY))
        await made.house.logged("policy.activated", 3)
        assert (await made.call())[0] == 200
        assert await made.metric('tollhouse_upstream_open{upstream="first"}') == 0


async def test_where_all_are_open_the_app_hears_when_the_first_is_looked_at(tmp_path: Path) -> None:
    policy = road(first="retries: {attempts: 1}, breaker: {failures: 1, open: 1m}", second="breaker: {failures: 1, open: 30s}")
    async with driven(tmp_path, policy, first_url=closed_port(), second_url=closed_port()) as made:
        await made.call()
        got, headers, body = await made.call()
        line = await made.line()
    assert (got, error_of(body)["code"], line["upstream"]) == (503, "upstream_unavailable", "second")
    assert 29 <= int(headers["retry-after"]) <= 30
