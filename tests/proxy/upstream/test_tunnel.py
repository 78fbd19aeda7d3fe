"""Through a proxy by CONNECT, where the environment names one for this upstream."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.errors import UpstreamError
from proxy.upstream.tunnel import Proxies, Tunnel
from tests.proxy.upstream.authority import Authority
from tests.proxy.upstream.calls import ask, client_of, fetch, soon
from tests.proxy.upstream.test_dial import loopback, serving


@contextlib.asynccontextmanager
async def proxying(to_port: int, answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A proxy that gives one answer to every CONNECT and then passes bytes both ways. Its port, and the heads that it got."""
    loop = asyncio.get_running_loop()
    heads: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(source, 65536):
                await loop.sock_sendall(target, data)

    async def serve(client: socket.socket) -> None:
        with client, socket.socket() as upstream:
            heads.append(await loop.sock_recv(client, 65536))
            await loop.sock_sendall(client, answer)
            upstream.setblocking(False)
            await loop.sock_connect(upstream, ("127.0.0.1", to_port))
            both = [asyncio.ensure_future(copy(client, upstream)), asyncio.ensure_future(copy(upstream, client))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.wait(both)

    async def accept(server: socket.socket) -> None:
        while True:
            client, _ = await loop.sock_accept(server)
            tasks.add(asyncio.create_task(serve(client)))

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        accepting = asyncio.create_task(accept(server))
        try:
            yield server.getsockname()[1], heads
        finally:
            for task in (accepting, *tasks):
                task.cancel()
            await soon(asyncio.wait([accepting, *tasks]))


async def test_tls_goes_through_the_tunnel_and_is_checked_against_the_upstream_s_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        serving(authority.serving("DNS:model.test")) as (port, _),
        proxying(port, b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n") as (proxy_port, heads),
    ):
        tunnel = Tunnel("127.0.0.1", proxy_port, "Basic dTpw")
        async with client_of(f"https://model.test:{port}/v1", tls=authority.trusting(), tunnel=tunnel) as client:
            for _ in range(2):
                assert await fetch(client) == (200, b"ok")
        wrong = f"https://other.test:{port}/v1"
        async with client_of(wrong, tls=authority.trusting(), tunnel=tunnel, lookup=loopback) as client:
            with pytest.raises(UpstreamError) as caught:
                await fetch(client)
    assert caught.value.code == "upstream_unreachable"
    assert heads == [
        f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\nProxy-Authorization: Basic dTpw\r\n\r\n".encode()
        for name in ("model.test", "other.test")
    ]


REFUSALS = {
    "407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "502": b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
    "garbage": b"what?\r\n\r\n",
    "bytes behind the head": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000,
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_proxy_that_does_not_agree_makes_the_upstream_unreachable(refusal: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        async with proxying(target.getsockname()[1], refusal) as (proxy_port, _):
            async with client_of("https://model.test", tunnel=Tunnel("127.0.0.1", proxy_port)) as client:
                with pytest.raises(UpstreamError) as caught:
                    await soon(ask().of(client))
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert caught.value.detail == "ConnectionRefusedError"


PROXY = {"HTTPS_PROXY": "http://proxy.test:3128"}
CHOICES = [
    ("https://api.test/v1", {}, None),
    ("https://api.test/v1", PROXY, Tunnel("proxy.test", 3128)),
    ("https://api.test/v1", {"https_proxy": "proxy.test:8080"}, Tunnel("proxy.test", 8080)),
    ("https://api.test/v1", {"HTTPS_PROXY": "http://u:p%40@proxy.test"}, Tunnel("proxy.test", 80, "Basic dTpwQA==")),
    ("http://api.test/v1", PROXY, None),
    ("https://api.test/v1", {**PROXY, "NO_PROXY": "*"}, None),
    ("https://api.test/v1", {**PROXY, "NO_PROXY": "x.test, api.test"}, None),
    ("https://api.test/v1", {**PROXY, "no_proxy": ".test"}, None),
    ("https://api.test/v1", {**PROXY, "NO_PROXY": "API.test:443"}, None),
    ("https://api.test/v1", {**PROXY, "NO_PROXY": "pi.test"}, Tunnel("proxy.test", 3128)),
    ("https://10.1.2.3/v1", {**PROXY, "NO_PROXY": "10.0.0.0/8"}, None),
    ("https://11.1.2.3/v1", {**PROXY, "NO_PROXY": "10.0.0.0/8"}, Tunnel("proxy.test", 3128)),
    ("https://[::1]/v1", {**PROXY, "NO_PROXY": "::1"}, None),
    ("https://api.test/v1", {**PROXY, "NO_PROXY": " , "}, Tunnel("proxy.test", 3128)),
]


@pytest.mark.parametrize(("base_url", "env", "expected"), CHOICES)
def test_the_environment_says_which_upstreams_are_reached_through_a_proxy(
    base_url: str, env: dict[str, str], expected: Tunnel | None
) -> None:
    assert Proxies.of(env).towards(base_url) == expected


@pytest.mark.parametrize("proxy", ["https://proxy.test", "socks5://proxy.test", "http://", "http://proxy.test:port"])
def test_a_proxy_of_another_kind_is_a_mistake(proxy: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY"):
        Proxies.of({"HTTPS_PROXY": proxy})
