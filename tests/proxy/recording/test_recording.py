"""A recording: numbered pieces, an end, readers at their own places, and gaps that are told."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recording.recording import READ_BYTES, Recording
from proxy.recording.sink import RecordingSink
from tests.proxy.recording.records import FACTS, JSON, STREAM, event, recording


def streamed(*writes: bytes) -> Recording:
    made = recording()
    made.begin(STREAM)
    for data in writes:
        made.add(data)
    return made


def test_the_pieces_of_a_stream_are_its_events_however_they_were_written() -> None:
    made = streamed(event(1) + event(2), event(3))
    assert made.all_pieces() == [event(1), event(2), event(3)]
    assert (made.first, made.last) == (1, 3)
    assert made.pieces(1) == [event(2), event(3)]


@given(st.lists(st.sampled_from([event(1), b": x\n\n", b"data: a\r\n\r\n", b"data: b\r\r", b"\n", b"id: 1\n"]), max_size=12))
def test_what_is_read_is_what_was_written(writes: list[bytes]) -> None:
    made = streamed(*writes)
    made.finish()
    assert b"".join(made.all_pieces()) == b"".join(writes)


def test_the_last_event_may_lack_its_blank_line() -> None:
    made = streamed(event(1), b"data: [DONE]")
    assert made.last == 1
    made.finish()
    assert made.pieces(1) == [b"data: [DONE]"]


def test_a_stream_that_is_none_is_kept_in_pieces_and_bounded() -> None:
    made = streamed(b"x" * (READ_BYTES + 1))
    assert made.last == 1
    assert made.all_pieces() == [b"x" * (READ_BYTES + 1)]


def test_a_reader_gets_no_more_at_once_than_he_can_take() -> None:
    made = recording()
    made.begin(JSON)
    for _ in range(10):
        made.add(b"x" * (READ_BYTES // 2))
    assert len(made.pieces(0)) == 2


def test_what_was_trimmed_is_a_gap() -> None:
    made = streamed(*(event(n) for n in range(1, 101)))
    size = made.size
    assert made.trim(size // 2)
    assert made.size <= size // 2
    assert made.gap(0)
    assert made.gap(made.first - 2)
    assert not made.gap(made.first - 1)
    assert made.pieces(made.first - 1)[0] == event(made.first)
    assert made.last == 100


async def test_news_come_to_everybody_who_waits() -> None:
    made = streamed()
    for happens in (lambda: made.add(event(1)), made.finish, lambda: made.end("completed", FACTS)):
        waiting = [asyncio.create_task(made.news()) for _ in range(3)]
        await asyncio.sleep(0)
        happens()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)


async def test_a_reader_that_leaves_leaves_nothing() -> None:
    made = streamed()
    waiting = asyncio.create_task(made.news())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not made._news


async def test_a_call_that_ends_without_an_end_has_a_broken_recording() -> None:
    made = streamed(event(1))
    made.end("failed", FACTS)
    assert made.over
    assert made.broken
    whole = streamed(event(1))
    whole.finish()
    whole.end("completed", FACTS)
    assert not whole.broken


async def test_a_recording_sink_is_never_slow_and_never_gone() -> None:
    made, grew = recording(), []
    sink = RecordingSink(made, grew.append)
    assert not sink.head_sent
    assert sink.start(200, ["content-type: text/event-stream"], first=event(1)) is False
    assert sink.head_sent
    assert sink.write(event(2)) is False
    chunk = b"11\r\n" + event(3) + b"\r\n"
    assert sink.write_chunk(chunk, 4, 4 + len(event(3))) is False
    await sink.room()
    assert sink.end() is False
    assert b"".join(made.all_pieces()) == event(1) + event(2) + event(3)
    assert len(grew) == 4
