"""A request's body on its way in: whole, in pieces, too large, invited, broken, given up."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.downstream.arrival import HIGH_WATER_BYTES, MOST_TINY, TINY_BYTES, HttpArrival
from proxy.errors import InvalidCall
from proxy.wire.request import RequestHead
from tests.proxy.downstream.door import soon


class Line:
    """What an arrival asked of its connection."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def go_on(self) -> None:
        self.asked.append("go on")

    def invite(self) -> None:
        self.asked.append("invite")

    def source(self) -> str:
        return "127.0.0.1"


def arrival(line: Line | None = None, *, modern: bool = True, **headers: str) -> HttpArrival:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    length = fields.pop("content-length", None)
    head = RequestHead(method="POST", target="/", headers=fields, keep=True, modern=modern)
    return HttpArrival(line or Line(), asyncio.get_running_loop(), head, length=length and int(length), loopback=True)


async def all_of(chunks: AsyncIterator[bytes]) -> list[bytes]:
    return [chunk async for chunk in chunks]


async def test_a_body_is_read_whole_however_it_comes() -> None:
    for pieces in ([b"hello"], [b"h", b"ello"], [*"hello"], []):
        body = arrival()
        reading = asyncio.ensure_future(body.read(5))
        for piece in pieces:
            await asyncio.sleep(0)
            body.feed(piece if isinstance(piece, bytes) else piece.encode())
        await asyncio.sleep(0)
        body.complete()
        assert await soon(reading) == (b"hello" if pieces else b"")
        assert body.size == 0


async def test_a_body_that_is_too_large_is_known_by_its_length_before_it_comes() -> None:
    line = Line()
    assert await soon(arrival(line, content_length="6", expect="100-continue").read(5)) is None
    assert line.asked == [], "nobody is invited to send what is refused"


@pytest.mark.parametrize("whole", [False, True])
async def test_a_body_that_is_too_large_is_known_by_what_came_of_it(whole: bool) -> None:
    body = arrival()
    body.feed(b"123456")
    if whole:
        body.complete()
    assert await soon(body.read(5)) is None


async def test_a_body_that_waits_stops_the_reading_once_and_taking_it_lets_it_go_on() -> None:
    line = Line()
    body = arrival(line)
    assert not body.feed(b"x" * HIGH_WATER_BYTES)
    assert body.feed(b"x")
    assert not body.feed(b"x"), "it was asked for once"
    reading = asyncio.ensure_future(body.read(HIGH_WATER_BYTES * 2))
    await asyncio.sleep(0)
    assert line.asked == ["go on"]
    body.complete()
    assert len(await soon(reading) or b"") == HIGH_WATER_BYTES + 2


async def test_what_is_given_up_is_dropped_and_never_stops_the_reading() -> None:
    line = Line()
    body = arrival(line)
    assert body.feed(b"x" * (HIGH_WATER_BYTES + 1))
    body.discard()
    assert line.asked == ["go on"]
    assert not any(body.feed(b"x" * HIGH_WATER_BYTES) for _ in range(10))
    assert body.size == 0


async def test_a_body_is_passed_on_as_it_comes() -> None:
    body = arrival()
    chunks = body.chunks(100)
    for piece in (b"a", b"b"):
        body.feed(piece)
        assert await soon(anext(chunks)) == piece
    body.feed(b"c")
    body.feed(b"d")
    body.complete()
    assert await soon(all_of(chunks)) == [b"c", b"d"]


async def test_a_body_whose_end_comes_while_its_last_chunk_is_in_use_ends() -> None:
    body = arrival()
    chunks = body.chunks(100)
    body.feed(b"a")
    assert await soon(anext(chunks)) == b"a"
    body.complete()
    assert await soon(all_of(chunks)) == []


async def test_a_body_that_breaks_while_its_last_chunk_is_in_use_is_an_error() -> None:
    body = arrival()
    chunks = body.chunks(100)
    body.feed(b"a")
    assert await soon(anext(chunks)) == b"a"
    body.fail()
    with pytest.raises(InvalidCall) as caught:
        await soon(anext(chunks))
    assert caught.value.code == "bad_request"


async def test_a_body_that_turns_out_too_large_is_refused_where_it_does() -> None:
    body = arrival()
    chunks = body.chunks(5)
    body.feed(b"12345")
    assert await soon(anext(chunks)) == b"12345"
    body.feed(b"6")
    with pytest.raises(InvalidCall) as caught:
        await soon(anext(chunks))
    assert (caught.value.code, caught.value.close) == ("request_too_large", True)


async def test_a_body_that_breaks_is_an_error_and_never_a_short_body() -> None:
    body = arrival()
    reading = asyncio.ensure_future(body.read(100))
    body.feed(b"{}")
    await asyncio.sleep(0)
    body.fail()
    with pytest.raises(InvalidCall) as caught:
        await soon(reading)
    assert (caught.value.code, caught.value.close) == ("bad_request", True)


@pytest.mark.parametrize(
    ("fields", "modern", "invited"),
    [
        ({"expect": "100-continue"}, True, True),
        ({"expect": "100-Continue"}, True, True),
        ({"expect": "100-continue"}, False, False),  # HTTP/1.0 knows no interim answers
        ({"expect": "something"}, True, False),
        ({}, True, False),
    ],
)
async def test_a_body_is_invited_when_it_is_asked_for_and_not_before(fields: dict[str, str], modern: bool, invited: bool) -> None:
    for how in ("read", "chunks"):
        line = Line()
        body = arrival(line, modern=modern, **fields)
        assert line.asked == []
        reading = asyncio.ensure_future(body.read(9) if how == "read" else all_of(body.chunks(9)))
        await asyncio.sleep(0)
        assert line.asked == ["invite"] * invited
        body.complete()
        await soon(reading)
        assert line.asked == ["invite"] * invited


async def test_a_reader_that_is_cancelled_leaves_the_body_to_be_read() -> None:
    body = arrival()
    reading = asyncio.ensure_future(body.read(9))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    body.feed(b"a")
    body.complete()
    assert await soon(body.read(9)) == b"a"


async def test_a_body_of_a_million_tiny_chunks_is_given_up_and_not_kept() -> None:
    body = arrival()
    for _ in range(MOST_TINY + 10):
        body.feed(b"x")
    body.complete()
    assert not body.whole, "the connection ends with it"
    assert body.size == 0
    with pytest.raises(InvalidCall) as refused:
        await body.read(1 << 20)
    assert refused.value.code == "bad_request"


@pytest.mark.parametrize(("piece", "length"), [(b"x" * TINY_BYTES, None), (b"x", "20010")])
async def test_many_chunks_of_some_size_and_many_small_reads_are_nobody_s_fault(piece: bytes, length: str | None) -> None:
    body = arrival(**({"content_length": length} if length else {}))
    for _ in range(MOST_TINY + 10):
        body.feed(piece)
    body.complete()
    assert await body.read(1 << 24) == piece * (MOST_TINY + 10)


async def test_who_waits_to_be_invited_is_invited_once_however_often_it_is_read() -> None:
    line = Line()
    body = arrival(line, expect="100-continue")
    reading = asyncio.ensure_future(body.read(2))
    await asyncio.sleep(0)
    body.feed(b"1234")
    assert await soon(reading) is None
    reading = asyncio.ensure_future(body.read(8))
    await asyncio.sleep(0)
    body.complete()
    assert await soon(reading) == b"1234"
    assert line.asked == ["invite"]
