"""One page over a real socket, and where it must never go."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from proxy.courier import AddressRefused, Courier, Guard, off_limits
from proxy.lane import Unreachable
from proxy.telemetry.faults import exception_types
from tests.clock import FakeClock

NOW_S = 1_795_340_060.0


class FakeResolver(AbstractResolver):
    """DNS that says what a test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        family = socket.AF_INET
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def courier() -> AsyncIterator[Courier]:
    courier = Courier(FakeClock(wall_s=NOW_S))
    yield courier
    await courier.close()


def server_of(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> TestServer:
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    return TestServer(app)


async def test_a_page_arrives_as_it_was_rendered_and_its_answer_is_reported(courier: Courier) -> None:
    seen: list[tuple[str, str, str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        headers = request.headers
        seen.append((request.path_qs, headers["content-type"], headers["user-agent"].partition("/")[0], await request.read()))
        return web.Response(status=429, headers={"Retry-After": "30"})

    async with server_of(answer) as server:
        url = str(server.make_url("/a/b?c=d"))
        assert await courier.post(url, {"content-type": "application/json"}, b"[1]") == (429, 30.0)
    assert seen == [("/a/b?c=d", "application/json", "tollhouse", b"[1]")]


async def test_a_redirect_is_not_followed(courier: Courier) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with server_of(answer) as server:
        assert await courier.post(str(server.make_url("/here")), {}, b"{}") == (307, None)
    assert asked == ["/here"]


async def test_no_cookie_of_one_answer_comes_with_the_next_page(courier: Courier) -> None:
    cookies: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        return web.Response(headers={"Set-Cookie": "session=1; Path=/"})

    async with server_of(answer) as server:
        url = f"http://localhost:{server.port}/"  # an address in digits never gets its cookies back
        await courier.post(url, {}, b"{}")
        await courier.post(url, {}, b"{}")
    assert cookies == [None, None]


async def test_an_endless_answer_is_not_read(courier: Courier) -> None:
    cut = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        finally:
            cut.set()

    async with server_of(answer) as server:
        assert await courier.post(str(server.make_url("/")), {}, b"{}") == (200, None)
        await cut.wait()


async def test_a_sink_that_never_answers_is_unreachable_after_the_timeout() -> None:
    leave = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await leave.wait()
        return web.Response()

    courier = Courier(FakeClock(), timeout_s=0.01)
    async with server_of(answer) as server:
        with pytest.raises(Unreachable) as caught:
            await courier.post(str(server.make_url("/")), {}, b"{}")
        leave.set()
    await courier.close()
    assert "Timeout" in exception_types(caught.value)


async def test_a_sink_that_hangs_up_speaks_no_http_or_no_tls_is_unreachable(courier: Courier) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"SSH-2.0-none\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for scheme in ("http", "https"):
            with pytest.raises(Unreachable):
                await courier.post(f"{scheme}://127.0.0.1:{port}/", {}, b"{}")
    with pytest.raises(Unreachable):  # nobody listens any more
        await courier.post(f"http://127.0.0.1:{port}/", {}, b"{}")


async def test_a_proxy_of_the_environment_never_sees_a_page(courier: Courier, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with server_of(answer) as server:
        assert await courier.post(str(server.make_url("/")), {}, b"{}") == (200, None)


# ---- where a name may not lead ----


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "100.100.100.200", "168.63.129.16", "224.0.0.1", "0.1.2.3"]
)
async def test_a_name_that_leads_to_this_host_or_to_metadata_is_refused_before_any_connection(address: str) -> None:
    courier = Courier(FakeClock(), resolver=FakeResolver(address))
    with pytest.raises(Unreachable) as caught:
        await courier.post("http://pages.example/", {}, b"{}")
    await courier.close()
    assert "AddressRefused" in exception_types(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        *("::1", "fe80::1", "::", "ff02::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    ],
)
def test_the_same_holds_over_ipv6(address: str) -> None:
    assert off_limits(ip_address(address))


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "192.168.1.9", "100.64.0.1", "203.0.113.7", "fd12::7", "2001:db8::1", "64:ff9b::a00:7", "2002:a00:7::"]
)
def test_private_and_public_networks_are_reachable(address: str) -> None:
    assert not off_limits(ip_address(address))


async def test_of_several_addresses_the_refused_ones_are_never_tried() -> None:
    found = await Guard(FakeResolver("127.0.0.1", "10.0.0.7")).resolve("pages.example")
    assert [result["host"] for result in found] == ["10.0.0.7"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost."])
async def test_localhost_is_reached_when_the_file_says_localhost(host: str) -> None:
    found = await Guard(FakeResolver("127.0.0.1")).resolve(host)
    assert [result["host"] for result in found] == ["127.0.0.1"]


async def test_localhost_is_this_host_and_no_other_whatever_dns_says() -> None:
    with pytest.raises(AddressRefused):
        await Guard(FakeResolver("169.254.169.254")).resolve("localhost")


async def test_a_name_is_looked_up_once_and_the_connection_goes_to_the_address_that_was_checked() -> None:
    """DNS that says another thing the second time is never asked it."""
    hosts: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return web.Response()

    resolver = FakeResolver("127.0.0.1")
    courier = Courier(FakeClock(), resolver=resolver)
    async with server_of(answer) as server:
        assert await courier.post(f"http://localhost:{server.port}/", {}, b"{}") == (200, None)
        assert resolver.asked == ["localhost"]
        resolver.addresses = ("169.254.169.254",)
        with pytest.raises(Unreachable):
            await courier.post(f"http://localhost:{server.port}/", {}, b"{}")
    await courier.close()
    assert [host.partition(":")[0] for host in hosts] == ["localhost"]


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:9/", "//localhost/"])
async def test_a_redirect_towards_metadata_or_this_host_is_an_answer_and_nothing_more(courier: Courier, location: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    async with server_of(answer) as server:
        assert await courier.post(str(server.make_url("/")), {}, b"{}") == (302, None)


async def test_a_head_without_end_is_unreachable_and_not_kept(courier: Courier) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        try:
            for _ in range(64):
                writer.write(b"x" * 65_536)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Unreachable):
            await courier.post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {}, b"{}")


@pytest.mark.parametrize("host", ["localhost.example", "2130706433", "notlocalhost"])
async def test_other_spellings_of_this_host_are_names_like_all_others(host: str) -> None:
    with pytest.raises(AddressRefused):
        await Guard(FakeResolver("127.0.0.1")).resolve(host)


async def test_an_address_that_the_file_spells_out_is_not_looked_up() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    resolver = FakeResolver("10.0.0.7")
    courier = Courier(FakeClock(), resolver=resolver)
    async with server_of(answer) as server:
        assert await courier.post(f"http://127.0.0.1:{server.port}/", {}, b"{}") == (200, None)
    await courier.close()
    assert resolver.asked == []


# ---- Retry-After ----
