"""Calls of every kind that the dashboard tells apart, and what they need: a serving process, its policy, upstreams and a sink.

The rule a reader could break: every panel needs something here that moves it. A query without data is a fault of one or the other.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.fakes import FakeUpstream, Received, Step, json_answer, sse_answer
from tests.house import UPSTREAM_KEY, hash_of
from tests.whole.conversation import ANSWER, CHAT, STREAM, chunk
from tests.whole.process import Serving

PATH = "/v1/chat/completions"
_DETAILED = {
    "prompt_tokens": 40,
    "completion_tokens": 30,
    "total_tokens": 70,
    "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 12},
}
_SENSELESS = {"prompt_tokens": -1, "completion_tokens": 2, "total_tokens": 1}
_BUSY = json_answer(503, {"error": {"message": "busy", "type": "server_error", "param": None, "code": None}})


@dataclass(frozen=True, slots=True)
class Scene:
    """proxy: serves under `policy`."""

    proxy: Serving
    policy: str


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Everything, serving and idle. Leaving it fails where the process did not end in order."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    async with (
        FakeUpstream(default=_answer) as main,
        FakeUpstream(default=_BUSY) as busy,
        FakeUpstream(default=_page_taken) as sink,
    ):
        text = _policy(busy=busy.port, nobody=nobody, sink=sink.url)
        limit = {"TOLLHOUSE_MEMORY_LIMIT": "1GiB"}  # so that there is one to show
        async with Serving(folder, text, upstream=main.url + "/v1", env=limit) as proxy:
            yield Scene(proxy, text)


async def calls(played: Scene, stop: asyncio.Event) -> int:
    """Rounds of calls until `stop` is set. Returns how many rounds."""
    proxy = played.proxy
    async with aiohttp.ClientSession() as session:
        for turn in count():
            if stop.is_set():
                return turn
            await asyncio.gather(*(_call(session, proxy, **call) for call in _round(turn)))
            await _odd(session, proxy, turn)
            if turn in (10, 30):
                proxy.file.write_text(played.policy + "  - {name: mistake}\n", "utf-8")
            elif turn in (20, 40):
                proxy.file.write_text(played.policy, "utf-8")
            await asyncio.sleep(0.2)
    raise AssertionError


def _round(turn: int) -> list[dict[str, Any]]:
    once = {"Idempotency-Key": f"key-{turn}"}
    return [
        {},
        {"max_tokens": 4000},
        {"key": "batch-key"},
        {"stream": True},
        {"stream": True, "user": "broken"},
        {"user": "senseless"},
        {"model": "model-that-nobody-knows"},
        {"model": "busy-1"},
        {"model": "nobody-1"},
        {"key": "wrong-key"},
        {"headers": once},
        {"headers": once},  # joins it, or has it replayed
        {"headers": {"Prefer": "respond-async"}},
    ]


async def _call(
    session: aiohttp.ClientSession, proxy: Serving, *, key: str = "app-key", headers: Any = None, **fields: Any
) -> None:
    own = {"authorization": f"Bearer {key}", "content-type": "application/json", **(headers or {})}
    try:
        async with session.post(proxy.url + PATH, data=orjson.dumps({**CHAT, **fields}), headers=own) as answer:
            await answer.read()
    except aiohttp.ClientError:
        pass  # a stream that broke off


async def _odd(session: aiohttp.ClientSession, proxy: Serving, turn: int) -> None:
    """What is not a POST with an answer: a poll, a client that leaves, bytes that are no request."""
    async with session.get(f"{proxy.url}/tasks/nobody", headers={"authorization": "Bearer app-key"}) as answer:
        await answer.read()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"\x16\x03\x01 is how TLS begins\r\n\r\n")
    await reader.read()
    writer.close()


def _answer(request: Received) -> Sequence[Step]:
    """By what is asked for."""
    body = orjson.loads(request.body)
    if body.get("user") == "broken":
        return sse_answer(STREAM, cut_after=1)
    if body.get("stream"):
        return sse_answer([*STREAM[:3], chunk(None, usage=_DETAILED), STREAM[-1]])
    usage = _SENSELESS if body.get("user") == "senseless" else _DETAILED
    return json_answer(200, {**ANSWER, "usage": usage})


def _page_taken(request: Received) -> Sequence[Step]:
    """Not at the first attempt."""
    return json_answer(503 if request.number == 0 else 200, {})


def _policy(*, busy: int, nobody: int, sink: str) -> str:
    return f"""version: 1
upstreams:
  main: {{base_url: "${{env:UPSTREAM}}", api_key: {UPSTREAM_KEY}}}
  busy: {{base_url: "http://127.0.0.1:{busy}/v1", retries: {{attempts: 3, budget: 1%}}, breaker: {{failures: 0}}}}
  nobody: {{base_url: "http://127.0.0.1:{nobody}/v1", breaker: {{failures: 2, open: 2s}}}}
routes:
  - {{models: ["busy-*"], to: [busy]}}
  - {{models: ["nobody-*"], to: [nobody]}}
  - {{to: [main]}}
keys:
  - {{id: app, hash: "{hash_of("app-key")}", tags: [web]}}
  - {{id: batch, hash: "{hash_of("batch-key")}", tags: [batch]}}
prices:
  models: {{"busy-*": {{input: 1, output: 1}}, "nobody-*": {{input: 1, output: 1}}}}
pages:
  team: {{webhook: {{url: "{sink}/pages"}}}}
policies:
  - name: everyone
    max_tokens: {{cap: 1000, when_over: clamp}}
    budget: {{usd: 20, per: day, alarm_at: [1, 2, 80], page: [team]}}
    record: {{for: 2s}}
  - {{name: narrow, match: {{tags: [batch]}}, rate_limit: {{requests: 2, per: minute, by: key}}}}
  - {{name: trial, mode: shadow, rate_limit: {{requests: 5, per: minute, by: key}}}}
"""
