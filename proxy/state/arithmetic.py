"""The arithmetic of limits: a bucket that drains (GCRA) and calendar windows, as pure functions of whole numbers.

No clock, no counters, no I/O: time comes in and a number goes out, so that every store counts alike.

A bucket is one integer, `tat`: the instant at which it will be empty (GCRA's theoretical arrival time). Taking `n` units moves it
`n` intervals into the future, giving back moves it to the past, and a bucket is full when `tat` is `depth` ahead of now. The rule a
reader could break: instants are in ticks, not nanoseconds. A tick is a nanosecond divided so that one unit takes a whole number of
ticks (7 per minute: 7 ticks a nanosecond); nothing is ever rounded on its way in, so what is held and given back cancels exactly.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from math import floor, gcd
from zoneinfo import ZoneInfo

from proxy.policy.contract import Rate

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """A Rate in ticks. interval: what one unit takes to drain; depth: what the bucket holds, burst × interval."""

    ticks_per_ns: int
    interval: int
    depth: int


@lru_cache(maxsize=1024)
def pace(rate: Rate) -> Pace:
    """The rate in the coarsest ticks that keep it exact. rate: all amounts ≥ 1. One value per rate, shared by all its buckets."""
    period_ns = rate.per_s * NS
    common = gcd(rate.amount, period_ns)
    interval = period_ns // common
    return Pace(ticks_per_ns=rate.amount // common, interval=interval, depth=rate.burst * interval)


def take(pace: Pace, tat: int, now_ns: int, amount: int) -> int:
    """The bucket after `amount` more units, whether they fit or not.

    amount: units of any sign: a hold, a hold given back, or by how much a settlement differs from its hold. Beyond the depth it is
    debt, which drains like everything else; below empty there is nothing to win, the bucket is empty.
    """
    now = now_ns * pace.ticks_per_ns
    return (tat if tat > now else now) + amount * pace.interval


def retry_after_ns(pace: Pace, tat: int, now_ns: int, amount: int) -> int | None:
    """Nanoseconds until `amount` units fit, 0 when they do now (nothing always does), None when they never will.

    Rounded up: coming back then succeeds.
    """
    taken = amount * pace.interval
    if taken > pace.depth:
        return None
    late = tat + taken - pace.depth - now_ns * pace.ticks_per_ns
    return 0 if late <= 0 or not amount else -(-late // pace.ticks_per_ns)


def remaining(pace: Pace, tat: int, now_ns: int) -> int:
    """Whole units that fit now, ≥ 0."""
    level = tat - now_ns * pace.ticks_per_ns
    if level <= 0:
        return pace.depth // pace.interval
    return (pace.depth - level) // pace.interval if level < pace.depth else 0


def reset_ns(pace: Pace, tat: int, now_ns: int) -> int:
    """Nanoseconds until the bucket is empty, that is: until its whole burst fits again. Rounded up."""
    level = tat - now_ns * pace.ticks_per_ns
    return 0 if level <= 0 else -(-level // pace.ticks_per_ns)


def rescale(tat: int, now_ns: int, *, old: Pace, new: Pace) -> int:
    """The same units in the bucket of another rate. Rounded up, by less than a tick: changing a limit gives nothing away."""
    level = tat - now_ns * old.ticks_per_ns
    now = now_ns * new.ticks_per_ns
    return now if level <= 0 else now - (-level * new.interval // old.interval)


_CLOCK_S = {"minute": 60, "hour": 3600}


def window(period: str, zone: str, now_s: float) -> tuple[int, int]:
    """The calendar window around an instant, as epoch seconds: its start, and the first second that is no longer in it.

    period: minute, hour, day, week (from Monday) or month; zone: IANA name; now_s: epoch seconds. Windows follow each other without
    gap or overlap. A day may have 23 or 25 hours, or none where a zone crossed the date line. Errors: KeyError for an unknown
    period, ZoneInfoNotFoundError for an unknown zone; the compiler of policies lets neither through.
    """
    at_s, tz = floor(now_s), ZoneInfo(zone)
    length_s = _CLOCK_S.get(period)
    return _dates(period, tz, at_s) if length_s is None else _clock(length_s, tz, at_s)


def _clock(length_s: int, tz: ZoneInfo, at_s: int) -> tuple[int, int]:
    """The minute or hour of the local clock, cut where the clock is set.

    So the hour that a zone repeats in autumn is two windows of an hour, and half an hour skipped leaves one of half an hour. The
    other choice, one window for both passes, would let a limit per hour starve for two.
    """
    offset_s = _offset_s(tz, at_s)
    start_s = at_s - (at_s + offset_s) % length_s
    end_s = start_s + length_s
    if _offset_s(tz, start_s) != offset_s:
        start_s = _change_s(tz, start_s, at_s)
    if _offset_s(tz, end_s - 1) != offset_s:
        end_s = _change_s(tz, at_s, end_s - 1)
    return start_s, end_s


def _dates(period: str, tz: ZoneInfo, at_s: int) -> tuple[int, int]:
    """The dates of the local calendar, each from its first midnight."""
    first = _first(period, datetime.fromtimestamp(at_s, tz).date())
    start_s, end_s = _midnight_s(first, tz), _midnight_s(_next(period, first), tz)
    if at_s >= end_s:
        # A clock set back from 00:01 to 23:01 shows yesterday's date after today has begun: today's window keeps on.
        start_s, end_s = end_s, _midnight_s(_next(period, _next(period, first)), tz)
    elif at_s < start_s:
        # A clock set forward from 23:30 to 00:30 shows a date whose midnight, counted on the old clock, is still to come.
        start_s, end_s = _midnight_s(_first(period, first - timedelta(days=1)), tz), start_s
    return start_s, end_s


def _first(period: str, day: date) -> date:
    starts = {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}
    return starts[period]


def _next(period: str, first: date) -> date:
    longest = {"day": 1, "week": 7, "month": 31}
    return _first(period, first + timedelta(days=longest[period]))


def _midnight_s(day: date, tz: ZoneInfo) -> int:
    """Epoch seconds of the first midnight of a date; of the moment the clock jumped where it has none (fold=0, PEP 495)."""
    return int(datetime(day.year, day.month, day.day, tzinfo=tz).timestamp())


def _offset_s(tz: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, tz).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _change_s(tz: ZoneInfo, before_s: int, after_s: int) -> int:
    """The second at which the local clock was set, between two that differ. No zone sets it twice within an hour."""
    offset_s = _offset_s(tz, before_s)
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if _offset_s(tz, middle_s) == offset_s:
            before_s = middle_s
        else:
            after_s = middle_s
    return after_s
