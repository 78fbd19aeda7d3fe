"""Reserve, settle, cancel, wait, outlive, write, in any order: every balance is that of a model that only adds and subtracts."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy.contract import Charge, Quota, Rate, Slots, Unit
from proxy.state.arithmetic import NS, window
from proxy.state.contract import Denial, Reservation
from proxy.state.memory import MemoryStore
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock
from tests.proxy.state.limits import money, requests, slot, tokens

KINDS = (
    requests(rate=Rate(amount=7, per_s=60, burst=5)),
    tokens(0, rate=Rate(amount=1000, per_s=60, burst=1500)),
    tokens(0, rate=Rate(amount=300, per_s=1, burst=300), subject="user=bob", enforced=False),
    slot(most=3),
    money(0, quota=Quota(2000, "hour", "America/New_York")),
    money(0, quota=Quota(900, "day", "UTC"), subject="key=web", enforced=False),
)
AMOUNTS = st.integers(0, 1200)


@dataclass(frozen=True)
class Reserve:
    amounts: tuple[tuple[int, int], ...]  # index of the kind, units

    def charges(self) -> tuple[Charge, ...]:
        small = (Unit.REQUESTS, Unit.SLOTS)
        return tuple(
            Charge(KINDS[kind].limit, KINDS[kind].subject, 1 if KINDS[kind].limit.unit in small else units, KINDS[kind].enforced)
            for kind, units in self.amounts
        )


@dataclass(frozen=True)
class Settle:
    which: int
    used: Mapping[Unit, int]


@dataclass(frozen=True)
class Cancel:
    """A call is given up before anything was sent."""

    which: int


@dataclass(frozen=True)
class Expire:
    """The clock passes the moment at which a call must be over."""

    which: int


@dataclass(frozen=True)
class Wait:
    seconds: int


class Turn:
    """What is on the books is written, and who outlived his time is charged; nothing to a store in memory."""


Step = Reserve | Settle | Cancel | Expire | Wait | Turn
NOTHING = dict.fromkeys(Unit, 0)
LASTS_S = 3600
STEPS = st.lists(
    st.one_of(
        st.builds(Reserve, st.lists(st.tuples(st.integers(0, len(KINDS) - 1), AMOUNTS), min_size=1, max_size=6).map(tuple)),
        st.builds(Settle, st.integers(0, 100), st.dictionaries(st.sampled_from(list(Unit)), AMOUNTS)),
        st.builds(Cancel, st.integers(0, 100)),
        st.builds(Expire, st.integers(0, 100)),
        st.builds(Wait, st.sampled_from([0, 1, 7, 600, 3599, 3600, 50_000])),
        st.builds(Turn),
    ),
    max_size=25,
)


@dataclass
class Model:
    """Counters by kind. A hold of a quota is kept by window, so that its settlement finds it."""

    clock: FakeClock
    levels: dict[int, Fraction] = field(default_factory=dict)
    held: dict[tuple[int, tuple[int, int] | None], int] = field(default_factory=dict)
    spent: dict[tuple[int, tuple[int, int] | None], int] = field(default_factory=dict)

    def wait(self, seconds: float) -> None:
        for kind, level in self.levels.items():
            rule = KINDS[kind].limit.rule
            assert isinstance(rule, Rate)
            self.levels[kind] = max(Fraction(0), level - Fraction(seconds) * rule.amount / rule.per_s)

    def place(self, kind: int) -> tuple[int, tuple[int, int] | None]:
        rule = KINDS[kind].limit.rule
        return kind, window(rule.period, rule.zone, self.clock.wall_s()) if isinstance(rule, Quota) else None

    def remaining(self, kind: int) -> int:
        rule, place = KINDS[kind].limit.rule, self.place(kind)
        if isinstance(rule, Rate):
            return max(0, floor(rule.burst - self.levels.get(kind, Fraction(0))))
        return max(0, rule.amount - self.spent.get(place, 0) - self.held.get(place, 0))

    def fits(self, wanted: Sequence[tuple[int, int]]) -> bool:
        total: dict[int, int] = {}
        for kind, units in wanted:
            total[kind] = total.get(kind, 0) + units
            if KINDS[kind].enforced and units and total[kind] > self.remaining(kind):
                return False
        return True

    def hold(self, kind: int, units: int) -> tuple[int, tuple[int, int] | None]:
        place = self.place(kind)
        self.held[place] = self.held.get(place, 0) + units
        if isinstance(KINDS[kind].limit.rule, Rate):
            self.levels[kind] = self.levels.get(kind, Fraction(0)) + units
        return place

    def settle(self, place: tuple[int, tuple[int, int] | None], units: int, used: Mapping[Unit, int]) -> None:
        kind = place[0]
        limit = KINDS[kind].limit
        self.held[place] -= units
        spent = used.get(limit.unit, units)
        if isinstance(limit.rule, Rate):
            self.levels[kind] = max(Fraction(0), self.levels[kind] + spent - units)
        elif not isinstance(limit.rule, Slots):
            self.spent[place] = self.spent.get(place, 0) + spent


@dataclass
class Open:
    """A call that holds. Whoever outlived its time is charged at the next turn, if it holds of a quota; `over` says that it was."""

    reservation: Reservation
    holds: Sequence[tuple[tuple[int, tuple[int, int] | None], int]]
    ends_ns: int
    over: bool = False

    @property
    def expires(self) -> bool:
        return any(window is not None for (_, window), _ in self.holds)


async def run(store: MemoryStore | SqliteStore, clock: FakeClock, steps: Sequence[Step]) -> None:
    model, running = Model(clock), list[Open]()

    def wait(seconds: float) -> None:
        clock.advance(seconds)
        model.wait(seconds)

    def end(one: Open, used: Mapping[Unit, int]) -> None:
        if not one.over:
            one.over = True
            for place, units in one.holds:
                model.settle(place, units, used)

    async def settle(one: Open, used: Mapping[Unit, int]) -> None:
        await one.reservation.settle(used)
        end(one, used)

    def compare() -> None:
        for kind, charge in enumerate(KINDS):
            balance, place = store.peek(charge), model.place(kind)
            assert balance.remaining == model.remaining(kind)
            assert balance.held == model.held.get(place, 0)
            assert balance.spent == model.spent.get(place, 0)
            assert balance.window == place[1]

    for step in steps:
        if isinstance(step, Wait):
            wait(step.seconds)
        elif isinstance(step, Turn) and isinstance(store, SqliteStore):
            await store.flush()
            for one in running:
                if one.expires and one.ends_ns < clock.monotonic_ns():
                    end(one, {})
        elif isinstance(step, Expire) and running:
            wait(max(0, running[step.which % len(running)].ends_ns - clock.monotonic_ns()) // NS + 1)
        elif isinstance(step, Settle | Cancel) and running:
            await settle(running.pop(step.which % len(running)), step.used if isinstance(step, Settle) else NOTHING)
        elif isinstance(step, Reserve):
            charges = step.charges()
            wanted = [(kind, charge.amount) for (kind, _), charge in zip(step.amounts, charges, strict=True)]
            fits = model.fits(wanted)
            held = await store.reserve(charges, lasts_s=LASTS_S)
            assert isinstance(held, Denial) != fits
            if not isinstance(held, Denial):
                holds = [(model.hold(kind, units), units) for kind, units in wanted]
                running.append(Open(held, holds, clock.monotonic_ns() + LASTS_S * NS))
        compare()
    for one in running:
        await settle(one, {})
    compare()
    assert not any(model.held.values())
    assert all(store.peek(charge).held == 0 for charge in KINDS)


@settings(max_examples=200, deadline=None)
@given(STEPS)
@example([Reserve(((4, 100), (3, 1))), Expire(0), Turn(), Settle(0, {Unit.NANOUSD: 5}), Reserve(((4, 7),)), Cancel(0)])
def test_memory_conserves_every_balance_under_any_interleaving(steps: list[Step]) -> None:
    clock = FakeClock()
    asyncio.run(run(MemoryStore(clock), clock, steps))


@settings(max_examples=50, deadline=None)
@given(STEPS)
@example([Reserve(((4, 100), (3, 1))), Expire(0), Turn(), Settle(0, {Unit.NANOUSD: 5}), Reserve(((4, 7),)), Cancel(0)])
def test_sqlite_conserves_every_balance_and_finds_its_spend_again(steps: list[Step]) -> None:
    async def scenario(directory: Path) -> None:
        clock = FakeClock()
        store = await SqliteStore.open(directory, clock)
        await run(store, clock, steps)
        before = [store.peek(charge) for charge in KINDS]
        await store.close()
        store = await SqliteStore.open(directory, clock)
        after = [store.peek(charge) for charge in KINDS]
        await store.close()
        for old, new in zip(before, after, strict=True):
            assert new.spent == old.spent
            assert not isinstance(old.charge.limit.rule, Quota) or new == old

    with TemporaryDirectory() as directory:
        asyncio.run(scenario(Path(directory)))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_the_order_of_settlements_does_not_matter(order: tuple[int, ...]) -> None:
    store = MemoryStore(FakeClock())
    held = [await store.reserve((money(100), tokens(100))) for _ in range(3)]
    for which in order:
        one = held[which]
        assert not isinstance(one, Denial)
        await one.settle({Unit.NANOUSD: 10 * which, Unit.TOKENS: 200 * which})
    assert (store.peek(money(0)).spent, store.peek(tokens(0)).remaining) == (30, 400)
