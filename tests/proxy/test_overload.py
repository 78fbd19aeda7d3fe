"""When calls are refused, for how long, and what they are told."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.errors import InvalidCall, Overloaded
from proxy.memory import HIGH, LOW, Bound, Memory
from proxy.overload import FEW, SMALL_BYTES, Overload
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from tests.clock import FakeClock

MIB = 1 << 20
LIMIT = 1000 * MIB
MANY = 1000


class Gauged:
    """An Overload, the memory and the time that it sees, and what it told."""

    def __init__(self, path: Path, *, used: float = 0.1, limited: bool = True, max_calls: int = MANY) -> None:
        self.used, self.now, self.random = used, 100.0, b"\0\0"
        self._path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        self.log = Log(self._fd, clock=FakeClock(), gather_s=0)
        self.metrics = Metrics(version="1", clock=FakeClock())
        self.overload = Overload(
            memory=Memory([Bound(1, LIMIT)] if limited else [], pages=self._pages),
            max_calls=max_calls,
            now=lambda: self.now,
            random=lambda count: self.random,
            log=self.log,
            shed=self.metrics.shed,
            gauge=self.metrics.overloaded,
        )

    def _pages(self) -> bytes:
        return b"0 %d 0 0 0 0 0" % (self.used * LIMIT // os.sysconf("SC_PAGESIZE"))

    def look(self, *, used: float | None = None, late_s: float = 0.0, running: int = 0) -> int:
        """A tenth of a second later. Returns how many calls may run."""
        self.now += 0.1
        self.used = self.used if used is None else used
        self.overload.look(late_s=late_s, running=running)
        return self.overload.most_calls

    def lines(self) -> list[dict[str, Any]]:
        self.log.close(within_s=20)
        return [orjson.loads(line) for line in self._path.read_bytes().splitlines()]


@pytest.fixture
def gauged(tmp_path: Path) -> Iterator[Gauged]:
    made = Gauged(tmp_path / "log")
    yield made
    made.log.close(within_s=20)


def test_calls_are_refused_near_the_limit_and_taken_again_only_well_below_it(gauged: Gauged) -> None:
    assert gauged.look(used=HIGH - 0.01) > FEW
    assert gauged.look(used=HIGH + 0.01, running=50) == FEW
    assert gauged.look(used=(HIGH + LOW) / 2, running=50) == FEW, "or it would flap"
    assert gauged.look(used=LOW - 0.01, running=50) > 50
    assert gauged.look(used=(HIGH + LOW) / 2, running=50) > 50


def test_a_few_calls_pass_whatever_is_used_so_that_memory_that_stays_does_not_end_all_service(gauged: Gauged) -> None:
    for _ in range(100):
        assert gauged.look(used=0.99) == FEW


def test_between_two_looks_no_more_calls_are_taken_than_there_is_room_for(gauged: Gauged) -> None:
    room = (HIGH - 0.8499) * LIMIT
    most = gauged.look(used=0.8499, running=7)
    assert 7 < most <= 7 + max(FEW, room // SMALL_BYTES)
    assert gauged.look(used=0.1) == MANY


def test_without_a_limit_memory_refuses_nothing(tmp_path: Path) -> None:
    gauged = Gauged(tmp_path / "log", limited=False)
    assert gauged.look(used=5.0, running=900) == MANY
    gauged.overload.hold(1 << 40)
    gauged.log.close(within_s=20)


def test_a_burst_of_large_bodies_is_stopped_before_memory_shows_it(gauged: Gauged) -> None:
    gauged.look(used=0.1)
    taken = 0
    while 4 * (taken + 10 * MIB) < (HIGH - 0.1) * LIMIT:
        gauged.overload.hold(10 * MIB)
        taken += 10 * MIB
    assert taken > 100 * MIB
    with pytest.raises(Overloaded) as refused:
        gauged.overload.hold(20 * MIB)
    assert (refused.value.code, refused.value.status) == ("overloaded", 503)
    gauged.overload.received(taken)
    with pytest.raises(Overloaded):
        gauged.overload.hold(100 * MIB)
    gauged.look(used=0.1)
    gauged.overload.hold(100 * MIB)


def test_a_body_for_which_there_never_is_room_is_not_asked_for_again(gauged: Gauged) -> None:
    with pytest.raises(InvalidCall) as refused:
        gauged.overload.hold(900 * MIB)
    assert refused.value.code == "request_too_large"


@pytest.mark.parametrize(("late_s", "sheds"), [([30.0, 0.0, 0.0], False), ([1.5, 1.5, 1.5], True), ([0.5] * 5, False)])
def test_one_late_look_is_a_pause_and_two_are_overload(gauged: Gauged, late_s: list[float], sheds: bool) -> None:
    assert (FEW in [gauged.look(late_s=late) for late in late_s]) is sheds
    if sheds:
        assert gauged.look(late_s=0.5) == FEW, "it is not on time yet"
        assert gauged.look(late_s=0.01) == MANY


def test_no_more_calls_run_than_the_operator_allows(tmp_path: Path) -> None:
    gauged = Gauged(tmp_path / "log", limited=False, max_calls=10)
    assert gauged.look(running=10) == 10
    gauged.overload.refusal(11)
    assert gauged.metrics.shed.child("calls").value == 1
    gauged.log.close(within_s=20)


def test_when_to_come_back_grows_with_how_long_it_has_lasted_and_is_not_the_same_for_all(gauged: Gauged) -> None:
    gauged.look(used=0.9)
    first = gauged.overload.refusal(100).retry_after_s
    gauged.random = b"\xff\xff"
    assert (first, round(gauged.overload.refusal(100).retry_after_s or 0, 3)) == (1.0, 2.0)
    gauged.now += 5
    gauged.random = b"\0\0"
    assert gauged.overload.refusal(100).retry_after_s == 5.0
    gauged.now += 500
    assert gauged.overload.refusal(100).retry_after_s == 10.0


def test_a_spell_begins_once_and_ends_once_and_says_how_many_it_cost(gauged: Gauged) -> None:
    gauged.look(used=0.9)
    for _ in range(5):
        gauged.overload.refusal(100)
        gauged.look()
    assert gauged.metrics.overloaded.value == 1
    gauged.overload.refusal(100)
    gauged.look(used=0.5)
    assert gauged.metrics.overloaded.value == 1, "somebody was refused since the last look"
    gauged.look(running=3)
    gauged.look()
    assert gauged.metrics.overloaded.value == 0
    began, ended = gauged.lines()
    assert (began["event"], began["reason"]) == ("overload.began", "memory")
    assert (ended["event"], ended["refused"], ended["running"]) == ("overload.ended", 6, 3)
    assert 0.5 < ended["lasted_s"] < 1


def test_connections_that_are_refused_are_a_spell_too(gauged: Gauged) -> None:
    assert gauged.overload.turned_away() >= 1.0
    gauged.look()
    gauged.look()
    assert [line["event"] for line in gauged.lines()] == ["overload.began", "overload.ended"]
    assert gauged.metrics.shed.child("connections").value == 1


def test_once_closed_no_look_opens_it_again(gauged: Gauged) -> None:
    gauged.overload.close()
    assert gauged.look(used=0.0) < 0
