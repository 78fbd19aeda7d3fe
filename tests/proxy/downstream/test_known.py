"""A head that is known by its bytes means what llhttp would say that it means, in every place where it may stand."""

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.connection import ClientConnection
from proxy.downstream.known import LONGEST_HEAD_BYTES, MOST_HEADS, KnownHead, KnownHeads, parts_of
from proxy.downstream.rules import Rejection
from proxy.downstream.sink import HttpSink
from proxy.wire.request import RequestHead
from tests.proxy.downstream.door import GET, Door, get, post

SDK = ("authorization: Bearer sk-1", "x-stainless-retry-count: 0", "content-type: application/json")


class Forgetful(KnownHeads):
    """Knows none, so that llhttp reads every head."""

    def meet(self, parts: tuple[bytes, bytes], head: RequestHead, *, last: int) -> tuple[None, int]:
        return None, 0


class Transport:
    """A socket that takes everything. written: what was; ended: by our side."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    abort = write_eof = close

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Owner:
    """Answers every request with what it was, as soon as it is whole."""

    closing = False

    def __init__(self, heads: KnownHeads) -> None:
        self.heads = heads
        self.seen: list[object] = []
        self.known = 0

    def date(self) -> str:
        return "today"

    async def answer(self, arrival: HttpArrival, sink: HttpSink) -> None:
        head = arrival.head
        self.known += head.known
        body = await arrival.read(1 << 20)
        said = (
            head.method,
            head.target,
            dict(head.headers),
            head.repeated,
            head.keep,
            head.modern,
            arrival.length,
            arrival.loopback,
        )
        self.seen.append((said, body))
        sink.whole(body or b"", 200, ["x: y"])
        await sink.room()

    async def reject(self, sink: HttpSink, rejection: Rejection) -> None:
        self.seen.append(rejection.reason)
        sink.whole(b"", 400, ["x: y"])
        await sink.room()

    def lost(self, connection: ClientConnection) -> None: ...


async def told(reads: list[bytes], heads: KnownHeads) -> tuple[list[object], bytes, int]:
    """What a connection makes of these reads: the requests, the bytes of the answers, and how many heads were known."""
    owner, transport = Owner(heads), Transport()
    connection: Any = ClientConnection(owner, asyncio.get_running_loop())
    connection.connection_made(transport)
    for read in reads:
        if not transport.ended:
            connection.data_received(read)
        for _ in range(6):
            await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return owner.seen, transport.written, owner.known


HEADS = [
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\nContent-Length:%d\r\nx-a: b\r\n\r\n",
    b"POST /b HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: %d \r\n\r\n",
    b"POST /c HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n",
    b"PUT /d HTTP/1.1\r\nx: POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n",
    b"POST /e HTTP/1.1\r\nhost: h\r\nx: 1\r\nx: 2\r\ncontent-length: 0%d\r\n\r\n",
    b"POST /f HTTP/1.1\r\nhost: h\r\nx: 5\r\n content-length: 3\r\ncontent-length: %d\r\n\r\n",
    b"POST /g HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: %d\r\n\r\n",
    b"POST /h HTTP/1.1\nhost: x\ncontent-length: %d\n\n",
]
BODIES = [b"", b"a", b"{}", b"POST /a HTTP/1.1\r\nx: ", b"\r\n\r\n", b"z" * 11]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A request, now and then with a length that is not its body's, or with something before or behind it."""
    body = draw(st.sampled_from(BODIES))
    length = len(body) + draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1]))
    before = draw(st.sampled_from([b"", b"", b"", b"", b"\r\n", b"\r"]))
    behind = draw(st.sampled_from([b"", b"", b"", b"", b"\r\n", b"\r", GET]))
    return before + draw(st.sampled_from(HEADS)) % max(0, length) + body + behind


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """What comes over a connection, read by read: most messages alone and whole, some cut or together; a few of them many times."""
    few = draw(st.lists(messages(), min_size=1, max_size=3))
    reads: list[bytes] = []
    for message in draw(st.lists(st.sampled_from(few), min_size=1, max_size=12)):
        how = draw(st.sampled_from(["alone", "alone", "alone", "alone", "cut", "together"]))
        if how == "cut" and len(message) > 1:
            at = draw(st.integers(1, len(message) - 1))
            reads += [message[:at], message[at:]]
        elif how == "together" and reads:
            reads[-1] += message
        else:
            reads.append(message)
    return [read for read in reads if read]


@settings(max_examples=600, deadline=None)
@given(reads=conversations())
def test_a_connection_that_knows_heads_says_what_one_says_that_does_not(reads: list[bytes]) -> None:
    async def both() -> None:
        seen, written, _ = await told(reads, KnownHeads())
        assert (seen, written) == (await told(reads, Forgetful()))[:2]

    asyncio.run(both())


async def test_a_head_is_known_from_its_second_time_on_and_at_once_on_other_connections() -> None:
    heads = KnownHeads()
    calls = [post(b"x" * size, *SDK) for size in (1, 30, 4, 555)]
    seen, _, known = await told(calls, heads)
    assert (len(seen), known) == (4, 3)
    assert [body for _, body in seen] == [b"x", b"x" * 30, b"xxxx", b"x" * 555]  # type: ignore[misc]
    assert (await told(calls, heads))[2] == 4


@pytest.mark.parametrize(
    "sent",
    [
        post(b"{}", "x-large: " + "x" * LONGEST_HEAD_BYTES),
        get("/", "content-length: 2", "x: 1\r\n folded", method="POST") + b"{}",
        get("/", method="GET"),
        get("/", "transfer-encoding: chunked", method="POST") + b"2\r\n{}\r\n0\r\n\r\n",
        b"\r\n" + post(b"{}"),
    ],
    ids=["large", "folded", "without a body", "in chunks", "behind an empty line"],
)
async def test_what_is_never_known_by_its_bytes(sent: bytes) -> None:
    heads = KnownHeads()
    await told([sent] * 4, heads)
    assert repr(heads) == f"<KnownHeads 0/{MOST_HEADS}>"


async def test_however_many_heads_come_few_are_kept() -> None:
    heads = KnownHeads()
    for n in range(MOST_HEADS + 50):
        assert (await told([post(b"{}", f"x-id: {n}")] * 3, heads))[2] == 2
    assert repr(heads) == f"<KnownHeads {MOST_HEADS}/{MOST_HEADS}>"


async def test_heads_that_come_once_are_not_kept() -> None:
    heads = KnownHeads()
    await told([post(b"{}", f"x-id: {n}") for n in range(20)], heads)
    assert repr(heads) == f"<KnownHeads 0/{MOST_HEADS}>"


@pytest.mark.parametrize("digits", [b"", b"+2", b"2 ", b"-2", b"0x2", b"2,2", b"\xb2", b"1" * 16])
def test_a_known_head_with_what_is_no_length_is_not_known(digits: bytes) -> None:
    sent = post(b"{}", *SDK)
    parts = parts_of(sent, method="POST", length=2)
    assert parts is not None
    head = RequestHead(method="POST", target="/a", headers={}, keep=True, modern=True)
    heads = KnownHeads()
    nobody, mark = heads.meet(parts, head, last=0)
    known, _ = heads.meet(parts, head, last=mark)
    assert nobody is None
    assert known is not None
    assert sent[known.body_at(sent) :] == b"{}"
    assert known.body_at(parts[0] + digits + parts[1] + b"{}") == 0


@pytest.mark.parametrize("length", [0, 1, 8, 9, 10, 97, 98, 99, 100, 996, 997, 999, 1000, 9999, 10_000])
async def test_every_length_behind_a_known_head_is_read_as_it_is(length: int) -> None:
    body = b"x" * length
    seen, written, _ = await told([post(b"{}", *SDK)] * 3 + [post(body, *SDK), post(b"{}", *SDK)], KnownHeads())
    assert [got for _, got in seen] == [b"{}", b"{}", b"{}", body, b"{}"]  # type: ignore[misc]
    assert written.count(b"HTTP/1.1 200 OK") == 5


async def test_known_heads_are_answered_over_a_socket() -> None:
    async with Door() as door, door.caller() as caller:
        for n in range(6):
            await caller.send(post(b"x" * n, *SDK))
            assert (await caller.answer()).body == b"x" * n
        assert [arrival.head.known for arrival in door.begun] == [False, True, True, True, True, True]


async def test_a_connection_that_was_closed_is_freed_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await told([post(b"{}", *SDK)] * 3, KnownHeads())
        assert not [left for left in gc.get_objects() if type(left) is ClientConnection]
    finally:
        gc.enable()


@pytest.mark.parametrize("more", range(-3, 4))
def test_a_known_head_is_passed_over_unless_its_body_is_all_that_follows(more: int) -> None:
    """One byte too many is the next request's, and one too few is to come."""
    before, behind = b"POST / HTTP/1.1\r\ncontent-length: ", b"\r\nhost: a\r\n\r\n"
    known = KnownHead(before, behind, RequestHead(method="POST", target="/", headers={}, keep=True, modern=True))
    found = 0
    for length in range(max(0, -more), 1200):
        head = b"%b%d%b" % (before, length, behind)
        at = known.body_at(head + b"b" * (length + more))
        assert at in ((0, len(head)) if more == 0 else (0,)), length
        found += at > 0
    assert found > 1150 if more == 0 else found == 0
