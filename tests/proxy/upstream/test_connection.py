"""One connection: what is an answer and what is none, who waits for whom, and what a connection is good for afterwards."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest

from proxy.errors import UpstreamError
from proxy.upstream.answer import HIGH_WATER_BYTES
from proxy.upstream.connection import PIECE_BYTES
from proxy.upstream.kernel import READ_BYTES
from tests.fakes import Abort, Close, FakeUpstream, Send, Step, UntilClosed, Wait, json_answer, sse_answer
from tests.proxy.upstream.calls import ask, body_of, client_of, fetch, soon, turns
from tests.proxy.upstream.malformed import BAD, CHUNKED, OK

GOOD = json_answer(200, {"ok": True})

# The same where nobody reads a field but those of framing: what is not kept counts as well.
BARE = [
    *["a head of 64 kB in many fields", "201 fields", "201 fields of one name", "a field of 300 kB"],
    *["coding gzip", "a coding that looks like chunked", "an interim answer with a body", "chunked in two fields"],
]


@pytest.mark.parametrize("name", BARE)
async def test_fields_that_nobody_reads_count_towards_the_bounds_of_a_head(name: str) -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream, fields=()) as client:
        upstream.queue([Send(BAD[name])])
        with pytest.raises(UpstreamError) as caught:
            await fetch(client)
        assert (caught.value.code, caught.value.sent) == ("upstream_broken", True)
        await turns(lambda: upstream.open_connections == 0)


async def test_the_fields_of_one_answer_are_not_counted_with_those_of_the_next() -> None:
    many = b"".join(b"x-%d: 1\r\n" % n for n in range(150))
    trailed = CHUNKED + b"2\r\nok\r\n0\r\n" + many + b"\r\n"
    interim = b"HTTP/1.1 103 E\r\n" + many + b"\r\n" + OK + many + b"Content-Length: 2\r\n\r\nok"
    async with FakeUpstream() as upstream, client_of(upstream, fields=()) as client:
        for said in (trailed, interim, trailed):
            upstream.queue([Send(said)])
            assert await fetch(client) == (200, b"ok")
        assert upstream.accepted == 1


@pytest.mark.parametrize("said", BAD.values(), ids=BAD.keys())
async def test_a_bad_answer_is_an_error_and_its_connection_is_never_used_again(said: bytes) -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        upstream.queue([Send(said)])
        with pytest.raises(UpstreamError) as caught:
            await fetch(client)
        first = upstream.requests[0]
        await soon(first.played.wait())
        await turns(lambda: upstream.open_connections == 0)  # by our doing
        assert await fetch(client) == (200, b'{"ok":true}')
        assert [request.connection for request in upstream.requests] == [0, 1]
    error = caught.value
    assert (error.code, error.status, error.sent) == ("upstream_broken", 502, True)
    assert not re.search(r"127\.0\.0\.1|hello|OpenSSH|vvv", f"{error.message} {error.detail}"), "nothing of the bytes is echoed"


CUT: dict[str, list[Step]] = {
    "before anything": [Close()],
    "by a reset": [Abort()],
    "in the status line": [Send(b"HTTP/1."), Close()],
    "in the head": [Send(OK + b"Content-Le"), Close()],
    "behind an interim answer": [Send(b"HTTP/1.1 100 Continue\r\n\r\n"), Close()],
    "before the body": [Send(OK + b"Content-Length: 2\r\n\r\n"), Close()],
    "in a body with a length": [Send(OK + b"Content-Length: 9\r\n\r\nok"), Close()],
    "in a body with a length by a reset": [Send(OK + b"Content-Length: 9\r\n\r\nok"), Abort()],
    "before the first chunk": [Send(CHUNKED), Close()],
    "in the size of a chunk": [Send(CHUNKED + b"1"), Close()],
    "in a chunk": [Send(CHUNKED + b"9\r\nok"), Close()],
    "behind a chunk": [Send(CHUNKED + b"2\r\nok\r\n"), Close()],
    "before the last line": [Send(CHUNKED + b"2\r\nok\r\n0\r\n"), Close()],
    "in the trailers": [Send(CHUNKED + b"2\r\nok\r\n0\r\nx-t: "), Close()],
}


@pytest.mark.parametrize("script", CUT.values(), ids=CUT.keys())
async def test_an_answer_that_is_cut_is_an_error_and_its_request_is_not_repeated(script: list[Step]) -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        upstream.queue(script)
        with pytest.raises(UpstreamError) as caught:
            await fetch(client)
        assert len(upstream.requests) == 1
        assert await fetch(client) == (200, b'{"ok":true}')
    assert (caught.value.code, caught.value.sent) == ("upstream_broken", True)


async def test_what_came_before_a_cut_is_handed_out_before_the_error() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([Send(CHUNKED + b"5\r\nfirst\r\nzz\r\n")])
        answer = await soon(ask().of(client))
        assert await soon(answer.read()) == b"first"
        for _ in range(2):
            with pytest.raises(UpstreamError):
                await soon(answer.read())
        answer.close()


# What is unusual and right. The body, and whether the connection may be used again.
RIGHT: dict[str, tuple[bytes, bytes, bool]] = {
    "a length": (OK + b"Content-Length: 2\r\n\r\nok", b"ok", True),
    "a length of none": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "chunks": (CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok", True),
    "chunks in other words": (OK + b'tRANSFER-eNCODING: Chunked\r\n\r\n00002;a=b;c="d"\r\nok\r\n0;e\r\n\r\n', b"ok", True),
    "trailers, dropped": (CHUNKED + b"2\r\nok\r\n0\r\nx-t: 1\r\nx-u:\r\n\r\n", b"ok", True),
    "an empty line before the head": (b"\r\n" + OK + b"Content-Length: 2\r\n\r\nok", b"ok", True),
    "interim answers": (
        b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nlink: a\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
        b"ok",
        True,
    ),
    "204": (b"HTTP/1.1 204 No\r\n\r\n", b"", True),
    "304 that names its length": (b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n", b"", True),
    "an upgrade on offer": (OK + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "HTTP/1.0 kept alive": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "to be closed": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
    "200 fields": (OK + b"".join(b"x-%d: 1\r\n" % n for n in range(199)) + b"Content-Length: 2\r\n\r\nok", b"ok", True),
    "a head of 60 kB": (OK + b"x: " + b"v" * 60_000 + b"\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
}


@pytest.mark.parametrize(("said", "body", "kept"), RIGHT.values(), ids=RIGHT.keys())
async def test_a_right_answer_is_read_to_its_end_and_its_connection_kept_if_it_may(said: bytes, body: bytes, kept: bool) -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        upstream.queue([Send(said)])
        status, got = await fetch(client)
        assert await fetch(client) == (200, b'{"ok":true}')
        assert [request.connection for request in upstream.requests] == [0, 0 if kept else 1]
    assert got == body
    assert status in (200, 204, 304)


SPLIT = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nX-Empty:\r\nX-Twice: a\r\nx-twice: b\r\nX-Name: \xc3\xa9\r\n"
    b"Transfer-Encoding: chunked\r\nX-Latin: \xe9\r\n\r\n5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nx-trailer: t\r\n\r\n"
)


async def test_an_answer_means_the_same_wherever_it_is_split() -> None:
    gates: list[asyncio.Event] = []
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        for at in range(1, len(SPLIT)):
            gate = asyncio.Event()
            gates.append(gate)
            upstream.queue([Send(SPLIT[:at]), Wait(gate), Send(SPLIT[at:])])
        for number, gate in enumerate(gates):
            opening = asyncio.ensure_future(ask().of(client))
            request = await upstream.arrived(number + 1)
            await turns(lambda request=request: request.sent_bytes > 0)  # type: ignore[misc]
            await asyncio.sleep(0)  # one turn of the loop, in which the first part is read
            gate.set()
            answer = await soon(opening)
            assert await body_of(answer) == b"hello world"
            assert answer.status == 200
            assert answer.headers == {
                "x-empty": "",
                "x-twice": "a, b",
                "x-name": "é",
                "transfer-encoding": "chunked",
                "x-latin": "é",
            }
        assert upstream.accepted == 1, "one connection carried them all"


async def test_an_answer_means_the_same_byte_by_byte() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([Send(SPLIT[at : at + 1]) for at in range(len(SPLIT))])
        assert await fetch(client) == (200, b"hello world")


async def test_head_has_no_body_whatever_its_fields_say() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        upstream.queue([Send(OK + b"Content-Length: 500\r\n\r\n")])
        upstream.queue([Send(OK + b"Transfer-Encoding: chunked\r\n\r\n")])
        upstream.queue([Send(OK + b"Content-Length: 0\r\n\r\n")])
        for _ in range(3):
            assert await fetch(client, ask(b"", method="HEAD")) == (200, b"")
        assert await fetch(client) == (200, b'{"ok":true}')
        assert [request.connection for request in upstream.requests] == [0, 1, 2, 2], (
            "llhttp would wait for a body on the first two"
        )


async def test_a_body_behind_head_is_an_error() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([Send(OK + b"Content-Length: 2\r\n\r\nok")])
        with pytest.raises(UpstreamError):
            await fetch(client, ask(b"", method="HEAD"))


async def test_a_body_without_length_or_chunks_ends_with_the_stream() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        upstream.queue(sse_answer([b"data: 1\n\n", b"data: 2\n\n"], framing="close"))
        assert await fetch(client) == (200, b"data: 1\n\ndata: 2\n\n")
        await fetch(client)
        assert [request.connection for request in upstream.requests] == [0, 1]


async def test_a_body_that_would_end_with_the_stream_is_cut_by_a_reset() -> None:
    go_on = asyncio.Event()
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([Send(OK + b"\r\npart"), Wait(go_on), Abort()])
        answer = await soon(ask().of(client))
        assert await soon(answer.read()) == b"part"
        go_on.set()
        with pytest.raises(UpstreamError):
            await soon(answer.read())
        answer.close()


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_bytes_go_with_their_length_and_chunks_without() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        await fetch(client, ask(b"abc"))
        await fetch(client, ask(pieces(b"a", b"", b"bc")))
        await fetch(client, ask(pieces()))
        await fetch(client, ask(b""))
        await fetch(client, ask(b"", method="GET"))
        seen = [(r.body, r.header("content-length"), r.header("transfer-encoding")) for r in upstream.requests]
        assert seen == [(b"abc", "3", None), (b"abc", None, "chunked"), (b"", None, "chunked"), (b"", "0", None), (b"", None, None)]
        assert {r.header("host") for r in upstream.requests} == {f"127.0.0.1:{upstream.port}"}
        assert {r.target for r in upstream.requests} == {"/v1/chat/completions"}
        assert upstream.accepted == 1


@pytest.mark.parametrize("size", [PIECE_BYTES, PIECE_BYTES + 1, 5_000_001])
async def test_a_large_body_arrives_whole_and_its_connection_is_kept(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        for _ in range(2):
            assert (await fetch(client, ask(body[:size])))[0] == 200
        assert [request.body == body[:size] for request in upstream.requests] == [True, True]
        assert upstream.accepted == 1


class Deaf(asyncio.Protocol):
    """A server that stops reading at the first byte, until its transport is told to go on. refusal: what it says then."""

    def __init__(self, refusal: bytes = b"") -> None:
        self.refusal = refusal
        self.got = 0
        self.met = asyncio.Event()
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.got:
            self.transport.pause_reading()
            self.transport.write(self.refusal)
        self.got += len(data)
        self.met.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


@contextlib.asynccontextmanager
async def listening(deaf: Deaf) -> AsyncIterator[str]:
    """The base URL of a server with one connection."""
    server = await asyncio.get_running_loop().create_server(lambda: deaf, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        deaf.transport.abort()
        await soon(deaf.gone.wait())


async def test_a_body_is_taken_from_its_source_no_faster_than_the_upstream_reads() -> None:
    taken = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1 << 16
            yield b"x" * (1 << 16)

    deaf = Deaf()
    async with listening(deaf) as url, client_of(url) as client:
        opening = asyncio.ensure_future(ask(source()).of(client))
        await soon(deaf.met.wait())
        seen = -1
        while seen != taken:  # the sockets' buffers fill, and then nothing moves
            seen = taken
            for _ in range(200):
                await asyncio.sleep(0)
        assert 0 < taken < 30_000_000
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        deaf.transport.resume_reading()
        await soon(deaf.gone.wait())


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_that_refuses_early_is_not_sent_the_rest(streamed: bool) -> None:
    size = 30_000_000

    async def source() -> AsyncIterator[bytes]:
        for _ in range(size // 100_000):
            yield b"x" * 100_000

    deaf = Deaf(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    async with listening(deaf) as url, client_of(url) as client:
        assert await fetch(client, ask(source() if streamed else b"x" * size)) == (413, b"no")
        deaf.transport.resume_reading()
        await soon(deaf.gone.wait())
        assert deaf.got < size, "the connection was closed instead"


async def test_a_fault_of_the_body_s_source_passes_and_closes_the_connection() -> None:
    class TooLargeError(Exception):
        pass

    async def source() -> AsyncIterator[bytes]:
        yield b"part"
        raise TooLargeError

    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        with pytest.raises(TooLargeError):
            await soon(ask(source()).of(client))
        await turns(lambda: upstream.open_connections == 0)
        assert await fetch(client) == (200, b'{"ok":true}')
        assert len(upstream.requests) == 1, "half a request is none"


BAD_FIELDS = [("x-a", "1\r\nx-b: 2"), ("x-a", "1\n"), ("x-a", "1\r"), ("x-a\r\nx-b", "1"), ("x-a", "a\0b"), ("x-a", "\ud800")]


@pytest.mark.parametrize("bad", BAD_FIELDS)
async def test_a_field_that_would_be_read_as_two_is_never_written(bad: tuple[str, str]) -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        with pytest.raises(UpstreamError) as caught:
            await ask(headers=[bad]).of(client)
        assert caught.value.sent is False
        assert upstream.received_bytes == 0


@pytest.mark.parametrize("bad", ["/a b", "/a\r\nx: y", "/\0", "/é"])
async def test_a_target_that_would_be_read_as_more_is_never_written(bad: str) -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        with pytest.raises(UpstreamError) as caught:
            await ask(target=bad).of(client)
        assert caught.value.sent is False
        assert upstream.received_bytes == 0


async def test_field_bytes_that_are_no_utf_8_pass_as_they_came() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        await fetch(client, ask(headers=[("x-a", b"\xff\xc3\xa9".decode("utf-8", "surrogateescape"))]))
        assert upstream.requests[0].header("x-a") == b"\xff\xc3\xa9".decode("latin-1")


# ── flow, close, cancellation ────────────────────────────────────────────────────────────────────────────────────────


async def test_an_upstream_is_slowed_down_by_a_reader_that_waits() -> None:
    piece = b"x" * 65536
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([Send(OK + b"Content-Length: %d\r\n\r\n" % (len(piece) * 400)), *[Send(piece)] * 400])
        answer = await soon(ask().of(client))
        request = upstream.requests[0]
        seen = -1
        while seen != request.sent_bytes:
            seen = request.sent_bytes
            for _ in range(200):
                await asyncio.sleep(0)
        assert request.sent_bytes < 16_000_000, "what the kernel holds, and no more"
        assert answer.size <= HIGH_WATER_BYTES + READ_BYTES
        assert await body_of(answer) == piece * 400
        assert upstream.accepted == 1


async def test_chunks_that_wait_are_read_as_one() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue(sse_answer([b"a", b"b", b"c"]))
        answer = await soon(ask().of(client))
        await turns(lambda: answer.whole)
        assert await soon(answer.read()) == b"abc"
        assert await soon(answer.read()) == b""
        answer.close()


async def test_closing_in_the_middle_ends_the_upstream_s_work_at_once() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([*sse_answer([b"data: 1\n\n"])[:2], UntilClosed()])
        answer = await soon(ask().of(client))
        assert await soon(answer.read()) == b"data: 1\n\n"
        answer.close()
        answer.close()
        await soon(upstream.requests[0].closed_early.wait())


async def test_a_whole_body_that_nobody_read_closes_its_connection() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        (await soon(ask().of(client))).close()
        await fetch(client)
        assert upstream.accepted == 2


async def test_an_answer_let_go_twice_does_not_touch_the_next_one() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        first = await soon(ask().of(client))
        await body_of(first)
        second = await soon(ask().of(client))
        first.close()
        assert await soon(first.read()) == b""
        assert await body_of(second) == b'{"ok":true}'
        assert upstream.accepted == 1


async def test_a_byte_on_an_idle_connection_closes_it() -> None:
    late = asyncio.Event()
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        upstream.queue([Send(OK + b"Content-Length: 2\r\n\r\nok"), Wait(late), Send(b"X")])
        assert await fetch(client) == (200, b"ok")
        late.set()
        await turns(lambda: upstream.open_connections == 0)
        assert await fetch(client) == (200, b'{"ok":true}')
        assert upstream.accepted == 2


async def test_an_idle_connection_that_ends_leaves_the_pool_at_once() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        await fetch(client)
        assert "idle=1 busy=0" in repr(client)
        await upstream.hang_up()
        await turns(lambda: "idle=0 busy=0" in repr(client))
        assert await fetch(client) == (200, b'{"ok":true}')


async def test_an_end_that_only_the_kernel_knows_yet_is_seen_before_anything_is_written() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        async def one_answer() -> socket.socket:
            peer, _ = await loop.sock_accept(server)
            await loop.sock_recv(peer, 4096)
            await loop.sock_sendall(peer, OK + b"Content-Length: 2\r\n\r\nok")
            return peer

        async with client_of(f"http://127.0.0.1:{server.getsockname()[1]}") as client:
            for _ in range(2):
                serving = asyncio.ensure_future(one_answer())
                assert await fetch(client) == (200, b"ok")
                # No turn of the loop passes between this end and the next call.
                (await soon(serving)).close()


CANCELLED: dict[str, list[Step]] = {
    "waiting for the head": [UntilClosed()],
    "in the head": [Send(OK + b"Conte"), UntilClosed()],
    "behind an interim answer": [Send(b"HTTP/1.1 100 C\r\n\r\n"), UntilClosed()],
}


@pytest.mark.parametrize("script", CANCELLED.values(), ids=CANCELLED.keys())
async def test_a_call_that_is_cancelled_before_its_head_closes_its_connection(script: list[Step]) -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        upstream.queue(script)
        opening = asyncio.ensure_future(ask().of(client))
        request = await upstream.arrived()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await soon(request.closed_early.wait())
        await turns(lambda: "idle=0 busy=0 dialing=0" in repr(client))
        assert await fetch(client) == (200, b'{"ok":true}')


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    go_on = asyncio.Event()
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        script = sse_answer([b"one", b"two"])
        upstream.queue([*script[:1], Wait(go_on), *script[1:]])
        answer = await soon(ask().of(client))
        reading = asyncio.ensure_future(answer.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        go_on.set()
        assert await body_of(answer) == b"onetwo"
        await turns(lambda: "idle=1" in repr(client))


async def test_a_call_is_cancelled_at_every_turn_of_the_loop_and_leaves_no_slot_taken() -> None:
    """Cancelled after n turns, for every n until the call is through: connecting, writing, waiting, reading."""
    async with FakeUpstream(default=json_answer(200, {"a": "b"}, splits=[3])) as upstream, client_of(upstream) as client:
        await fetch(client)
        for fresh in (True, False):
            cancelled = True
            n = 0
            while cancelled:
                if fresh:
                    await upstream.hang_up()
                    await turns(lambda: "idle=0 busy=0 dialing=0" in repr(client))
                call = asyncio.ensure_future(fetch(client))
                for _ in range(n):
                    await asyncio.sleep(0)
                cancelled = call.cancel()
                await asyncio.wait([call])
                assert not cancelled or call.cancelled()
                await turns(lambda: "busy=0 dialing=0 waiting=0" in repr(client))
                n += 1
            assert n > 3
        assert await fetch(client) == (200, b'{"a":"b"}')


async def test_closing_the_client_ends_the_calls_that_run() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([UntilClosed()])
        upstream.queue([*sse_answer([b"one"])[:2], UntilClosed()])
        opening = asyncio.ensure_future(ask().of(client))
        await upstream.arrived()
        answer = await soon(ask().of(client))
        await soon(client.close())
        with pytest.raises(UpstreamError) as caught:
            await soon(opening)
        assert caught.value.code == "upstream_broken"
        with pytest.raises(UpstreamError):
            await body_of(answer)
        with pytest.raises(UpstreamError) as refused:
            await ask().of(client)
        assert (refused.value.code, refused.value.sent) == ("upstream_unreachable", False)
        assert "closed=True" in repr(client)
