"""A chunk that llhttp is not shown is passed on as it would have found it, whatever came before it and however it was cut."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.upstream.calls import soon
from tests.proxy.upstream.wire import Wire

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
# What looks like a chunk, an end of one, or the end of the body, where it is content.
ODD = [
    b"d\r\n" * 6,
    b"d\r\n" * 12,
    b"13\r\n" * 7,
    b"0\r\n\r\n",
    b"\r\n",
    b"20\r\n" + b"x" * 32 + b"\r\n",
    b"1" * 17,
    b"x" * 32,
    b"y" * 32,
]
PIECES = st.lists(st.sampled_from(ODD) | st.binary(min_size=1, max_size=40), min_size=1, max_size=12)
SIZES = st.sampled_from([b"%x\r\n", b"%x\r\n", b"%x\r\n", b"%X\r\n", b"0%x\r\n", b"%x;a=b\r\n"])


async def taken(reads: list[bytes], *, declines: bool) -> tuple[bytes, list[bytes], list[str]]:
    """What was taken of a body, the chunks it came in as they came, and what was asked of the transport."""
    wire, body, chunks = Wire(), bytearray(), []
    answer = wire.asked()

    def take(piece: bytes) -> bool:
        body.extend(piece)
        return True

    def take_chunk(chunk: bytes, at: int, end: int) -> bool | None:
        if declines:
            return None
        chunks.append(chunk)
        return take(chunk[at:end])

    pumping = asyncio.ensure_future(answer.pump(take, take_chunk))
    await asyncio.sleep(0)
    for read in reads:
        wire.connection.data_received(read)
    assert await soon(pumping) is False
    answer.close()
    return bytes(body), chunks, wire.told


@PATIENT
@given(PIECES, st.data())
def test_a_body_is_the_same_whether_its_chunks_are_shown_or_not(pieces: list[bytes], data: st.DataObject) -> None:
    reads: list[bytes] = []
    for piece in pieces:
        framed = data.draw(SIZES) % len(piece) + piece + b"\r\n"
        joins = bool(reads) and data.draw(st.integers(0, 4)) == 0
        cut = data.draw(st.integers(0, len(framed))) if data.draw(st.integers(0, 2)) == 0 else len(framed)
        first, second = framed[:cut], framed[cut:]
        if joins:
            reads[-1] += first
        elif first:
            reads.append(first)
        if second:
            reads.append(second)
    reads.append(b"0\r\n\r\n")
    for declines in (False, True):
        body, chunks, told = asyncio.run(taken(reads, declines=declines))
        assert (body, told) == (b"".join(pieces), [])
        assert all(chunk in reads for chunk in chunks)


def test_chunks_in_a_row_are_passed_on_as_they_came() -> None:
    reads = [b"20\r\n" + letter * 32 + b"\r\n" for letter in (b"a", b"b", b"c")]
    body, chunks, _ = asyncio.run(taken([*reads, b"0\r\n\r\n"], declines=False))
    assert (body, chunks) == (b"a" * 32 + b"b" * 32 + b"c" * 32, reads[1:])


def test_content_that_is_made_to_look_like_a_chunk_is_taken_for_none() -> None:
    """The second read is the end of one chunk and the size of the next, and by its looks a chunk; so is the third, which is content."""
    reads = [b"15\r\n12345678", b"d\r\nd\r\nd\r\nd\r\nd" + b"\r\n" + b"d\r\n", b"a\r\n0123456789" + b"\r\n", b"0\r\n\r\n"]
    for declines in (False, True):
        body, chunks, _ = asyncio.run(taken(reads, declines=declines))
        assert (body, chunks) == (b"12345678d\r\nd\r\nd\r\nd\r\nda\r\n0123456789", [])
