"""TLS to an upstream: its certificate is checked, and what is wrong with it reaches the log and nobody else."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from proxy.errors import UpstreamError
from proxy.upstream.client import HttpUpstream
from proxy.upstream.contract import Heir
from proxy.upstream.kernel import READ_BYTES
from proxy.upstream.resolve import Address
from tests.proxy.upstream.authority import Authority
from tests.proxy.upstream.calls import HANG_S, ask, client_of, fetch, soon, turns


class Answering(asyncio.Protocol):
    """Answers every whole request with the same. made: the connections that got through their handshake."""

    def __init__(self, made: list["Answering"]) -> None:
        self._made = made
        self._pending = b""
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._made.append(self)

    def data_received(self, data: bytes) -> None:
        self._pending += data
        head, _, body = self._pending.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        self._pending = b""
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None, kind: type[Answering] = Answering) -> AsyncIterator[tuple[int, list[Answering]]]:
    """A server: its port, and its connections."""
    made: list[Answering] = []
    server = await asyncio.get_running_loop().create_server(lambda: kind(made), "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], made
    finally:
        server.close()
        for connection in made:
            connection.transport.abort()
            await soon(connection.gone.wait())


async def loopback(host: str, port: int) -> tuple[Address, ...]:
    """Every name is this machine."""
    return ((socket.AF_INET, ("127.0.0.1", port)),)


async def test_a_certificate_of_a_trusted_authority_passes_and_its_connection_is_kept(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.serving("DNS:model.test")
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with serving(context) as (port, made):
        async with client_of(f"https://model.test:{port}/v1", tls=authority.trusting(), lookup=loopback) as client:
            for _ in range(3):
                assert await fetch(client) == (200, b"ok")
            assert await fetch(client, ask(b"x" * 1_000_000)) == (200, b"ok")
            assert len(made) == 1
    assert asked == ["model.test"]


async def test_the_system_s_authorities_are_trusted_and_http_1_1_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    async with serving(authority.serving("IP:127.0.0.1")) as (port, made), client_of(f"https://127.0.0.1:{port}/v1") as client:
        assert await fetch(client) == (200, b"ok")
        assert made[0].transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


class Ending(Answering):
    """Answers without a length, and ends the connection behind the body."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        self.transport.close()


async def test_over_tls_too_a_body_without_a_length_ends_with_the_stream(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(authority.serving("DNS:model.test"), Ending) as (port, made):
        async with client_of(f"https://model.test:{port}/v1", tls=authority.trusting(), lookup=loopback) as client:
            for _ in range(2):
                assert await fetch(client) == (200, b"all of it")
        assert len(made) == 2


EVENT = b"data: " + b"x" * 1000 + b"\n\n"
WHOLE = EVENT * 250
FRAMED = {
    "a length": b"content-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE),
    "chunks": b"transfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % (b"%x\r\n%b\r\n" % (len(EVENT), EVENT) * 250),
    "the end": b"\r\n" + WHOLE,
}


class Said:
    """A server in a thread of its own: it says all at once, and nothing more, so that its end comes with the rest."""

    def __init__(self, context: ssl.SSLContext, said: bytes, *, closes: bool) -> None:
        self._context = context
        self._said = said
        self._closes = closes
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]

    def run(self) -> None:
        """Answer until `end`."""
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listening.accept()
                peer.settimeout(HANG_S)
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        tls = self._context.wrap_socket(peer, server_side=True)
        tls.recv(65536)
        tls.sendall(self._said)
        if self._closes:
            tls.settimeout(0)
            with contextlib.suppress(ssl.SSLError):  # it has said goodbye, and waits for none
                tls.unwrap()
        with socket.socket(fileno=tls.detach()) as raw, contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(HANG_S)
            while raw.recv(65536):
                pass

    def end(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.mark.parametrize("slowly", [False, True], ids=["read at once", "read slowly"])
@pytest.mark.parametrize(("framing", "closes"), [*((framing, True) for framing in FRAMED), ("a length", False), ("chunks", False)])
async def test_what_came_over_tls_before_its_end_is_read_to_the_last_byte(
    tmp_path: Path, framing: str, closes: bool, slowly: bool
) -> None:
    authority = Authority(tmp_path)
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"
    server = Said(authority.serving("DNS:model.test"), head + FRAMED[framing], closes=closes)
    running = asyncio.create_task(asyncio.to_thread(server.run))
    try:
        async with client_of(f"https://model.test:{server.port}/v1", tls=authority.trusting(), lookup=loopback) as client:
            for _ in range(5):
                assert await _read(client, slowly=slowly) == WHOLE
    finally:
        server.end()
        await running


async def _read(client: HttpUpstream, *, slowly: bool) -> bytes:
    """The body of one answer. slowly: as by the relay, where its client is slow."""
    answer, body = await soon(ask().of(client)), bytearray()

    def take(piece: bytes) -> bool:
        assert len(piece) <= 3 * READ_BYTES, "of one read, but for what came before anybody took it"
        body.extend(piece)
        if slowly:
            answer.hold()
        return not slowly

    try:
        while await soon(answer.pump(take)):
            await asyncio.sleep(0.002)  # what a slow client takes
    finally:
        answer.close()
    return bytes(body)


class Leaving(asyncio.Protocol):
    """Takes a connection, and ends it at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def test_a_peer_that_ends_before_the_handshake_is_unreachable_and_leaves_nothing_to_the_loop(tmp_path: Path) -> None:
    loop, told = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    server = await loop.create_server(Leaving, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client_of(f"https://127.0.0.1:{port}", tls=Authority(tmp_path).trusting()) as client:
        for _ in range(20):
            with pytest.raises(UpstreamError) as caught:
                await fetch(client)
            assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
            with pytest.raises(UpstreamError) as caught:
                await client.link(ask().ask, (), Stranger, connect_timeout_s=HANG_S)
            assert caught.value.code == "upstream_unreachable"
    server.close()
    assert told == []


async def test_a_connection_that_is_paused_is_closed_as_soon_as_one_that_is_read(tmp_path: Path) -> None:
    """A loop's TLS waits half a minute for the peer's goodbye, which nobody reads while the socket is paused."""
    authority = Authority(tmp_path)
    async with serving(authority.serving("DNS:model.test")) as (port, _):
        async with client_of(f"https://model.test:{port}/v1", tls=authority.trusting(), lookup=loopback) as client:
            paused = await client.link(ask().ask, (), Paused, connect_timeout_s=HANG_S)
            paused.transport.close()
            await soon(paused.gone.wait())


class Paused(Heir, Answering):
    """Another protocol, which reads nothing."""

    def __init__(self) -> None:
        super().__init__([])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def abandon(self) -> None: ...


class Stranger(Heir, asyncio.Protocol):
    """Another protocol, which must not hear of a connection that it never had."""

    def connection_lost(self, exc: Exception | None) -> None:
        raise AssertionError

    def abandon(self) -> None: ...


REFUSED = {
    "another name": ("DNS:other.test", {}),
    "a name that only ends alike": ("DNS:evil-model.test", {}),
    "an expired certificate": ("DNS:model.test", {"expired": True}),
    "a self-signed certificate": ("DNS:model.test", {"self_signed": True}),
}


@pytest.mark.parametrize(("name", "flaw"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_certificate_that_proves_nothing_is_refused_before_a_byte_is_sent(
    tmp_path: Path, name: str, flaw: dict[str, bool]
) -> None:
    authority = Authority(tmp_path)
    async with serving(authority.serving(name, **flaw)) as (port, made):
        async with client_of(f"https://model.test:{port}/v1", tls=authority.trusting(), lookup=loopback) as client:
            with pytest.raises(UpstreamError) as caught:
                await fetch(client)
            assert "idle=0 busy=0 dialing=0" in repr(client)
        assert all(not connection.transport.get_extra_info("peercert") for connection in made)
    error = caught.value
    assert (error.code, error.status, error.sent) == ("upstream_unreachable", 502, False)
    assert error.detail == "SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED"
    assert not re.search(r"model|other|test|127", error.message)


class Plain(Answering):
    """Says the same in plain HTTP to whatever comes."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


async def test_a_server_that_speaks_no_tls_is_unreachable() -> None:
    async with serving(None, Plain) as (port, _), client_of(f"https://127.0.0.1:{port}") as client:
        with pytest.raises(UpstreamError) as caught:
            await fetch(client)
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)


async def test_the_connect_deadline_covers_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with client_of(f"https://127.0.0.1:{silent.getsockname()[1]}") as client:
            with pytest.raises(UpstreamError) as caught:
                await soon(ask(connect_s=0.05).of(client))
            assert "idle=0 busy=0 dialing=0" in repr(client)
    assert (caught.value.code, caught.value.sent) == ("upstream_timeout", False)


async def test_the_connect_deadline_covers_the_look_up() -> None:
    async def never(host: str, port: int) -> tuple[Address, ...]:
        await asyncio.Event().wait()
        return ()

    async with client_of("http://model.test", lookup=never) as client:
        with pytest.raises(UpstreamError) as caught:
            await soon(ask(connect_s=0.01).of(client))
    assert (caught.value.code, caught.value.sent) == ("upstream_timeout", False)


@pytest.mark.parametrize("host", ["nowhere.test", "a..b", "x" * 70 + ".test"])
async def test_a_name_that_does_not_resolve_is_unreachable(host: str) -> None:
    async def unknown(host: str, port: int) -> tuple[Address, ...]:
        host.encode("idna")
        raise socket.gaierror(-2, f"{host} is not known")

    async with client_of(f"http://{host}", lookup=unknown) as client:
        with pytest.raises(UpstreamError) as caught:
            await soon(ask().of(client))
    assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
    assert host not in f"{caught.value.message} {caught.value.detail}"


async def test_a_call_that_is_cancelled_in_the_handshake_leaves_no_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(authority.serving("DNS:model.test")) as (port, _):
        async with client_of(f"https://model.test:{port}/v1", tls=authority.trusting(), lookup=loopback) as client:
            await fetch(client)
            await client.close()
        for turns_before in range(40):
            async with client_of(f"https://model.test:{port}/v1", tls=authority.trusting(), lookup=loopback) as client:
                call = asyncio.ensure_future(fetch(client))
                for _ in range(turns_before):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])
                await turns(lambda client=client: "unused" in repr(client) or "busy=0 dialing=0" in repr(client))  # type: ignore[misc]
