"""What SIGTERM does to a process: nothing new comes in, what runs finishes or is ended honestly, and the exit code is 0."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fakes import FakeUpstream, Send, UntilClosed, Wait, sse_answer
from tests.house import policy
from tests.whole.process import Serving
from tests.whole.test_openai_client import CHAT, OK, RESPONSES_STREAM, STREAM

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


@pytest.mark.parametrize("surface", ["chat", "responses"])
async def test_a_stream_that_outlasts_the_grace_ends_in_an_error(tmp_path: Path, surface: str) -> None:
    async with FakeUpstream() as upstream:
        events = STREAM if surface == "chat" else RESPONSES_STREAM
        upstream.queue([*sse_answer(events)[:3], UntilClosed()])
        env = {"TOLLHOUSE_DRAIN_S": "0.5"}
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1", env=env) as proxy, proxy.client() as app:
            asked: dict[str, Any] = {**CHAT, "stream": True} if surface == "chat" else {"model": "gpt-4.1", "input": "x", "stream": True}
            headers = {"authorization": "Bearer app-key", "content-type": "application/json"}
            body = asyncio.create_task(proxy.post_json(f"/v1/{PATHS[surface]}", asked, headers))
            request = await upstream.arrived()
            await proxy.begun(request)
            proxy.terminate()
            _, _, said = await body
            assert await proxy.ended() == 0
    assert said.startswith(b"".join(events[:2]))
    assert b'"draining"' in said.removeprefix(b"".join(events[:2]))
