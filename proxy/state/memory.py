"""Limits and pages in the memory of one process. What outlives the process is in `sqlite`, which is built on this.

Nothing here waits, so nothing can come between the look and the hold: on one event loop every call of `reserve` is atomic. The rule
a reader could break: an `await` inside `reserve` or `settle` would end that. Memory is bounded by what is in use: a counter that
says no more than a new one would is forgotten, a few at each call, so that no call ever pays for all of them.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Protocol

from proxy.clock import Clock
from proxy.errors import StateUnavailable
from proxy.policy.contract import Balance, Charge, Limit, Quota, Rate, Slots, Unit
from proxy.state.contract import NOBODY, Booking, Delivery, Denial, Holder
from proxy.state.counters import Account, Bucket, Calendar, Ledger, QuotaHold, Seats, SpendKey, Tally, Window

Key = tuple[str, str, str]  # policy, clause, subject
Counter = Bucket | Seats | Ledger
Hold = tuple[Charge, Account]

# Looked at for each call, and more for each new counter, so that counters at rest leave faster than new ones come.
SWEPT_PER_CALL = 1
SWEPT_PER_COUNTER = 2

# So few are not worth looking at: half a megabyte, and one user calling now and then would have his made anew each time.
KEPT = 1024

# A month's budget names its pages by the month's first second: no id can come again once its window and some slack are over.
KNOWN_S = 40 * 86_400


class Keeper(Protocol):
    """Who writes down what is held of quotas and what came of it, and so knows what was spent before."""

    def tally(self, key: SpendKey) -> Tally:
        """The one of this quota and window, with all that was spent of it; `unread` where that cannot be known now."""

    def held(self, reservation: "MemoryReservation", now_s: float) -> None:
        """Errors: StateUnavailable where it cannot be written, or is of a limit that refuses and unread; nothing is held then."""

    def settled(self, reservation: "MemoryReservation", used: Mapping[Unit, int], booking: Booking | None, *, over: bool) -> None:
        """As of `settle`; over: more was used than was held. Errors: StateUnavailable after close; it is settled all the same."""


class MemoryReservation:
    """What one call holds in a MemoryStore: each charge with the account that it is held of. quotas: those of windows once more.

    id: the keeper's, 0 for none. holder, lasts_s: as in `reserve`. began_s: epoch seconds, for whoever reads of it; began_ns: monotonic.
    """

    __slots__ = ("_holds", "_store", "_told", "began_ns", "began_s", "holder", "id", "lasts_s", "quotas", "shadowed")

    def __init__(
        self,
        store: "MemoryStore",
        holds: Sequence[Hold],
        quotas: Sequence[QuotaHold],
        shadowed: tuple[Denial, ...],
        holder: Holder,
        lasts_s: int,
        began_ns: int,
    ) -> None:
        self._store = store
        self._holds = holds
        self._told: tuple[Balance, ...] | None = None
        self.quotas = quotas
        self.shadowed = shadowed
        self.holder = holder
        self.lasts_s = lasts_s
        self.began_s = 0
        self.began_ns = began_ns
        self.id = 0

    def balances(self, *units: Unit) -> tuple[Balance, ...]:
        clock = self._store.clock
        now_ns, now_s = clock.monotonic_ns(), clock.wall_s()
        balances = []
        for charge, account in self._holds:
            if not units or charge.limit.unit in units:
                balances.append(account.balance(charge, now_ns, now_s))
        return tuple(balances)

    async def settle(self, used: Mapping[Unit, int], booking: Booking | None = None) -> tuple[Balance, ...]:
        return self._told if self._told is not None else self.end(used, booking)

    def end(self, used: Mapping[Unit, int], booking: Booking | None) -> tuple[Balance, ...]:
        """`settle`, at once, for whoever knows that it was not."""
        store = self._store
        now_ns = store.clock.monotonic_ns()
        over = False
        for charge, account in self._holds:
            held = charge.amount
            amount = used.get(charge.limit.unit, held)
            account.settle(held, amount if amount > 0 else 0, now_ns)
            if amount > held:
                over = True
        told: tuple[Balance, ...] = ()
        for charge, tally in self.quotas:
            store.noted[tally] = charge
            told_from = charge.limit.told_from
            if told_from is not None and tally.spent >= told_from:
                told += (tally.balance(charge, now_ns, store.clock.wall_s()),)
        self._told = told
        keeper = store.keeper
        if keeper is not None:
            keeper.settled(self, used, booking, over=over)
        return told

    def __repr__(self) -> str:
        state = "open" if self._told is None else "settled"
        return f"<MemoryReservation {state}: {', '.join(_words(charge) for charge, _ in self._holds) or 'nothing'}>"


class MemoryStore:
    """A StateStore and an Outbox that last as long as the process. keeper: who writes it down, None for nobody.

    noted: of the store and its reservations, for `changed`.
    """

    def __init__(self, clock: Clock, *, keeper: Keeper | None = None) -> None:
        self.clock = clock
        self.keeper = keeper
        self._recall = Tally if keeper is None else keeper.tally
        self._calendar = Calendar()
        self._counters: dict[Key, Counter] = {}
        self._ledgers: dict[Key, Ledger] = {}  # those of the counters that are quotas
        self._round: deque[Key] = deque()  # every counter once, the next to be looked at first
        self.noted: dict[Tally, Charge] = {}  # what calls settled on, with the charge that did last; until `changed` is asked
        self._undelivered: dict[str, Delivery] = {}
        self._delivered: dict[str, float] = {}  # id → epoch seconds, oldest first

    async def reserve(
        self, charges: Sequence[Charge], holder: Holder = NOBODY, *, lasts_s: int = 3600
    ) -> MemoryReservation | Denial:
        now_ns, now_s = self.clock.monotonic_ns(), self.clock.wall_s()
        if len(self._round) > KEPT:
            self._forget(SWEPT_PER_CALL, now_ns, now_s)
        holds: list[Hold] = []
        quotas: list[QuotaHold] = []
        over: list[tuple[Charge, Account, float | None]] = []
        counters = self._counters
        for charge in charges:
            limit = charge.limit
            counter = counters.get((limit.policy, limit.clause, charge.subject))
            if counter is None or counter.limit is not limit:
                counter = self._fitting(charge, counter, now_ns, now_s)
            if isinstance(counter, Ledger):
                account: Account = (tally := counter.account(now_s))
                quotas.append((charge, tally))
            else:
                account = counter
            # Held at once, given back below if need be: two charges of one counter must not both fit where only one does.
            wait_s = account.hold(charge, now_ns, now_s)
            holds.append((charge, account))
            if wait_s != 0:
                over.append((charge, account, wait_s))
        if over and any(charge.enforced for charge, _, _ in over):
            for charge, account in holds:
                account.settle(charge.amount, 0, now_ns)
            return max((_denial(*one, now_ns, now_s) for one in over if one[0].enforced), key=_longest)
        shadowed = tuple([_denial(*one, now_ns, now_s) for one in over]) if over else ()
        reservation = MemoryReservation(self, holds, quotas, shadowed, holder, lasts_s, now_ns)
        if quotas and self.keeper is not None:
            try:
                self.keeper.held(reservation, now_s)
            except StateUnavailable:
                for charge, account in holds:
                    account.settle(charge.amount, 0, now_ns)
                raise
        return reservation

    def peek(self, charge: Charge) -> Balance:
        now_ns, now_s = self.clock.monotonic_ns(), self.clock.wall_s()
        limit = charge.limit
        counter = self._counters.get((limit.policy, limit.clause, charge.subject))
        if counter is None or not counter.counts(limit):
            counter = self._new(charge)
        return counter.peek(limit, now_s).balance(charge, now_ns, now_s)

    def quotas(self, *, most: int = 1000) -> Iterator[tuple[Limit, str, int, int, Window]]:
        """The longest known first: from the first call on, and of a window that no call has met nothing is spent."""
        now_s = self.clock.wall_s()
        for (_, _, subject), ledger in tuple(islice(self._ledgers.items(), most)):
            assert isinstance(ledger.limit.rule, Quota)
            window = self._calendar.window(ledger.limit.rule, now_s)
            tally = ledger.known(window)
            spent, held = (0, 0) if tally is None else (tally.spent, tally.held)
            yield ledger.limit, subject, spent, held, window

    def changed(self) -> tuple[Balance, ...]:
        if not self.noted:
            return ()
        noted, self.noted = self.noted, {}
        now_ns, now_s = self.clock.monotonic_ns(), self.clock.wall_s()
        return tuple([tally.balance(charge, now_ns, now_s) for tally, charge in noted.items()])

    async def close(self) -> None:
        """Nothing to write, nothing to let go of."""

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        now_s = self.clock.wall_s()
        for id, delivered_s in tuple(islice(self._delivered.items(), 2 * len(deliveries))):
            if delivered_s + KNOWN_S < now_s:
                del self._delivered[id]
        before = len(self._undelivered)
        for delivery in deliveries:
            if delivery.id not in self._delivered:
                self._undelivered.setdefault(delivery.id, delivery)
        return len(self._undelivered) - before

    async def due(self, now_s: float, *, most: int = 32, skip: Collection[str] = ()) -> tuple[Delivery, ...]:
        # A scan: pages wait by the dozen, and only while a sink is down.
        waiting = [delivery for delivery in self._undelivered.values() if delivery.due_s <= now_s and delivery.sink not in skip]
        return tuple(sorted(waiting, key=lambda delivery: delivery.due_s)[:most])

    async def under(self, prefix: str) -> tuple[Delivery, ...]:
        return tuple(delivery for id, delivery in self._undelivered.items() if id.startswith(prefix))

    async def retry(self, id: str, *, due_s: float) -> None:
        known = self._undelivered.get(id)
        if known is not None:
            self._undelivered[id] = replace(known, due_s=due_s, attempts=known.attempts + 1)

    async def replace(self, delivery: Delivery) -> None:
        if delivery.id in self._undelivered:
            self._undelivered[delivery.id] = delivery

    async def done(self, id: str, *, then: Delivery | None = None, forget: Collection[str] = ()) -> None:
        if self._undelivered.pop(id, None) is not None:
            self._delivered[id] = self.clock.wall_s()
        if then is not None and then.id not in self._delivered:
            self._undelivered.setdefault(then.id, then)
        for one in forget:
            self._undelivered.pop(one, None)
            self._delivered.pop(one, None)

    def __repr__(self) -> str:
        quotas, pages = len(self._ledgers), len(self._undelivered)
        return f"<MemoryStore {len(self._counters)} counters, {quotas} of them quotas; {pages} pages to deliver>"

    def _fitting(self, charge: Charge, known: Counter | None, now_ns: int, now_s: float) -> Counter:
        """The counter of a charge whose limit it does not count under yet. known: the one of before a reload, if any."""
        limit = charge.limit
        if known is not None and known.counts(limit):
            known.refit(limit, now_ns)
            return known
        # First the old, then the new: it holds nothing yet, and would be taken for one at rest.
        self._forget(SWEPT_PER_COUNTER, now_ns, now_s)
        counter = self._new(charge)
        self._keep((limit.policy, limit.clause, charge.subject), counter)
        return counter

    def _new(self, charge: Charge) -> Counter:
        limit = charge.limit
        if isinstance(limit.rule, Rate):
            return Bucket(limit)
        return Seats(limit) if isinstance(limit.rule, Slots) else Ledger(charge, self._calendar, self._recall)

    def _keep(self, key: Key, counter: Counter) -> None:
        if key not in self._counters:
            self._round.append(key)
        self._counters[key] = counter
        self._ledgers.pop(key, None)
        if isinstance(counter, Ledger):
            self._ledgers[key] = counter

    def _forget(self, most: int, now_ns: int, now_s: float) -> None:
        for _ in range(min(most, len(self._round) - KEPT)):
            key = self._round.popleft()
            if self._counters[key].at_rest(now_ns, now_s):
                del self._counters[key]
                self._ledgers.pop(key, None)
            else:
                self._round.append(key)


def _denial(charge: Charge, account: Account, wait_s: float | None, now_ns: int, now_s: float) -> Denial:
    return Denial(charge, account.balance(charge, now_ns, now_s), wait_s)


def _longest(denial: Denial) -> float:
    return inf if denial.retry_after_s is None else denial.retry_after_s


def _words(charge: Charge) -> str:
    limit = charge.limit
    counted = "" if charge.enforced else " not enforced"
    return f"{limit.policy}/{limit.clause}/{charge.subject} {charge.amount} {limit.unit.value}{counted}"
