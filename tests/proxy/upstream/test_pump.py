"""A body that is pumped goes on within the reading of the socket, stops when it is told to, and ends as one that is read does."""

import asyncio

import pytest

from proxy.errors import UpstreamError
from proxy.upstream.answer import HIGH_WATER_BYTES
from tests.fakes import Abort, Close, FakeUpstream, Send, UntilClosed, Wait, sse_answer
from tests.proxy.upstream.calls import ask, body_of, client_of, soon, turns
from tests.proxy.upstream.wire import CHUNKED, Wire


class Taker:
    """Takes pieces. rests_at: pieces after which it wants no more for now."""

    def __init__(self, *, rests_at: frozenset[int] = frozenset(), fails_at: int | None = None) -> None:
        self.pieces: list[bytes] = []
        self.tasks: list[object] = []
        self._rests_at = rests_at
        self._fails_at = fails_at

    def __call__(self, piece: bytes) -> bool:
        self.pieces.append(piece)
        self.tasks.append(asyncio.current_task())
        if len(self.pieces) == self._fails_at:
            raise ZeroDivisionError
        return len(self.pieces) not in self._rests_at


async def test_pieces_are_taken_as_they_come_with_no_task_in_between() -> None:
    go = [asyncio.Event() for _ in range(3)]
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue(
            [
                Send(CHUNKED + b"3\r\none\r\n"),
                *[Wait(go[0]), Send(b"3\r\ntwo\r\n")],
                *[Wait(go[1]), Send(b"5\r\nthree\r\n")],
                *[Wait(go[2]), Send(b"0\r\n\r\n")],
            ]
        )
        answer, taker = await soon(ask().of(client)), Taker()
        pumping = asyncio.ensure_future(answer.pump(taker))
        for n, event in enumerate(go):
            await turns(lambda n=n: len(taker.pieces) == n + 1)  # type: ignore[misc]
            event.set()
        assert await soon(pumping) is False
        assert taker.pieces == [b"one", b"two", b"three"]
        assert taker.tasks[1:] == [None, None], "the loop itself, while it reads"
        answer.close()
        assert "idle=1" in repr(client)


async def test_a_taker_that_rests_is_left_alone_and_loses_nothing() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue(sse_answer([b"a", b"b", b"c", b"d"]))
        answer, taker = await soon(ask().of(client)), Taker(rests_at=frozenset({1, 2}))
        assert await soon(answer.pump(taker)) is True
        first = len(taker.pieces)
        await turns(lambda: answer.whole)
        assert len(taker.pieces) == first == 1
        while await soon(answer.pump(taker)):
            pass
        assert b"".join(taker.pieces) == b"abcd"
        answer.close()
        assert "idle=1" in repr(client)


async def test_an_upstream_is_slowed_down_while_nobody_pumps() -> None:
    piece = b"x" * 100_000
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue(sse_answer([piece] * 400))
        answer, taker = await soon(ask().of(client)), Taker(rests_at=frozenset({1}))
        assert await soon(answer.pump(taker)) is True
        request, seen = upstream.requests[0], -1
        while seen != request.sent_bytes:
            seen = request.sent_bytes
            for _ in range(200):
                await asyncio.sleep(0)
        assert request.sent_bytes < 16_000_000, "what the kernel holds, and no more"
        assert await soon(answer.pump(taker)) is False
        assert b"".join(taker.pieces) == piece * 400
        answer.close()


@pytest.mark.parametrize("end", [Close(), Abort(), Send(b"zz\r\n")], ids=["closed", "reset", "malformed"])
async def test_what_came_before_a_cut_is_taken_before_the_error(end: Close | Abort | Send) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([Send(CHUNKED + b"3\r\none\r\n"), Wait(go), Send(b"3\r\ntwo\r\n"), end])
        answer, taker = await soon(ask().of(client)), Taker()
        pumping = asyncio.ensure_future(answer.pump(taker))
        await turns(lambda: bool(taker.pieces))
        go.set()
        with pytest.raises(UpstreamError) as caught:
            await soon(pumping)
        assert caught.value.code == "upstream_broken"
        assert b"".join(taker.pieces) in (b"onetwo", b"one") if isinstance(end, Abort) else b"".join(taker.pieces) == b"onetwo"
        answer.close()


async def test_bytes_and_the_fault_behind_them_may_come_in_one_read() -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([Send(CHUNKED + b"3\r\none\r\n"), Wait(go), Send(b"3\r\ntwo\r\nzz\r\n")])
        answer, taker = await soon(ask().of(client)), Taker()
        pumping = asyncio.ensure_future(answer.pump(taker))
        await turns(lambda: bool(taker.pieces))
        go.set()
        with pytest.raises(UpstreamError):
            await soon(pumping)
        assert taker.pieces == [b"one", b"two"]
        answer.close()


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_what_the_taker_raises_reaches_whoever_pumps(fails_at: int) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        script = sse_answer([b"one", b"two"])
        upstream.queue([*script[:2], Wait(go), *script[2:]])
        answer, taker = await soon(ask().of(client)), Taker(fails_at=fails_at)
        pumping = asyncio.ensure_future(answer.pump(taker))
        await turns(lambda: bool(taker.pieces))
        go.set()
        with pytest.raises(ZeroDivisionError):
            await soon(pumping)
        answer.close()


async def test_a_pump_that_is_cancelled_loses_nothing_and_takes_nothing_more() -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        script = sse_answer([b"one", b"two"])
        upstream.queue([*script[:2], Wait(go), *script[2:]])
        answer, taker = await soon(ask().of(client)), Taker()
        pumping = asyncio.ensure_future(answer.pump(taker))
        await turns(lambda: bool(taker.pieces))
        pumping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pumping
        go.set()
        assert taker.pieces == [b"one"]
        assert await body_of(answer) == b"two"
        assert taker.pieces == [b"one"]


async def test_what_comes_between_a_cancellation_and_its_effect_is_taken_once() -> None:
    """The waiter is cancelled, and its task has not run yet."""
    wire, taker = Wire(), Taker(rests_at=frozenset({1}))
    answer = wire.asked()
    pumping = asyncio.ensure_future(answer.pump(taker))
    await asyncio.sleep(0)
    pumping.cancel()
    wire.comes(b"late")
    wire.comes(b"later")
    with pytest.raises(asyncio.CancelledError):
        await pumping
    wire.comes(b"still later")
    assert taker.pieces == [b"late"]
    assert await answer.read() == b"laterstill later"


async def test_closing_while_a_body_is_pumped_ends_the_upstream_s_work() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        upstream.queue([*sse_answer([b"one"])[:2], UntilClosed()])
        answer, taker = await soon(ask().of(client)), Taker(rests_at=frozenset({1}))
        assert await soon(answer.pump(taker)) is True
        answer.close()
        await soon(upstream.requests[0].closed_early.wait())


async def test_the_upstream_is_slowed_down_by_what_waits_and_not_by_what_is_taken() -> None:
    wire, taker = Wire(), Taker(rests_at=frozenset({9}))
    answer, piece = wire.asked(), b"x" * (HIGH_WATER_BYTES // 4)
    pumping = asyncio.ensure_future(answer.pump(taker))
    await asyncio.sleep(0)
    for _ in range(9):
        wire.comes(piece)
    assert (len(taker.pieces), wire.told) == (9, [])
    for _ in range(5):  # the taker rests, and its task has not run yet
        wire.comes(piece)
    assert (await pumping, len(taker.pieces), wire.told) == (True, 9, ["pause"])
    pumping = asyncio.ensure_future(answer.pump(taker))
    await asyncio.sleep(0)
    assert (taker.pieces[9:], wire.told) == ([piece * 5], ["pause", "go on"])
    pumping.cancel()


async def test_nothing_of_a_message_behind_the_answer_is_taken_for_the_answer_s() -> None:
    wire, taker = Wire(), Taker()
    answer = wire.asked()
    pumping = asyncio.ensure_future(answer.pump(taker))
    await asyncio.sleep(0)
    whole = b"3\r\none\r\n0\r\n\r\n"
    wire.connection.data_received(whole + CHUNKED + b"3\r\ntwo\r\n")
    assert wire.told == ["abort"]
    with pytest.raises(UpstreamError) as caught:
        await pumping
    assert (caught.value.code, taker.pieces) == ("upstream_broken", [b"one"])


async def test_what_is_held_comes_again_for_whoever_asks_for_more_or_uses_the_connection_next() -> None:
    wire = Wire()
    answer = wire.asked()
    answer.hold()
    answer.hold()
    assert wire.told == ["pause"]
    pumping = asyncio.ensure_future(answer.pump(lambda piece: False))
    await asyncio.sleep(0)
    assert wire.told == ["pause", "go on"]
    wire.comes(b"a")
    assert await pumping is True
    answer.hold()
    reading = asyncio.ensure_future(answer.read())
    await asyncio.sleep(0)
    assert wire.told == ["pause", "go on"] * 2
    wire.comes(b"b")
    assert await reading == b"b"
    answer.hold()
    answer.close()
    assert wire.told[:6] == ["pause", "go on"] * 3


async def test_nothing_is_held_of_an_answer_that_is_whole() -> None:
    wire = Wire()
    answer = wire.asked()
    wire.connection.data_received(b"0\r\n\r\n")
    answer.hold()
    assert wire.told == []
