"""Buckets and calendar windows, against a model of each that is too simple to be wrong."""

from datetime import UTC, datetime
from fractions import Fraction
from math import ceil, floor
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.contract import Rate
from proxy.state.arithmetic import NS, pace, remaining, rescale, reset_ns, retry_after_ns, take, window

TEN_A_MINUTE = Rate(amount=10, per_s=60, burst=10)
RATES = st.builds(Rate, amount=st.integers(1, 10**6), per_s=st.sampled_from([1, 7, 60, 3600, 86_400]), burst=st.integers(1, 10**6))


def test_a_burst_passes_at_once_and_then_one_call_every_six_seconds() -> None:
    p, tat = pace(TEN_A_MINUTE), 0
    for _ in range(10):
        assert retry_after_ns(p, tat, NS, 1) == 0
        tat = take(p, tat, NS, 1)
    assert retry_after_ns(p, tat, NS, 1) == 6 * NS
    assert (remaining(p, tat, NS), reset_ns(p, tat, NS)) == (0, 60 * NS)
    assert (remaining(p, tat, 7 * NS), reset_ns(p, tat, 7 * NS)) == (1, 54 * NS)


def test_more_than_the_burst_never_fits() -> None:
    assert retry_after_ns(pace(TEN_A_MINUTE), 0, NS, 11) is None


def test_nothing_fits_even_into_debt() -> None:
    p = pace(TEN_A_MINUTE)
    assert retry_after_ns(p, take(p, 0, NS, 50), NS, 0) == 0


def test_what_is_given_back_after_it_drained_is_not_credited_twice() -> None:
    p = pace(TEN_A_MINUTE)
    tat = take(p, 0, NS, 10)
    tat = take(p, tat, 1000 * NS, -10)
    assert remaining(p, tat, 1000 * NS) == 10
    assert retry_after_ns(p, tat, 1000 * NS, 11) is None
    tat = take(p, tat, 1000 * NS, 10)
    assert remaining(p, tat, 1000 * NS) == 0


def test_a_changed_limit_keeps_the_units_in_the_bucket() -> None:
    old, new = pace(TEN_A_MINUTE), pace(Rate(amount=7, per_s=1, burst=100))
    tat = rescale(take(old, 0, NS, 8), NS, old=old, new=new)
    assert remaining(new, tat, NS) == 92
    assert remaining(new, rescale(0, NS, old=old, new=new), NS) == 100


class NaiveBucket:
    """Water that runs out at a steady rate, in fractions."""

    def __init__(self, rate: Rate) -> None:
        self.per_ns = Fraction(rate.amount, rate.per_s * NS)
        self.burst = rate.burst
        self.level = Fraction(0)

    def wait(self, passed_ns: int) -> None:
        self.level = max(Fraction(0), self.level - passed_ns * self.per_ns)

    def add(self, amount: int) -> None:
        self.level = max(Fraction(0), self.level + amount)


@settings(deadline=None)  # a busy machine is no failure
@given(RATES, st.lists(st.tuples(st.integers(0, 10**12), st.integers(-(10**6), 10**6)), max_size=30))
def test_a_bucket_agrees_with_a_naive_one_whatever_is_taken_and_given_back(rate: Rate, steps: list[tuple[int, int]]) -> None:
    p, tat, now_ns, naive = pace(rate), 0, NS, NaiveBucket(rate)
    for passed_ns, amount in steps:
        now_ns += passed_ns
        naive.wait(passed_ns)
        if amount > 0:
            over = naive.level + amount - rate.burst
            expected = None if amount > rate.burst else max(0, ceil(over / naive.per_ns))
            assert retry_after_ns(p, tat, now_ns, amount) == expected
        tat = take(p, tat, now_ns, amount)
        naive.add(amount)
        assert remaining(p, tat, now_ns) == max(0, floor(rate.burst - naive.level))
        assert reset_ns(p, tat, now_ns) == ceil(naive.level / naive.per_ns)


@settings(deadline=None)
@given(RATES, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_hold_that_is_settled_leaves_exactly_what_was_used(rate: Rate, before: int, held: int, used: int) -> None:
    p = pace(rate)
    tat = take(p, 0, NS, before)
    assert take(p, take(p, tat, NS, held), NS, used - held) == take(p, tat, NS, used)


@settings(deadline=None)
@given(RATES, st.integers(1, 10**6), st.integers(1, 10**6))
def test_whoever_waits_as_long_as_told_gets_in(rate: Rate, before: int, amount: int) -> None:
    p = pace(rate)
    tat = take(p, 0, NS, before)
    wait_ns = retry_after_ns(p, tat, NS, amount)
    if wait_ns is None:
        assert amount > rate.burst
    else:
        assert retry_after_ns(p, tat, NS + wait_ns, amount) == 0
        assert wait_ns == 0 or retry_after_ns(p, tat, NS + wait_ns - 1, amount) != 0


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def local(text: str, zone: str, *, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp())


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "end"),
    [
        ("minute", "UTC", "2026-11-22T10:11:12", "2026-11-22T10:11:00", "2026-11-22T10:12:00"),
        ("hour", "UTC", "2026-11-22T10:11:12", "2026-11-22T10:00:00", "2026-11-22T11:00:00"),
        ("hour", "Asia/Kolkata", "2026-11-22T10:11:12", "2026-11-22T09:30:00", "2026-11-22T10:30:00"),
        ("day", "UTC", "2026-11-22T00:00:00", "2026-11-22T00:00:00", "2026-11-23T00:00:00"),
        ("day", "UTC", "2026-11-22T23:59:59", "2026-11-22T00:00:00", "2026-11-23T00:00:00"),
        ("day", "Asia/Tokyo", "2026-11-22T23:59:59", "2026-11-22T15:00:00", "2026-11-23T15:00:00"),
        ("week", "UTC", "2026-11-22T23:59:59", "2026-11-16T00:00:00", "2026-11-23T00:00:00"),
        ("week", "UTC", "2026-11-23T00:00:00", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
        ("month", "UTC", "2026-01-31T12:00:00", "2026-01-01T00:00:00", "2026-02-01T00:00:00"),
        ("month", "UTC", "2026-02-28T23:59:59", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        ("month", "UTC", "2028-02-29T23:59:59", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("day", "UTC", "2028-02-29T12:00:00", "2028-02-29T00:00:00", "2028-03-01T00:00:00"),
        ("month", "America/New_York", "2026-11-01T03:59:59", "2026-10-01T04:00:00", "2026-11-01T04:00:00"),
    ],
)
def test_windows_follow_the_calendar(period: str, zone: str, now: str, start: str, end: str) -> None:
    assert window(period, zone, utc(now)) == (utc(start), utc(end))
    assert window(period, zone, utc(now) + 0.999) == (utc(start), utc(end))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("America/Sao_Paulo", "2018-11-04", 23),  # has no midnight: the clock jumped from there to one
        ("America/Havana", "2026-11-01", 25),  # has two: the day starts with the first
        ("Europe/Berlin", "2026-11-22", 24),
    ],
)
def test_a_day_is_as_long_as_the_zone_makes_it(zone: str, day: str, hours: float) -> None:
    start_s, end_s = window("day", zone, local(f"{day}T12:00:00", zone))
    assert end_s - start_s == hours * 3600
    assert datetime.fromtimestamp(start_s, ZoneInfo(zone)).date().isoformat() == day
    assert datetime.fromtimestamp(end_s - 1, ZoneInfo(zone)).date().isoformat() == day


def test_the_hour_that_is_repeated_in_autumn_is_two_windows() -> None:
    zone = "America/New_York"
    first = window("hour", zone, local("2026-11-01T01:30:00", zone, fold=0))
    second = window("hour", zone, local("2026-11-01T01:30:00", zone, fold=1))
    assert first == (utc("2026-11-01T05:00:00"), utc("2026-11-01T06:00:00"))
    assert second == (utc("2026-11-01T06:00:00"), utc("2026-11-01T07:00:00"))


def test_half_an_hour_repeated_is_a_window_of_half_an_hour() -> None:
    zone = "Australia/Lord_Howe"
    first = window("hour", zone, local("2026-04-05T01:45:00", zone, fold=0))
    second = window("hour", zone, local("2026-04-05T01:45:00", zone, fold=1))
    assert (first[1] - first[0], second[1] - second[0]) == (3600, 1800)
    assert first[1] == second[0]


def test_half_an_hour_skipped_leaves_a_window_of_half_an_hour() -> None:
    zone = "Australia/Lord_Howe"
    start_s, end_s = window("hour", zone, local("2026-10-04T02:45:00", zone))
    assert end_s - start_s == 1800


def test_a_day_that_a_zone_skipped_is_no_window() -> None:
    zone = "Pacific/Apia"  # crossed the date line after 29 December 2011
    _, end_s = window("day", zone, local("2011-12-29T12:00:00", zone))
    assert window("day", zone, end_s)[0] == end_s
    assert datetime.fromtimestamp(end_s, ZoneInfo(zone)).date().isoformat() == "2011-12-31"


def test_a_day_that_has_begun_keeps_on_when_the_clock_is_set_back_to_yesterday() -> None:
    zone = "America/St_Johns"  # went back from 00:01 to 23:01
    begun = window("day", zone, local("2010-11-07T00:00:30", zone, fold=0))
    assert window("day", zone, local("2010-11-06T23:30:00", zone, fold=1)) == begun
    assert window("day", zone, local("2010-11-06T23:30:00", zone, fold=0))[1] == begun[0]


def test_yesterday_keeps_on_until_a_midnight_that_the_clock_jumped_over() -> None:
    zone = "America/Toronto"  # went from 23:30 to 00:30
    jumped_s = local("1919-03-31T00:30:00", zone)
    assert window("day", zone, jumped_s - 1) == window("day", zone, jumped_s)
    assert window("day", zone, jumped_s + 1800)[0] == jumped_s + 1800


PERIODS = st.sampled_from(["minute", "hour", "day", "week", "month"])
ZONES = st.sampled_from(sorted(available_timezones()))


@settings(deadline=None)
@given(PERIODS, ZONES, st.integers(utc("1900-01-01"), utc("2100-01-01")), st.floats(0, 1))
def test_windows_tile_time_without_gap_or_overlap(period: str, zone: str, now_s: int, where: float) -> None:
    assert_tiles(period, zone, now_s, where)


@settings(deadline=None)
@given(PERIODS, ZONES, st.integers(1950, 2060), st.integers(-8 * 3600, 2 * 3600), st.floats(0, 1))
def test_windows_tile_the_nights_on_which_clocks_are_set(period: str, zone: str, year: int, near_s: int, where: float) -> None:
    for change_s in clock_changes(zone, year):
        assert_tiles(period, zone, change_s + near_s, where)


def assert_tiles(period: str, zone: str, now_s: int, where: float) -> None:
    start_s, end_s = window(period, zone, now_s)
    assert start_s <= now_s < end_s
    assert window(period, zone, start_s + int(where * (end_s - 1 - start_s))) == (start_s, end_s)
    assert window(period, zone, end_s)[0] == end_s
    assert window(period, zone, start_s - 1)[1] == start_s


def clock_changes(zone: str, year: int) -> list[int]:
    """Instants at most six hours after a zone's clock was set, within a year."""
    tz = ZoneInfo(zone)
    looks = range(utc(f"{year}-01-01"), utc(f"{year + 1}-01-01"), 6 * 3600)
    offsets = [datetime.fromtimestamp(at_s, tz).utcoffset() for at_s in looks]
    return [at_s for at_s, before, after in zip(looks[1:], offsets, offsets[1:], strict=False) if before != after]
