"""Names are looked up once for all who ask, remembered for a while, and forgotten late rather than early."""

import asyncio
import socket

import pytest

from proxy.upstream.resolve import FAILED_S, KEEP_S, STALE_S, Address, Resolver, system_lookup
from tests.clock import FakeClock
from tests.proxy.upstream.calls import soon

ONE: tuple[Address, ...] = ((socket.AF_INET, ("192.0.2.1", 80)),)
TWO: tuple[Address, ...] = ((socket.AF_INET, ("192.0.2.2", 80)),)


class Names:
    """A look-up that says what it is told to, when it is told to."""

    def __init__(self, *answers: tuple[Address, ...] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, host: str, port: int) -> tuple[Address, ...]:
        self.asked += 1
        await self.gate.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def resolver(names: Names, clock: FakeClock, host: str = "model.test") -> Resolver:
    return Resolver(host, 80, lookup=names, now=lambda: clock.monotonic_ns() / 1e9)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("192.0.2.7", (socket.AF_INET, ("192.0.2.7", 80))), ("2001:db8::1", (socket.AF_INET6, ("2001:db8::1", 80, 0, 0)))],
)
async def test_an_address_is_not_looked_up(host: str, expected: Address) -> None:
    names = Names()
    assert await resolver(names, FakeClock(), host).addresses() == (expected,)
    assert names.asked == 0


async def test_what_was_found_is_kept_and_then_asked_for_again() -> None:
    names, clock = Names(ONE, TWO), FakeClock()
    asked = resolver(names, clock)
    assert await asked.addresses() == ONE
    clock.advance(KEEP_S - 0.1)
    assert await asked.addresses() == ONE
    clock.advance(0.1)
    assert await asked.addresses() == TWO


async def test_calls_that_come_together_share_one_look_up_and_one_that_leaves_does_not_end_it() -> None:
    names = Names(ONE)
    names.gate.clear()
    asked = resolver(names, FakeClock())
    waiting = [asyncio.ensure_future(asked.addresses()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    names.gate.set()
    assert await soon(asyncio.gather(*waiting[1:])) == [ONE] * 4
    assert names.asked == 1


async def test_a_failure_is_remembered_for_a_moment() -> None:
    names, clock = Names(socket.gaierror(-2, "no"), (), ONE), FakeClock()
    asked = resolver(names, clock)
    for _ in range(3):
        with pytest.raises(OSError, match="name not resolved"):
            await asked.addresses()
    assert names.asked == 1
    clock.advance(FAILED_S)
    with pytest.raises(OSError, match="name not resolved"):
        await asked.addresses()
    clock.advance(FAILED_S)
    assert await asked.addresses() == ONE


async def test_an_old_address_stands_in_while_nobody_knows_better() -> None:
    names, clock = Names(ONE, *[socket.gaierror(-3, "later")] * 2, TWO), FakeClock()
    asked = resolver(names, clock)
    await asked.addresses()
    clock.advance(KEEP_S)
    assert await asked.addresses() == ONE
    clock.advance(STALE_S)
    with pytest.raises(OSError, match="name not resolved"):
        await asked.addresses()
    clock.advance(FAILED_S)
    assert await asked.addresses() == TWO


async def test_closing_ends_a_look_up_that_runs() -> None:
    names = Names(ONE)
    names.gate.clear()
    asked = resolver(names, FakeClock())
    waiting = asyncio.ensure_future(asked.addresses())
    await asyncio.sleep(0)
    await soon(asked.close())
    with pytest.raises(OSError, match="name not resolved"):
        await soon(waiting)


async def test_the_system_knows_this_machine() -> None:
    assert (socket.AF_INET, ("127.0.0.1", 80)) in await soon(system_lookup("127.0.0.1", 80))
