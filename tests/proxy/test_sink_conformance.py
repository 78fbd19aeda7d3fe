"""What holds of every sink that an answer is written to: the client's socket, and a recording that is then read to one."""

import asyncio
from collections.abc import Callable

import pytest

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.sink import HttpSink
from proxy.recording.reader import copy
from proxy.recording.sink import RecordingSink
from proxy.relay import Sink
from tests.proxy.downstream.door import GET, Answered, Door, get
from tests.proxy.recording.records import recording, watch

PIECES = [b"data: a\n\n", b"data: " + b"bc" * 4000 + b"\n\n", b"data: \r\n0\r\n\r\n"]
WHOLE = b"".join(PIECES)
HEAD = ["content-type: text/event-stream", "x: y"]
Script = Callable[[Sink], None]


def in_pieces(sink: Sink) -> None:
    assert not sink.head_sent
    sink.start(200, [*HEAD])
    assert sink.head_sent
    for piece in PIECES:
        sink.write(piece)
    sink.end()


def with_the_first(sink: Sink) -> None:
    sink.start(200, [*HEAD], first=PIECES[0])
    for piece in PIECES[1:]:
        sink.write(piece)
    sink.end()


def in_chunks(sink: Sink) -> None:
    sink.start(200, [*HEAD])
    for piece in PIECES:
        size = b"%x\r\n" % len(piece)
        sink.write_chunk(size + piece + b"\r\n", len(size), len(size) + len(piece))
    sink.end()


def of_a_length(sink: Sink) -> None:
    sink.start(200, ["content-type: audio/mpeg", "x: y"], len(WHOLE))
    for piece in PIECES:
        sink.write(piece)
    sink.end()


def at_once(sink: Sink) -> None:
    sink.whole(WHOLE, 200, ["content-type: application/json", "x: y"])


def refused(sink: Sink) -> None:
    sink.whole(b'{"error":{}}', 429, ["content-type: application/json", "x: y", "retry-after: 1"])


def empty(sink: Sink) -> None:
    sink.whole(b"", 204, ["x: y"])


def broken(sink: Sink) -> None:
    sink.start(200, [*HEAD], first=PIECES[0])
    sink.abort()


async def to_the_socket(script: Script, sink: HttpSink) -> None:
    script(sink)
    await sink.room()


async def through_a_recording(script: Script, sink: HttpSink) -> None:
    made = recording()
    script(RecordingSink(made, lambda _: None))
    await copy(made, sink, watch(), [], again=False)


async def through_a_recording_that_runs(script: Script, sink: HttpSink) -> None:
    made = recording()
    reading = asyncio.create_task(copy(made, sink, watch(), [], again=False))
    await asyncio.sleep(0)
    script(RecordingSink(made, lambda _: None))
    await reading


WAYS = [to_the_socket, through_a_recording, through_a_recording_that_runs]


async def answered(way: Callable[[Script, HttpSink], object], script: Script, request: bytes = GET) -> Answered:
    async def handler(arrival: HttpArrival, sink: HttpSink) -> None:
        await way(script, sink)  # type: ignore[misc]

    async with Door(handler) as door, door.caller() as caller:
        await caller.send(request)
        return await caller.answer()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("script", [in_pieces, with_the_first, in_chunks, of_a_length, at_once])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_comes_as_it_was_written(way: object, script: Script, version: str) -> None:
    answer = await answered(way, script, get("/", version=version))  # type: ignore[arg-type]
    assert (answer.status, answer.body, answer.fields["x"]) == (200, WHOLE, "y")
    if script in (of_a_length, at_once):
        assert answer.fields["content-length"] == str(len(WHOLE))
    elif version == "1.1":
        assert answer.fields["transfer-encoding"] == "chunked"
    else:
        assert answer.fields["connection"] == "close"


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_keeps_its_status_and_hints(way: object) -> None:
    answer = await answered(way, refused)  # type: ignore[arg-type]
    assert (answer.status, answer.body, answer.fields["retry-after"]) == (429, b'{"error":{}}', "1")


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_without_a_body_has_none(way: object) -> None:
    answer = await answered(way, empty)  # type: ignore[arg-type]
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.fields


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_was_broken_off_does_not_look_whole(way: object) -> None:
    async def handler(arrival: HttpArrival, sink: HttpSink) -> None:
        await way(broken, sink)  # type: ignore[operator]

    async with Door(handler) as door, door.caller() as caller:
        await caller.send(GET)
        try:
            while await caller.more():
                pass
        except ConnectionError:
            pass
        assert not caller.got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("way", WAYS)
async def test_there_is_never_a_second_head(way: object) -> None:
    def twice(sink: Sink) -> None:
        sink.start(200, [*HEAD], first=PIECES[0])
        with pytest.raises(AssertionError):
            sink.whole(b"{}", 500, ["content-type: application/json"])
        sink.end()

    answer = await answered(way, twice)  # type: ignore[arg-type]
    assert (answer.status, answer.body) == (200, PIECES[0])
