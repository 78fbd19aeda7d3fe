"""Faults of an upstream's connection and head: rows A1 to A6, A15 to A20, A22 and A23."""

import asyncio
import re
import shutil
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.fakes import FakeUpstream, Send, Step, UntilClosed, json_answer
from tests.faults.caller import Caller
from tests.faults.guard import ANSWER, MIB
from tests.faults.names import Names, sealed
from tests.faults.rig import CHAT, OK, PATH, PATIENT, STREAM, Proxy, Rig
from tests.faults.row import row
from tests.house import UPSTREAM_KEY, error_of
from tests.proxy.upstream.authority import Authority
from tests.proxy.upstream.malformed import BAD
from tests.proxy.upstream.moody import Moody

_LATE_S = 0.5  # how much later than a deadline its answer may come, beyond a look of the sweep
_WHOLE = orjson.dumps(CHAT)
_STREAMED = orjson.dumps({**CHAT, "stream": True, "stream_options": {"include_usage": True}})
# Of a place, of our credential, or of what an upstream said: nothing of it may reach an app.
_TELLING = re.compile(r"127\.0\.0\.1|localhost|\.test|169\.254|sk-up|Canary7f3a")


def _refused(body: bytes, code: str) -> dict[str, Any]:
    """The error of a body, which has this code and tells nothing of the upstream."""
    error = error_of(body)
    assert error["code"] == code, error
    assert not _TELLING.search(body.decode()), body
    return error


def _timely(line: Mapping[str, Any], deadline_s: float) -> float:
    took_s = float(line["total_ms"]) / 1000
    assert deadline_s * 0.95 <= took_s <= deadline_s * 1.1 + _LATE_S, f"{took_s:.2f} s for a deadline of {deadline_s} s"
    return took_s


@asynccontextmanager
async def _listening(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any) -> AsyncIterator[int]:
    """A port on which every connection is served so."""
    running: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the peer left, or the test did: either way it is over
        finally:
            writer.transport.abort()
            running.discard(task)

    server = await asyncio.start_server(one, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> bytes:
    """The body of one whole request."""
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))


@row("A1", "connection refused", "502 `upstream_unreachable` at once, the hold released, no host in the body")
async def refused(rig: Rig) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with rig.proxy(f"http://127.0.0.1:{port}") as proxy:
        status, _, body = await proxy.chat()
        error = error_of(body)
        assert (status, error["code"]) == (502, "upstream_unreachable")
        assert str(port) not in body.decode()
        assert b"127.0.0.1" not in body
        [line] = await proxy.call_lines()
        assert (line["outcome"], line["cost_nanousd"]) == ("upstream_error", 0)
    return f"502 after {line['total_ms']:.0f} ms"


@row("A2", "a SYN that nobody answers", "504 at the connect deadline, the hold released")
async def black_hole(rig: Rig) -> str:
    full: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        try:
            for _ in range(3):  # a backlog of 0 takes one, or two; from then on the kernel drops every SYN
                full.append(peer := socket.socket())
                peer.setblocking(False)
                peer.connect_ex(("127.0.0.1", port))
            async with rig.proxy(f"http://127.0.0.1:{port}") as proxy:
                status, _, body = await proxy.chat()
                error = _refused(body, "upstream_timeout")
                assert (status, "deadline: connect" in error["message"]) == (504, True)
                [line] = await proxy.call_lines()
                assert (line["outcome"], line["cost_nanousd"]) == ("timed_out", 0)
                took_s = _timely(line, 1.0)
        finally:
            for peer in full:
                peer.close()
    return f"504 after {took_s:.2f} s, with a deadline of 1 s"


@row(
    "A3",
    "an upstream that takes the call and says nothing",
    "504 at the first-byte deadline; charged: the input, and of a whole answer all that it could have been",
)
async def silent(rig: Rig) -> str:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    async with _listening(swallow) as port, rig.proxy(f"http://127.0.0.1:{port}") as proxy:
        await proxy.chat()  # which loads an encoding, and its thread
        await proxy.begin()
        for body in (_WHOLE, _STREAMED):
            async with Caller(proxy.port) as caller:
                said = await caller.post(PATH, body)
            error = _refused(said.body, "upstream_timeout")
            assert (said.status, "deadline: first_byte" in error["message"]) == (504, True)
        _, whole, stream = await proxy.call_lines(3)
        took = [_timely(line, 1.0) for line in (whole, stream)]
        assert (whole["usage_source"], whole["output_tokens"]) == ("estimated", CHAT["max_tokens"])
        assert (stream["usage_source"], stream["output_tokens"]) == ("counted", 0)
        assert whole["input_tokens"] > 0 < stream["cost_nanousd"] < whole["cost_nanousd"]
    return f"504 after {took[0]:.2f} and {took[1]:.2f} s, with a deadline of 1 s"


@row("A4", "a head that comes byte by byte", "504 at the first-byte deadline")
async def trickling_head(rig: Rig) -> str:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        for byte in b"HTTP/1.1 200 OK\r\nx-patience: " + b"y" * 1000:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0.1)  # the fault itself

    async with _listening(trickle) as port, rig.proxy(f"http://127.0.0.1:{port}") as proxy:
        await proxy.chat()
        await proxy.begin()
        status, _, body = await proxy.chat()
        error = _refused(body, "upstream_timeout")
        assert (status, "deadline: first_byte" in error["message"]) == (504, True)
        line = (await proxy.call_lines(2))[-1]
        assert line["outcome"] == "timed_out"
        took_s = _timely(line, 1.0)
    return f"504 after {took_s:.2f} s, with a deadline of 1 s"


# The entries of the table of bad answers that are another protocol, or none.
_FOREIGN = (
    "HTTP/0.9",
    "HTTP/2.0",
    "no HTTP at all",
    "a page without a head",
    "the bytes of TLS",
    "a banner of something else",
    "a request",
)


@row(
    "A5", "an upstream that speaks TLS, SSH, HTTP/0.9, HTTP/2 or nothing known", "502, the connection dropped, nothing of it echoed"
)
async def foreign(rig: Rig) -> str:
    chance = b"".join(bytes((n * 7 % 256,)) for n in range(5000))
    more = {
        "noise": chance,
        "a null": b"\0",
        "an empty line for ever": b"\r\n" * 40_000,
        "a HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }
    return await _bad_answers(rig, {**{name: BAD[name] for name in _FOREIGN}, **more})


@row("A6", "ambiguous framing, doubled lengths, NUL, heads too large, 200 fields", "502, and the connection is not used again")
async def bad_heads(rig: Rig) -> str:
    return await _bad_answers(rig, {name: said for name, said in BAD.items() if name not in _FOREIGN})


async def _bad_answers(rig: Rig, table: Mapping[str, bytes]) -> str:
    """Have each said to a whole call and to a stream. A two-byte body is made valid JSON, so that only its framing can be at fault."""
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, timeouts=PATIENT, growth=4 * MIB) as proxy:
        async with Caller(proxy.port) as caller:
            upstream.queue([Send(BAD["no HTTP at all"])])
            await caller.post(PATH, _WHOLE)  # counted as all these will be, which loads an encoding
            await proxy.begin()
            for name, said in table.items():
                for body in (_WHOLE, _STREAMED):
                    number = len(upstream.requests)
                    upstream.queue([Send(re.sub(rb"\bok", b"{}", said)), UntilClosed()])
                    answer = await caller.post(PATH, body)
                    assert answer.status == 502, f"{name}: {answer.status}"
                    _refused(answer.body, "upstream_broken")
                    bad = upstream.requests[number]
                    await asyncio.wait_for(bad.closed_early.wait(), 10)
                    assert (await caller.post(PATH, _WHOLE)).status == 200
                    assert upstream.requests[-1].connection != bad.connection, name
            lines = await proxy.call_lines(1 + 4 * len(table))
        assert Counter(line["outcome"] for line in lines[1:]) == {"upstream_broken": 2 * len(table), "completed": 2 * len(table)}
    return f"{len(table)} kinds of bad answers, each twice: 502, and the next call over another connection"


def _failure(status: int, body: bytes, content_type: str, *lines: str) -> list[Step]:
    head = "\r\n".join(
        (f"HTTP/1.1 {status} Canary7f3a", f"content-type: {content_type}", f"content-length: {len(body)}", *lines, "", "")
    )
    return [Send(head.encode()), Send(body)]


@row(
    "A15",
    "429 with `retry-after` in seconds, as a date, in milliseconds, as garbage, of 30 years",
    "passed on unchanged, the hold released",
)
async def told_to_wait(rig: Rig) -> str:
    hints = [
        *(
            "retry-after: 7",
            "retry-after: 0",
            "retry-after: 1.5",
            "retry-after: -1",
            "retry-after: 1000000000",
            "retry-after: soon",
        ),
        *("retry-after: Wed, 21 Oct 2026 07:28:00 GMT", "retry-after-ms: 250", "x-should-retry: false", "x-should-retry: true"),
    ]
    said = orjson.dumps({"error": {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}})
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=PATIENT) as proxy, Caller(proxy.port) as caller:
        for hint in hints:
            for body in (_WHOLE, _STREAMED):
                upstream.queue(_failure(429, said, "application/json", hint))
                answer = await caller.post(PATH, body)
                name, _, value = hint.partition(": ")
                assert (answer.status, answer.head.get(name)) == (429, value), hint
                assert error_of(answer.body) == orjson.loads(said)["error"]
        lines = await proxy.call_lines(2 * len(hints))
        assert {(line["outcome"], line["cost_nanousd"]) for line in lines} == {("upstream_error", 0)}
    return f"{len(lines)} times 429, each hint unchanged, nothing charged"


@row(
    "A16",
    "500, 502, 503, 504; a page of HTML, of 5 MB, without end",
    "the status kept, a fixed sentence for a 5xx; a 4xx explained with its secrets masked; nothing of where it came from",
)
async def failing(rig: Rig) -> str:
    async with (
        FakeUpstream() as upstream,
        rig.proxy(upstream, timeouts=PATIENT, growth=8 * MIB) as proxy,
        Caller(proxy.port) as caller,
    ):
        where = f"{upstream.url} (ip-10-0-0-7, model.test:8000) key {UPSTREAM_KEY} said {ANSWER}"
        page = f"<html><h1>Bad gateway</h1>{where}</html>".encode()
        bodies = [
            (page, "text/html"),
            (page * (5 * MIB // len(page)), "text/html"),
            (orjson.dumps({"error": {"message": where, "type": where, "param": where, "code": where}}), "application/json"),
            (b'{"error": {"message": "' + b"x" * MIB, "application/json"),
            (b"", "text/plain"),
            (b"\xff\xfe\0\0", "application/octet-stream"),
        ]
        count = 0
        for status in (500, 502, 503, 504, 529, 599):
            for body, content_type in bodies:
                upstream.queue(
                    _failure(status, body, content_type, f"server: {upstream.url}", f"x-request-id: {ANSWER}!", "set-cookie: a=b")
                )
                answer = await caller.post(PATH, (_WHOLE, _STREAMED)[count % 2])
                error = _refused(answer.body, "upstream_error")
                assert (answer.status, error["message"]) == (status, f"The upstream failed with status {status}.")
                assert not _TELLING.search(str(answer.head)), answer.head
                assert "set-cookie" not in answer.head
                assert len(answer.body) < 500
                count += 1
        for status in (400, 403, 404, 409, 413, 422):
            said = f"Not so: call {upstream.url}/v1 with {UPSTREAM_KEY} of org-Abc123def456"
            upstream.queue(
                _failure(
                    status, orjson.dumps({"error": {"message": said, "type": "t", "param": None, "code": 7}}), "application/json"
                )
            )
            answer = await caller.post(PATH, _WHOLE)
            assert answer.status == status
            assert _refused(answer.body, "7")["message"] == "Not so: call [hidden] with [hidden] of [id]", answer.body
            upstream.queue(_failure(status, page, "text/html"))
            answer = await caller.post(PATH, _WHOLE)
            assert (answer.status, _refused(answer.body, "upstream_error")["message"]) == (
                status,
                f"The upstream answered {status}.",
            )
            count += 2
        lines = await proxy.call_lines(count)
        assert {(line["outcome"], line["cost_nanousd"]) for line in lines} == {("upstream_error", 0)}
    return f"{count} failures told in our words"


@row("A17", "a redirect to a metadata service, or to a port that listens", "502, and never followed")
async def redirected(rig: Rig) -> str:
    async with FakeUpstream() as upstream, FakeUpstream() as elsewhere, rig.proxy(upstream, timeouts=PATIENT) as proxy:
        places = [
            "http://169.254.169.254/latest/meta-data/",
            f"{elsewhere.url}/v1/chat/completions",
            "//localhost/",
            "file:///etc/passwd",
            "/v1/models",
        ]
        count = 0
        for status in (300, 301, 302, 303, 305, 307, 308):
            for place in places:
                upstream.queue([Send(f"HTTP/1.1 {status} Moved\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode())])
                answered, headers, body = await proxy.chat()
                _refused(body, "upstream_broken")
                assert (answered, "location" in headers) == (502, False)
                count += 1
        assert (elsewhere.accepted, len(upstream.requests)) == (0, count)
        lines = await proxy.call_lines(count)
        assert {line["cost_nanousd"] for line in lines} == {0}
    return f"{count} redirects, none followed"


@row(
    "A18",
    "401 from the vendor: our own key is bad",
    "502 `upstream_credentials` to the app, never 401, and no word of the key; one page",
)
async def bad_credentials(rig: Rig) -> str:
    said = {
        "error": {
            "message": f"Incorrect API key provided: {UPSTREAM_KEY}",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
    refused = json_answer(401, said, headers={"www-authenticate": "Bearer"})
    options = "retries: {attempts: 1}, breaker: {failures: 0}, page: [team]"
    async with FakeUpstream(default=refused) as upstream, FakeUpstream(default=json_answer(200, {})) as receiver:
        more = f"pages:\n  team: {{webhook: {{url: '{receiver.url}/pages'}}}}"
        async with rig.proxy(upstream, timeouts=PATIENT, options=options, more=more) as proxy:
            assert (await proxy.chat())[0] == 502
            await proxy.logged("page.delivered")
            await proxy.begin()
            for stream in (False, True) * 3:
                status, headers, body = await proxy.chat(stream=stream)
                _refused(body, "upstream_credentials")
                assert (status, "www-authenticate" in headers) == (502, False)
            lines = await proxy.call_lines(7)
            assert {(line["outcome"], line["cost_nanousd"]) for line in lines} == {("upstream_error", 0)}
            assert len(upstream.requests) == 7, "no call is tried again"
            await receiver.hang_up()
        [page] = receiver.requests
        assert orjson.loads(page.body)["type"] == "upstream.outage_began"
        assert not _TELLING.search(page.body.decode())
    return "7 times 502 with a code of its own, the upstream asked once a call, and one page"


@row("A19", "interim answers before the final one: 100, 102, 103, many", "left out, and the final answer whole")
async def interim(rig: Rig) -> str:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nx-secret: AnswerCanary7f3a\r\n\r\n"
    before = [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        early,
        b"HTTP/1.1 102 Processing\r\n\r\n",
        early * 50,
        b"HTTP/1.1 199 X\r\n\r\n" * 3,
    ]
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=PATIENT) as proxy, Caller(proxy.port) as caller:
        for interim in before:
            for steps, body in ((OK, _WHOLE), (STREAM, _STREAMED)):
                head, *rest = steps
                assert isinstance(head, Send)
                for played in ([Send(interim + head.data), *rest], [Send(interim), *steps]):
                    upstream.queue(played)
                    answer = await caller.post(PATH, body)
                    assert (answer.status, answer.whole) == (200, True)
                    assert answer.body == b"".join(_bodies(steps)), "the final answer, and nothing else"
                    assert not {"link", "x-secret"} & answer.head.keys()
        lines = await proxy.call_lines(4 * len(before))
        assert {(line["usage_source"], line["input_tokens"], line["output_tokens"]) for line in lines} == {("reported", 10, 2)}
        assert upstream.accepted == 1, "one connection carried them all"
    return f"{len(lines)} answers behind interim ones, each as without them"


def _bodies(steps: Sequence[Step]) -> list[bytes]:
    """The body's pieces of a script, without the framing of chunks."""
    pieces = [step.data for step in steps[1:] if isinstance(step, Send)]
    return [piece.partition(b"\r\n")[2].removesuffix(b"\r\n") for piece in pieces] if steps is STREAM else pieces


@row(
    "A20",
    "kept connections that close as a call is written",
    "sent again only where not a byte was accepted, else 502; the upstream sees each call once at most",
)
async def stale(rig: Rig) -> str:
    calls = rig.times(short=300, long=5000)
    seen: Counter[str] = Counter()
    answer = orjson.dumps({"id": "1", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2}})
    for mood in ("polite", "rude"):
        moody = Moody(seed=7, polite=mood == "polite", answer=b'{"choices": [{"message": {"content": "uncounted"}}]}')
        numbers = iter(range(calls))
        async with (
            moody.listening() as url,
            rig.proxy(url, timeouts=PATIENT, options="retries: {attempts: 2}, breaker: {failures: 0}") as proxy,
        ):
            while (await proxy.chat())[0] != 200:
                pass  # until one is counted, which loads an encoding, as each that breaks will be
            before = len(await proxy.call_lines())
            moody.answer = answer
            await proxy.begin()

            async def work(numbers: Any = numbers, proxy: Proxy = proxy, mood: str = mood) -> None:
                async with Caller(proxy.port) as caller:
                    for number in numbers:
                        said = await caller.post(PATH, orjson.dumps({**CHAT, "seed": number}))
                        if said.status != 200:
                            assert said.status == 502, said
                            _refused(said.body, "upstream_broken")
                        seen[f"{said.status} from a {mood} one"] += 1

            await asyncio.gather(*(work() for _ in range(4)))
            await proxy.call_lines(before + calls)
            assert moody.closed > calls / 20, "there was something to survive"
            asked = Counter(orjson.loads(body).get("seed") for body in moody.seen.elements())
            del asked[None]
            assert max(asked.values()) == 1, "a call was seen twice"
            assert len(asked) >= seen[f"200 from a {mood} one"]
            await proxy.let_go()
            moody.hang_up()
    return ", ".join(f"{count} × {what}" for what, count in sorted(seen.items()))


@row(
    "A22",
    "a name that does not resolve, resolves slowly, or to another address than before",
    "502, or 504 at the connect deadline; looked up once for all who wait, and kept for 30 s; nobody else waits",
    tests=("tests/proxy/upstream/test_resolve.py",),
)
async def names(rig: Rig) -> str:
    if (without := sealed()) is not None:
        return f"left out as a whole process: {without}"
    with tempfile.TemporaryDirectory() as folder:
        async with FakeUpstream(default=OK) as upstream, Names.serving(Path(folder)) as names:
            async with rig.proxy(f"http://model.test:{upstream.port}", within=names.command()) as proxy:
                names.say("no such name")
                unknown = await asyncio.gather(*(proxy.chat() for _ in range(20)))
                assert {status for status, _, _ in unknown} == {502}
                _refused(unknown[0][2], "upstream_unreachable")
                assert names.asked <= 2, f"{names.asked} look-ups for a burst"
                names.say("nothing")
                while (answer := await proxy.chat())[0] == 502:
                    await asyncio.sleep(0.1)  # for as long as the failure is remembered
                assert (answer[0], "deadline: connect" in _refused(answer[2], "upstream_timeout")["message"]) == (504, True)
                async with asyncio.timeout(10):
                    while not (late := [line for line in await proxy.call_lines() if line["outcome"] == "timed_out"]):
                        await asyncio.sleep(0.02)
                slow_s = _timely(late[0], 1.0)
                names.say("127.0.0.1")
                while (await proxy.chat())[0] != 200:
                    await asyncio.sleep(0.1)
                asked = names.asked
                names.say("127.0.0.9")  # where nobody listens; what is known still works
                for _ in range(10):
                    await upstream.hang_up()
                    assert (await proxy.chat())[0] == 200
                assert names.asked == asked
                await upstream.hang_up()
    return f"20 times 502 with one look-up; 504 after {slow_s:.2f} s, with a deadline of 1 s; none more for 10 connections"


@row(
    "A23",
    "a certificate that expired, is for another name, signed by itself or by nobody known; no TLS at all",
    "502 before a byte of the call was sent; plain HTTP is never tried",
)
async def bad_certificates(rig: Rig) -> str:
    if shutil.which("openssl") is None:
        return "left out: no openssl here"
    flaws: list[tuple[str, str, dict[str, bool]]] = [
        ("good", "IP:127.0.0.1", {}),
        ("another name", "IP:127.0.0.2", {}),
        ("expired", "IP:127.0.0.1", {"expired": True}),
        ("signed by itself", "IP:127.0.0.1", {"self_signed": True}),
    ]
    got: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What it shows is what is tried now: a certificate, or plain HTTP."""
        name, shown = now
        if shown is None:
            assert (await reader.read(65536))[:1] == b"\x16", "the first byte of a handshake"
            writer.write(b"HTTP/1.1 400 This is plain HTTP\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        try:
            await writer.start_tls(shown)
        except ssl.SSLError:
            return  # the client's no
        await _request(reader)
        got[name] += 1
        writer.writelines(step.data for step in OK if isinstance(step, Send))
        await writer.drain()

    with tempfile.TemporaryDirectory() as trusted, tempfile.TemporaryDirectory() as unknown:
        authority = Authority(Path(trusted))
        env = {"SSL_CERT_FILE": str(authority.certificate)}
        contexts: list[tuple[str, ssl.SSLContext | None]] = [
            (name, authority.serving(where, **flaw)) for name, where, flaw in flaws
        ]
        contexts += [("signed by nobody known", Authority(Path(unknown)).serving("IP:127.0.0.1")), ("no TLS", None)]
        now = contexts.pop(0)
        async with _listening(serve) as port:
            async with rig.proxy(f"https://127.0.0.1:{port}", timeouts=PATIENT, env=env) as proxy:
                assert ((await proxy.chat())[0], got["good"]) == (200, 1)
                await proxy.begin()
                for now in contexts:
                    status, _, body = await proxy.chat()
                    _refused(body, "upstream_unreachable")
                    assert (status, got[now[0]]) == (502, 0), now[0]
                lines = await proxy.call_lines(1 + len(contexts))
                assert {line["cost_nanousd"] for line in lines[1:]} == {0}
    return f"{len(contexts)} servers that prove nothing refused; one that proves who it is, taken"
