"""What becomes of a page after each answer, and how long a sink that failed is left alone."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import orjson
import pytest

from proxy.lane import GIVE_UP_RESOLVE_S, GIVE_UP_S, MOST_REST_S, MOST_RETRY_S, Lane, Means, Unreachable
from proxy.page import THRESHOLD_CROSSED, THRESHOLD_RESOLVED, Page
from proxy.pager import POLL_S, Pager
from proxy.sinks import LEAST_ALERT_S
from proxy.spenders import Top
from proxy.state.contract import Delivery
from tests.clock import FakeClock
from tests.pages import DAY, SECRET, FailingOutbox, FakeLog, FakeWorld, leap, notice, pager, sink

BOT = sink("bot")


class House:
    """A pager with one webhook sink, `bot`, and everything around it."""

    def __init__(self, *, random: bytes = b"\0\0\0\0") -> None:
        self.clock = FakeClock(wall_s=DAY[0] + 3600)
        self.outbox = FailingOutbox(self.clock)
        self.world = FakeWorld(self.clock)
        self.log = FakeLog()
        self.top: Top | None = None
        self._random = random
        self.pager = self.start()

    def start(self) -> Pager:
        self.pager = pager(self.outbox, self.world, self.log, self.clock, BOT, random=self._random, top=self.top)
        return self.pager

    async def waiting(self) -> list[Delivery]:
        return [delivery for delivery in await self.outbox.waiting() if delivery.sink]

    async def resolving(self) -> list[Delivery]:
        return [delivery for delivery in await self.outbox.resolving() if delivery.sink]

    def live(self, days: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let the pager run beside `days`, which sleeps on the fake clock."""

        async def scenario() -> None:
            run = asyncio.create_task(self.pager.run())
            await days()
            run.cancel()
            await self.pager.close()

        leap(scenario(), self.clock)


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize("status", [200, 202, 204, 299])
async def test_a_page_that_its_sink_took_is_done(house: House, status: int) -> None:
    house.world.script["bot"].append(status)
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    assert await house.waiting() == []
    assert house.log.counts == [("log", "delivered"), ("webhook", "delivered")]
    assert house.log.named("page.delivered") == [
        {
            "level": "info",
            "page": f"tollhouse/budget/everyone/everyone/{DAY[0]}/80/bot",
            "sink": "bot",
            "kind": "webhook",
            "status": status,
            "attempts": 1,
        }
    ]


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 413, 422])
async def test_a_page_that_its_sink_will_never_take_is_given_up_and_that_is_an_error(house: House, status: int) -> None:
    house.world.script["bot"].append(status)
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.clock.advance(GIVE_UP_S)
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1
    assert await house.waiting() == []
    assert [result for kind, result in house.log.counts if kind == "webhook"] == ["given_up"]
    (failed,) = house.log.named("page.failed")
    assert (failed["level"], failed["status"], failed["attempts"]) == ("error", status, 1)
    assert "due_s" not in failed


@pytest.mark.parametrize("answer", [408, 425, 429, 500, 502, 503, 504, 599, Unreachable()])
async def test_a_page_that_its_sink_could_not_take_now_is_tried_again_and_taken(house: House, answer: int | Exception) -> None:
    house.world.script["bot"].append(answer)
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    assert house.log.counts[1:] == [("webhook", "failed")]
    (failed,) = house.log.named("page.failed")
    assert (failed["level"], failed["attempts"], failed["due_s"]) == ("warning", 1, DAY[0] + 3600 + 5)
    house.clock.advance(4.9)
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1
    house.clock.advance(0.1)
    await house.pager.deliver_due()
    first, second = house.world.to("bot")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert house.log.named("page.delivered")[0]["attempts"] == 2
    assert await house.waiting() == []


async def test_waits_double_from_five_seconds_to_ten_minutes(house: House) -> None:
    house.world.always["bot"] = 503
    house.pager.notify([notice()])
    waits = []
    for _ in range(10):
        await house.pager.deliver_due()
        (delivery,) = await house.waiting()
        waits.append(delivery.due_s - house.clock.wall_s())
        house.clock.advance(waits[-1])
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]


async def test_after_a_page_that_was_taken_patience_starts_anew(house: House) -> None:
    house.world.script["bot"].extend([503, 503, 503, 200, 503])
    house.pager.notify([notice()])
    for _ in range(4):
        await house.pager.deliver_due()
        house.clock.advance(20)
    house.pager.notify([notice(threshold=100)])
    await house.pager.deliver_due()
    assert house.log.named("page.failed")[-1]["due_s"] == house.clock.wall_s() + 5


@pytest.mark.parametrize(("random", "wait_s"), [(b"\0\0\0\0", 5.0), (b"\x80\0\0\0", 3.75), (b"\xff\xff\xff\xff", 2.5)])
async def test_chance_cuts_a_wait_by_up_to_half(random: bytes, wait_s: float) -> None:
    house = House(random=random)
    house.world.script["bot"].append(503)
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    assert house.log.named("page.failed")[0]["due_s"] - house.clock.wall_s() == pytest.approx(wait_s, abs=1e-6)


@pytest.mark.parametrize(("asked_s", "wait_s"), [(0.0, 5), (3.0, 5), (90.0, 90), (86_400.0, 3600), (float("inf"), 3600)])
async def test_a_sink_that_names_a_time_is_left_alone_until_then_but_not_for_more_than_an_hour(
    house: House, asked_s: float, wait_s: float
) -> None:
    house.world.script["bot"].append((429, asked_s))
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.pager.notify([notice(threshold=100)])  # another page does not make it impatient
    house.clock.advance(wait_s - 0.1)
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1
    house.clock.advance(0.1)
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 3


def test_a_dead_sink_sees_one_attempt_a_rest_however_many_pages_wait(house: House) -> None:
    house.world.always["bot"] = Unreachable()

    async def days() -> None:
        house.pager.notify([notice(threshold=percent) for percent in range(1, 51)])
        await asyncio.sleep(600)

    house.live(days)
    gaps = [later.at_s - earlier.at_s for earlier, later in pairwise(house.world.to("bot"))]
    least_s = (5, 10, 20, 40, *(60,) * (len(gaps) - 4))
    assert all(least <= gap <= least + POLL_S + 0.01 for gap, least in zip(gaps, least_s, strict=True))


def test_all_pages_arrive_once_when_a_sink_is_back_after_an_hour(house: House) -> None:
    house.world.always["bot"] = Unreachable()

    async def days() -> None:
        house.pager.notify([notice(threshold=percent) for percent in range(1, 51)])
        await asyncio.sleep(3600)
        house.world.always["bot"] = 200
        house.world.sent.clear()
        await asyncio.sleep(MOST_RETRY_S + POLL_S)
        assert await house.outbox.waiting() == []

    house.live(days)
    assert len({sent.headers["webhook-id"] for sent in house.world.to("bot")}) == len(house.world.to("bot")) == 50


def test_a_page_that_its_sink_chokes_on_holds_the_others_up_for_a_minute_at_most(house: House) -> None:
    house.world.chokes_on = b'"threshold_percent":13'

    async def days() -> None:
        house.pager.notify([notice(threshold=13)])
        await asyncio.sleep(3600)
        house.pager.notify([notice(threshold=50)])
        await asyncio.sleep(MOST_REST_S + POLL_S)
        assert [delivery.id.split("/")[-2] for delivery in await house.waiting()] == ["13"]

    house.live(days)


def test_a_page_is_given_up_a_day_after_its_crossing(house: House) -> None:
    house.world.always["bot"] = 503

    async def days() -> None:
        house.pager.notify([notice()])
        await asyncio.sleep(2 * GIVE_UP_S)
        assert await house.waiting() == []

    house.live(days)
    assert house.log.named("page.failed")[-1]["level"] == "error"
    assert Counter(house.log.counts)["webhook", "given_up"] == 1
    tried_s = [sent.at_s for sent in house.world.to("bot")]
    assert GIVE_UP_S - 2 * MOST_RETRY_S < tried_s[-1] - tried_s[0] <= GIVE_UP_S


def test_pages_that_wait_behind_a_dead_sink_do_not_pile_up_for_more_than_a_day(house: House) -> None:
    house.world.always["bot"] = Unreachable()

    async def days() -> None:
        house.pager.notify([notice(subject=f"user=web/{number}") for number in range(200)])
        await asyncio.sleep(GIVE_UP_S + 3600)
        assert await house.waiting() == []

    house.live(days)
    assert Counter(house.log.counts)["webhook", "given_up"] == 200


async def test_a_page_that_is_a_day_old_at_the_start_is_still_tried_once(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.close()
    house.clock.advance(2 * GIVE_UP_S)
    await pager(house.outbox, house.world, house.log, house.clock, BOT).deliver_due()
    assert len(house.world.to("bot")) == 1
    assert await house.waiting() == []


def test_a_page_that_was_taken_is_not_sent_again_when_the_outbox_could_not_be_told(house: House) -> None:
    house.outbox.broken.add("done")

    async def days() -> None:
        house.pager.notify([notice()])
        await asyncio.sleep(3600)
        house.outbox.broken.clear()
        await asyncio.sleep(MOST_REST_S + POLL_S)
        assert await house.outbox.waiting() == []

    house.live(days)
    assert len(house.world.to("bot")) == 1
    assert house.log.counts == [("log", "delivered"), ("webhook", "delivered")]
    assert len(house.log.named("budget.crossed")) == 1
    assert {fields["operation"] for fields in house.log.named("state.failed")} == {"outbox"}
    assert len(house.log.named("state.failed")) < 2 * (3600 / MOST_REST_S + 6)


def test_an_outbox_that_cannot_count_attempts_does_not_make_the_pager_hammer_the_sink(house: House) -> None:
    house.outbox.broken.add("retry")
    house.world.always["bot"] = 503

    async def days() -> None:
        house.pager.notify([notice()])
        await asyncio.sleep(600)

    house.live(days)
    assert len(house.world.to("bot")) <= 600 / MOST_REST_S + 4


async def test_a_body_that_is_no_page_is_given_up_without_a_request(house: House) -> None:
    await house.outbox.put([Delivery("from-the-future/bot", "bot", b'{"type": "budget.resolved"}', due_s=0)])
    await house.pager.deliver_due()
    assert house.world.sent == []
    assert house.log.counts == [("webhook", "given_up")]
    assert house.log.named("page.failed")[0]["exception"] == "ValueError"


async def test_a_defect_on_the_way_to_the_sink_is_logged_with_its_place_and_tried_again_like_a_failure(house: House) -> None:
    house.world.script["bot"].append(RuntimeError("a canary in its text"))
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    (fault,) = house.log.named("fault.caught")
    assert (fault["exception"], fault["where"]) == ("RuntimeError", "pager")
    assert house.log.named("page.failed")[0]["due_s"] == house.clock.wall_s() + 5
    house.clock.advance(5)
    await house.pager.deliver_due()
    assert await house.waiting() == []


async def test_nothing_that_is_logged_shows_an_address_or_a_secret(house: House) -> None:
    house.world.script["bot"].extend([RuntimeError(f"canary {SECRET}"), Unreachable("bot.canary.test"), 503, 400])
    house.pager.notify([notice()])
    for _ in range(4):
        await house.pager.deliver_due()
        house.clock.advance(600)
    assert len(house.log.named("page.failed")) == 4
    assert "canary" not in repr(house.log.events)
    assert "canary" not in repr(house.pager)


async def test_the_crossing_in_the_log_has_all_its_numbers(house: House) -> None:
    house.top = Top(
        (("gpt-4.1", 40_000_000_000),), (("web/ada", 30_500_000_000), ("nightly", 9_500_000_000)), 40_000_000_000, None, 0
    )
    house.start().notify([notice(refuses=True, to=())])
    await house.pager.deliver_due()
    assert house.log.events == [
        (
            "budget.crossed",
            {
                "level": "warning",
                "page": f"tollhouse/budget/everyone/everyone/{DAY[0]}/80",
                "policy": "everyone",
                "subject": "everyone",
                "threshold": 80,
                "spent_nanousd": 40_000_000_000,
                "limit_nanousd": 50_000_000_000,
                "window_start_s": DAY[0],
                "window_end_s": DAY[1],
                "refuses": True,
                "spent_by_s": DAY[0] + 4560,  # 40 USD in an hour: 50 in an hour and a quarter, and by the next full minute
                "top_models": ["gpt-4.1 40"],
                "top_users": ["web/ada 30.5", "nightly 9.5"],
            },
        )
    ]


# ---- resolved ----


async def test_when_the_window_turns_every_sink_that_took_the_page_is_told_once_and_the_log_too(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.clock.advance(DAY[1] - house.clock.wall_s() - 0.1)
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1
    house.clock.advance(0.1)
    for _ in range(3):
        await house.pager.deliver_due()
    assert [orjson.loads(sent.body)["type"] for sent in house.world.to("bot")] == [THRESHOLD_CROSSED, THRESHOLD_RESOLVED]
    (resolved,) = house.log.named("budget.resolved")
    assert (resolved["page"], resolved["threshold"]) == (f"tollhouse/budget/everyone/everyone/{DAY[0]}/80", 80)
    assert await house.resolving() == []


async def test_a_page_that_was_given_up_is_never_resolved(house: House) -> None:
    house.world.script["bot"].append(400)
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    assert await house.resolving() == []


async def test_a_page_that_its_sink_has_not_taken_when_the_window_turns_comes_first_and_then_its_resolve(house: House) -> None:
    house.world.script["bot"].extend([503, 503])
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.clock.advance(DAY[1] - house.clock.wall_s())
    await house.pager.deliver_due()
    assert await house.resolving() == []
    house.clock.advance(60)
    for _ in range(2):
        await house.pager.deliver_due()
    bodies = [orjson.loads(sent.body)["type"] for sent in house.world.to("bot")]
    assert bodies == [THRESHOLD_CROSSED, THRESHOLD_CROSSED, THRESHOLD_CROSSED, THRESHOLD_RESOLVED]


def test_a_resolve_is_tried_for_a_week_and_a_page_for_a_day(house: House) -> None:
    async def days() -> None:
        house.pager.notify([notice()])
        await house.world.reached("bot", 1)
        house.world.always["bot"] = 503
        await asyncio.sleep(9 * GIVE_UP_S)
        assert await house.resolving() == []

    house.live(days)
    _, *tried = house.world.to("bot")
    assert GIVE_UP_RESOLVE_S - 2 * MOST_RETRY_S < tried[-1].at_s - tried[0].at_s <= GIVE_UP_RESOLVE_S
    assert house.log.named("page.failed")[-1]["level"] == "error"


async def test_a_resolve_to_a_sink_that_the_file_no_longer_names_is_given_up_after_a_day(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.pager.configure({})
    house.clock.advance(DAY[1] - house.clock.wall_s() + GIVE_UP_S)
    await house.pager.deliver_due()
    assert await house.resolving() == []


def test_a_resolve_is_queued_once_also_when_the_outbox_could_not_be_told_that_the_page_was_taken(house: House) -> None:
    house.outbox.broken.add("done")

    async def days() -> None:
        house.pager.notify([notice()])
        await asyncio.sleep(600)
        house.outbox.broken.clear()
        await asyncio.sleep(MOST_REST_S + POLL_S)
        assert [delivery.due_s for delivery in await house.resolving()] == [DAY[1]]

    house.live(days)
    assert len(house.world.to("bot")) == 1


async def test_alertmanager_has_an_alert_long_enough_to_tell_of_it_before_it_is_resolved(house: House) -> None:
    house.pager.configure({"bot": sink("bot", kind="alertmanager")})
    house.clock.advance(DAY[1] - house.clock.wall_s() - 10)
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    (resolve,) = await house.resolving()
    assert resolve.due_s == DAY[1] - 10 + LEAST_ALERT_S


async def test_a_lane_shows_its_state_in_one_line(house: House) -> None:
    means = Means(
        house.outbox,
        clock=house.clock,
        send=house.world.send,
        log=house.log,
        count=house.log.count,
        random=lambda size: bytes(size),
        finished={},
        lifted=lambda page, now_s: None,
        reopened=lambda page: None,
    )
    lane = Lane(BOT, means=means)
    assert repr(lane) == "<Lane 'bot' webhook open failures=0>"
    house.world.always["bot"] = 503
    body = Page.of(notice(), crossed_s=house.clock.wall_s()).write()
    await lane.deliver([Delivery("x/bot", "bot", body, due_s=0)], stop=asyncio.Event().is_set)
    assert repr(lane) == "<Lane 'bot' webhook resting failures=1>"
