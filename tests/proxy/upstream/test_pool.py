"""Which connection a call gets, who waits, and when a connection is given up."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from proxy.errors import UpstreamError
from proxy.upstream.answer import HttpAnswer
from proxy.upstream.client import HttpUpstream
from proxy.upstream.dial import Dialer
from proxy.upstream.fields import KeptFields
from proxy.upstream.heads import Heads
from proxy.upstream.pool import Limits, Pool
from proxy.upstream.resolve import system_lookup
from tests.clock import FakeClock
from tests.fakes import Close, FakeUpstream, Send, Step, UntilClosed, Wait, json_answer
from tests.proxy.upstream.calls import ask, body_of, client_of, fetch, soon, turns

GOOD = json_answer(200, {"ok": True})


def numbered(upstream: FakeUpstream) -> list[str | None]:
    return [request.header("x-n") for request in upstream.requests]


async def begin(client: HttpUpstream, count: int, *, first: int = 0) -> list["asyncio.Task[tuple[int, bytes]]"]:
    """Calls in order, each of which has got as far as it can before the next begins."""
    calls = []
    for n in range(first, first + count):
        calls.append(asyncio.create_task(fetch(client, ask(headers=[("x-n", str(n))]))))
        await asyncio.sleep(0)
    return calls


async def test_calls_beyond_the_limit_wait_and_are_served_in_the_order_they_came() -> None:
    gate = asyncio.Event()
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream, limits=Limits(connections=2)) as client:
        for _ in range(2):
            upstream.queue([Wait(gate), *GOOD])
        calls = await begin(client, 2)
        await upstream.arrived(2)
        calls += await begin(client, 20, first=2)
        assert "busy=2 dialing=0 waiting=20" in repr(client)
        gate.set()
        assert await soon(asyncio.gather(*calls)) == [(200, b'{"ok":true}')] * 22
        assert upstream.accepted == 2
        assert numbered(upstream)[2:] == [str(n) for n in range(2, 22)]
        assert "idle=2 busy=0 dialing=0 waiting=0" in repr(client)


async def test_a_queue_that_is_full_refuses_at_once_and_nothing_was_sent() -> None:
    async with FakeUpstream(default=[UntilClosed()]) as upstream:
        async with client_of(upstream, limits=Limits(connections=1, waiting=2)) as client:
            calls = await begin(client, 1)
            await upstream.arrived()
            calls += await begin(client, 2, first=1)
            with pytest.raises(UpstreamError) as caught:
                await ask().of(client)
            assert (caught.value.code, caught.value.sent) == ("upstream_unreachable", False)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            await turns(lambda: "idle=0 busy=0 dialing=0 waiting=0" in repr(client))
            assert len(upstream.requests) == 1


async def test_the_connect_deadline_also_covers_the_queue() -> None:
    async with FakeUpstream(default=[UntilClosed()]) as upstream:
        async with client_of(upstream, limits=Limits(connections=1)) as client:
            calls = await begin(client, 1)
            await upstream.arrived()
            with pytest.raises(UpstreamError) as caught:
                await ask(connect_s=0.0).of(client)
            assert (caught.value.code, caught.value.sent) == ("upstream_timeout", False)
            assert "deadline: connect" in caught.value.message
            assert "waiting=0" in repr(client)
            calls[0].cancel()
            await asyncio.wait(calls)


async def test_a_waiting_call_makes_its_own_connection_when_one_dies() -> None:
    gate = asyncio.Event()
    script: list[Step] = [Wait(gate), Send(b"garbage"), Close()]
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream, limits=Limits(connections=1)) as client:
        upstream.queue(script)
        broken, *calls = await begin(client, 1) + await begin(client, 3, first=1)
        await upstream.arrived()
        gate.set()
        with pytest.raises(UpstreamError):
            await soon(broken)
        assert await soon(asyncio.gather(*calls)) == [(200, b'{"ok":true}')] * 3
        assert upstream.accepted == 2


async def test_a_connection_that_cannot_be_made_leaves_its_turn_to_the_next() -> None:
    async with FakeUpstream(default=GOOD) as upstream:
        async with client_of("http://127.0.0.1:1", limits=Limits(connections=1)) as client:
            calls = await begin(client, 5)
            failures = await soon(asyncio.gather(*calls, return_exceptions=True))
            assert [f.code for f in failures if isinstance(f, UpstreamError)] == ["upstream_unreachable"] * 5
            assert "idle=0 busy=0 dialing=0 waiting=0" in repr(client)
        assert upstream.accepted == 0


async def test_a_connection_handed_to_a_call_that_is_cancelled_goes_to_the_next() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream, limits=Limits(connections=1)) as client:
        answer = await soon(ask().of(client))
        while await soon(answer.read()):
            pass
        gone, waiting = await begin(client, 2)
        answer.close()  # hands it over; the waiting task has not run yet
        gone.cancel()
        assert await soon(waiting) == (200, b'{"ok":true}')
        assert gone.cancelled()
        assert (numbered(upstream)[1:], upstream.accepted) == (["1"], 1)


async def test_a_leave_to_connect_given_to_a_call_that_is_cancelled_goes_to_the_next() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream, limits=Limits(connections=1)) as client:
        answer = await soon(ask().of(client))
        gone, waiting = await begin(client, 2)
        answer.close()  # not read to its end: the connection is closed
        await turns(lambda: "waiting=1" in repr(client))
        gone.cancel()
        assert await soon(waiting) == (200, b'{"ok":true}')
        assert "idle=1 busy=0 dialing=0 waiting=0" in repr(client)


@pytest.mark.parametrize("seed", range(20))
async def test_no_order_of_ends_and_cancellations_loses_a_slot(seed: int) -> None:
    chance = random.Random(seed)
    scripts: list[list[Step]] = [GOOD, [*GOOD[:1], Close()], [Send(b"x")], [UntilClosed()], [Close()]]
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream, limits=Limits(connections=3)) as client:
        calls: list[asyncio.Task[tuple[int, bytes]]] = []
        for _ in range(60):
            upstream.queue(chance.choice(scripts))
            calls.append(asyncio.create_task(fetch(client)))
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            chance.choice(calls).cancel()
        for call in calls:
            call.cancel()
        await soon(asyncio.wait(calls))
        await turns(lambda: "busy=0 dialing=0 waiting=0" in repr(client))
        # Whatever scripts are left play for these; then every slot must be there again.
        await turns(lambda: not upstream._scripts or upstream._scripts.clear() is None)
        answers: list[HttpAnswer] = [await soon(ask().of(client)) for _ in range(3)]
        assert "idle=0 busy=3 dialing=0 waiting=0" in repr(client)
        for answer in answers:
            await body_of(answer)


async def test_the_connection_that_was_used_last_is_used_next() -> None:
    async with FakeUpstream(default=GOOD) as upstream, client_of(upstream) as client:
        first, second = await soon(ask().of(client)), await soon(ask().of(client))
        await body_of(first)
        await body_of(second)
        await fetch(client)
        await fetch(client)
        assert [request.connection for request in upstream.requests] == [0, 1, 1, 1]


# ── ages ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def pool_of(upstream: FakeUpstream, clock: FakeClock, limits: Limits) -> AsyncIterator[Pool]:
    def now() -> float:
        return clock.monotonic_ns() / 1e9

    dialer = Dialer(Heads(upstream.url), lookup=system_lookup, now=now, tls=None, tunnel=None)
    pool = Pool(dialer.dial, fields=KeptFields(None), limits=limits, now=now, loop=asyncio.get_running_loop())
    yield pool
    await soon(pool.close())


async def used(pool: Pool) -> None:
    """One call over a connection of the pool."""
    connection = pool.take() or await soon(pool.claim())
    answer = connection.send((request := b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",), len(request))
    assert answer is not None
    while not answer.status:
        await soon(answer.more())
    await body_of(answer)


SPOKEN = {"keep-alive": "timeout=10, max=100"}
AGES = [
    pytest.param(GOOD, 3.9, True, id="before the limit"),
    pytest.param(GOOD, 4.0, False, id="at the limit"),
    pytest.param(json_answer(200, {}, headers=SPOKEN), 8.9, True, id="before what the upstream says, less a margin"),
    pytest.param(json_answer(200, {}, headers=SPOKEN), 9.0, False, id="at what the upstream says, less a margin"),
    pytest.param(json_answer(200, {}, headers={"keep-alive": "timeout=1"}), 0.0, False, id="an upstream that hardly waits"),
    pytest.param(
        json_answer(200, {}, headers={"keep-alive": "timeout=soon"}), 3.9, True, id="an upstream that says nothing of use"
    ),
    pytest.param(json_answer(200, {}, headers={"keep-alive": "timeout=99999"}), 299.9, True, id="before its age"),
    pytest.param(json_answer(200, {}, headers={"keep-alive": "timeout=99999"}), 300.0, False, id="at its age"),
]


@pytest.mark.parametrize(("script", "idle_s", "kept"), AGES)
async def test_a_connection_that_rested_too_long_is_not_used_again(script: list[Step], idle_s: float, kept: bool) -> None:
    clock = FakeClock()
    async with FakeUpstream(default=script) as upstream, pool_of(upstream, clock, Limits()) as pool:
        await used(pool)
        clock.advance(idle_s)
        await used(pool)
        assert upstream.accepted == (1 if kept else 2)


async def test_a_connection_in_steady_use_is_given_up_at_its_age() -> None:
    clock = FakeClock()
    async with FakeUpstream(default=GOOD) as upstream, pool_of(upstream, clock, Limits(age_s=10.0)) as pool:
        for _ in range(5):
            await used(pool)
            clock.advance(3.0)
        assert [request.connection for request in upstream.requests] == [0, 0, 0, 0, 1]


async def test_what_nobody_uses_is_closed_without_being_asked_for() -> None:
    clock = FakeClock()
    async with FakeUpstream(default=GOOD) as upstream, pool_of(upstream, clock, Limits(sweep_s=0.0)) as pool:
        await used(pool)
        clock.advance(3.0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert upstream.open_connections == 1
        clock.advance(1.0)
        await turns(lambda: upstream.open_connections == 0)
        assert "idle=0 busy=0" in repr(pool)


async def test_a_pool_that_is_closed_refuses_who_waits() -> None:
    async with FakeUpstream(default=[UntilClosed()]) as upstream:
        async with client_of(upstream, limits=Limits(connections=1)) as client:
            calls = await begin(client, 1)
            await upstream.arrived()
            calls += await begin(client, 3, first=1)
            await soon(client.close())
            outcomes = await soon(asyncio.gather(*calls, return_exceptions=True))
            assert [o.sent for o in outcomes if isinstance(o, UpstreamError)] == [True, False, False, False]
