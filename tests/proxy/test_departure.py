"""When a client has left: the upstream is stopped at once, or read on within bounds, and whatever it sent is counted."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.call import Call, Usage
from proxy.deadlines import Sweep
from proxy.departure import Departures, hear_out
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.timeouts import Drain
from proxy.trip import Trip
from proxy.upstream.contract import Take, TakeChunk
from proxy.wire.meter import BodyMeter, Meter, StreamMeter
from proxy.wire.surfaces import SURFACES
from tests.fakes import FakeUpstream, UntilClosed, Wait, json_answer, sse_answer
from tests.house import CHAT, House, policy

DRAIN = "- {name: one, concurrency: {calls: 1}, on_disconnect: {do: drain, for_at_most: %s, most_bytes: %s}}"
CANCEL = "- {name: one, concurrency: {calls: 1}, on_disconnect: {do: cancel}}"
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":41}}\n\n'
ANSWER = {"choices": [{"message": {"content": "Hi"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}


def chunk(text: str) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}) + b"\n\n"


def waiting_stream(go: asyncio.Event, *rest: bytes) -> list[Any]:
    """A stream whose first word comes at once, and the rest when the test says so."""
    head, word, *others = sse_answer([chunk("Hello"), *rest])
    return [head, word, Wait(go), *others]


async def leave_in_the_middle(house: House) -> None:
    async with house.open_stream({**CHAT, "stream": True}) as answer:
        await answer.content.readany()
        answer.close()


async def test_an_upstream_is_stopped_within_a_second_of_its_client(tmp_path: Path) -> None:
    async with FakeUpstream(default=[*sse_answer([chunk("Hello")])[:2], UntilClosed()]) as upstream:
        async with House(policy(CANCEL), upstream.url + "/v1", tmp_path) as house:
            await leave_in_the_middle(house)
            await asyncio.wait_for(upstream.requests[0].played.wait(), 1)
            [line] = await house.logged("call.finished")
    assert (line["outcome"], line["usage_source"], line["output_tokens"]) == ("client_gone", "counted", 1)


async def test_a_drain_reads_on_to_the_usage_and_writes_it_nowhere(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue(waiting_stream(go, chunk(" there"), USAGE, DONE))
        async with House(policy(DRAIN % ("10s", "1MiB")), upstream.url + "/v1", tmp_path) as house:
            await leave_in_the_middle(house)
            await asyncio.sleep(0.1)
            assert house.app.pipeline.inflight == 1
            assert house.lines("call.finished") == []
            busy, _, _ = await house.post("/v1/chat/completions", CHAT)
            go.set()
            line = (await house.logged("call.finished", 2))[1]
            upstream.queue(json_answer(200, ANSWER))
            free, _, _ = await house.post("/v1/chat/completions", CHAT)
    assert (line["outcome"], line["usage_source"], line["output_tokens"]) == ("client_gone", "reported", 41)
    assert (busy, free) == (429, 200), "what reads on is a running call"
    assert not upstream.requests[0].closed_early.is_set()
    assert upstream.accepted == 1, "and its connection can be used again"


@pytest.mark.parametrize(("status", "source", "output"), [(200, "reported", 1), (429, None, 0)])
async def test_a_drain_waits_for_an_answer_that_has_not_begun(tmp_path: Path, status: int, source: str | None, output: int) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue([Wait(go), *json_answer(status, ANSWER)])
        async with House(policy(DRAIN % ("10s", "1MiB")), upstream.url + "/v1", tmp_path) as house:
            call = asyncio.create_task(house.post("/v1/chat/completions", CHAT))
            await upstream.arrived()
            call.cancel()
            await asyncio.sleep(0.1)
            go.set()
            [line] = await house.logged("call.finished")
    assert (line["outcome"], line["status"]) == ("client_gone", 0)
    assert (line["usage_source"], line["output_tokens"]) == (source, output)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_drain_ends_when_its_time_is_over(tmp_path: Path, begun: bool) -> None:
    script = [*sse_answer([chunk("Hello")])[:2], UntilClosed()] if begun else [UntilClosed()]
    async with FakeUpstream(default=script) as upstream:
        async with House(policy(DRAIN % ("200ms", "1MiB")), upstream.url + "/v1", tmp_path) as house:
            call = asyncio.create_task(house.post("/v1/chat/completions", {**CHAT, "stream": True}))
            request = await upstream.arrived()
            await asyncio.sleep(0.05)
            call.cancel()
            await asyncio.wait_for(request.closed_early.wait(), 2)
            [line] = await house.logged("call.finished")
    assert (line["outcome"], line["usage_source"], line["output_tokens"]) == ("client_gone", "counted", 1 if begun else 0)


async def test_a_drain_ends_when_it_has_read_enough(tmp_path: Path) -> None:
    go = asyncio.Event()
    flood = [chunk("a" * 1000)] * 5000
    async with FakeUpstream() as upstream:
        upstream.queue(waiting_stream(go, *flood))
        async with House(policy(DRAIN % ("10s", "100KB")), upstream.url + "/v1", tmp_path) as house:
            await leave_in_the_middle(house)
            go.set()
            await asyncio.wait_for(upstream.requests[0].closed_early.wait(), 5)
            [line] = await house.logged("call.finished")
    assert upstream.requests[0].sent_bytes < 5_000_000
    assert line["output_tokens"] > 1


async def test_only_so_many_drains_run_at_once(tmp_path: Path) -> None:
    rules = (DRAIN % ("10s", "1MiB")).replace("calls: 1", "calls: 5")
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue(waiting_stream(go, USAGE, DONE))
        upstream.queue(waiting_stream(go, USAGE, DONE))
        async with House(policy(rules), upstream.url + "/v1", tmp_path) as house:
            house.app.pipeline.departures = Departures(most=1)
            await leave_in_the_middle(house)
            await asyncio.sleep(0.1)
            await leave_in_the_middle(house)
            await asyncio.wait_for(upstream.requests[1].closed_early.wait(), 2)
            go.set()
            lines = await house.logged("call.finished", 2)
    assert sorted(line["usage_source"] for line in lines) == ["counted", "reported"]


@pytest.mark.parametrize("pressed", [False, True])
async def test_shutdown_waits_for_a_drain_unless_it_is_pressed(tmp_path: Path, pressed: bool) -> None:
    go, press = asyncio.Event(), asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue(waiting_stream(go, USAGE, DONE))
        house = House(policy(DRAIN % ("60s", "1MiB")), upstream.url + "/v1", tmp_path)
        await house.__aenter__()
        await leave_in_the_middle(house)
        await asyncio.sleep(0.1)
        stopping = asyncio.create_task(house.app.drain(press))
        await house.logged("server.draining")
        assert house.app.pipeline.inflight == 1
        (press if pressed else go).set()
        await asyncio.wait_for(stopping, 5)
        [line] = await house.logged("call.finished")
        await house.__aexit__(None, None, None)
    assert (line["outcome"], line["usage_source"]) == ("client_gone", "counted" if pressed else "reported")


# ── by parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Answer:
    """An answer of which some has come and waits, and more comes when it is told to. whole: all has come."""

    def __init__(self, waits: bytes = b"", *, whole: bool = False) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.more = asyncio.Event()
        self.rest: list[bytes] = []
        self._waits = waits
        self._whole = whole

    async def read(self) -> bytes:
        raise AssertionError("nobody reads a piece at a time here")

    def at_hand(self) -> bytes | None:
        return self.received() if self._whole else None

    def received(self) -> bytes:
        waits, self._waits = self._waits, b""
        return waits

    async def pump(self, take: Take, take_chunk: TakeChunk | None = None) -> bool:
        await self.more.wait()
        return any(not take(piece) for piece in self.rest)

    def close(self) -> None:
        pass


def test_what_had_come_and_nobody_took_is_counted() -> None:
    meter = StreamMeter(hide_usage=True)
    meter.feed(chunk("one"))
    hear_out(Answer(chunk(" two") + chunk(" three")[:-3]), meter)
    assert meter.text == b"one two", "half an event is none"


@pytest.mark.parametrize(
    ("meter", "waits", "whole", "reported"),
    [
        (BodyMeter(), orjson.dumps(ANSWER), True, True),
        (BodyMeter(), orjson.dumps(ANSWER)[:-5], False, False),
        (BodyMeter(), b"{not json", True, False),
        (StreamMeter(hide_usage=True), chunk("x") + USAGE + DONE, True, True),
        (StreamMeter(hide_usage=True), chunk("x") + USAGE, False, True),
        (StreamMeter(hide_usage=True), b"", False, False),
    ],
)
def test_a_usage_that_had_come_is_read(meter: Meter, waits: bytes, whole: bool, reported: bool) -> None:
    hear_out(Answer(waits, whole=whole), meter)
    assert (meter.usage is not None) is reported


async def test_the_word_that_a_client_is_gone_may_come_after_a_write_has_failed() -> None:
    """And is no second reason to stop."""
    answer, meter = Answer(), StreamMeter(hide_usage=True)
    answer.rest = [chunk("x"), USAGE + DONE]
    call = Call("req_1", "POST", surface=SURFACES[0], drain=Drain(10.0, 1 << 20))
    unused: Any = None
    trip = Trip(call, continue_trace(None, random="01" * TRACE_BYTES), unused, lambda: 0, 0)
    trip.meter = meter
    sweep = Sweep(asyncio.get_running_loop())

    async def run() -> None:
        await Departures().read_on(answer, trip, sweep.watch())

    reading = asyncio.create_task(run())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.sleep(0)
    assert not reading.done()
    answer.more.set()
    await reading
    assert meter.usage is not None

    again = asyncio.create_task(run())
    meter.ended = False
    answer.more.clear()
    await asyncio.sleep(0)
    again.cancel()
    await asyncio.sleep(0)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    sweep.close()


@pytest.mark.parametrize("most", [0, 1], ids=["too many drain", "its time is over"])
async def test_an_answer_that_comes_as_it_is_given_up_is_counted(most: int) -> None:
    """Its upstream is paid for it; without a meter it would count as a refusal, which is free."""
    answer, came = Answer(orjson.dumps(ANSWER), whole=True), asyncio.Event()
    answer.headers = {"content-type": "application/json"}
    call = Call("req_1", "POST", surface=SURFACES[0], drain=Drain(0.05, 1 << 20))
    unused: Any = None
    trip = Trip(call, continue_trace(None, random="01" * TRACE_BYTES), unused, lambda: 0, 0)
    loop, sweep = asyncio.get_running_loop(), Sweep(asyncio.get_running_loop())

    async def opening() -> Answer:
        await came.wait()
        trip.answered = True
        return answer

    async def run() -> None:
        await Departures(most=most).opened(opening(), trip, sweep.watch())

    running = asyncio.create_task(run())
    for _ in range(3):
        await asyncio.sleep(0)
    if most:
        running.cancel()
        await asyncio.sleep(0)
        loop.call_at(loop.time() + 0.04, came.set)  # and the loop is busy until the drain's time is over too
        loop.call_at(loop.time() + 0.03, time.sleep, 0.1)
    else:
        came.set()
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    sweep.close()
    if trip.answered:
        assert trip.meter is not None
        assert trip.meter.usage == Usage(9, 1)
