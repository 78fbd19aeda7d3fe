"""The mock and the clients against each other, on loopback: what is asked for comes, whole, and what differs is noticed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bench.listeners import Listeners
from bench.load import Load
from bench.mock import Mock, Wheel
from bench.reply import BadReply
from bench.wire import EVENT, REPLY, Stream, calls


@pytest.fixture
async def port() -> AsyncIterator[int]:
    wheel = Wheel()
    server = await asyncio.get_running_loop().create_server(lambda: Mock(wheel), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def test_every_client_makes_its_calls(port: int) -> None:
    async with Load(port, calls(port, prompt_bytes=1000), expected=REPLY, clients=3) as load:
        await load.volley(5)
    assert load.calls == len(load.calls_ns) == len(load.first_ns) == 15
    assert load.body_bytes == 15 * len(REPLY)


async def test_a_reply_that_differs_ends_the_run(port: int) -> None:
    async with Load(port, calls(port, prompt_bytes=1000), expected=REPLY + b"x", clients=1) as load:
        with pytest.raises(BadReply):
            await load.volley()


@pytest.mark.parametrize("stream", [Stream(30, 0.001), Stream(300, 0), Stream(1, 0.001), Stream(1, 0)], ids=str)
async def test_a_stream_comes_whole(port: int, stream: Stream) -> None:
    requests = calls(port, prompt_bytes=1000, stream=stream)
    async with Listeners(port, requests, expected=stream.expected, streams=4) as listeners:
        await listeners.begin(apart_s=0)
        listeners.mark()
        await listeners.end(patience_s=10)
        at_mark, whole = listeners.check()
    assert whole == 4 * len(stream.expected)
    assert 0 <= at_mark <= whole
    assert listeners.ended == 4


async def test_a_stream_that_differs_is_noticed(port: int) -> None:
    stream = Stream(3, 0.001)
    async with Listeners(port, calls(port, prompt_bytes=1000, stream=stream), expected=stream.expected + EVENT, streams=1) as one:
        await one.begin(apart_s=0)
        await one.end(patience_s=10)
        with pytest.raises(BadReply, match="bytes instead of"):
            one.check()


async def test_a_connection_can_stream_again(port: int) -> None:
    stream = Stream(2, 0.001)
    requests = calls(port, prompt_bytes=1000, stream=stream)
    async with Load(port, requests, expected=stream.expected, clients=2) as load:
        await load.volley(4)
    assert load.calls == 8


async def test_what_the_socket_does_not_take_waits(port: int) -> None:
    """A reader that comes late gets everything all the same."""
    stream = Stream(30_000, 0)  # 9 MB, more than the buffers of both ends hold
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
    writer.write(calls(port, prompt_bytes=1000, stream=stream)[0])
    for _ in range(2000):
        await asyncio.sleep(0)  # turns in which the mock writes until it can no more, and nobody reads
    got = await reader.readuntil(b"\r\n\r\n")
    while not got.endswith(b"\r\n0\r\n\r\n"):
        got += await reader.read(2**20)
    writer.close()
    await writer.wait_closed()
    assert got.count(EVENT) == stream.events
