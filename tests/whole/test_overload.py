"""A process that is asked for more than it can do: it says so early, goes on with what it has, and is itself again afterwards."""

import asyncio
import os
import re
import select
import signal
import socket
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import openai
import orjson
import pytest

from tests.fakes import FakeUpstream, Wait, json_answer, sse_answer
from tests.house import policy
from tests.whole.conversation import CHAT, OK, STREAM
from tests.whole.process import Serving

HEAD, FIRST, *REST = sse_answer(STREAM)
HEADERS = {"content-type": "application/json", "authorization": "Bearer app-key"}
BODY = orjson.dumps(CHAT)
HANG_S = 20.0
T = TypeVar("T")


async def values(proxy: Serving, name: str) -> dict[str, float]:
    """A metric's values by their labels."""
    _, text = await proxy.admin("/metrics")
    found = re.findall(rf"^{name}(?:{{(.*?)}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


async def until(proxy: Serving, name: str, labels: str, least: float) -> None:
    async with asyncio.timeout(HANG_S):
        while (await values(proxy, name)).get(labels, 0) < least:
            await asyncio.sleep(0)


async def opened(stack: ExitStack, port: int, data: bytes) -> socket.socket:
    sock = stack.enter_context(socket.socket())
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    if data:
        await loop.sock_sendall(sock, data)
    return sock


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


async def soon(waiting: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(HANG_S):
        return await waiting


async def test_with_256_descriptors_a_thousand_connections_are_refused_and_calls_and_probes_go_on(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue([HEAD, FIRST, Wait(go), *REST])
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1", descriptors=256) as proxy, proxy.client() as app:
            stream = await app.chat.completions.create(**CHAT, stream=True)
            said = [await anext(aiter(stream))]
            with ExitStack() as stack:
                request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                for n in range(1000):
                    await opened(stack, proxy.port, b"" if n % 2 else request)
                assert (await proxy.admin("/readyz"))[0] == 200
                assert len(os.listdir(f"/proc/{proxy.pid}/fd")) < 200, "some are left for upstreams"
                assert (await values(proxy, "tollhouse_connections"))['port="data"'] <= 80
                async with proxy.client(max_retries=5) as other:
                    assert (await other.chat.completions.create(**CHAT)).choices
                go.set()
                said += [chunk async for chunk in stream]
            assert "".join(c.choices[0].delta.content or "" for c in said) == "Hello"
            assert (await app.chat.completions.create(**CHAT)).choices
    assert not proxy.lines("fault.caught")


async def test_a_connection_too_many_is_answered_as_any_other_error_is(tmp_path: Path) -> None:
    go = asyncio.Event()
    env = {"TOLLHOUSE_MAX_CONNECTIONS": "1"}
    async with FakeUpstream(default=[Wait(go), *OK]) as upstream:
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1", env=env) as proxy, proxy.client() as app:
            running = asyncio.create_task(app.chat.completions.create(**CHAT))
            await upstream.arrived(1)
            status, headers, body = await proxy.post("/v1/chat/completions", BODY, HEADERS)
            go.set()
            assert (await running).choices
            shed = await values(proxy, "tollhouse_shed_total")
            await proxy.logged("overload.ended")
    assert (status, orjson.loads(body)["error"]["code"], headers["connection"]) == (503, "overloaded", "close")
    assert 1000 <= int(headers["retry-after-ms"]) <= 2000
    assert shed['reason="connections"'] >= 1


async def test_near_its_memory_s_limit_it_refuses_before_the_body_and_what_runs_goes_on(tmp_path: Path) -> None:
    go = asyncio.Event()
    large = orjson.dumps({**CHAT, "messages": [{"role": "user", "content": "x" * 4_000_000}]})
    fields = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{fields}content-length: {len(large)}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue([HEAD, FIRST, Wait(go), *REST])
        env = {"TOLLHOUSE_MEMORY_LIMIT": "100MiB"}
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1", env=env) as proxy, proxy.client() as app:
            stream = await app.chat.completions.create(**CHAT, stream=True)
            said = [await anext(aiter(stream))]
            with ExitStack() as stack:
                sockets = [await opened(stack, proxy.port, head) for _ in range(40)]
                await until(proxy, "tollhouse_shed_total", 'reason="memory"', 30)
                assert (await proxy.admin("/readyz"))[0] == 200, "the app beside it is not taken out of service for it"
                answers = [await soon(loop.sock_recv(sock, 65536)) for sock in sockets if readable(sock)]
                taken = [sock for sock in sockets if not readable(sock)]
                for sock in taken[:3]:
                    await soon(loop.sock_sendall(sock, large))
                    assert (await soon(loop.sock_recv(sock, 65536))).startswith(b"HTTP/1.1 200 ")
            go.set()
            said += [chunk async for chunk in stream]
            [ended] = await proxy.logged("overload.ended")
            again, _, _ = await proxy.post("/v1/chat/completions", BODY, HEADERS)
    assert "".join(c.choices[0].delta.content or "" for c in said) == "Hello"
    assert 30 <= len(answers) <= 39
    assert all(answer.startswith(b"HTTP/1.1 503 ") and b'"code":"overloaded"' in answer for answer in answers)
    waits = [int(wait) for answer in answers for wait in re.findall(rb"retry-after-ms: (\d+)", answer)]
    assert len(waits) == len(answers)
    assert all(1000 <= wait <= 20_000 for wait in waits)
    assert len(set(waits)) > 20, "they do not all come back together"
    assert again == 200
    assert (ended["reason"], ended["refused"]) == ("memory", len(answers))


async def test_no_more_calls_run_than_the_setting_allows_and_sdks_come_back_by_themselves(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        for _ in range(2):
            upstream.queue([Wait(go), *OK])
        env = {"TOLLHOUSE_MAX_CALLS": "2"}
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1", env=env) as proxy, proxy.client() as app:
            running = [asyncio.create_task(app.chat.completions.create(**CHAT)) for _ in range(2)]
            await upstream.arrived(2)
            with pytest.raises(openai.InternalServerError) as refused:
                await app.chat.completions.create(**CHAT)
            async with proxy.client(max_retries=3) as patient:
                waiting = asyncio.create_task(patient.chat.completions.create(**CHAT))
                await until(proxy, "tollhouse_shed_total", 'reason="calls"', 2)
                go.set()
                assert (await waiting).choices
            for call in running:
                assert (await call).choices
    assert (refused.value.status_code, refused.value.code) == (503, "overloaded")


async def test_a_process_that_was_stopped_for_a_while_applies_its_deadlines_and_sheds_nothing(tmp_path: Path) -> None:
    rules = "- {name: all, timeouts: {first_byte: 1s}}"
    never = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue([Wait(never), *OK])
        async with Serving(tmp_path, policy(rules), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            cut = asyncio.create_task(app.chat.completions.create(**CHAT))
            await upstream.arrived(1)
            proxy.signal(signal.SIGSTOP)
            stopped = asyncio.get_running_loop().time() + 2.0
            queued = [asyncio.create_task(app.chat.completions.create(**CHAT)) for _ in range(20)]
            while asyncio.get_running_loop().time() < stopped:
                await asyncio.sleep(0.05)
            proxy.signal(signal.SIGCONT)
            with pytest.raises(openai.InternalServerError) as late:
                await cut
            for call in queued:
                assert (await call).choices
            shed = await values(proxy, "tollhouse_shed_total")
            never.set()
    assert late.value.status_code == 504
    assert sum(shed.values()) == 0


async def test_who_guesses_keys_is_slowed_down_and_the_app_beside_him_is_not(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, {})) as upstream:
        async with Serving(tmp_path, policy(), upstream=upstream.url + "/v1") as proxy:
            guesses: Counter[tuple[int, str]] = Counter()
            for n in range(300):
                status, headers, body = await proxy.post(
                    "/v1/chat/completions", BODY, {**HEADERS, "authorization": f"Bearer no-{n}"}
                )
                guesses[status, orjson.loads(body)["error"]["code"]] += 1
                if n in (10, 200):
                    right = await proxy.post("/v1/chat/completions", BODY, HEADERS)
                    assert right[0] == 200
            assert int(headers["retry-after-ms"]) <= 1000
            counted = await values(proxy, "tollhouse_wrong_keys_total")
            thinned = await values(proxy, "tollhouse_log_thinned_total")
            dropped = await values(proxy, "tollhouse_log_dropped_total")
    looked_at = guesses[401, "invalid_api_key"]
    assert 20 <= looked_at < 60
    assert guesses[429, "too_many_wrong_keys"] == 300 - looked_at
    assert counted == {'code="invalid_api_key"': looked_at, 'code="too_many_wrong_keys"': 300 - looked_at}
    lines = [line for line in proxy.lines("call.finished") if line["outcome"] == "refused"]
    assert len(lines) + thinned[""] == 300
    assert thinned[""] > 100
    assert dropped[""] == 0
