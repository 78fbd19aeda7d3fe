"""A comment stands in the silence of a stream, between whole events, and changes nothing of what an app reads."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from proxy.heartbeat import COMMENT, Heartbeat
from proxy.wire.meter import BodyMeter, PassMeter, StreamMeter
from tests.fakes import Abort, FakeUpstream, Step, UntilClosed, Wait, json_answer, sse_answer
from tests.house import CHAT, House, policy
from tests.proxy.wire.test_sse import SAMPLES, STREAMS, chunked, standard

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Sink:
    """A client that takes everything, unless it is slow or gone."""

    def __init__(self) -> None:
        self.head_sent = self.slow = self.gone = self.ended = False
        self.pieces: list[bytes] = []

    def start(self, status: int, lines: list[str], length: int | None = None, *, first: bytes = b"", close: bool = False) -> bool:
        assert not self.head_sent
        self.head_sent = True
        return self.write(f"{status} {' '.join(lines)}|".encode() + first)

    def write(self, piece: bytes) -> bool:
        if self.gone:
            raise ConnectionResetError
        self.pieces.append(piece)
        return self.slow

    def write_chunk(self, chunk: bytes, at: int, end: int) -> bool:
        return self.write(chunk[at:end])

    def end(self) -> bool:
        self.ended = True
        return False

    def whole(self, body: bytes, status: int, lines: list[str], length: int | None = None, *, close: bool = False) -> bool:
        return self.start(status, lines, first=body)

    async def room(self) -> None:
        self.slow = False

    def abort(self) -> None:
        self.gone = True

    def took(self) -> bytes:
        taken, self.pieces = b"".join(self.pieces), []
        return taken


class Stream:
    """One streamed call's sink with heartbeats every 10 s, at a time that the test sets."""

    def __init__(self, meter: object = None) -> None:
        self.sink = Sink()
        self.trip = SimpleNamespace(meter=meter, early=False)
        self.watch = SimpleNamespace(pulses=())
        trip: Any = self.trip
        watch: Any = self.watch
        self.beating = Heartbeat(self.sink, trip, watch, every_s=10, head=lambda: (200, ["early"], None))

    def at(self, now: float) -> bytes:
        """What the client gets as the sweep looks."""
        for pulse in self.watch.pulses:
            pulse(now)
        return self.sink.took()


def streaming() -> Stream:
    stream = Stream(StreamMeter(hide_usage=False))
    stream.beating.start(200, ["the upstream's"])
    assert stream.sink.took() == b"200 the upstream's|"
    assert stream.at(0) == b""
    return stream


def test_a_comment_goes_out_whenever_nothing_was_written_for_so_long() -> None:
    stream = streaming()
    assert [stream.at(now) for now in (9.9, 10, 19.9, 20)] == [b"", COMMENT, b"", COMMENT]
    stream.beating.write(EVENT)
    assert stream.at(25) == EVENT
    stream.beating.write_chunk(b"1" + EVENT + b"2", 1, 1 + len(EVENT))
    assert [stream.at(now) for now in (34.9, 44, 44.9)] == [EVENT, b"", COMMENT]


def test_the_first_one_takes_the_head_along_where_the_upstream_has_not_answered() -> None:
    stream = Stream()
    assert [stream.at(now) for now in (0, 9.9)] == [b"", b""]
    assert not stream.trip.early
    assert stream.at(10) == b"200 early|" + COMMENT
    assert stream.trip.early
    assert stream.at(20) == COMMENT
    stream.trip.meter = StreamMeter(hide_usage=False)
    stream.beating.start(200, ["the upstream's"], first=EVENT)
    assert [stream.at(now) for now in (21, 30.9, 31)] == [EVENT, b"", COMMENT]


@pytest.mark.parametrize("meter", [BodyMeter(), PassMeter(streams=True)])
def test_what_is_no_stream_of_events_has_none(meter: object) -> None:
    stream = Stream(meter)
    assert [stream.at(now) for now in (0, 10, 20)] == [b"", b"", b""]
    stream.beating.whole(b"{}", 200, ["x"])
    assert [stream.at(now) for now in (30, 50)] == [b"200 x|{}", b""]


def test_a_slow_reader_gets_none() -> None:
    stream = streaming()
    stream.sink.slow = True
    assert [stream.at(now) for now in (10, 20)] == [b"", b""]
    stream.sink.slow = False
    assert stream.at(20.1) == COMMENT


def test_none_stands_behind_the_end_or_an_error() -> None:
    for said in (DONE, b'data: {"error":{"message":"no"}}\n\n'):
        stream = streaming()
        stream.trip.meter.feed(EVENT + said)
        assert [stream.at(now) for now in (10, 20)] == [b"", b""]
    for end in ("end", "abort"):
        stream = streaming()
        getattr(stream.beating, end)()
        assert [stream.at(now) for now in (10, 20)] == [b"", b""]


def test_none_is_told_to_a_client_that_left_and_nobody_is_told_of_it() -> None:
    stream = streaming()
    stream.sink.gone = True
    assert [stream.at(now) for now in (10, 20)] == [b"", b""]


def test_none_stands_between_the_cr_and_the_lf_of_one_line_end() -> None:
    stream = streaming()
    stream.beating.write(b"data: a\r\n\r")
    assert [stream.at(now) for now in (1, 11, 21)] == [b"data: a\r\n\r", b"", b""]
    stream.beating.write(b"\n")
    assert [stream.at(now) for now in (22, 32)] == [b"\n", COMMENT]


def test_a_byte_order_mark_behind_a_comment_would_be_one_no_more() -> None:
    stream = Stream()
    stream.at(0)
    stream.at(10)
    stream.trip.meter = StreamMeter(hide_usage=False)
    stream.beating.start(200, ["x"])
    stream.beating.write(b"\xef\xbb\xbf" + EVENT)
    stream.beating.write(EVENT)
    assert stream.at(11) == EVENT * 2


# ── whatever the stream, an app reads the same ───────────────────────────────────────────────────────────────────────


def beaten(chunks: Iterator[bytes], beats: list[bool]) -> tuple[list[bytes], list[bytes]]:
    """What is written of these chunks without and with comments wherever one may stand and the sweep looks."""
    meter = StreamMeter(hide_usage=False)
    meter.ended = meter.error = None  # type: ignore[assignment]
    stream = Stream(meter)
    stream.beating.start(200, [])
    stream.sink.took()
    now = 0.0
    plain: list[bytes] = []
    written: list[bytes] = []
    looks = iter(beats)
    for chunk in (*chunks, b""):
        if next(looks, True):
            for _ in range(2):  # the first look only finds that something was written
                now += 100
                written.append(stream.at(now))
        if passed := b"".join(meter._splitter.feed(chunk)):
            plain.append(passed)
            stream.beating.write(passed)
            written.append(stream.sink.took())
    return plain, [piece for piece in written if piece]


def decoded(pieces: list[bytes]) -> list[tuple[str | None, str, str | None, int | None]]:
    """As the official client reads it."""
    return [(e.event, e.data, e.id, e.retry) for e in SSEDecoder().iter_bytes(iter(pieces))]


@pytest.mark.parametrize("name", [name for name in SAMPLES if "bom" not in name])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_stream_is_read_alike_with_a_comment_at_every_place_that_may_have_one(name: str, size: int) -> None:
    stream = SAMPLES[name]
    plain, written = beaten(chunked(stream, [size] * (len(stream) // size)), [])
    assert b"".join(written).replace(COMMENT, b"") == b"".join(plain)
    assert standard(b"".join(written)) == standard(b"".join(plain))
    if name in ("lf", "crlf"):  # which the official client decodes as the standard does
        assert COMMENT in b"".join(written)
        assert decoded(written) == decoded(plain)


@PATIENT
@given(stream=STREAMS, sizes=st.lists(st.integers(1, 9), max_size=20), beats=st.lists(st.booleans(), max_size=20))
def test_any_stream_is_read_alike_with_comments(stream: bytes, sizes: list[int], beats: list[bool]) -> None:
    plain, written = beaten(chunked(stream.replace(b"\xef\xbb\xbf", b""), sizes), beats)
    assert standard(b"".join(written)) == standard(b"".join(plain))


# ── the whole proxy ──────────────────────────────────────────────────────────────────────────────────────────────────

BEATING = policy("- {name: alive, heartbeat: {every: 1s}}")
STREAM = [EVENT, b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}\n\n', DONE]
RESPONSE = {"id": "r", "object": "response", "model": "gpt-4.1-mini", "output": []}


def event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


RESPONSES = [
    event("response.created", sequence_number=0, response={**RESPONSE, "status": "in_progress"}),
    event("response.output_text.delta", sequence_number=1, delta="Hi"),
    event(
        "response.completed",
        sequence_number=2,
        response={**RESPONSE, "status": "completed", "usage": {"input_tokens": 3, "output_tokens": 1}},
    ),
]


def held(script: list[Step], gates: list[asyncio.Event]) -> list[Step]:
    """The same, with a gate before each step as far as there are gates."""
    return [step for n, one in enumerate(script) for step in ((Wait(gates[n]), one) if n < len(gates) else (one,))]


async def comments(answer: aiohttp.ClientResponse, gates: list[asyncio.Event]) -> bytes:
    """All that is received. A gate is opened whenever a comment has come, until none is left."""
    got, opened = b"", 0
    async with asyncio.timeout(20):
        while piece := await answer.content.readany():
            got += piece
            while opened < min(len(gates), got.count(COMMENT)):
                gates[opened].set()
                opened += 1
    return got


@pytest.mark.parametrize(
    ("path", "payload", "events"),
    [
        ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}, STREAM),
        ("/v1/responses", {"model": "gpt-4.1-mini", "input": "Hello", "stream": True}, RESPONSES),
    ],
    ids=["chat", "responses"],
)
async def test_comments_before_the_head_and_between_events_leave_the_events_as_they_are(
    tmp_path: Path, path: str, payload: dict[str, Any], events: list[bytes]
) -> None:
    gates = [asyncio.Event() for _ in range(3)]  # before the head, before the first event, before the second
    async with FakeUpstream() as upstream, House(BEATING, upstream.url + "/v1", tmp_path) as house:
        upstream.queue(held(sse_answer(events), gates))
        async with house.open_stream(payload, path=path) as answer:
            assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
            assert answer.headers["x-request-id"]
            got = await comments(answer, gates)
        [line] = await house.logged("call.finished")
    assert got == COMMENT * 2 + events[0] + COMMENT + b"".join(events[1:])
    assert decoded([got]) == decoded([b"".join(events)])
    assert (line["outcome"], line["usage_source"], line["status"]) == ("completed", "reported", 200)


LATE = {
    "a 429": (json_answer(429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}), "rate_limit_exceeded"),
    "a 500": (json_answer(500, {"error": {"message": "secret"}}), "upstream_error"),
    "its end": ([Abort()], "upstream_broken"),
    "JSON": (json_answer(200, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}), "upstream_broken"),
    "a compressed stream": (sse_answer(STREAM, headers={"content-encoding": "br"}), "upstream_broken"),
}


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize(("script", "code"), LATE.values(), ids=LATE.keys())
async def test_what_goes_wrong_behind_an_early_head_is_told_as_an_event(
    tmp_path: Path, script: list[Step], code: str, responses: bool
) -> None:
    gate = asyncio.Event()
    path = "/v1/responses" if responses else "/v1/chat/completions"
    payload = {"model": "gpt-4.1-mini", "input": "Hello", "stream": True} if responses else {**CHAT, "stream": True}
    async with FakeUpstream() as upstream, House(BEATING, upstream.url + "/v1", tmp_path) as house:
        upstream.queue(held(script, [gate]))
        async with house.open_stream(payload, path=path) as answer:
            got = await comments(answer, [gate])
        [line] = await house.logged("call.finished")
    assert got.startswith(COMMENT)
    assert b"[DONE]" not in got
    assert b"secret" not in got
    [(name, data, _, _)] = decoded([got])
    assert name == ("error" if responses else None)
    assert orjson.loads(data)["error"]["code"] == code
    assert (line["status"], line["error"]) == (200, code)
    if code == "upstream_broken" and len(script) > 1 and b"json" in script[0].data:  # type: ignore[union-attr]
        assert (line["usage_source"], line["output_tokens"]) == ("reported", 3), "it was made, so it is paid for"


@pytest.mark.parametrize(
    ("stage", "script"), [("first_byte", []), ("first_token", sse_answer([])[:1]), ("idle", sse_answer(STREAM)[:2])]
)
async def test_comments_keep_no_slow_upstream_alive(tmp_path: Path, stage: str, script: list[Step]) -> None:
    text = policy(f"- {{name: alive, heartbeat: {{every: 1s}}, timeouts: {{{stage}: 1500ms}}}}")
    async with FakeUpstream() as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        upstream.queue([*script, UntilClosed()])
        async with house.open_stream({**CHAT, "stream": True}) as answer:
            got = await comments(answer, [])
        [line] = await house.logged("call.finished")
    assert got.count(COMMENT) == 1
    assert f"deadline: {stage}".encode() in got
    assert got.endswith(b"\n\n")
    assert line["deadline"] == stage


async def test_a_call_that_asked_for_no_stream_has_its_status_and_no_comment(tmp_path: Path) -> None:
    text = policy("- {name: alive, heartbeat: {every: 1s}, timeouts: {first_byte: 1500ms}}")
    async with FakeUpstream() as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        upstream.queue([UntilClosed()])
        status, _, body = await house.post("/v1/chat/completions", CHAT)
    assert (status, COMMENT in body) == (504, False)


async def test_a_call_goes_on_to_the_next_upstream_behind_an_early_head(tmp_path: Path) -> None:
    """The tries are the proxy's own affair, and no client sees them."""
    gate = asyncio.Event()
    text = BEATING.replace("attempts: 1", "attempts: 2")
    async with FakeUpstream() as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        upstream.queue([Wait(gate), *sse_answer(STREAM)])
        async with house.open_stream({**CHAT, "stream": True}) as answer:
            got = await comments(answer, [gate])
    assert got == COMMENT + EVENT + DONE
