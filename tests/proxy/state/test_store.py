"""What every store promises. Each test runs over each of them."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from proxy.policy.contract import Balance, Charge, Quota, Rate, Unit
from proxy.state.contract import Denial, Reservation, StateStore
from tests.clock import FakeClock
from tests.proxy.state.limits import money, requests, slot, tokens

HOUR = 3600
DAY = 24 * HOUR


async def hold(store: StateStore, *charges: Charge) -> Reservation:
    held = await store.reserve(charges)
    assert not isinstance(held, Denial), held
    return held


async def refuse(store: StateStore, *charges: Charge) -> Denial:
    denial = await store.reserve(charges)
    assert isinstance(denial, Denial), denial
    return denial


async def spend(store: StateStore, charge: Charge, used: int) -> Balance:
    (balance,) = await settle(await hold(store, charge), {charge.limit.unit: used})
    return balance


async def settle(held: Reservation, used: Mapping[Unit, int]) -> tuple[Balance, ...]:
    """Where every counter of a call stands when it has settled."""
    await held.settle(used)
    return held.balances()


async def test_what_is_held_is_shown_apart_from_what_is_spent(store: StateStore) -> None:
    await spend(store, money(100), 100)
    held = await hold(store, money(300))
    (balance,) = held.balances()
    assert (balance.spent, balance.held, balance.remaining) == (100, 300, 600)
    assert balance == store.peek(money(300))


async def test_a_settlement_replaces_the_hold_by_what_was_used(store: StateStore) -> None:
    held = await hold(store, requests(), tokens(500), slot(), money(300))
    balances = await settle(held, {Unit.REQUESTS: 1, Unit.TOKENS: 120, Unit.NANOUSD: 70, Unit.SLOTS: 0})
    assert [balance.remaining for balance in balances] == [9, 880, 4, 930]
    assert [balance.held for balance in balances] == [0, 0, 0, 0]
    assert balances[3].spent == 70


async def test_balances_come_in_the_order_of_the_charges(store: StateStore) -> None:
    charges = (money(3), slot(), tokens(5), requests())
    held = await hold(store, *charges)
    assert tuple(balance.charge for balance in held.balances()) == charges
    assert tuple(balance.charge for balance in await settle(held, {})) == charges


async def test_charges_are_left_as_they_came(store: StateStore) -> None:
    """Calls share them."""
    charges = (money(300), slot(), tokens(500, enforced=False), requests())
    copies = tuple(replace(charge) for charge in charges)
    await (await hold(store, *charges)).settle({Unit.TOKENS: 5000, Unit.NANOUSD: 5000})
    await refuse(store, *charges)
    assert charges == copies


async def test_balances_can_be_asked_for_by_unit(store: StateStore) -> None:
    charges = (money(3), slot(), tokens(5), requests())
    held = await hold(store, *charges)
    assert tuple(balance.charge for balance in held.balances(Unit.REQUESTS, Unit.TOKENS)) == charges[2:]
    await held.settle({})
    assert held.balances(Unit.SLOTS) == (store.peek(slot()),)


async def test_a_settlement_says_where_the_quotas_stand_whose_clause_is_to_be_told(store: StateStore) -> None:
    told = [money(300, subject=f"key={n}", told_from=told_from) for n, told_from in enumerate((0, 70, 71, None))]
    held = await hold(store, told[0], slot(), requests(), *told[1:])
    assert await held.settle({Unit.NANOUSD: 70}) == (store.peek(told[0]), store.peek(told[1]))
    assert [(balance.spent, balance.held) for balance in held.balances(Unit.NANOUSD)] == [(70, 0)] * 4


async def test_a_reload_tells_each_call_by_the_limit_it_began_under(store: StateStore) -> None:
    early, late = money(300, told_from=50), money(300, told_from=90)
    first, second = await hold(store, early), await hold(store, late)
    assert [balance.charge for balance in await first.settle({Unit.NANOUSD: 60})] == [early]
    assert await second.settle({Unit.NANOUSD: 20}) == ()


async def test_quotas_that_calls_settled_on_are_told_once_as_they_stand(store: StateStore, clock: FakeClock) -> None:
    assert store.changed() == ()
    open_still = await hold(store, money(300), slot(), requests())
    assert store.changed() == ()
    await spend(store, money(100, subject="key=web"), 70)
    await spend(store, money(100), 70)
    await spend(store, money(100), 20)
    assert store.changed() == (store.peek(money(100, subject="key=web")), store.peek(money(100)))
    assert store.changed() == ()
    clock.advance(DAY)
    await spend(store, money(100), 0)
    await open_still.settle({Unit.NANOUSD: 50})
    assert [(balance.spent, balance.window) for balance in store.changed()] == [
        (0, store.peek(money(0)).window),
        (140, open_still.balances(Unit.NANOUSD)[0].window),
    ]


async def test_a_settlement_told_of_is_the_same_when_asked_again(store: StateStore) -> None:
    held = await hold(store, money(300, told_from=1))
    first = await held.settle({Unit.NANOUSD: 70})
    assert [balance.spent for balance in first] == [70]
    await spend(store, money(100), 50)
    assert await held.settle({Unit.NANOUSD: 900}) == first


async def test_balances_of_a_settled_call_are_those_of_now(store: StateStore) -> None:
    held = await hold(store, requests(), money(300))
    await held.settle({})
    await spend(store, requests(2), 2)
    await hold(store, money(100))
    requested, spent = held.balances()
    assert (requested.remaining, spent.spent, spent.held) == (7, 300, 100)


async def test_a_reservation_settles_once(store: StateStore) -> None:
    held = await hold(store, money(300), slot())
    first = await held.settle({Unit.NANOUSD: 70})
    assert await held.settle({Unit.NANOUSD: 900}) == first
    assert store.peek(money(0)).spent == 70
    assert store.peek(slot()).remaining == 4


async def test_a_unit_that_is_not_named_keeps_what_was_held_and_slots_are_given_back(store: StateStore) -> None:
    requested, tokened, slotted, spent = await settle(await hold(store, requests(2), tokens(500), slot(), money(300)), {})
    assert (requested.remaining, tokened.remaining, slotted.remaining, spent.spent) == (8, 500, 4, 300)


async def test_slots_are_given_back_whatever_was_used(store: StateStore) -> None:
    (balance,) = await settle(await hold(store, slot()), {Unit.SLOTS: 3})
    assert (balance.held, balance.remaining) == (0, 4)


async def test_a_refund_can_be_used_at_once(store: StateStore) -> None:
    held = await hold(store, tokens(1000))
    await refuse(store, tokens(900))
    await held.settle({Unit.TOKENS: 100})
    await hold(store, tokens(900))


async def test_a_call_that_was_never_made_gives_everything_back(store: StateStore) -> None:
    charges = (requests(), tokens(10), slot(), money(10))
    before = [store.peek(charge) for charge in charges]
    held = await hold(store, *charges)
    await held.settle(dict.fromkeys(Unit, 0))
    assert [store.peek(charge) for charge in charges] == before


async def test_using_more_than_was_held_is_debt_that_has_to_drain(store: StateStore, clock: FakeClock) -> None:
    balance = await spend(store, tokens(100), 2500)
    assert (balance.remaining, balance.reset_s) == (0, 150.0)
    denial = await refuse(store, tokens(500))
    assert denial.retry_after_s == 120.0
    clock.advance(120)
    await hold(store, tokens(500))


async def test_a_budget_may_be_overspent_by_a_settlement_and_then_refuses(store: StateStore) -> None:
    balance = await spend(store, money(1000), 1400)
    assert (balance.spent, balance.remaining) == (1400, 0)
    await refuse(store, money(1))


async def test_a_negative_use_is_nobodys_refund(store: StateStore) -> None:
    await spend(store, money(100), 100)
    assert (await spend(store, money(100), -5000)).spent == 100


async def test_all_charges_are_held_or_none(store: StateStore) -> None:
    await hold(store, slot(4))
    charges = (requests(), tokens(100), slot(), money(100, enforced=False))
    before = [store.peek(charge) for charge in charges]
    denial = await refuse(store, *charges)
    assert denial.charge == charges[2]
    assert denial.balance == before[2]
    assert [store.peek(charge) for charge in charges] == before


async def test_two_charges_of_one_counter_fit_only_together(store: StateStore) -> None:
    await refuse(store, money(600), money(600))
    assert store.peek(money(0)).held == 0
    held = await hold(store, money(400), money(400))
    assert [balance.held for balance in held.balances()] == [800, 800]


@pytest.mark.parametrize("limited", [slot(most=1), requests(rate=Rate(1, 60, 1)), money(1, quota=Quota(1, "day", "UTC"))])
async def test_200_calls_at_once_for_one_unit_that_is_left_admit_one(store: StateStore, limited: Charge) -> None:
    held = await asyncio.gather(*(store.reserve((requests(subject=f"user={i}"), limited)) for i in range(200)))
    assert sum(not isinstance(one, Denial) for one in held) == 1
    assert sum(store.peek(requests(subject=f"user={i}")).remaining == 9 for i in range(200)) == 1


async def test_200_calls_at_once_admit_exactly_what_fits(store: StateStore) -> None:
    held = await asyncio.gather(*(store.reserve((money(30),)) for _ in range(200)))
    assert sum(not isinstance(one, Denial) for one in held) == 1000 // 30


async def test_the_denial_names_the_charge_that_must_wait_longest(store: StateStore) -> None:
    await hold(store, slot(4), requests(10), tokens(1000))
    denial = await refuse(store, slot(), requests(), tokens(500), money(10))
    assert (denial.charge, denial.retry_after_s) == (tokens(500), 30.0)


async def test_a_charge_that_never_fits_is_named_before_one_that_waits(store: StateStore) -> None:
    await spend(store, money(1000), 1000)
    denial = await refuse(store, money(1), tokens(1001))
    assert (denial.charge, denial.retry_after_s) == (tokens(1001), None)


@pytest.mark.parametrize("charge", [slot(5), requests(11), tokens(1001), money(1001)])
async def test_more_than_the_whole_limit_never_fits(store: StateStore, charge: Charge) -> None:
    assert (await refuse(store, charge)).retry_after_s is None


@pytest.mark.parametrize("charge", [requests(3), tokens(700), money(900)])
async def test_coming_back_as_told_succeeds_and_a_moment_earlier_does_not(
    store: StateStore, clock: FakeClock, charge: Charge
) -> None:
    clock.advance(0.123456789)
    whole = replace(charge, amount=charge.limit.amount)
    await spend(store, whole, whole.amount)
    wait_s = (await refuse(store, charge)).retry_after_s
    assert wait_s is not None
    clock.advance(wait_s - 0.001)
    await refuse(store, charge)
    clock.advance(0.001)
    await hold(store, charge)


async def test_where_only_running_calls_are_in_the_way_a_budget_says_to_come_back_soon(store: StateStore) -> None:
    await hold(store, money(900))
    assert (await refuse(store, money(200))).retry_after_s == 1.0


async def test_a_call_that_costs_nothing_passes_a_spent_budget_and_an_empty_bucket(store: StateStore) -> None:
    await spend(store, money(10), 5000)
    await spend(store, tokens(10), 5000)
    await hold(store, money(0), tokens(0))


async def test_a_shadowed_limit_is_counted_beyond_its_end_and_says_what_it_would_have_done(store: StateStore) -> None:
    whole = money(1000, enforced=False)
    assert (await hold(store, whole)).shadowed == ()
    held = await hold(store, money(10, enforced=False), slot())
    (denial,) = held.shadowed
    assert (denial.charge, denial.retry_after_s) == (money(10, enforced=False), 1.0)
    assert (denial.balance.held, denial.balance.remaining) == (1010, 0)
    (balance, _) = await settle(held, {Unit.NANOUSD: 9})
    assert (balance.spent, balance.held) == (9, 1000)


async def test_a_shadowed_charge_never_refuses_and_is_never_named_in_a_denial(store: StateStore) -> None:
    await hold(store, slot(4))
    denial = await refuse(store, tokens(5000, enforced=False), slot())
    assert denial.charge == slot()
    assert store.peek(tokens(0)).remaining == 1000


async def test_spend_is_forgotten_when_the_window_turns(store: StateStore, clock: FakeClock) -> None:
    await spend(store, money(1000), 1000)
    denial = await refuse(store, money(1))
    assert denial.balance.window is not None
    assert (denial.retry_after_s, denial.balance.reset_s) == (16 * HOUR, 16 * HOUR)
    clock.advance(16 * HOUR)
    fresh = store.peek(money(0))
    assert (fresh.spent, fresh.reset_s, fresh.window) == (0, DAY, (denial.balance.window[1], denial.balance.window[1] + DAY))
    await hold(store, money(1000))


async def test_a_call_over_midnight_is_spent_on_the_day_that_held_it(store: StateStore, clock: FakeClock) -> None:
    held = await hold(store, money(800))
    yesterday = held.balances()[0].window
    clock.advance(17 * HOUR)
    today = await hold(store, money(1000))
    (balance,) = await settle(held, {Unit.NANOUSD: 700})
    assert (balance.window, balance.spent, balance.held, balance.reset_s) == (yesterday, 700, 0, 0)
    assert store.peek(money(0)) == replace(today.balances()[0], charge=money(0))


async def test_a_clock_that_is_set_over_midnight_and_back_finds_both_days_as_they_were(store: StateStore, clock: FakeClock) -> None:
    clock.advance(16 * HOUR - 10)
    await spend(store, money(1000), 900)
    clock.step(20)
    await spend(store, money(1000), 500)
    clock.step(-20)
    assert store.peek(money(0)).spent == 900
    await refuse(store, money(200))
    clock.step(20)
    assert (await spend(store, money(100), 100)).spent == 600


async def test_a_step_of_the_wall_clock_does_not_touch_a_rate(store: StateStore, clock: FakeClock) -> None:
    await spend(store, requests(10), 10)
    clock.step(DAY)
    await refuse(store, requests())


async def test_subjects_and_policies_are_counted_apart(store: StateStore) -> None:
    ada = money(1000, subject="user=ada")
    await hold(store, ada)
    await hold(store, money(1000, subject="user=bob"))
    await hold(store, replace(ada, limit=replace(ada.limit, policy="batch")))
    await hold(store, replace(ada, limit=replace(ada.limit, clause="other")))
    await refuse(store, ada)


async def test_looking_changes_nothing(store: StateStore, clock: FakeClock) -> None:
    before = repr(store)
    for charge in (requests(), tokens(1), slot(), money(1)):
        assert store.peek(charge).remaining == charge.limit.amount
    assert repr(store) == before
    await spend(store, money(100), 100)
    clock.advance(DAY)
    assert store.peek(money(1)).spent == 0
    clock.step(-DAY)
    assert store.peek(money(1)).spent == 100


async def test_a_raised_limit_holds_at_once_and_keeps_what_was_spent(store: StateStore) -> None:
    await spend(store, money(1000), 1000)
    await spend(store, tokens(1000), 1000)
    more, faster = Quota(2500, "day", "UTC"), Rate(amount=4000, per_s=60, burst=4000)
    assert (store.peek(money(0, quota=more)).spent, store.peek(money(0, quota=more)).remaining) == (1000, 1500)
    assert store.peek(tokens(0, rate=faster)).remaining == 3000
    await hold(store, money(1500, quota=more), tokens(3000, rate=faster))
    await refuse(store, money(1, quota=more))
    await refuse(store, tokens(1, rate=faster))


async def test_a_call_that_runs_over_a_reload_settles_on_the_limit_that_is_new(store: StateStore) -> None:
    held = await hold(store, money(800), tokens(900), slot(4))
    more, faster = Quota(2500, "day", "UTC"), Rate(amount=4000, per_s=60, burst=4000)
    await hold(store, money(1, quota=more), tokens(1, rate=faster), slot(most=5))
    spent, used, _ = await settle(held, {Unit.NANOUSD: 100, Unit.TOKENS: 100})
    assert (spent.spent, spent.held, spent.remaining) == (100, 1, 899)
    assert (used.held, used.remaining) == (1, 899)
    assert store.peek(money(0, quota=more)).remaining == 2399
    assert store.peek(tokens(0, rate=faster)).remaining == 3899
    assert store.peek(slot(most=5)).remaining == 4


async def test_a_limit_that_becomes_another_kind_or_counts_another_unit_starts_anew(store: StateStore) -> None:
    rated = await hold(store, tokens(1000))
    counted = replace(tokens(0).limit, unit=Unit.REQUESTS)
    await hold(store, Charge(counted, "user=ada", 1000))
    in_tokens = replace(tokens(0).limit, rule=Quota(1000, "day", "UTC"))
    in_money = replace(in_tokens, unit=Unit.NANOUSD)
    await spend(store, Charge(in_tokens, "user=ada", 1000), 1000)
    assert store.peek(Charge(in_money, "user=ada", 0)).spent == 0
    await hold(store, Charge(in_money, "user=ada", 1000))
    await rated.settle({Unit.TOKENS: 10})
    assert store.peek(Charge(in_money, "user=ada", 0)).held == 1000


async def test_a_budget_whose_period_changes_counts_the_new_period_from_nothing(store: StateStore) -> None:
    await spend(store, money(1000), 1000)
    monthly = Quota(1000, "month", "UTC")
    assert (await spend(store, money(10, quota=monthly), 10)).spent == 10
    assert store.peek(money(0)).spent == 1000


async def test_quotas_in_use_are_listed_without_touching_them(store: StateStore, clock: FakeClock) -> None:
    await hold(store, requests(), slot())
    assert list(store.quotas()) == []
    await spend(store, money(100, subject="key=web"), 70)
    held = await hold(store, money(200, subject="key=app"))
    window = held.balances()[0].window
    limit = money(0).limit
    assert list(store.quotas()) == [(limit, "key=web", 70, 0, window), (limit, "key=app", 0, 200, window)]
    assert len(list(store.quotas(most=1))) == 1
    clock.advance(DAY)
    assert [(spent, held) for _, _, spent, held, _ in store.quotas()] == [(0, 0), (0, 0)]


async def test_neither_reserving_nor_settling_gives_way_to_another_task(store: StateStore) -> None:
    """What cannot be interrupted cannot be cancelled half-way."""
    reserving = store.reserve((requests(), slot(), money(10)))
    with pytest.raises(StopIteration) as reserved:
        reserving.send(None)
    settling = reserved.value.value.settle({Unit.NANOUSD: 3})
    with pytest.raises(StopIteration):
        settling.send(None)


async def test_a_reservation_says_what_it_holds(store: StateStore) -> None:
    held = await hold(store, requests(), money(300, enforced=False))
    words = "everyone/rate_limit/user=ada 1 requests, everyone/budget/everyone 300 nanousd not enforced"
    assert repr(held) == f"<MemoryReservation open: {words}>"
    await held.settle({})
    assert repr(held) == f"<MemoryReservation settled: {words}>"


async def test_a_store_says_how_much_it_remembers(store: StateStore) -> None:
    await hold(store, requests(), slot(), money(300))
    assert "3 counters, 1 of them quotas; 0 pages to deliver" in repr(store)
