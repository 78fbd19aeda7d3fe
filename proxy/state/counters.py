"""What a store remembers of one limit and one subject: a bucket, the seats of running calls, or the spend of calendar windows.

No lookup, no waiting, no decision: a counter says how long an amount would have to wait, takes it when told, and settles it. An
account is the part of a counter that a call holds of: the bucket, the seats, or the tally of one window. The rule a reader could
break: a call settles on the account it held of, not on the one its limit would lead to now. Spend therefore belongs to the window
in which it was held, and a call that runs over midnight leaves the new day untouched.
"""

from collections.abc import Callable
from typing import Protocol

from proxy.policy.contract import Balance, Charge, Limit, Quota, Rate, Slots, Unit
from proxy.state.arithmetic import NS, Pace, pace, remaining, rescale, reset_ns, retry_after_ns, take, window

Window = tuple[int, int]
SpendKey = tuple[str, str, str, Unit, Window]  # policy, clause, subject, unit, window

# When only running calls stand in the way, nobody knows when they end. A second keeps a client from hammering, and from giving up.
HELD_RETRY_S = 1.0

# Wall clocks step by less than this (a leap second, NTP after a pause, an operator's zone mistake): a window that ended is kept as
# long, so that a clock set back over its end finds what was spent in it.
CLOCK_STEP_S = 3600


class Account(Protocol):
    def hold(self, charge: Charge, now_ns: int, now_s: float) -> float | None:
        """Hold the charge, and say how long it would have had to wait for its place: seconds, 0 for none, None for ever.

        It is held in any case; whoever does not want that settles it to nothing in the same instant, and it has never been.
        A charge of nothing never waits, not even for a spent budget: a call that costs nothing is not the one to refuse.
        """

    def settle(self, held: int, used: int, now_ns: int) -> None: ...

    def balance(self, charge: Charge, now_ns: int, now_s: float) -> Balance: ...


class Counter(Protocol):
    """limit: the one it last counted under."""

    limit: Limit

    def counts(self, limit: Limit) -> bool:
        """Whether it can go on under this limit. If not (a rate that became a quota, other units), a new counter is due."""

    def refit(self, limit: Limit, now_ns: int) -> None:
        """Go on under a limit that it `counts`, often the same one built anew."""

    def peek(self, limit: Limit, now_s: float) -> Account:
        """What a call made now under a limit that it `counts` would hold of, without remembering that it was asked."""

    def at_rest(self, now_ns: int, now_s: float) -> bool:
        """Whether it says nothing that a new counter would not say."""


class Bucket:
    """A rate. Everything held is in the bucket and drains; `held` only says how much of what was taken may still come back.

    What every call asks is written out here and agrees with `take`, `retry_after_ns`, `remaining` and `reset_ns`.
    """

    __slots__ = ("_calls", "_depth", "_held", "_interval", "_pace", "_tat", "_ticks_per_ns", "_unit", "limit")

    def __init__(self, limit: Limit) -> None:
        assert isinstance(limit.rule, Rate)
        self.limit = limit
        self._unit = limit.unit
        self._set_pace(pace(limit.rule))
        self._tat = 0
        self._held = 0
        self._calls = 0

    def counts(self, limit: Limit) -> bool:
        return type(limit.rule) is Rate and limit.unit is self._unit

    def refit(self, limit: Limit, now_ns: int) -> None:
        assert isinstance(limit.rule, Rate)
        changed = pace(limit.rule)
        if changed is not self._pace:
            self._tat = rescale(self._tat, now_ns, old=self._pace, new=changed)
            self._set_pace(changed)
        self.limit = limit

    def _set_pace(self, pace: Pace) -> None:
        self._pace = pace
        self._ticks_per_ns, self._interval, self._depth = pace.ticks_per_ns, pace.interval, pace.depth

    def peek(self, limit: Limit, now_s: float) -> "Bucket":
        return self

    def hold(self, charge: Charge, now_ns: int, now_s: float) -> float | None:
        amount = charge.amount
        tat, now = self._tat, now_ns * self._ticks_per_ns
        level = amount * self._interval if tat <= now else tat - now + amount * self._interval
        self._tat = now + level
        self._held += amount
        self._calls += 1
        if level <= self._depth:
            return 0
        wait_ns = retry_after_ns(self._pace, tat, now_ns, amount)
        return None if wait_ns is None else wait_ns / NS

    def settle(self, held: int, used: int, now_ns: int) -> None:
        self._held -= held
        self._calls -= 1
        if used != held:
            self._tat = take(self._pace, self._tat, now_ns, used - held)

    def balance(self, charge: Charge, now_ns: int, now_s: float) -> Balance:
        limit = charge.limit
        if limit is not self.limit and isinstance(limit.rule, Rate):
            # A call that began before a reload is told about the limit it began under.
            shown = pace(limit.rule)
            tat = rescale(self._tat, now_ns, old=self._pace, new=shown)
            return Balance(charge, remaining(shown, tat, now_ns), reset_ns(shown, tat, now_ns) / NS, 0, self._held)
        level = self._tat - now_ns * self._ticks_per_ns
        if level < 0:
            level = 0
        left = (self._depth - level) // self._interval
        return Balance(charge, left if left > 0 else 0, -(-level // self._ticks_per_ns) / NS, 0, self._held)

    def at_rest(self, now_ns: int, now_s: float) -> bool:
        return not self._calls and not reset_ns(self._pace, self._tat, now_ns)


class Seats:
    """Calls at the same time. Given back when they settle, whatever they used."""

    __slots__ = ("_held", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._held = 0

    def counts(self, limit: Limit) -> bool:
        return type(limit.rule) is Slots

    def refit(self, limit: Limit, now_ns: int) -> None:
        self.limit = limit

    def peek(self, limit: Limit, now_s: float) -> "Seats":
        return self

    def hold(self, charge: Charge, now_ns: int, now_s: float) -> float | None:
        amount, most = charge.amount, charge.limit.amount
        self._held += amount
        if self._held <= most or not amount:
            return 0
        return HELD_RETRY_S if amount <= most else None

    def settle(self, held: int, used: int, now_ns: int) -> None:
        self._held -= held

    def balance(self, charge: Charge, now_ns: int, now_s: float) -> Balance:
        left = charge.limit.amount - self._held
        return Balance(charge, left if left > 0 else 0, 0.0, 0, self._held)

    def at_rest(self, now_ns: int, now_s: float) -> bool:
        return not self._held


class Tally:
    """One window of a quota, from `starts_s` to before `ends_s`: its bounds as a clock has them, to be compared in every call.

    unread: what was spent before it was made is not in `spent`, for it could not be looked up.
    """

    __slots__ = ("__weakref__", "calls", "ends_s", "held", "key", "spent", "starts_s", "unread", "window")

    def __init__(self, key: SpendKey, *, unread: bool = False) -> None:
        self.key = key
        self.window = window = key[4]
        self.starts_s, self.ends_s = float(window[0]), float(window[1])
        self.unread = unread
        self.spent = 0
        self.held = 0
        self.calls = 0

    def hold(self, charge: Charge, now_ns: int, now_s: float) -> float | None:
        amount, most = charge.amount, charge.limit.amount
        self.held += amount
        self.calls += 1
        if self.spent + self.held <= most or not amount:
            return 0
        if amount > most:
            return None
        return self.ends_s - now_s if self.spent + amount > most else HELD_RETRY_S

    def settle(self, held: int, used: int, now_ns: int) -> None:
        self.held -= held
        self.calls -= 1
        self.spent += used

    def balance(self, charge: Charge, now_ns: int, now_s: float) -> Balance:
        spent, held = self.spent, self.held
        left = charge.limit.amount - spent - held
        reset_s = self.ends_s - now_s
        return Balance(charge, left if left > 0 else 0, reset_s if reset_s > 0.0 else 0.0, spent, held, self.window)

    def at_rest(self, now_s: float) -> bool:
        return not self.calls and (not self.spent or now_s >= self.ends_s + CLOCK_STEP_S)


QuotaHold = tuple[Charge, Tally]  # what is held of a window of a quota


class Calendar:
    """The current window of each period and zone, so that zones are asked when a window turns and not for every call."""

    __slots__ = ("_windows",)

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], Window] = {}  # bounded by the pairs that policies ever named

    def window(self, quota: Quota, now_s: float) -> Window:
        key = (quota.period, quota.zone)
        known = self._windows.get(key)
        if known is None or not known[0] <= now_s < known[1]:
            known = self._windows[key] = window(quota.period, quota.zone, now_s)
        return known


class Ledger:
    """A quota: the tallies of its last two windows, the current one last.

    Two, because a wall clock steps: set back over midnight it must find yesterday's spend, and today's when midnight comes again.
    recall: the tally of a window that is not among the two, with what was spent of it before.
    """

    __slots__ = ("_calendar", "_current", "_recall", "_subject", "_tallies", "_unit", "limit")

    def __init__(self, charge: Charge, calendar: Calendar, recall: Callable[[SpendKey], Tally]) -> None:
        self.limit = charge.limit
        self._unit = charge.limit.unit
        self._subject = charge.subject
        self._calendar = calendar
        self._recall = recall
        self._tallies: tuple[Tally, ...] = ()
        self._current: Tally | None = None  # the last tally, while its window is that of the limit's period and zone

    def counts(self, limit: Limit) -> bool:
        return type(limit.rule) is Quota and limit.unit is self._unit

    def refit(self, limit: Limit, now_ns: int) -> None:
        self.limit = limit
        self._current = None

    def account(self, now_s: float) -> Tally:
        """What a call made now, under its limit, holds of."""
        current = self._current
        if current is None or not current.starts_s <= now_s < current.ends_s:
            current = self.peek(self.limit, now_s)
            others = tuple(tally for tally in self._tallies if tally is not current)
            self._tallies = (*others[-1:], current)
            self._current = None if current.unread else current  # the next call looks it up again
        return current

    def known(self, window: Window) -> Tally | None:
        """That of a window, if it is one of the two: nothing is looked up for it."""
        return next((tally for tally in self._tallies if tally.window == window), None)

    def peek(self, limit: Limit, now_s: float) -> Tally:
        assert isinstance(limit.rule, Quota)
        window = self._calendar.window(limit.rule, now_s)
        known = self.known(window)
        if known is not None and not known.unread:
            return known
        return self._recall((limit.policy, limit.clause, self._subject, self._unit, window))

    def at_rest(self, now_ns: int, now_s: float) -> bool:
        return all(tally.at_rest(now_s) for tally in self._tallies)
