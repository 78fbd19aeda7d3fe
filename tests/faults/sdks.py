"""The official SDKs as apps that a cut stream happens to: what they yielded of it, and what they raised.

Python's runs in this process, Node's in one process for all cases, where node is there. The rule a reader could break: an SDK is given
nothing but a base URL and a key, so that what it does here it does in an app.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import orjson

from tests.fakes import FakeUpstream, Wait
from tests.faults.caller import Caller
from tests.faults.cuts import Cut, Cutter, cuts
from tests.faults.guard import ANSWER, APP_KEY
from tests.faults.rig import CHAT, OK, PATIENT, STREAM, Proxy, Rig
from tests.whole.process import Serving, environment

_NODE = Path(__file__).parent / "node"
INSTALLED = Path(__file__).parents[2] / ".tools" / "openai-node"
_AT_ONCE = 2  # as many as leave room for others: they are what I5 asks about
_INSTALL_S = 120.0
_NODE_S = 120.0


@dataclass(frozen=True, slots=True)
class Ended:
    """items: as JSON says them. error: the class of what was raised, None for nothing; code: the one that it bore."""

    items: list[Any]
    error: str | None
    code: str | None


async def python_app(proxy: Proxy, cases: Sequence[Cut]) -> dict[str, Ended]:
    """Each case as an app in Python would live through it."""
    turns = asyncio.Semaphore(_AT_ONCE)
    async with proxy.client(APP_KEY) as app:

        async def live(case: Cut) -> tuple[str, Ended]:
            async with turns:
                return case.id, await _python(app, case)

        return dict(await asyncio.gather(*map(live, cases)))


async def _python(app: openai.AsyncOpenAI, case: Cut) -> Ended:
    items: list[Any] = []
    create: Any = app.chat.completions.create if case.surface == "chat" else app.responses.create
    try:
        answer = await create(**case.asked, extra_headers={"x-request-id": case.id})
        if case.k is None:
            items.append(answer.to_dict())
        else:
            async for item in answer:
                items.append(item.to_dict())
    except openai.APIError as error:
        return Ended(items, type(error).__name__, error.code)
    return Ended(items, None, None)


async def node_app(proxy: Proxy, cases: Sequence[Cut]) -> dict[str, Ended]:
    """Each case as an app in Node would live through it. There must be an installed SDK."""
    plan = {
        "base_url": f"{proxy.url}/v1",
        "key": APP_KEY,
        "at_once": _AT_ONCE,
        "cases": [{"id": case.id, "surface": case.surface, "stream": case.k is not None, "asked": case.asked} for case in cases],
    }
    return {one["id"]: Ended(one["items"], one["error"], one["code"]) for one in await _ran("app.mjs", plan)}


async def keyed_in_node(proxy: Serving, upstream: FakeUpstream, *, key: str, name: str) -> None:
    """An app in Node whose calls bear Idempotency-Keys, which begin with `name`: two at once are one, and so are a stream that is cut, the
    retry that goes on with it, and a third call behind its end. There must be an installed SDK, and nobody else's reads.
    """
    whole, stream = asyncio.Event(), asyncio.Event()
    head, first, *rest = STREAM
    upstream.queue([Wait(whole), *OK])
    upstream.queue([head, first, Wait(stream), *rest])
    asked, reads, ended = len(upstream.requests), len(proxy.lines("recording.read")), len(_charged(proxy))
    plan = {"base_url": f"{proxy.url}/v1", "key": key, "asked": CHAT, "name": name}
    running = asyncio.create_task(_ran("keyed.mjs", plan))
    try:
        for go, count in ((whole, 1), (stream, 3)):  # the second is there; it was replayed, and the retry is there
            reading = asyncio.create_task(proxy.logged("recording.read", reads + count))
            await asyncio.wait((running, reading), return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            go.set()
        said = await running
    finally:
        running.cancel()
    assert len(upstream.requests) - asked == 2
    assert len({answer["text"] for answer in said["answers"]}) == 1
    assert ANSWER in said["answers"][0]["text"]
    assert sorted(answer["replayed"] for answer in said["answers"]) == [False, True, True]
    assert said["answers"][2]["replayed"]
    assert said["retried"] == said["replayed"]
    assert said["first"] == said["retried"][0]
    assert [item["choices"][0]["delta"]["content"] for item in said["retried"]] == [ANSWER, "!", ""]
    async with asyncio.timeout(_NODE_S):
        while len(_charged(proxy)) - ended < 2:
            await asyncio.sleep(0.02)
    await proxy.logged("recording.read", reads + 4)
    assert len(_charged(proxy)) - ended == 2


def _charged(proxy: Serving) -> list[dict[str, Any]]:
    """The calls that cost something, but for the bystander's."""
    return [line for line in proxy.lines("call.finished") if line["cost_nanousd"] and line["key"] != "other"]


async def _ran(program: str, plan: Any) -> Any:
    """What a program for Node tells, as JSON, of what it is given. Errors: AssertionError where it fails."""
    node = shutil.which("node")
    assert node is not None
    process = await asyncio.create_subprocess_exec(
        *(node, str(_NODE / program), str(INSTALLED)),
        env=environment(INSTALLED),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_NODE_S):
            said, complained = await process.communicate(orjson.dumps(plan))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complained.decode()
    return json.loads(said)


async def node_installed(*, install: bool) -> str | None:
    """Why there is no official SDK for Node here, None if there is. install: get it where it is missing and node is there."""
    if shutil.which("node") is None:
        return "no node here"
    lock = (_NODE / "package-lock.json").read_bytes()
    ready = INSTALLED / "ready"
    if ready.is_file() and ready.read_bytes() == lock:
        return None
    if not install:
        return "not installed; `make faults` does"
    if shutil.which("npm") is None:
        return "no npm here"
    shutil.rmtree(INSTALLED, ignore_errors=True)
    INSTALLED.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_NODE / name, INSTALLED / name)
    process = await asyncio.create_subprocess_exec(
        *("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"),
        cwd=INSTALLED,
        env={**os.environ, "npm_config_cache": str(INSTALLED / "cache")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(_INSTALL_S):
        said, _ = await process.communicate()
    assert process.returncode == 0, f"npm ci failed: {said.decode()}"
    ready.write_bytes(lock)
    return None


async def lived_through(rig: Rig, kinds: Sequence[str]) -> str:
    """Play every case of these kinds to the SDKs, and the streams to a client that reads bytes."""
    cutter = Cutter()
    async with FakeUpstream(default=cutter) as upstream, rig.proxy(upstream, timeouts=PATIENT) as proxy:
        await proxy.begin_counting(upstream)
        without = await node_installed(install=not rig.short)
        told = []
        for name, app in (("python", python_app), ("node", node_app)):
            if name == "node" and without is not None:
                told.append(f"Node left out ({without})")
                continue
            cases = list(cuts(kinds, name=name))
            cutter.cases = {case.id: case for case in cases}
            ends = await app(proxy, cases)
            for case in cases:
                _raised(case, ends[case.id])
            told.append(f"{len(cases)} of {len(cases)} raised in {name.capitalize()}")
        cases = [case for case in cuts(kinds, name="raw") if case.k is not None]
        cutter.cases = {case.id: case for case in cases}
        async with Caller(proxy.port) as caller:
            for case in cases:
                said = await caller.post(case.path, orjson.dumps(case.asked), f"x-request-id: {case.id}")
                assert said.whole, case.id
                assert b"[DONE]" not in said.body, case.id
                if case.kind != "reset" or said.status == 200:
                    body = b"".join(case.events())
                    last = said.body.rfind(b"\n\n", 0, -2) + 2 if b"\n\n" in said.body[:-2] else 0
                    assert said.body[:last] == body or (case.kind == "reset" and body.startswith(said.body[:last])), case.id
                    assert b'"error":' in said.body[last:], case.id
    return ", ".join(told)


def _raised(case: Cut, ended: Ended) -> None:
    """What an app must have seen: what came, and then an error."""
    items = [json.loads(event.partition(b"data: ")[2]) for event in case.events()]
    got = ended.items
    error = ended.error
    if error is None and got and got[-1].get("type") == "error":
        error, got = "the API's own error event", got[:-1]  # which some SDKs hand to the app as it is
    assert error is not None, f"{case.id}: the app was told nothing, and took {len(got)} items for all"
    assert got == items or (case.kind == "reset" and got == items[: len(got)]), (
        f"{case.id}: it got {len(got)} of {len(items)} items"
    )
    if case.kind != "in band":
        assert ended.code == "upstream_broken", f"{case.id}: {ended}"
