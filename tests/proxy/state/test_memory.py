"""A store in memory remembers no more than is in use."""

from proxy.policy.contract import Charge, Rate, Unit
from proxy.state.contract import Denial
from proxy.state.memory import KEPT, MemoryReservation, MemoryStore
from tests.clock import FakeClock
from tests.proxy.state.limits import money, requests, slot, tokens

SLOW = Rate(amount=1, per_s=86_400, burst=1)


async def hold(store: MemoryStore, *charges: Charge) -> MemoryReservation:
    held = await store.reserve(charges)
    assert not isinstance(held, Denial), held
    return held


def counters(store: MemoryStore) -> int:
    return int(repr(store).split()[1])


async def test_counters_at_rest_are_forgotten_as_new_ones_come(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    for user in range(20 * KEPT):
        subject = f"user={user}"
        await (await hold(store, requests(subject=subject), slot(subject=subject), tokens(10, subject=subject))).settle({})
        clock.advance(1)
    # A bucket of one call rests after six seconds: what is in use is a few, what is kept beside it KEPT.
    assert counters(store) < 1.5 * KEPT


async def test_counters_at_rest_are_forgotten_even_if_no_new_one_comes(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    for user in range(4 * KEPT):
        await hold(store, requests(subject=f"user={user}"))
    for _ in range(4 * KEPT):
        await store.reserve(())
    assert counters(store) == 4 * KEPT  # they run

    store = MemoryStore(clock)
    for user in range(4 * KEPT):
        await (await hold(store, requests(subject=f"user={user}"))).settle({})
    clock.advance(60)
    for _ in range(4 * KEPT):
        await store.reserve(())
    assert counters(store) == KEPT


async def test_nothing_that_still_counts_is_forgotten(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    bucket, spent, running = requests(rate=SLOW, subject="user=bob"), money(100, subject="user=bob"), slot(subject="user=bob")
    await (await hold(store, bucket, spent)).settle({})
    await hold(store, running)
    nothing_yet = await hold(store, tokens(0, subject="user=bob"), money(0, subject="user=eve"))
    for user in range(10 * KEPT):
        await (await hold(store, requests(subject=f"user={user}"), slot(subject=f"user={user}"))).settle({})
        clock.advance(0.01)
    assert store.peek(bucket).remaining == 0
    assert store.peek(spent).spent == 100
    assert store.peek(running).held == 1
    await nothing_yet.settle({Unit.TOKENS: 1000, Unit.NANOUSD: 70})
    assert store.peek(tokens(0, subject="user=bob")).remaining == 0
    assert store.peek(money(0, subject="user=eve")).spent == 70


async def test_quotas_of_a_window_that_turned_are_forgotten_an_hour_later(clock: FakeClock) -> None:
    store = MemoryStore(clock)
    for user in range(3 * KEPT):
        await (await hold(store, money(10, subject=f"user={user}"))).settle({})
    clock.advance(17 * 3600 - 1)
    for _ in range(3 * KEPT):
        await store.reserve(())
    assert counters(store) == 3 * KEPT
    clock.advance(1)
    for _ in range(3 * KEPT):
        await store.reserve(())
    assert counters(store) == KEPT
    assert len(list(store.quotas(most=10 * KEPT))) == KEPT
