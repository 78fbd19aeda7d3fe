"""However a stream is cut into chunks, the same bytes come out and the same events are read."""

import re
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from proxy.wire.sse import LATE_LF, Splitter, data_of, is_stream

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

BOM = b"\xef\xbb\xbf"
CHAT = [
    b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n',
    'data: {"choices":[{"delta":{"content":"naïve 日本 👋🏽 مرحبا"}}]}\n\n'.encode(),
    b": a comment\n\n",
    b'event: chunk\nid: 7\nretry: 10\ndata: {"a":\ndata:  1}\n\n',
    b"data\n\n",
    b"data:\n\n",
    b"data: [DONE]\n\n",
]
LF = b"".join(CHAT)
SAMPLES = {
    "lf": LF,
    "crlf": LF.replace(b"\n", b"\r\n"),
    "cr": LF.replace(b"\n", b"\r"),
    "mixed": b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\ndata: d\r\n\rdata: e\n\r\r\n\ndata: f\n\n\n\r\r\ndata: g\r\n\r\n",
    "bom": BOM + LF,
    "bom, crlf": BOM + LF.replace(b"\n", b"\r\n"),
    "unfinished": LF + b"data: half\r\n",
    "only line ends": b"\r\n\r\n\r\r\n\n\n\r",
    "empty": b"",
}
# Bytes that make boundaries likely where they hurt.
STREAMS = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"data", b"data:", b"data: ", b":", b" ", b"x", b"id: 1", b"[DONE]", "é👋".encode(), BOM]
    ),
    max_size=40,
).map(b"".join)


def chunked(stream: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The stream in chunks of these sizes, the rest as the last one."""
    at = 0
    for size in sizes:
        yield stream[at : at + size]
        at += size
    yield stream[at:]


def split(chunks: Iterable[bytes]) -> tuple[list[bytes], bytes]:
    """What a splitter gives out for these chunks, and what it keeps."""
    splitter = Splitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return events, splitter.finish()


def read(events: list[bytes]) -> list[bytes]:
    return [data for event in events if (data := data_of(event)) is not None]


def standard(stream: bytes) -> list[bytes]:
    """The data of every event that the standard dispatches, or would if its data were not empty. WHATWG HTML, section 9.2.6."""
    lines = re.sub(rb"\r\n|\r", b"\n", stream.removeprefix(BOM)).split(b"\n")
    dispatched: list[bytes] = []
    buffer: list[bytes] = []
    for line in lines[:-1]:  # the last has no line end
        if line == b"":
            if buffer:
                dispatched.append(b"\n".join(buffer))
            buffer = []
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            if field == b"data":
                buffer.append(value[1:] if value.startswith(b" ") else value)
    return dispatched


@pytest.mark.parametrize("stream", SAMPLES.values(), ids=SAMPLES)
def test_a_stream_cut_anywhere_in_two_keeps_its_bytes_and_its_events(stream: bytes) -> None:
    whole, _ = split([stream])
    for at in range(len(stream) + 1):
        events, rest = split([stream[:at], stream[at:]])
        assert b"".join(events) + rest == stream
        assert read(events) == read(whole)


@pytest.mark.parametrize("stream", SAMPLES.values(), ids=SAMPLES)
def test_a_stream_that_comes_byte_by_byte_keeps_its_bytes_and_its_events(stream: bytes) -> None:
    events, rest = split(stream[at : at + 1] for at in range(len(stream)))
    assert b"".join(events) + rest == stream
    assert read(events) == read(split([stream])[0]) == standard(stream)


@settings(PATIENT, max_examples=500)
@given(stream=STREAMS, sizes=st.lists(st.integers(0, 7), max_size=60))
@example(stream=b"data: x\r\n\r\n\ndata: y\n\n", sizes=[10])
def test_no_chunking_changes_the_bytes_or_the_events(stream: bytes, sizes: list[int]) -> None:
    events, rest = split(chunked(stream, sizes))
    assert b"".join(events) + rest == stream
    assert read(events) == read(split([stream])[0])


@settings(PATIENT, max_examples=500)
@given(stream=STREAMS.map(lambda stream: stream.replace(BOM, b"")), bom=st.booleans())
def test_the_data_of_events_is_what_the_standard_says(stream: bytes, bom: bool) -> None:
    stream = BOM + stream if bom else stream
    assert read(split([stream])[0]) == standard(stream)


@pytest.mark.parametrize("stream", [v for k, v in SAMPLES.items() if "bom" not in k and k != "unfinished"])
def test_the_data_of_events_is_what_the_official_sdk_reads(stream: bytes) -> None:
    stream = stream.replace(b"id: 7", b"x: 7")  # with an id the SDK takes every blank line for an event
    seen = [said.data.encode() for said in SSEDecoder().iter_bytes(iter([stream])) if said.data]
    assert seen == [data for data in read(split([stream])[0]) if data]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: x\r\n\r", b"x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"data\ndata\n\n", b"\n"),
        (b"event: x\nid: 1\ndata: y\n\n", b"y"),
        (BOM + b"data: x\n\n", b"x"),
        (b": comment\n\n", None),
        (b"retry: 10\n\n", None),
        (b"dataset: x\n\n", None),
        (b" data: x\n\n", None),
        (b"Data: x\n\n", None),
        (b"\n\n", None),
        (b"", None),
    ],
)
def test_the_data_of_one_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


LONG_LINES = st.lists(st.sampled_from([b"data: " + b"x" * 5_000, b"data: y", b"z", b""]), max_size=40)


@settings(PATIENT, max_examples=300)
@given(lines=LONG_LINES, sizes=st.lists(st.integers(1, 9_000), max_size=40))
def test_long_events_of_few_lines_and_of_many_end_where_short_ones_would(lines: list[bytes], sizes: list[int]) -> None:
    stream = b"\n".join(lines)
    events, rest = split(chunked(stream, sizes))
    *whole, left = stream.split(b"\n\n")
    assert (events, rest) == ([event + b"\n\n" for event in whole], left)


def test_an_event_is_given_out_as_soon_as_its_blank_line_may_be_over() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: x\r\n\r") == [b"data: x\r\n\r"], "the LF may never come"
    assert splitter.feed(b"") == []
    assert splitter.feed(b"\ndata: y\n\n") == [LATE_LF, b"data: y\n\n"], "and it belongs to the event before"
    assert splitter.feed(b"\ndata: z\n\n") == [b"\ndata: z\n\n"], "behind an LF it is a line of its own"


def test_an_unfinished_event_is_kept_and_handed_back() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: x\n\ndata: ha") == [b"data: x\n\n"]
    assert splitter.rest_bytes == len(b"data: ha")
    assert repr(splitter) == "<Splitter rest=8>"
    assert splitter.finish() == b"data: ha"
    assert splitter.rest_bytes == 0


class Searching:
    """What ends an event, and how many bytes were searched for it."""

    def __init__(self) -> None:
        self.searched = 0

    def finditer(self, buffer: bytearray, start: int) -> Iterator[re.Match[bytes]]:
        self.searched += len(buffer) - start
        return Splitter.END.finditer(buffer, start)


def test_a_long_event_in_small_chunks_is_searched_once() -> None:
    class Counted(Splitter):
        END = Searching()

    event = b"data: " + b"x" * 200_000 + b"\r\n\r\n"
    splitter = Counted()
    chunks = list(chunked(event, [16] * (len(event) // 16)))
    events = [found for chunk in chunks for found in splitter.feed(chunk)]
    assert b"".join(events) == event
    assert Counted.END.searched <= len(event) + 3 * len(chunks), "three bytes of what was searched before are searched again"


@pytest.mark.parametrize(
    ("content_type", "streams"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream ; charset=utf-8", True),
        ("text/event-streams", False),
        ("application/json", False),
        ("", False),
        (None, False),
    ],
)
def test_a_stream_of_events_is_told_by_its_content_type(content_type: str | None, streams: bool) -> None:
    assert is_stream(content_type) is streams
