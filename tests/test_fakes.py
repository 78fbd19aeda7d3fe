"""The fake upstream plays its scripts to the letter, and notices what its peers do."""

import asyncio
import json
import re

import pytest

from tests.fakes import Abort, Close, FakeUpstream, Framing, Send, UntilClosed, Wait, dechunk, json_answer, raw_exchange, sse_answer

GET = b"GET /v1/models?limit=2 HTTP/1.1\r\nHost: fake\r\nX-Tag: a\r\nx-tag: b\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: fake\r\nConnection: close\r\n\r\n"
EVENTS = [b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n', b"data: [DONE]\n\n"]
STREAM = b"".join(EVENTS)


def post(body: bytes, *, framing: bytes | None = None) -> bytes:
    head = b"Content-Length: %d" % len(body) if framing is None else framing
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: fake\r\n" + head + b"\r\n\r\n" + body


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_a_request_is_recorded_as_it_came() -> None:
    async with FakeUpstream(default=[Send(b"HTTP/1.1 204 None\r\n\r\n"), Close()]) as upstream:
        await raw_exchange("127.0.0.1", upstream.port, GET)
        seen = await upstream.arrived()
    assert (seen.number, seen.connection, seen.method, seen.target) == (0, 0, "GET", "/v1/models?limit=2")
    assert seen.headers == [("Host", "fake"), ("X-Tag", "a"), ("x-tag", "b")]
    assert seen.body == b""
    assert upstream.received_bytes == len(GET)
    assert upstream.open_connections == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b'{"model": "m"}'),
        post(b'7\r\n{"model\r\n7;note=1\r\n": "m"}\r\n0\r\n\r\n', framing=b"Transfer-Encoding: chunked"),
    ],
    ids=["content-length", "chunked"],
)
async def test_a_body_is_recorded_without_its_framing_however_it_is_split(request_bytes: bytes) -> None:
    async with FakeUpstream(default=[*json_answer(200, {}), Close()]) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        for at in range(len(request_bytes)):
            writer.write(request_bytes[at : at + 1])
            await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        assert (await upstream.arrived()).json() == {"model": "m"}


async def test_scripts_are_played_in_order_on_one_connection_and_a_request_without_one_gets_500() -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(json_answer(200, {"answer": 1}))
        upstream.queue([*json_answer(429, {"answer": 2}, headers={"retry-after": "7"})])
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET * 3)
        await upstream.arrived(3)
        await upstream.requests[2].played.wait()
        await upstream.hang_up()
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"429", b"500"]
    assert b"retry-after: 7\r\n" in got
    assert [r.connection for r in upstream.requests] == [0, 0, 0]


async def test_a_json_answer_is_complete_whatever_its_splits() -> None:
    payload = {"text": "a" * 100}
    for splits in ([], [1, 2, 3], [50, 1000]):
        steps = json_answer(200, payload, splits=splits)
        async with FakeUpstream(default=[*steps, Close()]) as upstream:
            got = await raw_exchange("127.0.0.1", upstream.port, LAST)
        assert json.loads(body_of(got)) == payload
        assert len(steps) == {0: 2, 3: 5, 2: 3}[len(splits)]


@pytest.mark.parametrize("splits", [None, [1, 5, 30]])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_an_event_stream_is_the_same_bytes_in_every_framing_and_split(framing: Framing, splits: list[int] | None) -> None:
    async with FakeUpstream(default=[*sse_answer(EVENTS, framing=framing, splits=splits), Close()]) as upstream:
        body = body_of(await raw_exchange("127.0.0.1", upstream.port, LAST))
    if framing == "chunked":
        assert dechunk(body) == (STREAM, b"")
    else:
        assert body == STREAM


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_a_cut_stream_ends_after_the_events_it_was_given(framing: Framing) -> None:
    async with FakeUpstream(default=sse_answer(EVENTS, framing=framing, cut_after=1)) as upstream:
        got = await raw_exchange("127.0.0.1", upstream.port, GET)
    body = body_of(got)
    if framing == "chunked":
        assert dechunk(body) is None
        assert dechunk(body + b"0\r\n\r\n") == (EVENTS[0], b"")
    else:
        assert body == EVENTS[0]
    assert (b"content-length: %d" % len(STREAM) in got) == (framing == "length")


async def test_a_wait_holds_the_answer_until_the_test_lets_go() -> None:
    gate = asyncio.Event()
    async with FakeUpstream(default=[Send(b"one"), Wait(gate), Send(b"two"), Close()]) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET)
        assert await reader.read(100) == b"one"
        assert upstream.requests[0].sent_bytes == 3
        gate.set()
        assert await reader.read() == b"two"
        writer.close()
        await writer.wait_closed()
        assert upstream.requests[0].played.is_set()
        assert not upstream.requests[0].closed_early.is_set()


async def test_an_abort_resets_the_connection() -> None:
    async with FakeUpstream(default=[Abort()]) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()


@pytest.mark.parametrize("steps", [[UntilClosed()], [Wait(asyncio.Event())], [Send(b"x"), UntilClosed()]])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_peer_that_leaves_early_is_noticed_at_once(steps: list[UntilClosed | Wait | Send], reset: bool) -> None:
    async with FakeUpstream(default=steps) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET)
        request = await upstream.arrived()
        writer.transport.abort() if reset else writer.close()
        await request.closed_early.wait()
        await request.played.wait()


async def test_a_peer_that_does_not_read_stops_the_script() -> None:
    block = b"x" * 1_000_000
    async with FakeUpstream(default=[Send(block)] * 50) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port, limit=1)
        writer.write(GET)
        request = await upstream.arrived()
        assert await reader.read(1)  # the first bytes came, and so the script runs
        assert not request.played.is_set()
        writer.transport.abort()
        await request.closed_early.wait()
    assert request.sent_bytes < 50 * len(block)


async def test_hanging_up_ends_idle_connections_in_order() -> None:
    async with FakeUpstream(default=json_answer(200, {})) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET)
        await upstream.arrived()
        await upstream.requests[0].played.wait()
        await upstream.hang_up()
        assert (await reader.read()).endswith(b"\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()
        assert (upstream.accepted, upstream.open_connections) == (1, 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxxx0\r\n\r\n",
    ],
)
async def test_a_malformed_request_fails_the_test_that_sent_it(garbage: bytes) -> None:
    with pytest.raises(AssertionError, match="malformed request"):
        async with FakeUpstream() as upstream:
            assert await raw_exchange("127.0.0.1", upstream.port, garbage) == b""


async def test_half_a_request_is_counted_and_never_played() -> None:
    async with FakeUpstream() as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(post(b"whole")[:-1])
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert upstream.requests == []
    assert upstream.received_bytes == len(post(b"whole")) - 1
