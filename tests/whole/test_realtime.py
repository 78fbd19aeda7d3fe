"""Realtime sessions in a process of their own: the official client, a shutdown, a kill, and words that must be found nowhere."""

import asyncio
import base64
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import openai
import orjson
import pytest

from tests.house import UPSTREAM_KEY, policy
from tests.proxy.realtime.talks import COST_NANOUSD, CREATED, answering, created, delta, done
from tests.sockets import FakeSockets, Link, RawSocket
from tests.whole.process import Serving, ran

RULES = """
- name: everyone
  max_tokens: {cap: 1000}
  concurrency: {calls: 4}
  budget: {usd: 5, per: day, by: user, when_spent: reject}
"""
KEY, TEXT, SAID, WHY = "AppCanary4d7e", "PromptCanary4d7e", "AnswerCanary4d7e", "ReasonCanary4d7e"


async def test_the_official_client_has_a_conversation(tmp_path: Path) -> None:
    async with FakeSockets(answering()) as upstream:
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            async with app.realtime.connect(model="gpt-realtime") as talk:
                await talk.session.update(session={"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 4000})
                item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
                for _ in range(2):
                    await talk.conversation.item.create(item=item)  # type: ignore[arg-type]
                    await talk.response.create()
                    said = ""
                    async for event in talk:
                        if event.type == "response.output_text.delta":
                            said += event.delta
                        elif event.type == "response.done":
                            break
                    assert said == "Hi"
                await talk.send({"type": "response.create", "response": {"max_output_tokens": -1}})  # type: ignore[typeddict-item]
                async for event in talk:
                    if event.type == "error":
                        assert event.error.code == "invalid_value"
                        break
            async with proxy.client("wrong-key") as stranger:
                with pytest.raises(Exception, match="401"):
                    await stranger.realtime.connect(model="gpt-realtime").enter()
            lines = await proxy.logged("call.finished", 4)
            _, metrics = await proxy.admin("/metrics")
    assert [(line["status"], line["cost_nanousd"]) for line in lines] == [
        (200, COST_NANOUSD),
        (200, COST_NANOUSD),
        (101, 0),
        (401, 0),
    ]
    assert 'tollhouse_cost_usd_total{model="gpt-realtime",key="app"} 0.00834' in metrics
    link = upstream.links[0]
    assert link.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert link.got[1]["session"]["max_output_tokens"] == 1000
    books = ran(tmp_path, "usage", "--json", env={"TOLLHOUSE_STATE_DIR": str(proxy.state)})
    assert "gpt-realtime" in books.stdout, books


async def running(link: Link) -> None:
    await link.say(CREATED)
    while True:
        event = await link.event()
        if event["type"] == "response.create":
            await link.say(created(), delta(SAID))
        elif event["type"] == "response.cancel":
            await link.say(done(status="cancelled"))


async def test_sigterm_lets_sessions_go_on_for_the_grace_and_then_ends_them_honestly(tmp_path: Path) -> None:
    async with FakeSockets(running) as upstream:
        env = {"TOLLHOUSE_DRAIN_S": "0.5"}
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1", env=env) as proxy, proxy.client() as app:
            talk = await app.realtime.connect(model="gpt-realtime").enter()
            await talk.response.create()
            while (await talk.recv()).type != "response.output_text.delta":
                pass
            proxy.terminate()
            [draining] = await proxy.logged("server.draining")
            assert draining["running"] == 1
            with pytest.raises((openai.OpenAIError, OSError)):
                await app.realtime.connect(model="gpt-realtime").enter()
            while (event := await talk.recv()).type != "error":
                pass
            assert event.error.code == "draining"
            with pytest.raises(Exception, match="1001"):
                await talk.recv()
            assert await proxy.ended() == 0
            await talk.close()
    turn, session = proxy.lines("call.finished")
    assert (turn["cost_nanousd"], turn["usage_source"]) == (COST_NANOUSD, "reported")
    assert session["outcome"] == "drained"
    assert len(upstream.links) == 1


async def test_what_a_killed_process_held_is_charged(tmp_path: Path) -> None:
    async with FakeSockets(running) as upstream:
        proxy = Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1")
        await proxy.__aenter__()
        client = await RawSocket.open(proxy.port)
        client.say({"type": "response.create"})
        await client.told("response.output_text.delta")
        proxy.signal(signal.SIGKILL)
        assert await proxy.ended() == -signal.SIGKILL
        await proxy._session.close()
        client.writer.close()
        async with Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1") as again:
            [recovered] = await again.logged("state.recovered")
    assert recovered["holds"] == 2
    assert recovered["held_nanousd"] > 1000 * 64_000


async def test_planted_words_are_found_nowhere(tmp_path: Path) -> None:
    heard = base64.b64encode(f"SoundCanary4d7e{'x' * 300}".encode()).decode()

    async def script(link: Link) -> None:
        await link.say({**CREATED, "session": {"instructions": TEXT}})
        await link.event("response.create")
        await link.say(created(), delta(SAID), {"type": "error", "error": {"type": "server_error", "message": WHY}}, done())
        await link.event("response.create")
        await link.say({"type": "response.created", "response": {"id": SAID}}, b'{"type":"' + SAID.encode())
        await link.close(4000, f"{WHY} at {upstream.url} with {UPSTREAM_KEY}")

    async def leave(client: RawSocket) -> None:
        client.leave()

    async def garble(client: RawSocket) -> None:
        client.say(b'{"' + TEXT.encode())
        client.writer.write(b"\x81\x05" + TEXT.encode())
        await client.ending()

    async def stay(client: RawSocket) -> None:
        ending = await client.ending()
        assert ending.code == 4000
        assert UPSTREAM_KEY not in ending.reason
        assert upstream.url not in ending.reason
        client.leave()

    rules = RULES.replace("max_tokens: {cap: 1000}", "models: {allow: [gpt-realtime]}")
    ends: list[Callable[[RawSocket], Awaitable[None]]] = [leave, garble, stay]
    async with FakeSockets(script) as upstream:
        text = policy(rules, key=KEY)
        env = {"TOLLHOUSE_LOG_LEVEL": "debug"}
        async with Serving(tmp_path, text, upstream=upstream.url + "/v1", env=env) as proxy:
            for end in ends:
                offered = {"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{KEY}", "cookie": TEXT, "x-custom": TEXT}
                client = await RawSocket.open(proxy.port, f"/v1/realtime?model=gpt-realtime&x={TEXT}", key=None, headers=offered)
                assert KEY.encode() not in client.head
                client.say({"type": "input_audio_buffer.append", "audio": heard})
                client.say({"type": "conversation.item.create", "item": {"type": "message", "content": [{"text": TEXT}]}})
                client.say({"type": "response.create", "event_id": TEXT, "response": {"instructions": TEXT}})
                await client.told("response.done")
                client.say({"type": "session.update", "session": {"model": TEXT}})
                client.say({"type": "response.create", "response": {"max_output_tokens": TEXT}})
                client.say({"type": "response.create"})
                await end(client)
                client.writer.close()
            wrong = {"sec-websocket-protocol": f"openai-insecure-api-key.{KEY}wrong"}
            refused = await RawSocket.open(proxy.port, key=None, headers=wrong)
            assert KEY.encode() not in refused.head + await refused.body()
            refused.writer.close()
            lines = await proxy.logged("call.finished", 13)
            _, metrics = await proxy.admin("/metrics")
    state = b"".join(path.read_bytes() for path in sorted(proxy.state.iterdir()))
    places = {"log": proxy.stdout, "metrics": metrics.encode(), "state": state}
    words = (KEY, SAID, WHY, "SoundCanary", heard[:40], UPSTREAM_KEY, upstream.url.removeprefix("http://"))
    found = {(place, word) for place, text in places.items() for word in words if word.encode() in text}
    assert found == set()
    # A model is named by whoever asks for it, also one that nobody allows.
    assert [line for line in lines if TEXT in orjson.dumps({**line, "model_asked": ""}).decode()] == []
    assert all(KEY not in str(dict(link.headers)) and TEXT not in str(dict(link.headers)) for link in upstream.links)


async def test_nobody_pays_for_sessions_who_opens_none() -> None:
    """Source: decision 14 in proxy/README.md."""
    look = (
        "import sys, policies, proxy.app; print(sorted(m for m in sys.modules if m.startswith(('websockets', 'proxy.realtime'))))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", look, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.strip() == b"[]"
