"""An answer passes one chunk at a time, is settled before its end is seen, and never looks whole when it is not."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import orjson
import pytest

from proxy.deadlines import Watch
from proxy.errors import UpstreamError
from proxy.relay import Head, relay
from proxy.timeouts import Timeouts
from proxy.upstream.contract import Take, TakeChunk
from proxy.wire.meter import MOST_WHOLE_BYTES, BodyMeter, Meter, PassMeter, StreamMeter

TIMEOUTS = Timeouts(first_token=20, idle=10, write_stall=5)
BROKEN = UpstreamError("upstream_broken", "The upstream's answer broke off.")


def chunk(content: str, **more: Any) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"delta": {"content": content}}], **more}) + b"\n\n"


ROLE = chunk("")
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"too long for canary","type":"invalid_request_error","code":"context_length_exceeded"}}\n\n'
JSON = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'


class Time:
    """As much of an event loop as a Watch uses. It stands still but for a second with every look."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        self.now += 1
        return self.now


class Answer:
    """An upstream's answer from a list: bytes are read, errors raised; what is called is called first. Its end comes after the last."""

    def __init__(self, journey: "Journey", steps: Sequence[bytes | Exception | Callable[[], None]]) -> None:
        self._journey = journey
        self._steps = list(steps)
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.holds: list[str] = []  # where it was told to have no more received

    async def read(self) -> bytes:
        self._journey.note("read")
        await asyncio.sleep(0)  # whoever would read ahead gets the chance to
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes):
                return step
            step()
        return b""

    def at_hand(self) -> bytes | None:
        """Whatever the journey begins with, where that is all there is, and asked for."""
        if not self._journey.at_hand:
            return None
        body, self._steps = b"".join(step for step in self._steps if isinstance(step, bytes)), []
        return body

    def received(self) -> bytes:
        """What the journey says had come with the head."""
        return b"".join(self._steps.pop(0) for _ in range(self._journey.came))

    async def pump(self, take: Take, take_chunk: TakeChunk | None = None) -> bool:
        while piece := await self.read():
            size = b"%x\r\n" % len(piece)
            going = take_chunk(size + piece + b"\r\n", len(size), len(size) + len(piece)) if take_chunk is not None else None
            if not (take(piece) if going is None else going):
                self.holds.append("rest")
                return True
        return False

    def received_bytes(self) -> int:
        return 0

    def hold(self) -> None:
        self.holds.append("hold")

    def close(self) -> None:
        raise AssertionError("closing is not the relay's")


class Sink:
    """A client. Every write takes a while, unless it is quick; fails: raised by the write of that number."""

    def __init__(self, journey: "Journey", *, fails: int | None = None, quick: bool = False) -> None:
        self._journey = journey
        self._quick = quick
        self._fails = fails
        self._writes = 0
        self.head_sent = self.slow = False
        self.sent = b""

    def start(self, status: int, lines: list[str], length: int | None = None, *, first: bytes = b"", close: bool = False) -> bool:
        assert not self.head_sent, "there is never a second head"
        self.head_sent = True
        self._journey.note(f"head {status} {lines[0]}")
        return self.write(first) if first else False

    def write(self, chunk: bytes) -> bool:
        assert self.head_sent
        assert chunk, "an empty chunk would end a chunked body"
        if self._writes == self._fails:
            raise ConnectionResetError
        self._writes += 1
        self._journey.note("write")
        if self._quick:
            self.sent += chunk
            return False
        self._taken = chunk
        return True

    def write_chunk(self, chunk: bytes, at: int, end: int) -> bool:
        return self.write(chunk[at:end])

    async def room(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.sent += self._taken
        self._journey.note("written")

    def end(self) -> bool:
        self._journey.note("end")
        return False

    def whole(self, body: bytes, status: int, lines: list[str], length: int | None = None, *, close: bool = False) -> bool:
        assert not self.head_sent, "there is never a second head"
        self.head_sent = True
        self._journey.note(f"whole {status} {lines[0]}")
        self.sent = body
        return False

    def abort(self) -> None:
        raise AssertionError("how to end a broken answer is not the relay's to decide")


class Journey:
    """One answer's way through the relay, and its course.

    came: how many of the steps came with the head. log: what happened, in order; waits: the stage and deadline while each of it did.
    """

    def __init__(
        self,
        meter: Meter,
        steps: Sequence[bytes | Exception | Callable[[], None]],
        *,
        fails: int | None = None,
        quick: bool = False,
        at_hand: bool = False,
        came: int = 0,
    ) -> None:
        self.at_hand = at_hand
        self.came = came
        self.log: list[str] = []
        self.waits: list[tuple[str, str, float]] = []
        self.meter = meter
        self.answer = Answer(self, steps)
        self.sink = Sink(self, fails=fails, quick=quick)
        self.settled = False
        self.watch: Watch | None = None

    def note(self, what: str) -> None:
        self.log.append(what)
        if self.watch is not None:
            self.waits.append((what.partition(" ")[0], self.watch.stage, self.watch.at))

    async def run(self) -> None:
        task, time = asyncio.current_task(), Time()
        loop: Any = time
        assert task is not None
        self.watch = Watch(task, loop)
        self.watch.bound(1000, "first_byte", 60)

        await relay(self, self.answer, self.sink, self.meter, self.watch, TIMEOUTS)

    def head(self) -> Head:
        return self.answer.status, ["settled" if self.settled else "open"], None

    async def settle(self) -> None:
        if not self.settled:
            self.settled = True
            self.note("settle")

    def first_token(self) -> None:
        self.note("first token")

    def most_bytes(self) -> float:
        return 1000

    def secrets(self) -> tuple[str, ...]:
        return ("canary",)


def streamed(
    *steps: bytes | Exception | Callable[[], None],
    hide_usage: bool = False,
    fails: int | None = None,
    quick: bool = False,
    came: int = 0,
) -> Journey:
    return Journey(StreamMeter(hide_usage=hide_usage), steps, fails=fails, quick=quick, came=came)


WRITE = ["write", "written"]


async def test_the_next_chunk_is_not_read_before_the_last_one_was_taken() -> None:
    journey = streamed(ROLE, chunk("a"), chunk("b"), DONE)
    await journey.run()
    assert journey.sink.sent == ROLE + chunk("a") + chunk("b") + DONE
    assert journey.log == [
        "head 200 open",
        *["read", *WRITE],
        *["read", "first token", *WRITE],
        *["read", *WRITE],
        *["read", "settle", *WRITE],
        *["read", "end"],
    ]


async def test_a_call_is_settled_before_the_client_sees_the_end() -> None:
    journey = streamed(chunk("a") + USAGE + DONE, hide_usage=True)
    await journey.run()
    assert journey.log.index("settle") < journey.log.index("write")
    assert journey.sink.sent == chunk("a") + DONE


async def test_a_chunk_that_holds_no_whole_event_or_only_a_hidden_one_is_not_written() -> None:
    journey = streamed(chunk("a")[:9], chunk("a")[9:], USAGE, DONE, hide_usage=True)
    await journey.run()
    assert journey.sink.sent == chunk("a") + DONE
    assert journey.log.count("write") == 2


async def test_a_quick_reader_gets_every_chunk_while_the_upstream_is_read() -> None:
    journey = streamed(ROLE, chunk("a"), chunk("b"), USAGE, DONE, b": bye\n\n", quick=True, hide_usage=True)
    await journey.run()
    assert journey.sink.sent == ROLE + chunk("a") + chunk("b") + DONE + b": bye\n\n"
    assert journey.log == [
        "head 200 open",
        *["read", "write"],
        *["read", "first token", "write"],
        *["read", "write"],
        "read",
        *["read", "settle", "write"],
        *["read", "write"],
        *["read", "end"],
    ]
    assert "room" not in journey.log


async def test_what_came_with_the_head_goes_with_it() -> None:
    journey = streamed(ROLE + chunk("a"), chunk("b"), DONE, quick=True, came=1)
    await journey.run()
    assert journey.sink.sent == ROLE + chunk("a") + chunk("b") + DONE
    assert journey.log == ["first token", "head 200 open", "write", "read", "write", "read", "settle", "write", "read", "end"]


async def test_half_an_event_that_came_with_the_head_does_not_hold_it_up() -> None:
    journey = streamed(chunk("a")[:9], chunk("a")[9:], DONE, came=1)
    await journey.run()
    assert journey.log[:4] == ["head 200 open", "read", "first token", "write"]
    assert journey.sink.sent == chunk("a") + DONE


async def test_a_stream_that_ended_with_its_head_is_settled_before_its_end_is_seen() -> None:
    journey = streamed(chunk("a") + USAGE + DONE, hide_usage=True, came=1)
    await journey.run()
    assert journey.log[:5] == ["first token", "head 200 open", "settle", *WRITE]
    assert journey.sink.sent == chunk("a") + DONE


async def test_a_stream_that_failed_with_its_head_says_so_behind_what_came_before() -> None:
    journey = streamed(chunk("a") + ERROR, came=1)
    with pytest.raises(UpstreamError):
        await journey.run()
    assert journey.log == ["first token", "head 200 open", *WRITE]
    assert journey.sink.sent == chunk("a")


async def test_a_slow_reader_of_a_head_and_its_first_event_is_waited_for() -> None:
    journey = streamed(chunk("a"), chunk("b"), DONE, came=1)
    await journey.run()
    assert journey.log[:5] == ["first token", "head 200 open", *WRITE, "read"]
    assert ("written", "write_stall") in [wait[:2] for wait in journey.waits]


async def test_a_slow_reader_s_upstream_is_held_before_the_next_read_of_its_socket() -> None:
    journey = streamed(chunk("a"), chunk("b"), chunk("c"), DONE)
    await journey.run()
    assert journey.answer.holds[:4] == ["hold", "rest", "hold", "hold"]  # by who takes, then by the task that waits
    quick = streamed(chunk("a"), chunk("b"), chunk("c"), DONE, quick=True)
    await quick.run()
    assert "hold" not in quick.answer.holds


async def test_the_first_token_is_due_so_long_after_a_slow_reader_took_the_head() -> None:
    journey = streamed(ROLE, chunk("a"), DONE, came=1)
    await journey.run()
    taken = next(at for what, stage, at in journey.waits if (what, stage) == ("written", "write_stall"))
    due = next(at for what, stage, at in journey.waits if (what, stage) == ("read", "first_token"))
    assert due - TIMEOUTS.first_token > taken - TIMEOUTS.write_stall


async def test_a_quick_reader_sees_what_came_before_an_error_and_no_more() -> None:
    journey = streamed(chunk("a"), chunk("b") + ERROR + DONE, quick=True)
    with pytest.raises(UpstreamError):
        await journey.run()
    assert journey.sink.sent == chunk("a") + chunk("b")


async def test_bytes_behind_the_end_still_pass() -> None:
    journey = streamed(DONE, b": bye\n\n", b"data: half")
    await journey.run()
    assert journey.sink.sent == DONE + b": bye\n\ndata: half"
    assert journey.log[-2:] == ["written", "end"]


async def test_an_upstream_that_breaks_off_behind_the_end_broke_nothing() -> None:
    journey = streamed(chunk("a"), DONE, BROKEN)
    await journey.run()
    assert (journey.sink.sent, journey.log[-1]) == (chunk("a") + DONE, "end")


class HastyLoop(asyncio.SelectorEventLoop):
    """An event loop whose time the test can move on."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    def move_on(self, seconds: float) -> None:
        self.ahead_s += seconds


def test_an_upstream_that_does_not_close_behind_the_end_holds_nobody_up() -> None:
    async def run(loop: HastyLoop) -> Journey:
        async def forever() -> bytes:
            loop.move_on(1.5)
            await asyncio.Event().wait()
            raise AssertionError

        journey = streamed(chunk("a"), DONE)
        read = journey.answer.read

        async def then_hang() -> bytes:
            return await read() or await forever()

        journey.answer.read = then_hang  # type: ignore[method-assign]
        await journey.run()
        return journey

    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, HastyLoop)
        journey = runner.run(run(loop))
    assert (journey.sink.sent, journey.log[-1]) == (chunk("a") + DONE, "end")


@pytest.mark.parametrize("steps", [[BROKEN], [chunk("a"), BROKEN], [chunk("a"), chunk("b")[:12], BROKEN]])
async def test_a_stream_that_breaks_off_fails_behind_its_whole_events(steps: list[Any]) -> None:
    journey = streamed(*steps)
    with pytest.raises(UpstreamError) as caught:
        await journey.run()
    assert caught.value.code == "upstream_broken"
    assert journey.sink.sent == (chunk("a") if len(steps) > 1 else b"")
    assert journey.log[0] == "head 200 open"
    assert not {"end", "settle"} & set(journey.log)


@pytest.mark.parametrize("steps", [[], [chunk("a")], [chunk("a"), b"data: [DO"]])
async def test_a_stream_that_ends_without_its_end_fails_too(steps: list[Any]) -> None:
    journey = streamed(*steps)
    with pytest.raises(UpstreamError) as caught:
        await journey.run()
    assert caught.value.code == "upstream_broken"
    assert "end" not in journey.log


@pytest.mark.parametrize(
    "steps", [[chunk("a"), ERROR, DONE], [chunk("a") + ERROR + DONE], [chunk("a") + ERROR[:20], ERROR[20:] + DONE]]
)
async def test_an_error_in_the_stream_is_raised_behind_what_came_before_it_in_words_of_ours(steps: list[bytes]) -> None:
    journey = streamed(*steps)
    with pytest.raises(UpstreamError) as caught:
        await journey.run()
    assert (caught.value.code, caught.value.message) == ("context_length_exceeded", "too long for [hidden]")
    assert journey.sink.sent == chunk("a")
    assert "end" not in journey.log


async def test_a_client_that_left_is_noticed_at_the_write() -> None:
    journey = streamed(chunk("a"), chunk("b"), DONE, fails=1)
    with pytest.raises(ConnectionResetError):
        await journey.run()
    assert journey.log.count("read") == 2


# ---- whole answers ----


@pytest.mark.parametrize("steps", [[JSON], [JSON[:5], JSON[5:]], [JSON[at : at + 1] for at in range(len(JSON))]])
async def test_a_whole_answer_goes_out_at_once_after_it_was_settled(steps: list[bytes]) -> None:
    journey = Journey(BodyMeter(), steps)
    await journey.run()
    assert journey.sink.sent == JSON
    assert [step for step in journey.log if step != "read"] == ["settle", "whole 200 settled"]


@pytest.mark.parametrize("steps", [[BROKEN], [JSON[:20], BROKEN], [JSON[:20]], []])
async def test_of_a_whole_answer_that_was_cut_nothing_goes_out(steps: list[Any]) -> None:
    journey = Journey(BodyMeter(), steps)
    with pytest.raises(UpstreamError) as caught:
        await journey.run()
    assert caught.value.code == "upstream_broken"
    assert set(journey.log) == {"read"}
    assert not journey.sink.head_sent


@pytest.mark.parametrize("body", [JSON, b'{"data":"' + b"x" * MOST_WHOLE_BYTES + b'"}'], ids=["small", "large"])
async def test_a_whole_answer_that_is_here_goes_out_without_being_waited_for(body: bytes) -> None:
    journey = Journey(BodyMeter(), [body], at_hand=True)
    await journey.run()
    assert journey.sink.sent == body
    assert journey.log == ["settle", "whole 200 settled"]


async def test_of_a_whole_answer_that_is_here_and_no_json_nothing_goes_out() -> None:
    journey = Journey(BodyMeter(), [JSON[:20]], at_hand=True)
    with pytest.raises(UpstreamError):
        await journey.run()
    assert journey.log == []


async def test_a_large_answer_goes_out_as_it_comes() -> None:
    body = b'{"data":"' + b"x" * MOST_WHOLE_BYTES + b'","usage":{"prompt_tokens":1,"total_tokens":1}}'
    pieces = [body[at : at + 300_000] for at in range(0, len(body), 300_000)]
    journey = Journey(BodyMeter(), pieces)
    await journey.run()
    assert journey.sink.sent == body
    assert journey.log == [*["read"] * 4, "head 200 open", *WRITE, "read", "settle", "end"]


async def test_bytes_that_nobody_reads_pass_as_they_come() -> None:
    journey = Journey(PassMeter(streams=True), [b"\x00\x01", b"\xff"])
    await journey.run()
    assert journey.sink.sent == b"\x00\x01\xff"
    assert journey.log == ["head 200 open", "read", "first token", *WRITE, "read", *WRITE, "read", "settle", "end"]


async def test_an_empty_answer_that_nobody_reads_is_whole() -> None:
    journey = Journey(PassMeter(streams=False), [])
    await journey.run()
    assert journey.log == ["read", "settle", "whole 200 settled"]


def test_an_upstream_that_goes_on_behind_the_end_holds_nobody_up_either() -> None:
    async def run(loop: HastyLoop) -> Journey:
        journey = streamed(chunk("a"), DONE, *[b": on\n\n"] * 10)
        read = journey.answer.read

        async def slowly() -> bytes:
            loop.move_on(0.4)
            return await read()

        journey.answer.read = slowly  # type: ignore[method-assign]
        await journey.run()
        return journey

    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, HastyLoop)
        journey = runner.run(run(loop))
    assert journey.log[-1] == "end"
    assert 1 <= journey.sink.sent.count(b": on\n\n") <= 3, "a second in all"


# ---- deadlines ----


async def test_no_deadline_of_the_upstream_counts_once_its_answer_is_whole() -> None:
    """Neither while the call is settled, which may take counting, nor for what follows the end."""
    journeys = [streamed(chunk("a"), DONE, b": bye\n\n"), Journey(BodyMeter(), [JSON])]
    for journey in journeys:
        await journey.run()
        assert journey.watch is not None
        settled = [what for what, _, _ in journey.waits].index("settle")
        waits = [(what, at) for what, _, at in journey.waits[settled:] if what in ("settle", "read")]
        assert {at for _, at in waits} == {inf}
        assert journey.watch.total_at == inf


async def test_a_stream_is_watched_for_its_first_token_then_for_gaps_and_its_reader_for_stalls() -> None:
    journey = streamed(ROLE, ROLE, chunk("a"), chunk("b"), DONE)
    await journey.run()
    *reads, behind_the_end = [(stage, at) for what, stage, at in journey.waits if what == "read"]
    assert [stage for stage, _ in reads] == ["first_token"] * 3 + ["idle"] * 2
    assert len({at for stage, at in reads if stage == "first_token"}) == 1, "empty deltas do not push it away"
    assert len({at for stage, at in reads if stage == "idle"}) == 2
    assert behind_the_end[1] == inf
    assert {stage for what, stage, _ in journey.waits if what == "written"} == {"write_stall"}


async def test_a_quick_reader_s_stream_is_watched_by_its_beat() -> None:
    journey = streamed(
        ROLE, ROLE, chunk("a"), lambda: beats.append(watch()), chunk("b"), lambda: beats.append(watch()), DONE, quick=True
    )
    beats: list[tuple[str, bool]] = []

    def watch() -> tuple[str, bool]:
        assert journey.watch is not None
        stage, beat, journey.watch.beat = journey.watch.stage, journey.watch.beat, False
        return stage, beat

    await journey.run()
    *reads, _ = [(stage, at) for what, stage, at in journey.waits if what == "read"]
    assert [stage for stage, _ in reads] == ["first_token"] * 3 + ["idle"] * 2
    assert len({at for stage, at in reads if stage == "first_token"}) == 1, "empty deltas do not push it away"
    assert beats == [("idle", False), ("idle", True)], "the first token began the stage, the second event its beat"


async def test_a_whole_answer_is_watched_for_gaps() -> None:
    journey = Journey(BodyMeter(), [JSON[:5], JSON[5:]])
    await journey.run()
    assert [stage for what, stage, _ in journey.waits if what == "read"] == ["idle"] * 3


async def test_bytes_that_nobody_reads_need_no_token() -> None:
    journey = Journey(PassMeter(streams=True), [b"a", b"b"])
    await journey.run()
    assert [stage for what, stage, _ in journey.waits if what == "read"] == ["first_token", "idle", "idle"]
