"""A deadline ends the call that it belongs to, says which one it was, and is never taken for a client that left."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any

import pytest

from proxy.deadlines import TICK_S, Sweep, Watch


class Timer:
    """What `call_later` returns."""

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Time:
    """As much of an event loop as deadlines use, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and run what falls due in it, in steps of one tick."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + TICK_S)
            due = [timer for timer in self.timers if timer.at <= self.now + 1e-9 and not timer.cancelled]
            self.timers = [timer for timer in self.timers if timer not in due and not timer.cancelled]
            for timer in due:
                timer.callback()


class Ended(Exception):
    """How a call of these tests says that its deadline passed."""


@pytest.fixture
def time() -> Time:
    return Time()


@asynccontextmanager
async def call(sweep: Sweep, begin: Callable[[Watch], None]) -> AsyncIterator[tuple["asyncio.Task[str | None]", Watch]]:
    """A call that waits for ever, and returns the name of the deadline that ended it."""
    started: asyncio.Future[Watch] = asyncio.get_running_loop().create_future()

    async def run() -> str | None:
        watch = sweep.watch()
        begin(watch)
        started.set_result(watch)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not watch.absorb():
                raise
        finally:
            sweep.forget(watch)
        return watch.expired

    task = asyncio.create_task(run())
    yield task, await started
    task.cancel()
    await asyncio.wait([task])


def sweep_on(time: Time) -> Sweep:
    loop: Any = time
    return Sweep(loop)


def watch_on(time: Time) -> Watch:
    loop: Any = time
    task = asyncio.current_task()
    assert task is not None
    return Watch(task, loop)


# ---- one watch ----

# name of the case → what is expected of the call, and when and as what it expires
EXPECTATIONS: dict[str, tuple[list[tuple[Any, ...]], float, str]] = {
    "a stage": ([("expect", "idle", 5)], 105, "idle"),
    "the last stage set": ([("expect", "first_byte", 60), ("expect", "idle", 5)], 105, "idle"),
    "a stage that goes on": ([("expect_at", "first_token", 102.5)], 102.5, "first_token"),
    "the total": ([("bound", 7, "", inf)], 107, "total"),
    "the total before a stage": ([("bound", 7, "idle", 60)], 107, "total"),
    "a stage before the total": ([("bound", 60, "idle", 7)], 107, "idle"),
    "a stage that ends with the total": ([("bound", 7, "idle", 7)], 107, "idle"),
    "the total while no stage runs": ([("bound", 7, "idle", 1), ("expect_nothing",)], 107, "total"),
}


@pytest.mark.parametrize(("steps", "at", "stage"), EXPECTATIONS.values(), ids=EXPECTATIONS)
async def test_a_call_expires_at_its_deadline_and_not_before(
    time: Time, steps: list[tuple[Any, ...]], at: float, stage: str
) -> None:
    watch = watch_on(time)
    for name, *arguments in steps:
        getattr(watch, name)(*arguments)
    watch.expire_if_due(at - 0.001)
    assert watch.expired is None
    watch.expire_if_due(at)
    assert watch.expired == stage
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert watch.absorb()


async def test_a_beat_begins_the_stage_anew_at_the_next_look(time: Time) -> None:
    watch = watch_on(time)
    watch.expect("idle", 5)
    for now in (104.0, 108.9, 113.0):
        watch.beat = True
        watch.expire_if_due(now)
    watch.expire_if_due(117.9)
    assert watch.expired is None
    watch.expire_if_due(118)
    assert watch.expired == "idle"
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()


@pytest.mark.parametrize("expect", [lambda w: w.expect("write_stall", 5), lambda w: w.expect_at("first_token", 105)])
async def test_a_beat_of_the_stage_before_does_not_count(time: Time, expect: Callable[[Watch], None]) -> None:
    watch = watch_on(time)
    watch.expect("idle", 500)
    watch.beat = True
    expect(watch)
    watch.expire_if_due(105)
    assert watch.expired is not None
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_no_beat_moves_the_total(time: Time) -> None:
    watch = watch_on(time)
    watch.bound(7, "idle", 5)
    watch.beat = True
    watch.expire_if_due(107)
    assert watch.expired == "total"
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()


@pytest.mark.parametrize("expect", [lambda w: None, lambda w: w.expect("idle", float("inf")), lambda w: w.expect_nothing()])
async def test_without_a_deadline_nothing_expires(time: Time, expect: Callable[[Watch], None]) -> None:
    watch = watch_on(time)
    expect(watch)
    watch.expire_if_due(1e18)
    assert watch.expired is None


# ---- the sweep ----


async def test_the_sweep_ends_each_call_at_its_own_deadline(time: Time) -> None:
    sweep = sweep_on(time)
    async with call(sweep, lambda w: w.expect("idle", 1)) as (soon, _), call(sweep, lambda w: w.bound(3, "", inf)) as (late, _):
        time.pass_by(0.95)
        assert (soon.cancelling(), late.cancelling()) == (0, 0)
        time.pass_by(0.1)
        assert await soon == "idle"
        time.pass_by(1.9)
        assert late.cancelling() == 0
        time.pass_by(0.1)
        assert await late == "total"


async def test_of_many_that_are_late_at_once_each_is_ended_in_a_turn_of_its_own(time: Time) -> None:
    sweep = sweep_on(time)
    async with AsyncExitStack() as undo:
        tasks = [(await undo.enter_async_context(call(sweep, lambda w: w.expect("idle", 1))))[0] for _ in range(5)]
        time.pass_by(1.0 + TICK_S)
        for ended in range(1, 6):
            assert sum(task.cancelling() for task in tasks) == ended
            time.pass_by(0.003)
        assert [await task for task in tasks] == ["idle"] * 5


async def test_a_call_that_makes_progress_does_not_expire(time: Time) -> None:
    sweep = sweep_on(time)
    async with call(sweep, lambda w: w.expect("idle", 1)) as (task, watch):
        for _ in range(20):
            time.pass_by(0.9)
            watch.expect("idle", 1)
        assert task.cancelling() == 0
        time.pass_by(1.1)
        assert await task == "idle"


async def test_an_idle_sweep_has_no_timer(time: Time) -> None:
    sweep = sweep_on(time)
    assert time.timers == []
    async with call(sweep, lambda w: w.expect("idle", 1)), call(sweep, lambda w: None):
        assert len(time.timers) == 1, "one timer for all"
        assert repr(sweep) == "<Sweep watches=2>"
        time.pass_by(0.5)
        assert len(time.timers) == 1
    time.pass_by(TICK_S)
    assert time.timers == []
    async with call(sweep, lambda w: w.expect("idle", 1)) as (task, _):
        time.pass_by(1.1)
        assert await task == "idle", "and it starts again"


async def test_a_drain_ends_every_call_by_its_name(time: Time) -> None:
    sweep = sweep_on(time)
    async with call(sweep, lambda w: None) as (one, _), call(sweep, lambda w: w.expect("idle", 9)) as (two, _):
        sweep.expire_all("drain")
        assert [await one, await two] == ["drain", "drain"]


async def test_a_closed_sweep_ends_nothing(time: Time) -> None:
    sweep = sweep_on(time)
    async with call(sweep, lambda w: w.expect("idle", 1)) as (task, _):
        sweep.close()
        time.pass_by(5)
        assert task.cancelling() == 0
    sweep.close()


# ---- whose cancellation it was ----


async def test_a_client_that_left_is_no_deadline(time: Time) -> None:
    async with call(sweep_on(time), lambda w: w.expect("idle", 1)) as (task, watch):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watch.expired is None


@pytest.mark.parametrize("first", ["client", "deadline"])
async def test_a_client_that_leaves_as_its_deadline_passes_has_left(time: Time, first: str) -> None:
    sweep = sweep_on(time)
    async with call(sweep, lambda w: w.expect("idle", 1)) as (task, watch):
        for step in ("client", "deadline") if first == "client" else ("deadline", "client"):
            if step == "client":
                task.cancel()
            else:
                time.pass_by(1.1)
        assert watch.expired == "idle"
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_deadline_cancels_once_however_often_it_is_looked_at(time: Time) -> None:
    async with call(sweep_on(time), lambda w: w.expect("idle", 1)) as (task, watch):
        time.pass_by(3)
        watch.expire("drain")
        assert task.cancelling() == 1
        assert await task == "idle"


async def test_after_an_expiry_a_call_goes_on_with_a_new_deadline_and_no_total(time: Time) -> None:
    sweep = sweep_on(time)
    stages: list[str | None] = []
    waiting = asyncio.Event()

    async def run() -> None:
        watch = sweep.watch()
        watch.bound(1, "", inf)
        for _ in range(2):
            waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                assert watch.absorb()
                stages.append(watch.expired)
                watch.rearm("write_stall", 10)
        sweep.forget(watch)

    task = asyncio.create_task(run())
    for seconds in (1.1, 10.1):
        await waiting.wait()
        waiting.clear()
        time.pass_by(seconds)
    await task
    assert stages == ["total", "write_stall"]
    assert task.cancelling() == 0


async def test_a_watch_shows_what_it_waits_for(time: Time) -> None:
    watch = watch_on(time)
    watch.expect("idle", 1)
    assert repr(watch) == "<Watch stage='idle' expired=None>"


async def test_after_a_pause_what_has_come_in_it_counts(time: Time) -> None:
    """Or every stream would end that went on while the process was stopped."""
    async with call(sweep_on(time), lambda watch: watch.expect("idle", 5)) as (task, watch):
        time.now += 60
        time.pass_by(TICK_S)
        watch.beat = True  # the loop has read what lay there
        time.pass_by(4)
        assert watch.expired is None
        time.now += 60
        time.pass_by(3 * TICK_S)
        assert await task == "idle"
