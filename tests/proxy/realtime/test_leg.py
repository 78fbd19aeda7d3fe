"""The socket to an upstream: made as a call's is, TLS and all, and left in bounded time."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import UpstreamError
from proxy.realtime.frames import Ending, Message, UpstreamFrames
from proxy.realtime.leg import HIGH_WATER_BYTES, Leg
from proxy.realtime.session import News
from proxy.upstream.client import HttpUpstream
from proxy.upstream.contract import Ask
from tests.proxy.upstream.authority import Authority
from tests.proxy.upstream.test_dial import loopback
from tests.sockets import FakeSockets, Link

ASK = Ask("GET", "/realtime?model=m", ("x-mine: 1",))


async def until(news: News, fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():
            await news.wait()


async def echo(link: Link) -> None:
    await link.event()
    await link.say(link.raw[-1])


async def linked(client: HttpUpstream, frames: UpstreamFrames, news: News, *, timeout_s: float = 10.0) -> Leg[UpstreamFrames]:
    make = lambda: Leg(frames, news=news.tell)  # noqa: E731
    return await client.link(ASK, frames.lines(), make, connect_timeout_s=timeout_s)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_session_over_a_socket_of_its_own(secure: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path) if secure else None
    tls = authority.serving("DNS:model.test") if authority else None
    trusting = authority.trusting() if authority else None
    async with FakeSockets(echo, tls=tls) as upstream:
        base = f"{'https' if secure else 'http'}://model.test:{upstream.port}/v1"
        client = HttpUpstream("u", base_url=base, tls=trusting, lookup=loopback)
        news, frames = News(asyncio.get_running_loop()), UpstreamFrames()
        leg = await linked(client, frames, news)
        await until(news, lambda: frames.answered)
        assert (frames.status, frames.open) == (101, True)
        leg.send(Message(True, b'{"type":"x"}'))
        await until(news, lambda: bool(frames.messages))
        assert leg.take() == Message(True, b'{"type":"x"}')
        leg.close(Ending(1000, "bye"))
        leg.end()
        await until(news, lambda: leg.lost)
        link = await upstream.linked()
        assert link.request is not None
        assert (link.request.path, link.headers["x-mine"]) == ("/v1/realtime?model=m", "1")
        await client.close()


async def test_a_certificate_for_another_name_is_none(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with FakeSockets(echo, tls=authority.serving("DNS:other.test")) as upstream:
        base = f"https://model.test:{upstream.port}/v1"
        client = HttpUpstream("u", base_url=base, tls=authority.trusting(), lookup=loopback)
        with pytest.raises(UpstreamError) as refused:
            await linked(client, UpstreamFrames(), News(asyncio.get_running_loop()))
        assert (refused.value.code, refused.value.sent) == ("upstream_unreachable", False)
        assert upstream.links == []
        await client.close()


async def test_a_deadline_to_connect(tmp_path: Path) -> None:
    """A server that takes a connection and says nothing to TLS."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        while await reader.read(1 << 16):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    client = HttpUpstream(
        "u",
        base_url=f"https://model.test:{server.sockets[0].getsockname()[1]}/v1",
        tls=ssl.create_default_context(),
        lookup=loopback,
    )
    with pytest.raises(UpstreamError) as late:
        await linked(client, UpstreamFrames(), News(asyncio.get_running_loop()), timeout_s=0.5)
    assert (late.value.code, late.value.sent) == ("upstream_timeout", False)
    async with asyncio.timeout(20):
        await came.wait()
        await gone.wait()
    await client.close()
    server.close()


async def test_what_nobody_takes_is_not_read(tmp_path: Path) -> None:
    async def flood(link: Link) -> None:
        while True:
            await link.say(b"x" * 50_000)

    async with FakeSockets(flood) as upstream:
        client = HttpUpstream("u", base_url=upstream.url, lookup=loopback)
        news, frames = News(asyncio.get_running_loop()), UpstreamFrames()
        leg = await linked(client, frames, news)
        await until(news, lambda: frames.size > HIGH_WATER_BYTES)
        assert frames.size < HIGH_WATER_BYTES + (1 << 20)
        taken = 0
        while taken < 20_000_000:
            if (message := leg.take()) is None:
                await news.wait()
            else:
                taken += len(message.data)
            assert frames.size < HIGH_WATER_BYTES + (1 << 20)
        leg.abort()
        await until(news, lambda: leg.lost)
        await client.close()


async def test_one_that_does_not_take_a_goodbye_is_left_all_the_same(tmp_path: Path) -> None:
    async def stuck(link: Link) -> None:
        link.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await link.ended.wait()

    async with FakeSockets(stuck) as upstream:
        client = HttpUpstream("u", base_url=upstream.url, lookup=loopback)
        news, frames = News(asyncio.get_running_loop()), UpstreamFrames()
        leg = await linked(client, frames, news)
        await until(news, lambda: frames.answered)
        while not leg.slow:
            leg.send(Message(True, b"x" * 1_000_000))
        leg.end()
        assert not leg.lost
        await until(news, lambda: leg.lost)
        await client.close()
