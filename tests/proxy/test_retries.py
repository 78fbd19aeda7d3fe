"""What is tried again is a share of what is called."""

import pytest

from proxy.retries import LEAST, ROLL_S, WINDOW_S, Retries


def test_of_many_calls_at_once_a_share_is_tried_again() -> None:
    retries = Retries()
    taken = sum(retries.take(1000, percent=20) for _ in range(1000))
    assert taken == 200 + LEAST


@pytest.mark.parametrize("percent", [1, 20, 100])
def test_a_storm_does_not_grow(percent: int) -> None:
    """An upstream that refuses everything for ten minutes."""
    retries, calls, taken = Retries(), 0, 0
    for _ in range(round(600 / ROLL_S)):
        for _ in range(25):
            calls += 1
            taken += retries.take(calls, percent=percent)
        retries.roll(calls)
    spare = LEAST * 600 / WINDOW_S
    assert taken <= calls * percent / 100 + spare + LEAST
    assert taken >= calls * percent / 100 * 0.9


def test_a_quiet_app_may_still_try_again() -> None:
    retries = Retries()
    for call in range(1, 20):
        assert retries.take(call, percent=1)
        for _ in range(round(WINDOW_S / ROLL_S)):
            retries.roll(call)


def test_calls_of_long_ago_are_no_reserve() -> None:
    retries = Retries()
    retries.roll(100_000)
    for _ in range(round(20 * WINDOW_S / ROLL_S)):
        retries.roll(100_000)
    assert sum(retries.take(100_001, percent=20) for _ in range(1000)) == LEAST
