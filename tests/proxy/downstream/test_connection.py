"""One connection of a client: whose turn it is, what is no request, who has left, and what a connection is good for afterwards."""

import asyncio
import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.downstream.arrival import HIGH_WATER_BYTES, HttpArrival
from proxy.downstream.connection import LINGER_S, MOST_WAITING
from proxy.downstream.rules import MOST_FIELDS, MOST_HEAD_BYTES, MOST_TARGET_BYTES
from proxy.downstream.sink import HttpSink
from tests.proxy.downstream.door import GET, Door, deaf, deaf_for_good, echo, get, move_time, post, soon, turns

MIB = 1 << 20
CHUNKED = get("/c", "transfer-encoding: chunked", method="POST")


class Gate:
    """A handler that answers each request when its gate is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, arrival: HttpArrival, sink: HttpSink) -> None:
        await self.open.wait()
        await echo(arrival, sink)


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_connection_carries_several_calls() -> None:
    async with Door() as door, door.caller() as caller:
        for number in range(5):
            await caller.send(post(b"x" * number, target=f"/{number}"))
            answer = await caller.answer()
            assert (answer.status, answer.body) == (200, b"x" * number)
            assert answer.fields["x-asked"] == f"POST /{number}"
            assert "connection" not in answer.fields
        assert door.connections == 1


async def test_requests_sent_ahead_are_answered_one_at_a_time_and_in_order() -> None:
    running = most = 0

    async def counted(arrival: HttpArrival, sink: HttpSink) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await echo(arrival, sink)
        running -= 1

    async with Door(counted) as door, door.caller() as caller:
        await caller.send(b"".join(post(b"%d" % n, target=f"/{n}") for n in range(MOST_WAITING)))
        for number in range(MOST_WAITING):
            answer = await caller.answer()
            assert (answer.body, answer.fields["x-asked"]) == (b"%d" % number, f"POST /{number}")
        await caller.send(GET)
        assert (await caller.answer()).status == 200
    assert most == 1


async def test_requests_sent_ahead_while_one_runs_are_not_read_and_not_lost() -> None:
    gate = Gate()
    async with Door(gate) as door, door.caller() as caller:
        await caller.send(GET)
        await door.until(begun=1)
        await caller.send(*[get(f"/{n}") for n in range(MOST_WAITING)])
        gate.open.set()
        assert [(await caller.answer()).fields["x-asked"] for _ in range(MOST_WAITING + 1)] == [
            "GET /a",
            *(f"GET /{n}" for n in range(MOST_WAITING)),
        ]


async def test_a_client_that_sends_too_many_requests_ahead_at_once_is_cut_off() -> None:
    gate = Gate()
    async with Door(gate) as door, door.caller() as caller:
        await caller.send(GET * (MOST_WAITING + 2))
        await door.until(cancelled=1)
        with contextlib.suppress(ConnectionError):  # a reset or an end, as the kernel sees fit
            assert await caller.ended() == b""
        await turns(lambda: door.connections == 0)
    assert len(door.begun) == 1


async def test_a_body_sent_ahead_is_whole_when_its_turn_comes() -> None:
    gate = Gate()
    body = b"0123456789" * 100_000
    async with Door(gate) as door, door.caller() as caller:
        sending = asyncio.ensure_future(caller.send(GET + post(body) + post(body[::-1])))
        await door.until(begun=1)
        gate.open.set()
        await sending
        assert (await caller.answer()).body == b""
        assert (await caller.answer()).body == body
        assert (await caller.answer()).body == body[::-1]


KEPT = [
    pytest.param(get(), True, id="1.1"),
    pytest.param(get("/a", "connection: close"), False, id="1.1, to be closed"),
    pytest.param(get("/a", "connection: Close, x"), False, id="1.1, to be closed, in a list"),
    pytest.param(get(version="1.0"), False, id="1.0"),
    pytest.param(get("/a", "connection: keep-alive", version="1.0"), True, id="1.0, kept"),
]


@pytest.mark.parametrize(("request_bytes", "kept"), KEPT)
async def test_a_connection_lives_on_if_the_client_lets_it_and_is_told(request_bytes: bytes, kept: bool) -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(request_bytes)
        answer = await caller.answer()
        assert (answer.fields.get("connection") == "close") is not kept
        if kept:
            await caller.send(request_bytes)
            assert (await caller.answer()).status == 200
        else:
            assert await caller.ended() == b""


async def test_a_client_of_http_1_0_that_asked_for_it_is_told_that_its_connection_is_kept() -> None:
    """It takes silence for a no, and would wait for the end of the connection."""
    async with Door() as door, door.caller() as caller:
        await caller.send(get("/a", "connection: keep-alive", version="1.0"))
        assert (await caller.answer()).fields["connection"] == "keep-alive"


async def test_an_empty_line_before_a_request_is_forgiven() -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(b"\r\n" + GET, b"\r\n\r\n" + GET)
        assert [(await caller.answer()).status for _ in range(2)] == [200, 200]


# ── heads ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_head_is_handed_on_as_it_came() -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(
            b"GET /v1/x?a=b%20c HTTP/1.1\r\nHost: h\r\nX-Empty:\r\nX-Twice: a\r\nx-twice:b\r\n"
            b"X-Name: \xc3\xa9\r\nX-Raw: \xe9\r\nX-TWICE: c\r\n\r\n"
        )
        await caller.answer()
        [arrival] = door.begun
    assert (arrival.head.method, arrival.head.target, arrival.loopback) == ("GET", "/v1/x?a=b%20c", True)
    assert arrival.head.headers == {
        "host": "h",
        "x-empty": "",
        "x-twice": "a, b, c",
        "x-name": "é",
        "x-raw": b"\xe9".decode("utf-8", "surrogateescape"),
    }
    assert arrival.head.repeated == ("x-twice", "x-twice")


ENDLESS_BYTES = 600_000  # more than one read of the loop brings
HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
MALFORMED = {
    "no request line": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an answer": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nhost: x\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nhost: x\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a space before the first field": HEAD[:16] + b" host: x\r\n\r\n",
    "a folded field": HEAD + b"a: b\r\n c\r\n\r\n",
    "a bare LF behind a field": HEAD + b"a: b\nc: d\r\n\r\n",
    "bare LFs throughout": b"GET / HTTP/1.1\nhost: x\n\n",
    "a bare CR in a value": HEAD + b"a: b\rc\r\n\r\n",
    "a bare CR behind a field": HEAD + b"a: b\rc: d\r\n\r\n",
    "NUL in a value": HEAD + b"a: b\0c\r\n\r\n",
    "NUL in a name": HEAD + b"a\0: b\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
    "a space before the colon": HEAD + b"a : b\r\n\r\n",
    "a space in a name": HEAD + b"a b: c\r\n\r\n",
    "an empty name": HEAD + b": c\r\n\r\n",
    "no colon": HEAD + b"nocolon\r\n\r\n",
    "two lengths that differ": POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "the same length twice": POST + b"content-length: 1\r\ncontent-length: 1\r\n\r\na",
    "a list of lengths": POST + b"content-length: 1, 1\r\n\r\na",
    "a length with a plus": POST + b"content-length: +1\r\n\r\na",
    "a negative length": POST + b"content-length: -1\r\n\r\na",
    "an empty length": POST + b"content-length:\r\n\r\na",
    "a length beyond 64 bits": POST + b"content-length: 99999999999999999999999\r\n\r\na",
    "length and chunks": POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
    "chunked and then identity": POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an empty coding": POST + b"transfer-encoding:\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}

BAD_HOST = {
    "no host": b"GET /a HTTP/1.1\r\na: b\r\n\r\n",
    "a host with a path": b"GET /a HTTP/1.1\r\nhost: x/y\r\n\r\n",
    "a host with a space": b"GET /a HTTP/1.1\r\nhost: x y\r\n\r\n",
    "a host of no name": b"GET /a HTTP/1.1\r\nhost: \r\n\r\n",
    "a host with a user": b"GET /a HTTP/1.1\r\nhost: me@x\r\n\r\n",
    "two hosts": HEAD + b"host: y\r\n\r\n",
    "a host with a path in HTTP/1.0": b"GET /a HTTP/1.0\r\nhost: x/y\r\n\r\n",
}
HEAD_TOO_LARGE = {
    "too many fields": HEAD + b"".join(b"a%d: b\r\n" % n for n in range(MOST_FIELDS)) + b"\r\n",
    "too many fields of one name": HEAD + b"a: b\r\n" * MOST_FIELDS + b"\r\n",
    "a field that is too long": HEAD + b"a: " + b"b" * MOST_HEAD_BYTES + b"\r\n\r\n",
    "a field without end": HEAD + b"a: " + b"b" * ENDLESS_BYTES,
    "a name that is too long": HEAD + b"a" * MOST_HEAD_BYTES + b": b\r\n\r\n",
}
TARGET_TOO_LONG = {
    "a target that is a little too long": b"GET /" + b"a" * MOST_TARGET_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a target that is too long": b"GET /" + b"a" * MOST_HEAD_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a target without end": b"GET /" + b"a" * ENDLESS_BYTES,
}
# Each with its status and its reason.
REJECTED = {
    **{name: (sent, 400, "malformed") for name, sent in MALFORMED.items()},
    **{name: (sent, 400, "host") for name, sent in BAD_HOST.items()},
    **{name: (sent, 431, "head_too_large") for name, sent in HEAD_TOO_LARGE.items()},
    **{name: (sent, 414, "target_too_long") for name, sent in TARGET_TOO_LONG.items()},
    "a coding that nobody undoes": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "coding"),
    "an expectation": (POST + b"expect: a-miracle\r\ncontent-length: 0\r\n\r\n", 417, "expectation"),
    "TRACE": (b"TRACE / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer canary\r\n\r\n", 405, "method"),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n", 405, "method"),
    "a GET with a body": (HEAD + b"content-length: 1\r\n\r\nx", 400, "body"),
    "a DELETE in chunks": (b"DELETE / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "body"),
    "a GET with malformed chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400, "body"),
}


@pytest.mark.parametrize(("sent", "status", "reason"), REJECTED.values(), ids=REJECTED.keys())
async def test_what_is_no_request_is_told_so_and_goes_no_further(sent: bytes, status: int, reason: str) -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(sent)
        answer = await caller.answer()
        assert (answer.status, answer.fields["connection"]) == (status, "close")
        assert await caller.ended() == b""
    assert (door.begun, door.rejected) == ([], [reason])


@pytest.mark.parametrize(("sent", "status", "reason"), REJECTED.values(), ids=REJECTED.keys())
async def test_what_is_no_request_is_told_so_behind_the_answer_to_a_good_one(sent: bytes, status: int, reason: str) -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(GET + sent)
        assert (await caller.answer()).status == 200
        answer = await caller.answer()
        assert (answer.status, answer.fields["connection"]) == (status, "close")
        assert await caller.ended() == b""
    assert (len(door.begun), door.rejected) == (1, [reason])


@pytest.mark.parametrize(("sent", "status", "reason"), REJECTED.values(), ids=REJECTED.keys())
async def test_what_is_no_request_is_told_so_byte_by_byte_and_on_a_connection_in_use(sent: bytes, status: int, reason: str) -> None:
    pieces = (
        [sent[n : n + 1] for n in range(len(sent))] if len(sent) < 1000 else [sent[n : n + 999] for n in range(0, len(sent), 999)]
    )
    async with Door() as door, door.caller() as caller:
        await caller.send(GET)
        assert (await caller.answer()).status == 200
        await caller.send(*pieces)
        answer = await caller.answer()
        assert (answer.status, answer.fields["connection"]) == (status, "close")
        assert await caller.ended() == b""
    assert (len(door.begun), door.rejected) == (1, [reason])


async def test_what_follows_what_is_no_request_is_not_looked_at() -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(HEAD + b"nocolon\r\n\r\n" + GET, GET)
        assert (await caller.answer()).status == 400
        assert await caller.ended() == b""
    assert (door.begun, door.rejected) == ([], ["malformed"])


async def test_the_400_reaches_a_client_that_goes_on_sending() -> None:
    """Closing over unread bytes would be a reset, which may overtake the answer."""
    async with Door() as door, door.caller() as caller:
        await caller.send(HEAD + b"a: " + b"b" * 8 * MIB)
        answer = await caller.answer()
        assert (answer.status, answer.body) == (431, b"no request")
        assert await caller.ended() == b""


RIGHT = {
    "a host with a port": b"GET /a HTTP/1.1\r\nhost: a-b_c.svc.cluster.local:8080\r\n\r\n",
    "a host that is an address": b"GET /a HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n",
    "HTTP/1.0 without a host": b"GET /a HTTP/1.0\r\n\r\n",
    "as many fields as may be": HEAD + b"".join(b"a%d: b\r\n" % n for n in range(MOST_FIELDS - 1)) + b"\r\n",
    "a field nearly as long as may be": HEAD + b"a: " + b"b" * (MOST_HEAD_BYTES - 100) + b"\r\n\r\n",
    "a target as long as may be": b"GET /" + b"a" * (MOST_TARGET_BYTES - 1) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", RIGHT.values(), ids=RIGHT.keys())
@pytest.mark.parametrize("piece", [999, MIB])
async def test_what_is_within_the_limits_is_a_request(sent: bytes, piece: int) -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(*[sent[n : n + piece] for n in range(0, len(sent), piece)])
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("field", [b"a:\r\n", b"a%d:\r\n"], ids=["one name", "many names"])
async def test_a_head_of_very_many_fields_does_not_hold_everybody_up(field: bytes) -> None:
    many = b"".join([field % n if b"%" in field else field for n in range(50_000)])
    async with Door() as door, door.caller() as caller:
        began = time.process_time()
        await caller.send(HEAD + many + b"\r\n")
        assert (await caller.answer()).status == 431
        assert await caller.ended() == b""
        assert time.process_time() - began < 1.0, "it takes a few milliseconds; copied at every field, it took many seconds"


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CUT = {
    "with a length": get("/b", "content-length: 11", "x: y", method="POST") + b"hello world",
    "in chunks": CHUNKED + b"5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nx-trailer: t\r\n\r\n",
}


@pytest.mark.parametrize("sent", CUT.values(), ids=CUT.keys())
async def test_a_request_means_the_same_wherever_it_is_cut(sent: bytes) -> None:
    async with Door() as door, door.caller() as caller:
        for first in range(1, len(sent)):
            for second in (first + 1, (first + len(sent)) // 2, len(sent) - 1):
                await caller.send(*[p for p in (sent[:first], sent[first:second], sent[max(first, second) :]) if p])
                answer = await caller.answer()
                assert (answer.status, answer.body) == (200, b"hello world"), (first, second)
        assert door.connections == 1
        assert all(arrival.head.headers == door.begun[0].head.headers for arrival in door.begun)


@pytest.mark.parametrize("sent", CUT.values(), ids=CUT.keys())
async def test_a_request_means_the_same_wherever_it_is_cut_while_another_runs(sent: bytes) -> None:
    async with Door() as door, door.caller() as caller:
        for at in range(1, len(sent)):
            await caller.send(GET + sent[:at], sent[at:])
            assert (await caller.answer()).body == b""
            assert (await caller.answer()).body == b"hello world"


BAD_BODIES = {
    "a size that is no number": b"zz\r\nok\r\n0\r\n\r\n",
    "a chunk longer than its size": b"2\r\nokX\r\n0\r\n\r\n",
    "a negative size": b"-2\r\nok\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"ffffffffffffffffff\r\nok",
    "lines that end in LF": b"2\nok\n0\n\n",
    "a length as a trailer": b"2\r\nok\r\n0\r\ncontent-length: 9\r\n\r\n",
    "a coding as a trailer": b"2\r\nok\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    "a trailer without a colon": b"2\r\nok\r\n0\r\nnocolon\r\n\r\n",
    "trailers without end": b"2\r\nok\r\n0\r\n" + b"x-t: 1\r\n" * 60_000,
    "trailers of many names without end": b"2\r\nok\r\n0\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(60_000)),
    "a trailer without end": b"2\r\nok\r\n0\r\nx-t: " + b"x" * 600_000,
    "an extension without end": b"2;x=" + b"y" * 600_000,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_is_none_is_an_error_for_whoever_reads_it(body: bytes) -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(CHUNKED + body[:9], *[body[n : n + 9999] for n in range(9, len(body), 9999)])
        answer = await caller.answer()
        assert (answer.status, answer.fields["x-code"], answer.fields["connection"]) == (400, "bad_request", "close")
        assert await caller.ended() == b""


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_is_none_and_that_nobody_reads_ends_the_connection(body: bytes) -> None:
    async with Door(deaf) as door, door.caller() as caller:
        await caller.send(CHUNKED + body + GET)
        assert (await caller.answer()).status == 401
        assert await caller.ended() == b""
    assert len(door.begun) == 1


async def test_a_large_body_in_front_of_half_a_head_is_taken_for_what_it_is() -> None:
    body = b"x" * (2 * MOST_HEAD_BYTES)
    async with Door() as door, door.caller() as caller:
        await caller.send(post(body) + GET[:9], GET[9:])
        assert (await caller.answer()).body == body
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_nobody_reads_is_not_read_beyond_the_high_water_mark(chunked: bool) -> None:
    gate = Gate()
    size = 16 * MIB
    block = b"x" * MIB
    head = CHUNKED if chunked else get("/c", f"content-length: {size}", method="POST")

    async def send() -> None:
        await caller.send(head)
        for _ in range(size // MIB):
            await caller.send(b"%x\r\n%b\r\n" % (MIB, block) if chunked else block)
        await caller.send(b"0\r\n\r\n" if chunked else b"")

    async with Door(gate) as door, door.caller() as caller:
        sending = asyncio.ensure_future(send())
        await door.until(begun=1)
        [arrival] = door.begun
        await turns(lambda: arrival.held)
        held = arrival.size
        for _ in range(1000):
            await asyncio.sleep(0)
        assert arrival.size == held
        assert HIGH_WATER_BYTES < held < 3 * HIGH_WATER_BYTES
        assert not sending.done(), "the client waits"
        gate.open.set()
        answering = asyncio.ensure_future(caller.answer())
        await soon(sending)
        assert len((await soon(answering)).body) == size


# ── whoever leaves ───────────────────────────────────────────────────────────────────────────────────────────────────


async def wait_for_ever(arrival: HttpArrival, sink: HttpSink) -> None:
    await asyncio.Event().wait()


async def read_and_wait(arrival: HttpArrival, sink: HttpSink) -> None:
    await arrival.read(MIB)
    await asyncio.Event().wait()


async def start_and_wait(arrival: HttpArrival, sink: HttpSink) -> None:
    sink.start(200, ["x: y"])
    await sink.room()
    await asyncio.Event().wait()


LEAVING = {
    "in its body": (get("/a", "content-length: 9", method="POST") + b"x", read_and_wait),
    "in a body that nobody reads": (get("/a", "content-length: 9", method="POST") + b"x", wait_for_ever),
    "before the answer": (GET, wait_for_ever),
    "in the answer": (GET, start_and_wait),
    "in the head of another": (GET + GET[:5], wait_for_ever),
}


@pytest.mark.parametrize(("sent", "handler"), LEAVING.values(), ids=LEAVING.keys())
@pytest.mark.parametrize("how", ["leave", "reset", "end"])
async def test_a_client_that_leaves_has_its_call_cancelled_once(sent: bytes, handler: object, how: str) -> None:
    """One that only ends its side has left too: nobody who waits for a model's answer does that."""
    async with Door(handler) as door, door.caller() as caller:  # type: ignore[arg-type]
        await caller.send(sent)
        await door.until(begun=1)
        getattr(caller, how)()
        await door.until(cancelled=1)
        await turns(lambda: door.connections == 0)
    assert (len(door.begun), door.cancelled, door.finished) == (1, 1, 0)


@pytest.mark.parametrize("how", ["leave", "reset"])
async def test_a_client_that_leaves_with_requests_sent_ahead_is_noticed_when_it_is_written_to(how: str) -> None:
    """Nothing is read while a request waits, and so is not its end."""
    gone = asyncio.Event()

    async def go_on_writing(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(200, ["x: y"])
        await sink.room()
        await gone.wait()
        while True:
            if sink.write(b"x" * 1000):
                await sink.room()
            await asyncio.sleep(0)

    async with Door(go_on_writing) as door, door.caller() as caller:
        await caller.send(GET * 3)
        await door.until(begun=1)
        getattr(caller, how)()
        gone.set()
        await turns(lambda: door.connections == 0)
        await turns(lambda: door.finished + door.cancelled == 1)
    assert len(door.begun) == 1


@pytest.mark.parametrize("sent", [b"", b"G", GET[:-2], HEAD + b"nocolon\r\n", b"\r\n"])
@pytest.mark.parametrize("how", ["leave", "reset", "end"])
async def test_a_client_that_leaves_before_it_asked_anything_leaves_nothing_behind(sent: bytes, how: str) -> None:
    async with Door() as door, door.caller() as caller:
        await turns(lambda: door.connections == 1)
        await caller.send(sent)
        getattr(caller, how)()
        await turns(lambda: door.connections == 0)
    assert door.begun == []


@pytest.mark.parametrize("how", ["leave", "reset", "end"])
@pytest.mark.parametrize(
    "sent", [GET, HEAD + b"nocolon\r\n\r\n", CHUNKED + b"zz\r\n", get("/", "upgrade: x", "connection: upgrade")]
)
async def test_a_client_that_asks_and_leaves_at_once_is_no_fault_of_ours(sent: bytes, how: str) -> None:
    async with Door() as door:
        for _ in range(20):
            async with door.caller() as caller:
                caller.sock.send(sent)
                getattr(caller, how)()
        async with door.caller() as caller:
            await caller.send(GET)
            assert (await caller.answer()).status == 200
            await turns(lambda: door.connections == 1)
    assert door.finished + door.cancelled == len(door.begun)


# ── lingering ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("handler", [deaf, deaf_for_good])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_refusal_reaches_a_client_whole_that_reads_only_when_it_has_sent_everything(handler: object, chunked: bool) -> None:
    size, block = 32 * MIB, b"x" * MIB
    async with Door(handler) as door, door.caller() as caller:  # type: ignore[arg-type]
        await caller.send(CHUNKED if chunked else get("/", f"content-length: {size}", method="POST"))
        for _ in range(size // MIB):
            await caller.send(b"%x\r\n%b\r\n" % (MIB, block) if chunked else block)
        await caller.send(b"0\r\n\r\n" if chunked else b"")
        answer = await caller.answer()
        assert (answer.status, answer.body) in ((401, b"who are you?"), (413, b"too much"))
        if handler is deaf:
            await caller.send(GET)
            assert (await caller.answer()).status == 401
        else:
            assert await caller.ended() == b""
    assert all(arrival.size == 0 for arrival in door.begun)


@pytest.mark.parametrize(("handler", "status"), [(deaf, 401), (deaf_for_good, 413)])
async def test_a_client_whose_rest_never_comes_is_not_waited_for(handler: object, status: int) -> None:
    async with Door(handler) as door, door.caller() as caller:  # type: ignore[arg-type]
        await caller.send(get("/", "content-length: 9", method="POST") + b"x")
        assert (await caller.answer()).status == status
        await door.until(finished=1)
        door.listener.close_late(header_s=60)
        assert door.connections == 1
        move_time(LINGER_S + 1)
        door.listener.close_late(header_s=60)
        await turns(lambda: door.connections == 0)


async def test_what_is_left_of_a_body_is_never_taken_for_a_request() -> None:
    async with Door(deaf) as door, door.caller() as caller:
        await caller.send(get("/1", f"content-length: {len(GET)}", method="POST"))
        assert (await caller.answer()).status == 401
        await caller.send(GET, get("/2"))
        assert (await caller.answer()).status == 401
    assert [arrival.head.target for arrival in door.begun] == ["/1", "/2"]


async def test_a_rest_that_is_malformed_ends_the_connection_at_once() -> None:
    async with Door(deaf) as door, door.caller() as caller:
        await caller.send(CHUNKED)
        assert (await caller.answer()).status == 401
        await caller.send(b"zz\r\n" + GET)
        assert await caller.ended() == b""
    assert len(door.begun) == 1


# ── whoever reads slowly ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_never_takes_its_answer_is_let_go_in_bounded_time() -> None:
    """The answer is given, so no deadline of a call watches any more."""

    async def much(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(200, ["x: y"], length=64 * MIB, close=arrival.head.target == "/close")
        await sink.room()
        left = 64 * MIB
        while not sink.write(b"x" * 65536):  # until the kernel takes no more
            left -= 65536
        sink.end()

    for target in ("/close", "/keep"):
        async with Door(much) as door, door.caller(receive_bytes=4096) as caller:
            await caller.send(get(target))
            await door.until(finished=1)
            for _ in range(4):
                move_time(100)
                door.listener.close_late(header_s=60)
            await turns(lambda: door.connections == 0)


async def test_a_client_that_is_told_400_and_does_not_read_is_let_go_in_bounded_time() -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(HEAD + b"nocolon\r\n\r\n")
        await turns(lambda: len(door.rejected) == 1)
        for _ in range(4):
            move_time(100)
            door.listener.close_late(header_s=60)
        await turns(lambda: door.connections == 0)


# ── upgrades ─────────────────────────────────────────────────────────────────────────────────────────────────────────

UPGRADES = {
    "Upgrade": get("/", "connection: upgrade", "upgrade: websocket"),
    "Upgrade with a body": get("/", "connection: upgrade", "upgrade: h2c", "content-length: 2", method="POST") + b"{}",
}


@pytest.mark.parametrize("sent", UPGRADES.values(), ids=UPGRADES.keys())
async def test_a_connection_is_never_another_protocol_s(sent: bytes) -> None:
    """The request is handed on as one; what stands behind it is not looked at, and the connection ends."""
    async with Door() as door, door.caller() as caller:
        await caller.send(sent + b"\x00\x01raw" + GET, GET)
        answer = await caller.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        assert await caller.ended() == b""
    assert len(door.begun) == 1


@pytest.mark.parametrize("sent", UPGRADES.values(), ids=UPGRADES.keys())
async def test_an_upgrade_behind_a_request_is_answered_in_its_turn(sent: bytes) -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(GET + sent + b"raw")
        first, second = await caller.answer(), await caller.answer()
        assert ("connection" in first.fields, second.fields["connection"]) == (False, "close")
        assert await caller.ended() == b""
    assert len(door.begun) == 2


# ── whatever comes ───────────────────────────────────────────────────────────────────────────────────────────────────

PARTS = st.sampled_from(
    [
        *(GET, HEAD, POST, CHUNKED, get(version="1.0"), b"\r\n", b"\r", b"\n", b"\0", b"a: b\r\n", b"content-length: 5\r\n"),
        *(b"transfer-encoding: chunked\r\n", b"\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"connection: close\r\n"),
        *(
            b"expect: 100-continue\r\n",
            b"upgrade: x\r\nconnection: upgrade\r\n",
            b"\xff\xfe",
            b"x" * 70_000,
            *[sent for sent, _, _ in REJECTED.values()],
        ),
    ]
)
NOISE = st.lists(st.one_of(PARTS, st.binary(max_size=20)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(pieces=NOISE, handler=st.sampled_from([echo, deaf, deaf_for_good]), joined=st.booleans())
def test_no_bytes_make_a_fault_or_a_connection_that_does_not_end(pieces: list[bytes], handler: object, joined: bool) -> None:
    async def exchange() -> None:
        async with Door(handler) as door, door.caller() as caller:  # type: ignore[arg-type]
            try:
                await caller.send(*([b"".join(pieces)] if joined else pieces))
                caller.end()
                await caller.ended()
            except OSError:  # it was reset, or is closed already
                pass
            await turns(lambda: door.connections == 0)
            assert door.finished + door.cancelled == len(door.begun)

    asyncio.run(exchange())


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(1, 400), min_size=2, max_size=2), bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_requests_cut_at_any_two_places_are_answered_alike(cuts: list[int], bodies: list[bytes]) -> None:
    sent = b"".join(
        post(body) if n % 2 else CHUNKED + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        for n, body in enumerate(bodies)
    )
    first, second = sorted(min(cut, len(sent)) for cut in cuts)

    async def exchange() -> None:
        async with Door() as door, door.caller() as caller:
            await caller.send(*[piece for piece in (sent[:first], sent[first:second], sent[second:]) if piece])
            assert [(await caller.answer()).body for _ in bodies] == bodies

    asyncio.run(exchange())


async def test_a_reader_that_is_given_up_is_reset_and_leaves_nothing_in_the_kernel() -> None:
    """One that is only closed is offered what was written for as long as it likes."""

    async def flood(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(200, [])
        while not sink.write(b"x" * MIB):
            pass
        sink.abort()

    async with Door(flood) as door, door.caller(receive_bytes=4096) as caller:
        await caller.send(GET)
        await door.until(finished=1)
        with pytest.raises(ConnectionResetError):
            await caller.ended()
