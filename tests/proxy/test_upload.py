"""Time is charged to whoever takes it: a client that sends slowly, an upstream that cannot be reached, one that reads slowly."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.deadlines import Watch
from proxy.upload import upload
from tests.fakes import FakeUpstream, json_answer
from tests.house import CHAT, House, error_of, policy

FILES = 'unmetered: ["/v1/files*"]'
HEAD = b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ncontent-type: text/plain\r\nconnection: close\r\n"
MIB = 1 << 20


class Time:
    """As much of an event loop as a Watch uses."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now


async def test_what_a_client_has_used_of_its_time_is_used_and_the_upstream_s_time_is_not_the_client_s() -> None:
    time: Any = Time()
    task = asyncio.current_task()
    assert task is not None
    watch = Watch(task, time)
    waits: list[tuple[str, float]] = []

    async def client() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b"):
            waits.append((watch.stage, watch.stage_left_s))
            time.now += 2
            yield chunk
        waits.append((watch.stage, watch.stage_left_s))

    taken = []
    async for chunk in upload(client(), watch, 10):
        taken.append(chunk)
        watch.expect("first_byte", 60)
        time.now += 50
    assert taken == [b"a", b"b"]
    assert waits == [("body_read", 10), ("body_read", 8), ("body_read", 6)]


async def sent(house: House, *pieces: bytes) -> tuple[bytes, asyncio.StreamWriter]:
    """What is answered to these bytes, and then the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.app.data_address[1])
    for piece in pieces:
        writer.write(piece)
    async with asyncio.timeout(20):
        return await reader.read(), writer


@pytest.mark.parametrize("framing", [b"content-length: 100\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"])
async def test_a_client_that_stops_in_the_middle_of_an_upload_is_told_408_and_the_upstream_is_cut(
    tmp_path: Path, framing: bytes
) -> None:
    async with FakeUpstream() as upstream:
        async with House(policy(more=FILES), upstream.url + "/v1", tmp_path, env={"TOLLHOUSE_BODY_S": "0.3"}) as house:
            answer, writer = await sent(house, HEAD + framing)
            [line] = await house.logged("call.finished")
            metrics = await house.metrics()
            async with asyncio.timeout(5):
                while upstream.open_connections:
                    await asyncio.sleep(0)
            writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"deadline: body_read" in answer
    assert upstream.received_bytes > 0
    assert upstream.requests == []
    assert (line["error"], line["deadline"], line["outcome"]) == ("request_timeout", "body_read", "refused")
    assert 'tollhouse_deadlines_total{deadline="body_read"} 1\n' in metrics


async def test_a_whole_body_leaves_the_upstream_all_of_its_time(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, {"id": "f"})) as upstream:
        async with House(policy(more=FILES), upstream.url + "/v1", tmp_path, env={"TOLLHOUSE_BODY_S": "5"}) as house:
            answer, writer = await sent(house, HEAD + b"transfer-encoding: chunked\r\n\r\n", b"4\r\nhalf\r\n", b"0\r\n\r\n")
            writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert upstream.requests[0].body == b"half"


class Deaf:
    """An upstream that takes connections and reads nothing."""

    async def __aenter__(self) -> "Deaf":
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            self._writers.append(writer)

        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=4096)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()


@pytest.mark.parametrize("metered", [True, False])
async def test_an_upstream_that_does_not_read_a_large_body_is_too_slow(tmp_path: Path, metered: bool) -> None:
    text = policy("- {name: quick, timeouts: {first_byte: 300ms}}", more=FILES)
    async with Deaf() as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        head, body = HEAD, b"x" * 20 * MIB
        if metered:
            head = HEAD.replace(b"/v1/files", b"/v1/chat/completions").replace(b"text/plain", b"application/json")
            body = orjson.dumps({**CHAT, "messages": [{"role": "user", "content": body.decode()}]})
        answer, writer = await sent(house, head, b"content-length: %d\r\n\r\n" % len(body), body)
        [line] = await house.logged("call.finished")
        writer.close()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert error_of(answer.partition(b"\r\n\r\n")[2])["code"] == "upstream_timeout"
    assert line["deadline"] == "first_byte"


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers no SYN: its backlog is full, and nobody accepts."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        try:
            yield listening.getsockname()[1]
        finally:
            for one in fill:
                one.close()


async def test_a_connection_that_is_not_made_passes_its_own_deadline_and_no_other(tmp_path: Path) -> None:
    """`first_byte` begins when the call is sent, so a shorter one does not stand for it."""
    text = policy("- {name: quick, timeouts: {connect: 300ms, first_byte: 100ms}}")
    with black_hole() as port:
        async with House(text, f"http://127.0.0.1:{port}/v1", tmp_path) as house:
            status, _, body = await house.post("/v1/chat/completions", CHAT)
            [line] = await house.logged("call.finished")
            metrics = await house.metrics()
    assert (status, error_of(body)["code"]) == (504, "upstream_timeout")
    assert "deadline: connect" in error_of(body)["message"]
    assert (line["deadline"], line["usage_source"]) == ("connect", None)
    assert 'tollhouse_deadlines_total{deadline="connect"} 1\n' in metrics


async def test_the_whole_call_has_one_total_over_all_its_tries(tmp_path: Path) -> None:
    with black_hole() as port:
        text = policy("- {name: quick, timeouts: {connect: 400ms, total: 600ms}}").replace("attempts: 1", "attempts: 3")
        async with House(text, f"http://127.0.0.1:{port}/v1", tmp_path) as house:
            _, _, body = await house.post("/v1/chat/completions", CHAT)
            [line] = await house.logged("call.finished")
    assert "deadline: total" in error_of(body)["message"]
    assert line["deadline"] == "total"
    assert line["usage_source"] is None, "nothing was sent"
