"""Recorded calls of a process that serves: the official client, the examples of the README, and `kill -9` in the middle of everything.

TOLLHOUSE_KILLS: how many times, 6 if it is not set.
"""

import asyncio
import base64
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.fakes import FakeUpstream, Step, UntilClosed, Wait, sse_answer
from tests.faults.sdks import keyed_in_node, node_installed
from tests.house import policy
from tests.whole.conversation import CHAT, OK, STREAM, chunk
from tests.whole.process import Serving, environment
from tests.whole.test_kills import EACH_NANOUSD, recorded

KILLS = int(os.environ.get("TOLLHOUSE_KILLS", "6"))
README = Path(__file__).parents[2] / "README.md"
RULES = "- {name: everyone, max_tokens: {cap: 1000}, record: {running: 1000}, budget: {usd: 90, per: month, by: user, when_spent: reject}}"
KEY = {"TOLLHOUSE_RECORD_KEY": base64.b64encode(bytes(range(32))).decode()}
PATH = "/v1/chat/completions"


def keyed(key: str, **headers: str) -> dict[str, str]:
    return {"Idempotency-Key": key, **{name.replace("_", "-"): value for name, value in headers.items()}}


def slow(go: asyncio.Event, events: list[bytes], *, after: int) -> list[Step]:
    head, *rest = sse_answer(events)
    return [head, *rest[:after], Wait(go), *rest[after:]]


async def test_two_calls_of_the_official_client_with_one_key_are_one(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue([Wait(go), *OK])
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            create = app.chat.completions.with_raw_response.create
            both = [asyncio.create_task(create(**CHAT, extra_headers=keyed("k"))) for _ in range(2)]
            await proxy.logged("recording.read")
            go.set()
            answers = [*await asyncio.gather(*both), await create(**CHAT, extra_headers=keyed("k"))]
            lines = await proxy.logged("call.finished", 3)
    assert len(upstream.requests) == 1
    assert len({answer.http_response.content for answer in answers}) == 1
    assert [answer.parse().choices[0].message.content for answer in answers] == ["Hi"] * 3
    assert sorted(line["cost_nanousd"] for line in lines) == [0, 0, EACH_NANOUSD]


async def test_a_stream_of_the_official_client_goes_on_after_its_connection_was_cut(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue(slow(go, STREAM, after=1))
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            create = app.chat.completions.create
            cut = await create(**CHAT, stream=True, extra_headers=keyed("k"))
            first = await anext(aiter(cut))
            await cut.close()
            retried = await create(**CHAT, stream=True, extra_headers=keyed("k"))
            go.set()
            rest = [one async for one in retried]
            replayed = [one async for one in await create(**CHAT, stream=True, extra_headers=keyed("k"))]
            with_ids = [one async for one in await create(**CHAT, stream=True, extra_headers=keyed("k", Prefer="event-ids"))]
            lines = await proxy.logged("call.finished", 4)
    assert len(upstream.requests) == 1
    assert first.choices[0].delta.content == "Hel"
    assert rest == replayed == with_ids
    assert "".join(one.choices[0].delta.content or "" for one in rest) == "Hello"
    assert sum(line["cost_nanousd"] > 0 for line in lines) == 1


async def test_the_official_client_for_node_has_the_same(tmp_path: Path) -> None:
    """Where it is installed: `make faults` does, and plays this too."""
    if (why := await node_installed(install=False)) is not None:
        pytest.skip(f"openai-node is left out: {why}")
    async with FakeUpstream() as upstream:
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1") as proxy:
            await keyed_in_node(proxy, upstream, key="app-key", name="k")


def examples(language: str) -> list[str]:
    """The programs of the README's section on recorded calls."""
    section = README.read_text("utf-8").partition("## Recorded calls")[2].partition("\n## ")[0]
    return [part.partition("```")[0] for part in section.split(f"```{language}\n")[1:]]


async def ran(command: list[str], folder: Path, proxy: Serving) -> str:
    env = environment(
        folder, {"OPENAI_BASE_URL": f"{proxy.url}/v1", "OPENAI_API_KEY": "app-key", "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


async def test_the_examples_of_the_readme_do_what_they_say(tmp_path: Path) -> None:
    retry, resume = examples("python")
    async with FakeUpstream() as upstream:
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1") as proxy:
            upstream.queue(OK)
            assert await ran([sys.executable, "-c", retry], tmp_path, proxy) == "Hi"
            upstream.queue(sse_answer(STREAM))
            assert await ran([sys.executable, "-c", resume], tmp_path, proxy) == "Hello"
            if (node := shutil.which("node")) is not None:
                [poll] = examples("javascript")
                upstream.queue(OK)
                assert await ran([node, "--input-type=module", "-e", poll], tmp_path, proxy) == "Hi"
            assert len(upstream.requests) == 2 + (node is not None)


async def test_the_example_that_resumes_loses_and_doubles_nothing_when_it_is_cut(tmp_path: Path) -> None:
    """Behind a relay that cuts the connection again and again, as a phone's network does."""
    words = [f" w{n}" for n in range(60)]
    said = [*(chunk(word) for word in words), chunk("", finish="stop"), b"data: [DONE]\n\n"]
    chance = random.Random(5)
    cuts = 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cuts
        there, back = await asyncio.open_connection("127.0.0.1", proxy.port)
        left = chance.randint(600, 4000)

        async def out() -> None:
            while data := await reader.read(65536):
                back.write(data)

        outward = asyncio.create_task(out())
        while left > 0 and (data := await there.read(left)):
            left -= len(data)
            writer.write(data)
        cuts += left <= 0
        outward.cancel()
        back.close()
        writer.close()

    async with FakeUpstream(default=sse_answer(said)) as upstream:
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1") as proxy:
            server = await asyncio.start_server(relay, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            resume = examples("python")[1]
            env = environment(
                tmp_path,
                {
                    "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
                    "OPENAI_API_KEY": "app-key",
                    "PYTHONPATH": os.pathsep.join(sys.path),
                },
            )
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", resume, env=env, stdout=subprocess.PIPE)
            async with asyncio.timeout(60):
                shown, _ = await process.communicate()
            server.close()
            assert process.returncode == 0
            lines = await proxy.logged("call.finished", 2)
    assert shown.decode() == "".join(words)
    assert cuts > 2
    assert len(upstream.requests) == 1
    assert sum(line["cost_nanousd"] > 0 for line in lines) == 1


class Caller:
    """An app that calls with keys and tasks until the process is gone, and remembers what it was told."""

    def __init__(self, life: int, number: int) -> None:
        self.user = f"u{number}"
        self._life = life
        self.answered: dict[str, bytes] = {}  # by key
        self.lost: list[str] = []  # keys of calls whose answer did not come
        self.tasks: list[str] = []

    def headers(self, **more: str) -> dict[str, str]:
        return {"authorization": "Bearer app-key", "x-user": self.user, "content-type": "application/json", **more}

    async def run(self, proxy: Serving) -> None:
        for count in range(1000):
            key = f"{self._life}-{self.user}-{count}"
            try:
                if count % 3 == 0:
                    _, headers, _ = await proxy.post(PATH, self.body(key), self.headers(prefer="respond-async"))
                    self.tasks.append(headers["tollhouse-task"])
                else:
                    status, _, body = await proxy.post(PATH, self.body(key), self.headers(**{"idempotency-key": key}))
                    assert status == 200, body
                    self.answered[key] = body
            except (aiohttp.ClientError, OSError):
                if count % 3:
                    self.lost.append(key)
                return

    def body(self, key: str) -> bytes:
        return orjson.dumps({**CHAT, "user": self.user, "metadata": {"key": key}})


async def get(proxy: Serving, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    async with proxy._session.get(proxy.url + path, headers=headers) as answer:
        return answer.status, orjson.loads(await answer.read())


async def test_a_kill_in_the_middle_loses_no_charge_and_leaves_every_task_and_key_with_an_answer(tmp_path: Path) -> None:
    chance = random.Random(11)
    served = interrupted = replays = 0
    before: list[Caller] = []
    async with FakeUpstream(default=OK) as upstream:
        for life in range(KILLS):
            proxy = Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1", env=KEY)
            await proxy.__aenter__()
            for caller in before:
                for id in caller.tasks:
                    status, said = await get(proxy, f"/tasks/{id}", caller.headers())
                    assert (status, said["status"] in ("completed", "interrupted")) == (200, True), said
                    interrupted += said["status"] == "interrupted"
                    if said["status"] == "completed":
                        status, answer = await get(proxy, said["result"], caller.headers())
                        assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hi")
                for key in (*caller.answered, *caller.lost):
                    asked = len(upstream.requests)
                    status, headers, body = await proxy.post(PATH, caller.body(key), caller.headers(**{"idempotency-key": key}))
                    assert status == 200, body
                    replayed = "idempotent-replayed" in headers
                    assert len(upstream.requests) - asked == (not replayed), "a replay asks nobody"
                    assert not replayed or caller.answered.get(key, body) == body
                    replays += replayed
            before = [Caller(life, number) for number in range(6)]
            upstream.queue([*sse_answer(STREAM)[:2], UntilClosed()])
            _, headers, _ = await proxy.post(PATH, before[0].body("long"), before[0].headers(prefer="respond-async"))
            before[0].tasks.append(headers["tollhouse-task"])
            await upstream.arrived(len(upstream.requests) or 1)
            calling = [asyncio.create_task(caller.run(proxy)) for caller in before]
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            proxy.signal(signal.SIGKILL)
            assert await proxy.ended() == -signal.SIGKILL
            await proxy._session.close()
            await asyncio.gather(*calling)
            served = len(upstream.requests) - life - 1  # but for the long ones, of which only the beginning came
            books = recorded(proxy.state)
            assert sum(books.values()) >= served * EACH_NANOUSD, (life, served, books)
    assert replays
    assert interrupted >= KILLS - 1
    print(f"{KILLS} kills, {served} calls, {replays} replays, {interrupted} tasks interrupted")
