"""What SIGTERM does to a process: nothing new comes in, what runs finishes or is ended honestly, and the exit code is 0."""

import asyncio
import signal
from pathlib import Path

import openai
import pytest

from tests.fakes import FakeUpstream, UntilClosed, Wait, sse_answer
from tests.house import policy
from tests.whole.conversation import CHAT, OK, STREAM
from tests.whole.process import Serving

HEAD, FIRST, *REST = sse_answer(STREAM)


async def test_a_running_stream_finishes_and_new_calls_are_refused(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue([HEAD, FIRST, Wait(go), *REST])
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            stream = await app.chat.completions.create(**CHAT, stream=True)
            first = await anext(aiter(stream))
            proxy.terminate()
            [draining] = await proxy.logged("server.draining")
            assert (draining["running"], draining["grace_s"]) == (1, 30.0)
            assert await proxy.admin("/readyz") == (503, "not ready\n")
            assert await proxy.admin("/healthz") == (200, "ok\n")
            with pytest.raises(openai.APIConnectionError):
                await app.chat.completions.create(**CHAT)
            go.set()
            said = [first, *[c async for c in stream]]
            assert await proxy.ended() == 0
    assert "".join(c.choices[0].delta.content or "" for c in said) == "Hello"
    [line] = proxy.lines("call.finished")
    assert (line["outcome"], line["output_tokens"], line["usage_source"]) == ("completed", 2, "reported")
    assert proxy.lines("server.stopped")
    assert len(upstream.requests) == 1


async def test_what_outlasts_the_grace_ends_in_an_error_that_says_why(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue([HEAD, FIRST, UntilClosed()])
        upstream.queue([UntilClosed()])
        env = {"TOLLHOUSE_DRAIN_S": "0.5"}
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1", env=env) as proxy, proxy.client() as app:
            stream = aiter(await app.chat.completions.create(**CHAT, stream=True))
            await anext(stream)
            whole = asyncio.create_task(app.chat.completions.create(**CHAT))
            await upstream.arrived(2)
            proxy.terminate()
            with pytest.raises(openai.APIError) as cut:
                await anext(stream)
            with pytest.raises(openai.InternalServerError) as refused:
                await whole
            assert await proxy.ended() == 0
    assert cut.value.code == "draining"
    assert (refused.value.status_code, refused.value.code) == (503, "draining")
    assert [line["outcome"] for line in proxy.lines("call.finished")] == ["drained", "drained"]
    assert all(line["cost_nanousd"] > 0 for line in proxy.lines("call.finished")), "the upstream was asked, so it is paid"
    assert all(request.closed_early.is_set() for request in upstream.requests)
    assert proxy.lines("server.stopped")


async def test_a_second_signal_waits_no_longer(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue([HEAD, FIRST, UntilClosed()])
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            stream = aiter(await app.chat.completions.create(**CHAT, stream=True))
            await anext(stream)
            proxy.signal(signal.SIGINT)
            await proxy.logged("server.draining")
            proxy.signal(signal.SIGINT)
            with pytest.raises(openai.APIError):
                await anext(stream)
            assert await proxy.ended() == 0
    assert proxy.lines("server.stopped")


async def test_an_idle_process_stops_at_once_and_starts_again_on_its_state(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        text = policy(
            "- {name: purse, max_tokens: {cap: 1000}, budget: {usd: 0.003, per: month, when_spent: reject, least_cap: 1000}}"
        )
        async with Serving(tmp_path, text, upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            await app.chat.completions.create(**CHAT)
            await proxy.logged("call.finished")
            proxy.terminate()
            assert await proxy.ended() == 0
        assert [line["event"] for line in proxy.lines()][-2:] == ["server.draining", "server.stopped"]
        async with Serving(tmp_path, text, upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            with pytest.raises(openai.RateLimitError, match=r"0\.001396 USD are left"):
                await app.chat.completions.create(**CHAT)
