"""Whoever reads a recording: cut anywhere and resumed he has every byte once; slow or gone he is so for himself alone.

TOLLHOUSE_TEST_CUTS says how many random cuts there are; 10,000 take some seconds.
"""

import asyncio
import os
import random
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.errors import ProxyError
from proxy.recording.reader import BEAT, copy, events
from proxy.recording.recording import Recording
from tests.proxy.downstream.door import turns
from tests.proxy.recording.records import FACTS, JSON, STREAM, Taken, event, recording, watch

CUTS = int(os.environ.get("TOLLHOUSE_TEST_CUTS", "10000"))
EVENTS = [event(n) for n in range(1, 40)] + [b": a comment\n\n", b"data: two\ndata: lines\r\n\r\n", b"data: [DONE]\n\n"]
WHOLE = b"".join(EVENTS)
OWN = ["x-request-id: req_mine"]


def uncut() -> Recording:
    made = recording()
    made.begin(STREAM)
    for one in EVENTS:
        made.add(one)
    made.finish()
    made.end("completed", FACTS)
    return made


class App:
    """A client that takes whole events and remembers the id of the last, as an EventSource does."""

    def __init__(self, made: Recording) -> None:
        self._made = made
        self.data = b""
        self.last = 0
        self.seen: list[int] = []

    def take(self, body: bytes) -> None:
        """What came until the connection was cut: an event whose blank line did not come is dropped."""
        while (found := body.find(b"\n\n")) >= 0 or body.find(b"\r\n\r\n") >= 0:
            crlf = body.find(b"\r\n\r\n")
            end = crlf + 4 if crlf >= 0 and (found < 0 or crlf < found) else found + 2
            one, body = body[:end], body[end:]
            first, _, rest = one.partition(b"\n")
            assert first.startswith(b"id: " + self._made.id.encode() + b"."), one
            self.last = int(first.rpartition(b".")[2])
            self.seen.append(self.last)
            self.data += rest


async def read(made: Recording, app: App, *, breaks_after: int | None) -> bool:
    """Whether the end was reached."""
    sink = Taken(breaks_after=breaks_after)
    try:
        await copy(made, sink, watch(), OWN, after=app.last, ids=True)
    except ConnectionResetError:
        pass
    app.take(sink.body)
    return sink.ended


DATA = b"".join(one for one in EVENTS if not one.startswith(b":"))


async def test_a_stream_that_is_cut_behind_every_event_goes_on_where_it_was() -> None:
    made = uncut()
    for place in range(len(EVENTS) + 1):
        app = App(made)
        numbered = sum(len(b"id: %b.%d\n" % (made.id.encode(), n)) + len(one) for n, one in enumerate(EVENTS[:place], 1))
        await read(made, app, breaks_after=max(1, numbered))
        while not await read(made, app, breaks_after=None):
            pass
        assert app.data == DATA


async def test_a_stream_that_is_cut_anywhere_again_and_again_loses_and_doubles_nothing() -> None:
    made, chance, cuts = uncut(), random.Random(7), 0
    while cuts < CUTS:
        app = App(made)
        while not await read(made, app, breaks_after=chance.randint(1, 600)):
            cuts += 1
        assert app.data == DATA
        assert app.seen == sorted(set(app.seen))


async def test_readers_at_any_place_of_a_stream_that_runs_see_the_same() -> None:
    made, chance = recording(), random.Random(3)
    made.begin(STREAM)
    readers = []
    for one in EVENTS:
        sink = Taken()
        readers.append((made.last, sink, asyncio.create_task(copy(made, sink, watch(), OWN, after=chance.randint(0, made.last)))))
        made.add(one)
        await asyncio.sleep(0)
    made.finish()
    await asyncio.gather(*(task for _, _, task in readers))
    assert all(sink.ended and WHOLE.endswith(sink.body) for _, sink, _ in readers)
    everything = Taken()
    await copy(made, everything, watch(), OWN)
    assert everything.body == WHOLE


class Stuck(Taken):
    """A reader who has stopped reading."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = asyncio.Event()

    def write(self, piece: bytes) -> bool:
        super().write(piece)
        return not self.moves.is_set()

    async def room(self) -> None:
        await self.moves.wait()


async def test_a_reader_who_is_stuck_holds_nobody_up() -> None:
    made = recording()
    made.begin(STREAM)
    stuck, quick = Stuck(), Taken()
    slow = asyncio.create_task(copy(made, stuck, watch(), OWN))
    fast = asyncio.create_task(copy(made, quick, watch(), OWN))
    for one in EVENTS:
        await asyncio.sleep(0)
        made.add(one)
    made.finish()
    await fast
    assert quick.body == WHOLE
    assert not slow.done()
    stuck.moves.set()
    await slow
    assert stuck.body == WHOLE


async def test_who_falls_behind_what_is_kept_is_told_so() -> None:
    made = recording()
    made.begin(STREAM)
    stuck = Stuck()
    reading = asyncio.create_task(copy(made, stuck, watch(), OWN))
    for one in EVENTS:
        made.add(one)
        await asyncio.sleep(0)
    made.trim(made.size // 2)
    stuck.moves.set()
    await reading
    assert b'"code":"recording_gap"' in stuck.body
    assert b"[DONE]" not in stuck.body
    assert stuck.ended


async def test_who_asks_for_what_is_no_longer_kept_is_told_so() -> None:
    made = uncut()
    made.trim(made.size // 2)
    for ask in (copy, events):
        with pytest.raises(ProxyError) as error:
            await ask(made, Taken(), watch(), OWN, after=1)
        assert error.value.code == "recording_gap"


async def test_a_stream_without_ids_is_byte_for_byte_as_it_was() -> None:
    sink = Taken()
    await copy(uncut(), sink, watch(), OWN)
    assert sink.body == WHOLE
    assert sink.lines == ["content-type: text/event-stream", "x-request-id: req_mine"]


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (b"id: 7\ndata: x\n\n", b"data: x\n\n"),
        (b"data: x\r\nid:7\r\ndata: id: y\r\n\r\n", b"data: x\r\ndata: id: y\r\n\r\n"),
        (b"\xef\xbb\xbfid\rdata: x\r\r", b"data: x\r\r"),
        (b"idea: x\ndata: x\n\n", b"idea: x\ndata: x\n\n"),
    ],
)
async def test_an_event_has_no_id_but_ours(said: bytes, seen: bytes) -> None:
    made = recording()
    made.begin(STREAM)
    made.add(said)
    made.finish()
    for ids, body in ((True, b"id: %b.1\n%b" % (made.id.encode(), seen)), (False, said)):
        sink = Taken()
        await copy(made, sink, watch(), OWN, ids=ids)
        assert sink.body == body


async def test_nothing_comes_behind_an_event_of_what_is_no_stream() -> None:
    made = recording()
    made.begin(JSON)
    made.add(b'{"a": 1')
    made.add(b"}")
    made.finish()
    with pytest.raises(ProxyError) as error:
        await copy(made, Taken(), watch(), OWN, after=1)
    assert error.value.code == "task_has_no_events"


async def test_of_a_large_answer_a_slow_reader_has_a_piece_at_a_time() -> None:
    made, body = recording(), random.Random(1).randbytes(3_000_000)
    made.begin(JSON)
    made.add(body)
    made.finish()
    stuck = Stuck()
    reading = asyncio.create_task(copy(made, stuck, watch(), OWN))
    await turns(lambda: bool(stuck.body))
    assert len(stuck.body) <= 128 << 10
    stuck.moves.set()
    await reading
    assert (stuck.body, stuck.length, stuck.ended) == (body, len(body), True)


async def test_an_answer_that_is_whole_has_its_length() -> None:
    made = recording()
    made.begin(JSON)
    made.add(b"{}")
    made.finish()
    sink = Taken()
    await copy(made, sink, watch(), OWN)
    assert (sink.body, sink.length, sink.ended) == (b"{}", 2, True)


async def test_an_answer_that_broke_off_is_broken_off_for_every_reader() -> None:
    made = recording()
    made.begin(JSON)
    made.add(b"{")
    made.finish(broken=True)
    sink = Taken()
    await copy(made, sink, watch(), OWN)
    assert sink.aborted
    assert not sink.ended


async def test_a_call_that_ended_without_a_head_says_so() -> None:
    made = recording()
    made.finish(broken=True)
    with pytest.raises(ProxyError) as error:
        await copy(made, Taken(), watch(), OWN)
    assert error.value.code == "task_interrupted"


async def test_the_events_of_an_answer_that_is_no_stream_are_one() -> None:
    made = recording()
    made.begin(JSON)
    made.add(b'{\n"a": 1}')
    made.finish()
    sink = Taken()
    await events(made, sink, watch(), OWN, after=0)
    assert sink.body == b'id: %b.1\ndata: {\ndata: "a": 1}\n\n' % made.id.encode()
    assert sink.ended


class Quiet:
    """What carries on a call under `heartbeat`, whose readers hear something every hundredth of a second."""

    def stop(self, why: str) -> None:
        raise AssertionError("nobody stops it")

    def beat_s(self) -> float | None:
        return 0.01

    def progress(self) -> Mapping[str, Any]:
        return {}


@pytest.mark.parametrize("ids", [False, True])
async def test_who_waits_for_the_next_event_hears_that_we_are_there(ids: bool) -> None:
    made, sink = recording(), Taken()
    made.carrier = Quiet()
    made.begin(STREAM)
    made.add(event(1))
    reading = asyncio.create_task(copy(made, sink, watch(), OWN, ids=ids))
    await turns(lambda: sink.body.count(BEAT) >= 2)
    made.add(event(2))
    made.finish()
    await reading
    said = sink.body.replace(BEAT, b"")
    assert said.replace(b"id: %b.1\n" % made.id.encode(), b"").replace(b"id: %b.2\n" % made.id.encode(), b"") == event(1) + event(2)
    assert b"".join(made.all_pieces()) == event(1) + event(2), "what one reader hears is in nobody's recording"


async def test_a_sign_of_life_is_a_comment_without_a_blank_line() -> None:
    """openai-python takes a blank line behind an id for an event and fails to parse it."""
    assert BEAT.startswith(b":")
    assert BEAT.count(b"\n") == 1
    made = uncut()
    sink = Taken()
    await copy(made, sink, watch(), OWN, ids=True)
    assert b": a comment" not in sink.body
