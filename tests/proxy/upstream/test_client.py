"""The upstream gets exactly what it is to get, once, and its answer comes back as it was sent, or as a fault of the upstream."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from proxy.errors import InvalidCall, UpstreamError
from proxy.upstream.client import HttpUpstream
from proxy.upstream.contract import Answer, Ask
from proxy.upstream.fields import KeptFields
from proxy.upstream.heads import Heads
from tests.fakes import Abort, Close, FakeUpstream, Received, Send, Step, UntilClosed, Wait, json_answer, sse_answer
from tests.proxy.upstream import calls
from tests.proxy.upstream.calls import Asked

EVENTS = [b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n', b"data: [DONE]\n\n"]
OK = json_answer(200, {"ok": True})
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def ask(
    *,
    method: str = "POST",
    target: str = "/chat/completions",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | AsyncIterator[bytes] = b"{}",
    connect_timeout_s: float = 20.0,
) -> Asked:
    return calls.ask(body, method=method, target=target, headers=headers, own=(), connect_s=connect_timeout_s)


async def rest_of(answer: Answer) -> bytes:
    got = b""
    while piece := await answer.read():
        got += piece
    return got


async def fault_of(answer: Answer) -> tuple[bytes, UpstreamError]:
    """What comes of a body before its fault."""
    got = b""
    try:
        while piece := await answer.read():
            got += piece
    except UpstreamError as error:
        return got, error
    raise AssertionError(f"taken for a whole body: {got!r}")


async def exchange(fake: FakeUpstream, steps: Sequence[Step], asked: Asked) -> tuple[int, dict[str, str], bytes, Received]:
    """One call with a client of its own, to its end."""
    fake.queue(steps)
    client = HttpUpstream("u", base_url=f"{fake.url}/v1")
    try:
        answer = await asked.of(client)
        body = await rest_of(answer)
        answer.close()
    finally:
        await client.close()
    return answer.status, dict(answer.headers), body, await fake.arrived()


# ---- what is sent ----


async def some(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_the_upstream_gets_the_named_fields_host_and_framing_and_nothing_else() -> None:
    fields = [
        ("accept", "application/json"),
        ("x-stainless-lang", "python"),
        ("authorization", "Bearer k"),
        ("via", "1.1 tollhouse"),
    ]
    async with FakeUpstream() as fake:
        _, _, _, seen = await exchange(fake, OK, ask(headers=fields, body=b'{"a":1}'))
        port = fake.port
    assert sorted((name.lower(), value) for name, value in seen.headers) == sorted(
        [*fields, ("host", f"127.0.0.1:{port}"), ("content-length", "7")]
    )
    assert (seen.method, seen.target, seen.body) == ("POST", "/v1/chat/completions", b'{"a":1}')


async def test_a_field_that_stands_twice_is_sent_twice_in_order() -> None:
    async with FakeUpstream() as fake:
        _, _, _, seen = await exchange(fake, OK, ask(headers=[("x-a", "1"), ("x-b", "2"), ("x-a", "3")]))
    assert [value for name, value in seen.headers if name.lower() == "x-a"] == ["1", "3"]


@pytest.mark.parametrize(
    "target", ["/models/a%20b", "/x?a[]=1&b=%5B%5d&c=+%2F", "/models/ft:gpt:acme::Ab", "/x?", "/x?a=b?c/d", "/~a(b)'!"]
)
async def test_a_target_is_sent_as_it_is_spelt(target: str) -> None:
    async with FakeUpstream() as fake:
        _, _, _, seen = await exchange(fake, OK, ask(target=target))
    assert seen.target.removesuffix("?") == f"/v1{target}".removesuffix("?")


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("GET", b"", None), ("POST", b"", "0"), ("POST", b"x", "1"), ("POST", b"x" * 3_000_000, "3000000"), ("PUT", b"x", "1")],
)
async def test_a_whole_body_is_sent_with_its_length(method: str, body: bytes, length: str | None) -> None:
    async with FakeUpstream() as fake:
        _, _, _, seen = await exchange(fake, OK, ask(method=method, body=body))
    assert (seen.method, seen.body, seen.header("content-length")) == (method, body, length)
    assert {name.lower() for name, _ in seen.headers} <= {"host", "content-length"}


async def test_a_body_of_unknown_length_is_sent_as_it_comes() -> None:
    async with FakeUpstream() as fake:
        _, _, _, seen = await exchange(fake, OK, ask(body=some(b"ab", b"", b"c" * 300_000, b"d")))
    assert seen.body == b"ab" + b"c" * 300_000 + b"d"
    assert seen.header("transfer-encoding") == "chunked"


async def test_a_body_that_breaks_off_says_why_and_the_upstream_takes_it_for_no_whole_one() -> None:
    async def too_large() -> AsyncIterator[bytes]:
        yield b"abc"
        raise InvalidCall("request_too_large", "Bodies of up to 3 bytes are accepted here.")

    async with FakeUpstream() as fake:
        client = HttpUpstream("u", base_url=fake.url)
        with pytest.raises(InvalidCall) as caught:
            await ask(body=too_large()).of(client)
        await client.close()
        assert fake.requests == []
    assert caught.value.code == "request_too_large"


async def test_proxies_in_the_environment_are_not_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with FakeUpstream() as fake:
        status, _, _, _ = await exchange(fake, OK, ask())
    assert status == 200


# ---- what comes back ----


async def test_an_answer_has_its_status_its_fields_in_lower_case_and_its_bytes() -> None:
    async with FakeUpstream() as fake:
        steps = [Send(b"HTTP/1.1 418 Odd\r\nX-A: 1\r\nx-a: 2\r\nX-B:  y\r\nContent-Length: 5\r\n\r\nhello")]
        status, headers, body, _ = await exchange(fake, steps, ask())
    assert (status, body) == (418, b"hello")
    assert headers == {"x-a": "1, 2", "x-b": "y", "content-length": "5"}


async def test_of_an_answer_s_fields_those_are_kept_that_somebody_reads_and_those_of_framing() -> None:
    raw = b"HTTP/1.1 200 OK\r\nX-Read: 1\r\nX-Other: 2\r\nx-read: 3\r\nx-other: 4\r\nContent-Length: 5\r\nKeep-Alive: timeout=9\r\n\r\n"
    async with FakeUpstream() as fake:
        client = HttpUpstream("u", base_url=fake.url, fields={"x-read"})
        for _ in range(2):
            fake.queue([Send(raw + b"hello")])
            answer = await ask().of(client)
            assert await rest_of(answer) == b"hello"
            answer.close()
            assert answer.headers == {"x-read": "1, 3", "content-length": "5", "keep-alive": "timeout=9"}
        await client.close()
        assert fake.accepted == 1


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_a_stream_comes_in_every_framing(framing: str) -> None:
    async with FakeUpstream() as fake:
        _, _, body, _ = await exchange(fake, sse_answer(EVENTS, framing=framing), ask())  # type: ignore[arg-type]
    assert body == b"".join(EVENTS)


async def test_what_has_come_can_be_read_before_the_next_is_sent() -> None:
    gates = [asyncio.Event() for _ in EVENTS]
    head, *sends, end = sse_answer(EVENTS)
    steps: list[Step] = [head]
    for gate, send in zip(gates, sends, strict=True):
        steps += [Wait(gate), send]
    async with FakeUpstream() as fake:
        fake.queue([*steps, end])
        client = HttpUpstream("u", base_url=fake.url)
        answer = await ask().of(client)
        for gate, event in zip(gates, EVENTS, strict=True):
            gate.set()
            assert await answer.read() == event
        assert await answer.read() == b""
        answer.close()
        await client.close()


async def test_a_compressed_body_stays_compressed() -> None:
    async with FakeUpstream() as fake:
        steps = json_answer(200, {"no": "gzip"}, headers={"content-encoding": "gzip"})
        _, headers, body, _ = await exchange(fake, steps, ask())
    assert (headers["content-encoding"], body) == ("gzip", b'{"no":"gzip"}')


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with FakeUpstream() as fake, FakeUpstream() as other:
        steps = json_answer(status, {}, headers={"location": f"{other.url}/latest/meta-data"})
        got, _, _, _ = await exchange(fake, steps, ask(method="GET", body=b""))
        assert (got, len(fake.requests), other.accepted) == (status, 1, 0)


async def test_interim_answers_are_passed_over() -> None:
    async with FakeUpstream() as fake:
        early = Send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        status, headers, body, _ = await exchange(fake, [early, *OK], ask())
    assert (status, body, "link" in headers) == (200, b'{"ok":true}', False)


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_ends_at_its_head(status: int) -> None:
    async with FakeUpstream() as fake:
        got, _, body, _ = await exchange(fake, [Send(b"HTTP/1.1 %d x\r\n\r\n" % status)], ask())
    assert (got, body) == (status, b"")


async def test_the_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    async with FakeUpstream() as fake:
        _, headers, body, _ = await exchange(fake, [Send(HEAD + b"Content-Length: 5\r\n\r\n")], ask(method="HEAD", body=b""))
    assert (headers["content-length"], body) == ("5", b"")


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("steps", "came"),
    [
        pytest.param([Send(HEAD + b"Content-Length: 10\r\n\r\nhello"), Close()], b"hello", id="length, closed"),
        pytest.param([Send(CHUNKED + b"5\r\nhello\r\n"), Close()], b"hello", id="no last chunk"),
        pytest.param([Send(CHUNKED + b"5\r\nhello\r\n5\r\nwo"), Close()], b"hellowo", id="half a chunk"),
        pytest.param(sse_answer(EVENTS, cut_after=2), b"".join(EVENTS[:2]), id="stream cut"),
        pytest.param(sse_answer(EVENTS, framing="length", cut_after=1), EVENTS[0], id="stream with a length cut"),
        pytest.param([Send(HEAD + b"Content-Length: 10\r\n\r\n"), Close()], b"", id="nothing of the body"),
    ],
)
async def test_a_body_that_is_cut_short_is_a_fault_behind_all_that_came(steps: list[Step], came: bytes) -> None:
    async with FakeUpstream() as fake:
        fake.queue(steps)
        client = HttpUpstream("u", base_url=fake.url)
        answer = await ask().of(client)
        await (await fake.arrived()).played.wait()
        got, error = await fault_of(answer)
        assert (got, error.code, error.sent) == (came, "upstream_broken", True)
        with pytest.raises(UpstreamError):
            await answer.read()
        answer.close()
        await client.close()


@pytest.mark.parametrize("garbage", [b"zz\r\nabc\r\n", b"-1\r\nabc\r\n", b"5\r\nhelloXX0\r\n\r\n", b"\r\n\r\n"], ids=repr)
async def test_a_malformed_chunk_is_a_fault_behind_all_that_came(garbage: bytes) -> None:
    gate = asyncio.Event()
    async with FakeUpstream() as fake:
        fake.queue([Send(CHUNKED + b"3\r\nabc\r\n"), Wait(gate), Send(garbage), UntilClosed()])
        client = HttpUpstream("u", base_url=fake.url)
        answer = await ask().of(client)
        assert await answer.read() == b"abc"
        gate.set()
        await (await fake.arrived()).played.wait()
        got, error = await fault_of(answer)
        assert (error.code, b"hello".startswith(got)) == ("upstream_broken", True)
        answer.close()
        await client.close()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Len", id="half a head"),
        pytest.param(b"hello there\r\n\r\n", id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(HEAD + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n", id="NUL in a field"),
        pytest.param(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", id="two lengths"),
        pytest.param(HEAD + b"Content-Length: -5\r\n\r\nhello", id="negative length"),
        pytest.param(
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", id="length and chunks"
        ),
        pytest.param(HEAD + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n", id="endless field"),
        pytest.param(HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(1000)) + b"\r\n", id="endless fields"),
    ],
)
async def test_a_malformed_head_is_a_fault_of_the_upstream_and_is_not_repeated_to_anyone(raw: bytes) -> None:
    async with FakeUpstream() as fake:
        fake.queue([Send(raw), Close()])
        client = HttpUpstream("u", base_url=fake.url)
        with pytest.raises(UpstreamError) as caught:
            await ask().of(client)
        await client.close()
        assert len(fake.requests) == 1
    error = caught.value
    assert (error.code, error.sent) == ("upstream_broken", True)
    assert not any(secret in f"{error.message} {error.detail}" for secret in ("127.0.0.1", "hello", "X-A"))


async def test_a_reset_is_a_fault_of_the_upstream() -> None:
    async with FakeUpstream() as fake:
        fake.queue([Abort()])
        client = HttpUpstream("u", base_url=fake.url)
        with pytest.raises(UpstreamError) as caught:
            await ask().of(client)
        await client.close()
    assert (caught.value.code, caught.value.sent) == ("upstream_broken", True)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_connection_sent_nothing_and_names_no_host() -> None:
    client = HttpUpstream("u", base_url=f"http://127.0.0.1:{closed_port()}/v1")
    with pytest.raises(UpstreamError) as caught:
        await ask().of(client)
    await client.close()
    error = caught.value
    assert (error.code, error.sent, error.status) == ("upstream_unreachable", False, 502)
    assert "127.0.0.1" not in f"{error.message} {error.detail} {error!r}"


async def test_a_connection_that_is_not_accepted_in_time_sent_nothing() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # they fill the queue of connections that nobody accepts; further ones are left without an answer
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        client = HttpUpstream("u", base_url=f"http://127.0.0.1:{full.getsockname()[1]}")
        with pytest.raises(UpstreamError) as caught:
            await ask(connect_timeout_s=0.05).of(client)
        await client.close()
        for one in waiting:
            one.close()
    assert (caught.value.code, caught.value.sent) == ("upstream_timeout", False)


async def test_a_post_on_a_kept_connection_that_died_is_not_repeated() -> None:
    async with FakeUpstream() as fake:
        fake.queue(OK)
        fake.queue([Abort()])
        client = HttpUpstream("u", base_url=fake.url)
        first = await ask().of(client)
        await rest_of(first)
        first.close()
        with pytest.raises(UpstreamError) as caught:
            await ask().of(client)
        await client.close()
        assert len(fake.requests) == 2
    assert (caught.value.code, caught.value.sent) == ("upstream_broken", True)


# ---- connections ----


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(OK, id="length"),
        pytest.param(sse_answer(EVENTS), id="chunks"),
        pytest.param(json_answer(429, {"error": {}}), id="a refusal"),
        pytest.param([Send(b"HTTP/1.1 204 None\r\n\r\n")], id="no body"),
    ],
)
async def test_a_connection_is_used_again_after_a_whole_body(steps: list[Step]) -> None:
    async with FakeUpstream(default=steps) as fake:
        client = HttpUpstream("u", base_url=fake.url)
        for _ in range(3):
            answer = await ask().of(client)
            await rest_of(answer)
            answer.close()
            answer.close()
        assert (len(fake.requests), fake.accepted) == (3, 1)
        await client.close()


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(json_answer(200, {}, headers={"connection": "close"}), id="Connection: close"),
        pytest.param(sse_answer(EVENTS, framing="close"), id="ended by closing"),
    ],
)
async def test_a_connection_that_its_answer_ends_is_not_used_again(steps: list[Step]) -> None:
    async with FakeUpstream(default=[*steps, Close()]) as fake:
        client = HttpUpstream("u", base_url=fake.url)
        for _ in range(2):
            answer = await ask().of(client)
            await rest_of(answer)
            answer.close()
        assert fake.accepted == 2
        await client.close()


async def test_letting_go_in_the_middle_of_a_body_closes_the_connection_at_once() -> None:
    head, first, *_ = sse_answer(EVENTS)
    async with FakeUpstream(default=OK) as fake:
        fake.queue([head, first, UntilClosed()])
        client = HttpUpstream("u", base_url=fake.url)
        answer = await ask().of(client)
        assert await answer.read() == EVENTS[0]
        answer.close()
        answer.close()
        seen = await fake.arrived()
        async with asyncio.timeout(20):
            await seen.closed_early.wait()
        other = await ask().of(client)
        await rest_of(other)
        other.close()
        assert fake.accepted == 2, "its rest must not be taken for the next answer"
        await client.close()


async def test_a_cancelled_call_closes_its_connection_at_once() -> None:
    async with FakeUpstream() as fake:
        fake.queue([UntilClosed()])
        client = HttpUpstream("u", base_url=fake.url)
        opening = asyncio.create_task(ask().of(client))
        seen = await fake.arrived()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(20):
            await seen.closed_early.wait()
        await client.close()


@pytest.mark.parametrize("body", [(), (b"{}",), (b"{", memoryview(b"}"))])
async def test_a_whole_body_is_sent_at_once_where_a_connection_is_at_hand_and_not_otherwise(body: tuple[bytes, ...]) -> None:
    async with FakeUpstream() as fake:
        fake.queue(OK)
        fake.queue(OK)
        client = HttpUpstream("u", base_url=fake.url)
        sent = Ask("POST", "/a", ())
        assert client.send(sent, (), body) is None, "nothing is at hand yet"
        first = await ask().of(client)
        assert client.send(sent, (), body) is None, "it is in use"
        await rest_of(first)
        first.close()
        assert client.send(sent, (), some(b"{}")) is None, "a body that is yet to come takes waiting"
        opening = client.send(sent, (), body)
        assert opening is not None
        assert opening.status == 0
        async with asyncio.timeout(20):
            while not opening.status:
                await opening.more()
        assert (await fake.arrived(2)).body == b"".join(body)
        await rest_of(opening)
        opening.close()
        assert fake.accepted == 1
        await client.close()


async def test_what_cannot_be_written_as_one_request_is_not_sent_over_a_connection_at_hand_either() -> None:
    async with FakeUpstream() as fake:
        fake.queue(OK)
        fake.queue(OK)
        client = HttpUpstream("u", base_url=fake.url)
        answer = await ask().of(client)
        await rest_of(answer)
        answer.close()
        for own in ("x-a: 1\r\nx-b: 2", "x-a: 1\rx-b: 2", "x-a: 1\nx-b: 2", "x-a: \0"):
            with pytest.raises(UpstreamError) as caught:
                client.send(Ask("POST", "/a", ()), ("x-own: 1", own), (b"{}",))
            assert caught.value.sent is False
        await ask().of(client)
        assert fake.accepted == 1, "the connection was kept for the next"
        await client.close()


async def test_a_cancelled_read_leaves_nothing_behind() -> None:
    head, first, *_ = sse_answer(EVENTS)
    async with FakeUpstream() as fake:
        fake.queue([head, first, UntilClosed()])
        client = HttpUpstream("u", base_url=fake.url)
        answer = await ask().of(client)
        assert await answer.read() == EVENTS[0]
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        answer.close()
        seen = await fake.arrived()
        async with asyncio.timeout(20):
            await seen.closed_early.wait()
        await client.close()


async def test_cookies_are_not_kept() -> None:
    async with FakeUpstream(default=json_answer(200, {}, headers={"set-cookie": "tenant=canary; Path=/"})) as fake:
        client = HttpUpstream("u", base_url=fake.url)
        for _ in range(2):
            answer = await ask().of(client)
            await rest_of(answer)
            answer.close()
        await client.close()
        assert [seen.header("cookie") for seen in fake.requests] == [None, None]


async def test_a_closed_client_has_no_connections() -> None:
    async with FakeUpstream() as fake:
        fake.queue([*OK, UntilClosed()])
        client = HttpUpstream("gpu", base_url=fake.url)
        assert client.name == "gpu"
        assert "gpu" in repr(client)
        answer = await ask().of(client)
        await rest_of(answer)
        answer.close()
        await client.close()
        await client.close()
        seen = await fake.arrived()
        async with asyncio.timeout(20):
            await seen.played.wait()


async def test_however_many_targets_are_asked_for_few_heads_are_kept() -> None:
    heads = Heads("http://a.test/v1")

    def head(n: int) -> bytes:
        return heads.head(Ask("POST", f"/models/{n}", ()), (), 0)

    for n in range(1000):
        assert head(n).startswith(b"POST /v1/models/%d HTTP/1.1\r\nhost: a.test\r\n" % n)
    assert repr(heads) == "<Heads kept=256>"
    assert head(0) == head(0)


def test_however_many_names_come_few_are_remembered_and_all_are_known() -> None:
    kept = KeptFields({"x-read"})
    for n in range(1000):
        assert kept[b"X-%d" % n] is None
    assert kept[b"y" * 100] is None
    assert len(kept) == 256
    assert (kept[b"X-Read"], kept[b"Transfer-Encoding"], kept[b"x-readable"]) == ("x-read", "transfer-encoding", None)
    assert KeptFields(None)[b"X-Any"] == "x-any"


async def test_a_body_in_parts_arrives_whole_also_where_the_kernel_takes_but_some_of_it() -> None:
    parts = (b"first", memoryview(b"x" * 100_000), b"", b"last")
    async with FakeUpstream(default=json_answer(200, {})) as upstream:
        client = HttpUpstream("u", base_url=f"{upstream.url}/v1")
        asked = Ask("POST", "/chat/completions", ())
        for kept in (False, True):
            if kept:
                assert client._pool is not None
                client._pool._idle[0]._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            answer = await calls.soon(client.open(asked, (), parts, connect_timeout_s=20.0))
            assert await calls.soon(rest_of(answer)) == b"{}"
            answer.close()
        assert [request.body for request in upstream.requests] == [b"first" + b"x" * 100_000 + b"last"] * 2
        assert upstream.accepted == 1
        await calls.soon(client.close())
