"""Faults of clients on the wire: rows B4 to B9 and B25."""

import asyncio
import gzip
import zlib

import orjson

from proxy.downstream.arrival import MOST_TINY
from tests.fakes import FakeUpstream, UntilClosed
from tests.faults import differential
from tests.faults.fuzzed import fuzzed
from tests.faults.guard import APP_KEY, MIB
from tests.faults.malformed import BODY, CANARY, CHUNKS, PATH, REQUESTS, SOUND, request
from tests.faults.raw import Reply, line, told
from tests.faults.rig import MOST_STALL_S, OK, PATIENT, Rig
from tests.faults.row import row

_LENGTH = b"content-length: %d" % len(BODY)
_NO_REQUEST = ("request_timeout", "target_too_long", "head_too_large", "expectation_failed", "coding_not_supported")
_MALFORMED = "The HTTP request is malformed."


def _post(body: bytes, *fields: bytes, target: bytes = PATH) -> bytes:
    return request(b"content-length: %d" % len(body), *fields, line=b"POST %b HTTP/1.1" % target, body=body)


def _refused(reply: Reply | None, status: int, code: str) -> Reply:
    assert reply is not None, f"no answer instead of {status} {code}"
    assert (reply.status, reply.code) == (status, code), (reply.status, reply.body)
    assert CANARY not in reply.body
    return reply


@row("B4", "half-close behind a request", "a client that ends its side is one that left: its call is cancelled, and billed as such")
async def half_closed(rig: Rig) -> str:
    async with (
        FakeUpstream(default=[UntilClosed()]) as upstream,
        rig.proxy(upstream, timeouts=PATIENT) as proxy,
    ):
        for number, sent in enumerate((SOUND["length"], SOUND["chunks"]), 1):
            async with line(proxy.port) as caller:
                await caller.send(sent)
                await upstream.arrived(number)
                caller.writer.write_eof()
                assert await caller.closed(), "it was answered"
            async with asyncio.timeout(10):
                await upstream.requests[-1].closed_early.wait()
        lines = await proxy.call_lines(2)
        assert [line["outcome"] for line in lines] == ["client_gone"] * 2
        assert all(line["input_tokens"] > 0 and line["cost_nanousd"] > 0 for line in lines), "what was sent is paid for"
        async with line(proxy.port) as caller:  # half of a request is none
            await caller.send(SOUND["length"][:-5])
            caller.writer.write_eof()
            assert await caller.closed()
        assert len(upstream.requests) == 2
    return "cancelled upstream and logged as client_gone; half a request reaches nobody"


@row(
    "B5",
    "requests that are malformed or ambiguous",
    "400, 405, 414, 417, 431 or 501 of our own or a policy's refusal, nothing of it echoed, no byte upstream; nginx takes no more; "
    "what both take means the same",
)
async def malformed(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=OK) as far, rig.proxy(upstream) as proxy:
        async with differential.beside(far) as port:
            stricter = []
            for name, sent in {**SOUND, **REQUESTS}.items():
                ours = await differential.verdict(proxy.port, upstream, name, sent)
                _judge(name, ours)
                if port is None:
                    continue
                theirs = await differential.verdict(port, far, name, sent)
                if ours.taken:
                    assert theirs.taken, f"{name}: nginx refuses it ({theirs}), and we do not"
                    assert differential.same(ours.sent[0], theirs.sent[0]), f"{name}: {ours.sent[0]} and {theirs.sent[0]}"
                elif theirs.taken:
                    stricter.append(name)
                if not rig.short and ours.taken != theirs.taken:
                    print(f"     {name:40} {ours!s:36} nginx: {theirs}")
            await far.hang_up()
    seen = f"{len(REQUESTS)} requests, {len(SOUND)} sound ones beside them"
    return seen + (f"; {len(stricter)} are refused that nginx takes" if port else "; nginx is not here to compare with")


def _judge(name: str, ours: differential.Verdict) -> None:
    """Whatever it was, it was refused in our words and went nowhere, or went on whole."""
    reply = ours.reply
    if name in SOUND:
        assert ours.taken, f"{name}: {ours}"
    if name.startswith("cut off"):
        assert ours.grew == 0
        assert ours.closed, f"{name}: {ours}"
        return
    assert reply is not None, f"{name}: no answer"
    assert reply.status < 500 or reply.code == "coding_not_supported", f"{name}: {ours}"
    assert CANARY not in reply.body, f"{name} is echoed"
    assert CANARY not in repr(reply.fields).encode(), f"{name} is echoed"
    if ours.taken:
        assert reply.status == 200
        assert len(ours.sent) == 1, name
        assert orjson.loads(ours.sent[0].body) == orjson.loads(BODY)
        assert ours.sent[0].target.partition("?")[0].encode() == PATH
    else:
        assert ours.grew == 0, f"{name}: {ours.grew} bytes reached the upstream"
        assert reply.status >= 400, f"{name}: {ours}"
        if reply.code in _NO_REQUEST or orjson.loads(reply.body)["error"]["message"] == _MALFORMED:
            assert ours.closed, f"{name}: the connection is still open"


@row(
    "B6",
    "requests that are changed at random, by millions",
    "nothing raised, no 5xx of ours, an answer each, nothing ambiguous sent on: what is, is what a stricter reader finds",
)
async def changed_at_random(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        tried = await fuzzed("edge", rig, seconds=40)
        status, _, _ = await proxy.chat()
        assert status == 200
    return tried


@row(
    "B7",
    "bodies that unpack to gigabytes",
    "415 on metered paths, whatever the encoding, nested or not; nothing is ever unpacked; passed on as bytes where a path has no meter",
)
async def bombs(rig: Rig) -> str:
    packed = gzip.compress(bytes(rig.times(short=64, long=1024) * MIB))
    twice = gzip.compress(packed)
    table = [
        (packed, b"gzip"),
        (zlib.compress(bytes(64 * MIB)), b"deflate"),
        (packed, b"br"),
        (packed, b"zstd"),
        (twice, b"gzip, gzip"),
        (packed, b"identity, gzip"),
        (packed, b"x-gzip"),
        (BODY, b"aes128gcm"),
    ]
    async with FakeUpstream(default=OK) as upstream:
        async with rig.proxy(upstream, more='unmetered: ["/v1/files*"]', growth=16 * MIB) as proxy:
            for body, encoding in table:
                reply = await told(proxy.port, _post(body, b"content-encoding: " + encoding))
                _refused(reply, 415, "unsupported_media_type")
            assert not any(r.target == PATH.decode() for r in upstream.requests)
            reply = await told(proxy.port, _post(packed, b"content-encoding: gzip", target=b"/v1/files"))
            assert reply is not None
            assert reply.status == 200
            assert upstream.requests[-1].body == packed
            # An upload that is labelled as nothing is a body like any other, and no JSON.
            _refused(await told(proxy.port, _post(packed)), 400, "invalid_json")
            lag_s = await proxy.lag_s()
            assert lag_s <= MOST_STALL_S, f"the loop was late by up to {lag_s} s"
    return (
        f"{len(table)} bodies of up to {len(packed) / MIB:.1f} MiB that unpack to {rig.times(short=64, long=1024)} MiB; "
        f"the loop late by {lag_s * 1e3:g} ms at most"
    )


@row(
    "B8",
    "one-byte chunks by the million, chunk extensions and trailers without end",
    "20,000 tiny chunks are one body, more are 400, and the loop goes on; endless extensions and trailers are 400 (or dropped, if they "
    "came in one read)",
)
async def crumbs(rig: Rig) -> str:
    count = rig.times(short=100_000, long=1_000_000)
    head = request(b"transfer-encoding: chunked", body=b"")
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, growth=16 * MIB) as proxy:
        sent = _crumbled(MOST_TINY)
        reply = await told(proxy.port, head + b"".join(sent) + b"0\r\n\r\n")
        assert reply is not None
        assert reply.status == 200
        assert upstream.requests[-1].body == b"".join(chunk[3:-2] for chunk in sent)
        async with line(proxy.port) as caller:
            sending = asyncio.create_task(caller.send(head + b"".join(_crumbled(count)) + b"0\r\n\r\n"))
            _refused(await caller.reply(), 400, "bad_request")
            await sending
            assert await caller.closed(), "what comes behind it may be read as a request"
        assert len(upstream.requests) == 1
        took_ms = max(told_of["total_ms"] for told_of in await proxy.call_lines(2))
        for endless in (b"5;" + b"a" * 4 * MIB, b"%x;a=b" % len(BODY) + b";c=d" * MIB):
            _refused(await told(proxy.port, head + endless), 400, "bad_request")
        trailers = CHUNKS.removesuffix(b"\r\n") + b"x-after: 1\r\n" * 200_000 + b"\r\n"
        _refused(await told(proxy.port, head + trailers), 400, "bad_request")
        few = await told(proxy.port, head + CHUNKS.removesuffix(b"\r\n") + b"x-after: %b\r\n\r\n" % CANARY)
        assert few is not None
        assert few.status == 200
        assert not any(CANARY.decode() in value for _, value in upstream.requests[-1].headers), "trailers are dropped"
        lag_s = await proxy.lag_s()
        assert lag_s <= MOST_STALL_S, f"the loop was late by up to {lag_s} s"
    return (
        f"{MOST_TINY:,} chunks of one byte are a call, {count:,} are 400; {took_ms:.0f} ms at most, the loop late by {lag_s * 1e3:g} ms "
        "at most; endless extensions and trailers 400"
    )


def _crumbled(count: int) -> list[bytes]:
    """The chunks of a call's body of so many bytes."""
    text = b'{"model":"gpt-4.1-mini","max_tokens":5,"messages":[{"role":"user","content":"%b"}]}'
    body = text % (b"a" * (count - len(text) + 2))
    return [b"1\r\n%c\r\n" % byte for byte in body]


_DEEP = b'{"model":"gpt-4.1-mini","messages":%b}'
_OF = b'{"model":"gpt-4.1-mini","messages":[{"role":"user","content":%b}]}'
_BODIES: tuple[tuple[str, bytes, int, str], ...] = (
    ("1,000 levels", _DEEP % (b"[" * 1000 + b"]" * 1000), 400, "nested_too_deeply"),
    ("1,025 levels", _DEEP % (b"[" * 1025 + b"]" * 1025), 400, "nested_too_deeply"),
    ("1,000,000 levels", _DEEP % (b"[" * 1_000_000 + b"]" * 1_000_000), 400, "too_many_values"),
    ("1,000,000 levels of objects", _DEEP % (b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000), 400, "too_many_values"),
    ("1,000,000 levels that do not end", b"[" * 1_000_000, 400, "too_many_values"),
    ("a field twice", b'{"max_tokens":1,"model":"gpt-4.1-mini","messages":[],"max_tokens":2}', 400, "duplicate_field"),
    (
        "a field twice, escaped",
        b'{"max_tokens":1,"model":"gpt-4.1-mini","messages":[],"max_\\u0074okens":2}',
        400,
        "duplicate_field",
    ),
    ("NaN", b'{"model":"gpt-4.1-mini","messages":[],"max_tokens":NaN}', 400, "invalid_json"),
    ("Infinity", b'{"model":"gpt-4.1-mini","messages":[],"temperature":Infinity}', 400, "invalid_json"),
    ("1e999", b'{"model":"gpt-4.1-mini","messages":[],"temperature":1e999}', 400, "invalid_json"),
    ("a byte order mark", b"\xef\xbb\xbf" + BODY, 400, "invalid_json"),
    ("half a surrogate", _OF % b'"\\ud800"', 400, "invalid_json"),
    ("two halves the wrong way", _OF % b'"\\udc00\\ud800"', 400, "invalid_json"),
    ("UTF-16", BODY.decode().encode("utf-16"), 400, "invalid_json"),
    ("UTF-16 without a mark", BODY.decode().encode("utf-16-le"), 400, "invalid_json"),
    ("UTF-32", BODY.decode().encode("utf-32"), 400, "invalid_json"),
    ("Latin-1", _OF % b'"\xe9"', 400, "invalid_json"),
    ("overlong UTF-8", _OF % b'"\xc0\xaf"', 400, "invalid_json"),
    ("surrogates in UTF-8", _OF % b'"\xed\xa0\x80"', 400, "invalid_json"),
    ("a control character in a text", _OF % b'"\x01"', 400, "invalid_json"),
    ("a NUL behind it", BODY + b"\0", 400, "invalid_json"),
    ("two objects", BODY + BODY, 400, "invalid_json"),
    ("a comma at the end", BODY[:-1] + b",}", 400, "invalid_json"),
    ("a comment", b"/* a */" + BODY, 400, "invalid_json"),
    ("single quotes", BODY.replace(b'"', b"'"), 400, "invalid_json"),
    ("cut short", BODY[:-1], 400, "invalid_json"),
    ("nothing", b"", 400, "invalid_json"),
    ("a list", b"[" + BODY + b"]", 400, "invalid_json"),
    ("null", b"null", 400, "invalid_json"),
    ("a text", b'"a"', 400, "invalid_json"),
    ("100 MB of text", b"", 413, "request_too_large"),
)


@row(
    "B9",
    "JSON that is deep, doubled, no JSON, no UTF-8, or 100 MB",
    "400 with its code, 413 beyond what is accepted, before all of it came; no stack, nothing echoed, nothing upstream",
)
async def odd_json(rig: Rig) -> str:
    slowest = ("", 0.0)
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, growth=64 * MIB) as proxy:
        for name, body, status, code in _BODIES:
            head = (
                _post(body)
                if body or status == 400
                else _post(b"", b"x-odd: 1").replace(b"content-length: 0", b"content-length: 100000000")
            )
            async with line(proxy.port) as caller:
                sending = asyncio.create_task(caller.send(head + (b"" if status == 400 else b"a" * 40 * MIB)))
                try:
                    reply = _refused(await caller.reply(), status, code)
                except AssertionError as error:
                    raise AssertionError(f"{name}: {error}") from error
                finally:
                    sending.cancel()
                assert b"Traceback" not in reply.body
                assert b".py" not in reply.body
        assert upstream.received_bytes == 0
        for told_of in await proxy.call_lines(len(_BODIES)):
            if told_of["total_ms"] > slowest[1] and told_of["status"] == 400:
                slowest = (told_of["outcome"], told_of["total_ms"])
        assert not proxy.lines("fault.caught")
        lag_s = await proxy.lag_s()
        assert lag_s <= MOST_STALL_S, f"the loop was late by up to {lag_s} s"
    return f"{len(_BODIES)} bodies; the slowest took {slowest[1]:.0f} ms, the loop late by {lag_s * 1e3:g} ms at most"


_HOP: tuple[tuple[str, bytes, int], ...] = (
    ("names our key", b"connection: authorization, x-request-id, traceparent, via, host, content-type, content-length", 200),
    ("names a field of the app", b"connection: x-stainless-lang\r\nx-stainless-lang: python", 200),
    ("TE", b"te: trailers, gzip", 200),
    ("Trailer", b"trailer: x-after", 200),
    ("Keep-Alive", b"keep-alive: timeout=1000", 200),
    ("Proxy-Connection", b"proxy-connection: keep-alive", 200),
    ("Proxy-Authorization", b"proxy-authorization: Basic YTpi", 200),
    ("Forwarded", b"forwarded: for=10.0.0.1\r\nx-forwarded-for: 10.0.0.1\r\nx-real-ip: 10.0.0.1", 200),
    ("Max-Forwards", b"max-forwards: 0", 200),
    ("Cookie", b"cookie: session=1", 200),
    ("an override of the method", b"x-http-method-override: DELETE", 200),
    (
        "Upgrade",
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13",
        400,
    ),
    ("Upgrade to h2c", b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__", 400),
)
_LEFT = {"host", "authorization", "content-type", "content-length", "accept-encoding", "via", "x-request-id", "traceparent"}


@row(
    "B25",
    "Connection that names our fields, TE, Upgrade, Max-Forwards, TRACE, CONNECT",
    "hop-by-hop fields stay here and ours cannot be struck out; 400 for an upgrade; 405 for TRACE, CONNECT, OPTIONS",
)
async def hop_by_hop(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        for name, fields, status in _HOP:
            before = len(upstream.requests)
            reply = await told(proxy.port, request(fields, _LENGTH))
            assert reply is not None, name
            assert reply.status == status, f"{name}: {reply}"
            assert len(upstream.requests) - before == (status == 200), name
            if status == 200:
                sent = upstream.requests[-1]
                left = _LEFT - ({"content-type"} if name == "names our key" else set())  # which is the client's own to strike out
                assert {field.lower() for field, _ in sent.headers} == left, f"{name}: {sent.headers}"
                assert APP_KEY not in (sent.header("authorization") or "")
        went = len(upstream.requests)
        for method, target, status in (
            (b"TRACE", PATH, 405),
            (b"TRACE", b"/v1/models", 405),
            (b"OPTIONS", PATH, 405),
            (b"OPTIONS", b"*", 404),
            (b"CONNECT", b"model:443", 405),
            (b"CONNECT", b"169.254.169.254:80", 405),
        ):
            reply = await told(
                proxy.port, request(b"x-odd: " + CANARY, b"max-forwards: 0", line=b"%b %b HTTP/1.1" % (method, target), body=b"")
            )
            assert reply is not None
            assert reply.status == status, (method, target, reply)
            assert CANARY not in reply.body
        assert len(upstream.requests) == went
    return f"{len(_HOP)} fields and 6 methods; the upstream saw {len(_LEFT)} fields each time"
