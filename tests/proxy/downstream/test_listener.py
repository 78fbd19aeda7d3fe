"""A port: how its connections end, when nobody asks for anything, when a client dawdles, and when it is closed."""

import asyncio
import os
import socket
import sys
from functools import partial

import pytest

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.listener import KEEPALIVE_S, UNSENT_BYTES
from proxy.downstream.sink import HttpSink
from tests.proxy.downstream.door import GET, Door, echo, get, move_time, post, turns

HEADER_S = 10.0


async def late(door: Door, seconds: float) -> None:
    """So much later, the sweep comes by."""
    move_time(seconds)
    door.listener.close_late(header_s=HEADER_S)
    for _ in range(5):
        await asyncio.sleep(0)


def waiting(door: Door) -> set[str]:
    """What the connections wait for that may not take for ever."""
    return {connection.waiting_for for connection in door.listener._connections if connection.waiting_since is not None}


@pytest.mark.parametrize("used", [False, True])
async def test_a_connection_on_which_nothing_is_asked_is_closed_after_a_while(used: bool) -> None:
    async with Door() as door, door.caller() as caller:
        if used:
            await caller.send(GET)
            await caller.answer()
        await door.idle(1)
        await late(door, KEEPALIVE_S - 1)
        assert door.connections == 1
        await late(door, 2)
        await turns(lambda: door.connections == 0)
        assert await caller.ended() == b""


async def test_every_answer_begins_the_wait_anew() -> None:
    async with Door() as door, door.caller() as caller:
        for _ in range(4):
            await caller.send(GET)
            await caller.answer()
            await late(door, KEEPALIVE_S - 1)
        assert door.connections == 1


@pytest.mark.parametrize("used", [False, True])
async def test_a_head_that_trickles_in_is_cut_off_by_its_first_byte_s_time(used: bool) -> None:
    async with Door() as door, door.caller() as caller:
        if used:
            await caller.send(GET)
            await caller.answer()
        for at in range(9):
            await caller.send(GET[at : at + 1])
            for _ in range(20):
                await asyncio.sleep(0)
            await late(door, 1)
            assert door.connections == 1, at
        await late(door, 2)
        assert (await caller.answer()).status == 408
        assert await caller.ended() == b""
    assert (len(door.begun), door.rejected) == (used, ["header_read"])


async def test_a_head_that_trickles_in_behind_a_running_call_has_its_time_once_that_is_answered() -> None:
    gate = asyncio.Event()

    async def gated(arrival: HttpArrival, sink: HttpSink) -> None:
        await gate.wait()
        await echo(arrival, sink)

    async with Door(gated) as door, door.caller() as caller:
        await caller.send(GET + GET[:5])
        await door.until(begun=1)
        await late(door, 100)
        assert door.connections == 1
        gate.set()
        assert (await caller.answer()).status == 200
        await late(door, HEADER_S - 1)
        assert door.connections == 1
        await late(door, 2)
        answer = await caller.answer()
        assert (answer.status, answer.fields["connection"]) == (408, "close")
        assert await caller.ended() == b""
    assert door.rejected == ["header_read"]


async def test_a_client_that_does_not_take_its_408_is_let_go_in_bounded_time() -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(GET[:5])
        await turns(lambda: any(c.waiting_for == "head" for c in door.listener._connections))
        for _ in range(4):
            await late(door, 100)
        await turns(lambda: door.connections == 0)


async def test_a_running_call_is_nobody_s_to_cut_here() -> None:
    gate = asyncio.Event()

    async def gated(arrival: HttpArrival, sink: HttpSink) -> None:
        await gate.wait()
        await echo(arrival, sink)

    async with Door(gated) as door, door.caller() as caller:
        await caller.send(post(b"hello")[:-1])
        await door.until(begun=1)
        for _ in range(5):
            await late(door, 1000)
        await caller.send(b"o")
        gate.set()
        assert (await caller.answer()).body == b"hello"


async def test_a_drain_ends_what_is_idle_and_lets_what_runs_finish_and_say_that_it_is_the_last() -> None:
    gate = asyncio.Event()

    async def gated(arrival: HttpArrival, sink: HttpSink) -> None:
        await gate.wait()
        await echo(arrival, sink)

    async with Door(gated) as door, door.caller() as busy, door.caller() as ahead, door.caller() as idle, door.caller() as begun:
        await busy.send(GET)
        await ahead.send(get("/1") + get("/2"))
        await begun.send(GET[:5])
        await door.until(begun=2)
        await turns(lambda: "head" in waiting(door) and "request" in waiting(door))
        door.listener.stop_accepting()
        assert await idle.ended() == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", door.port)
        await turns(lambda: door.connections <= 2)
        gate.set()
        for caller in (busy, ahead):
            answer = await caller.answer()
            assert (answer.status, answer.fields["connection"]) == (200, "close")
            assert await caller.ended() == b""
        await turns(lambda: len(door.begun) == 2)
    assert door.cancelled == 0


async def test_a_drain_lets_an_answer_finish_whose_head_is_already_sent() -> None:
    gate = asyncio.Event()

    async def gated(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(200, ["a: b"])
        await sink.room()
        await gate.wait()
        sink.write(b"x")
        sink.end()
        await sink.room()

    async with Door(gated) as door, door.caller() as caller:
        await caller.send(GET)
        while b"\r\n\r\n" not in caller.got:
            await caller.more()
        door.listener.stop_accepting()
        gate.set()
        assert (await caller.answer()).body == b"x"
        assert await caller.ended() == b""


async def test_closing_cancels_what_still_runs_and_leaves_nothing_open() -> None:
    settled = asyncio.Event()

    async def stubborn(arrival: HttpArrival, sink: HttpSink) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            settled.set()

    async with Door(stubborn) as door, door.caller() as caller:
        await caller.send(GET)
        await door.until(begun=1)
        await door.listener.close()
        assert settled.is_set()
        await turns(lambda: door.connections == 0)
    assert door.cancelled == 1


@pytest.mark.skipif(sys.platform != "linux", reason="how an accepted socket takes an option over is each system's own affair")
async def test_what_the_system_keeps_for_a_client_that_does_not_read_is_bounded() -> None:
    async with Door() as door, door.caller() as caller:
        await caller.send(GET)
        await caller.answer()
        [connection] = door.listener._connections
        with socket.socket(fileno=os.dup(connection._transport.get_extra_info("socket").fileno())) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES


async def gated_by(gate: asyncio.Event, arrival: HttpArrival, sink: HttpSink) -> None:
    await gate.wait()
    await echo(arrival, sink)


async def test_one_connection_too_many_is_told_so_while_all_others_are_in_use() -> None:
    gate = asyncio.Event()
    async with Door(partial(gated_by, gate), most=2) as door, door.caller() as one, door.caller() as other:
        for caller in (one, other):
            await caller.send(GET)
        await door.until(begun=2)
        for _ in range(3):
            async with door.caller() as refused:
                answer = await refused.answer()
                assert (answer.status, answer.fields["connection"]) == (503, "close")
                assert await refused.ended() == b""
        gate.set()
        for caller in (one, other):
            assert (await caller.answer()).status == 200
        assert door.connections == 2


async def test_the_connection_that_was_idle_for_longest_makes_room() -> None:
    async with Door(most=2) as door, door.caller() as old:
        await door.idle(1)
        move_time(5)
        async with door.caller() as young:
            await young.send(GET)
            assert (await young.answer()).status == 200
            async with door.caller() as third:
                await third.send(GET)
                assert (await third.answer()).status == 200
                assert await old.ended() == b""
                await young.send(GET)
                assert (await young.answer()).status == 200


async def test_who_dawdles_over_a_head_makes_room_and_who_has_just_begun_one_does_not() -> None:
    async with Door(most=1) as door, door.caller() as slow:
        await slow.send(GET[:5])
        await turns(lambda: "head" in waiting(door))
        async with door.caller() as refused:
            assert (await refused.answer()).status == 503
        move_time(5)
        async with door.caller() as third:
            await third.send(GET)
            assert (await third.answer()).status == 200
        await slow.ended()


async def test_the_sweep_looks_closely_only_at_connections_that_have_waited() -> None:
    """Or thousands of open ones would hold the loop up twice a second."""
    async with Door() as door, door.caller(), door.caller():
        await door.idle(2)
        for connection in door.listener._connections:
            connection.waiting_for = "nothing that has a patience"
        await late(door, 1)
        assert door.connections == 2
        for connection in door.listener._connections:
            connection.waiting_for = "request"
