"""One page for each crossing and sink, whoever raises it, whatever breaks in between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.courier import Courier
from proxy.errors import StateUnavailable
from proxy.outage import Outage
from proxy.pager import MOST_QUEUED, MOST_SEEN, POLL_S, Pager
from proxy.policy.contract import Notice
from proxy.sinks import Sink
from proxy.spenders import Top
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock
from tests.pages import DAY, FailingOutbox, FakeAlarms, FakeLog, FakeWorld, Sent, leap, notice, pager, sink

BOT, TEAM = sink("bot"), sink("team", kind="slack")


class House:
    """A pager for `bot` and `team`, and everything around it. A restart leaves the outbox and the world as they are."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock(wall_s=DAY[0] + 3600)
        self.outbox = FailingOutbox(self.clock)
        self.world = FakeWorld(self.clock)
        self.log = FakeLog()
        self.alarms = FakeAlarms()
        self.pager = self.start()

    def start(self) -> Pager:
        self.pager = pager(self.outbox, self.world, self.log, self.clock, BOT, TEAM, alarms=self.alarms)
        return self.pager


@pytest.fixture
def house() -> House:
    return House()


def types_of(sent: list[Sent]) -> list[str]:
    return [orjson.loads(one.body)["type"] for one in sent]


# ---- one page, and one only ----


async def test_a_crossing_raised_by_every_call_after_it_is_one_page_to_each_sink_and_one_line_in_the_log(house: House) -> None:
    for spent in range(40, 60):
        house.pager.notify([notice(spent_nanousd=spent * 10**9, to=("bot", "team"))])
        await house.pager.deliver_due()
    assert Counter(sent.sink for sent in house.world.sent) == {"bot": 1, "team": 1}
    assert [crossed["spent_nanousd"] for crossed in house.log.named("budget.crossed")] == [40_000_000_000]


@pytest.mark.parametrize(
    "change",
    [{"threshold": 100}, {"policy": "batch"}, {"subject": "key=web"}, {"window": (DAY[1], DAY[1] + 86_400)}],
    ids=lambda change: next(iter(change)),
)
async def test_another_threshold_policy_subject_or_window_is_another_page(house: House, change: dict[str, Any]) -> None:
    house.pager.notify([notice(), notice(**change)])
    await house.pager.deliver_due()
    assert len({sent.headers["webhook-id"] for sent in house.world.to("bot")}) == 2


async def test_after_a_restart_what_was_paged_is_not_paged_again(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.start().notify([notice(spent_nanousd=45_000_000_000)])
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1
    assert len(house.log.named("budget.crossed")) == 1


async def test_two_pagers_on_one_outbox_that_see_the_same_crossing_send_one_page(house: House) -> None:
    first, second = house.start(), house.start()
    first.notify([notice()])
    second.notify([notice(spent_nanousd=41_000_000_000)])
    await first.deliver_due()
    await second.deliver_due()
    assert len(house.world.to("bot")) == 1


async def test_a_crossing_that_names_nobody_stands_in_the_log_only(house: House) -> None:
    house.pager.notify([notice(to=())])
    await house.pager.deliver_due()
    assert len(house.log.named("budget.crossed")) == 1
    assert house.world.sent == []


async def test_a_target_of_kind_log_adds_no_second_line(house: House) -> None:
    house.pager.configure({"audit": Sink("audit", kind="log")})
    house.pager.notify([notice(to=("audit",))])
    await house.pager.deliver_due()
    assert len(house.log.named("budget.crossed")) == 1
    assert house.log.counts == [("log", "delivered")]


async def test_a_sink_named_twice_is_paged_once(house: House) -> None:
    house.pager.notify([notice(to=("bot", "bot"))])
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1


async def test_a_sink_that_a_reload_adds_hears_of_a_crossing_that_the_others_know(house: House) -> None:
    house.pager.notify([notice(to=("bot",))])
    await house.pager.deliver_due()
    house.pager.notify([notice(to=("bot", "team"))])
    await house.pager.deliver_due()
    assert Counter(sent.sink for sent in house.world.sent) == {"bot": 1, "team": 1}


# ---- the hot path ----


async def test_a_full_queue_takes_nothing_more_and_what_it_left_out_comes_with_the_next_call(house: House) -> None:
    many = [notice(subject=f"user=web/{number}", to=()) for number in range(MOST_QUEUED + 10)]
    house.pager.notify(many)
    assert f"{MOST_QUEUED} to store" in repr(house.pager)
    await house.pager.close()
    house.pager.notify(many)
    await house.pager.close()
    assert len(await house.outbox.waiting()) == MOST_QUEUED + 10


async def test_what_is_remembered_is_bounded_and_forgetting_makes_no_second_page(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    for start in range(0, MOST_SEEN, 1000):
        house.pager.notify([notice(subject=f"user=web/{start + number}", to=()) for number in range(1000)])
        await house.pager.close()
    assert f"{MOST_SEEN} remembered, 0 to store" in repr(house.pager)
    house.pager.notify([notice()])
    assert "1 to store" in repr(house.pager)
    await house.pager.close()
    assert [delivery for delivery in await house.outbox.waiting() if delivery.sink] == []


async def test_notify_neither_waits_nor_fails_while_the_outbox_is_down_and_the_page_comes_later(house: House) -> None:
    house.outbox.broken.update(("put", "due"))
    house.pager.notify([notice()])
    for _ in range(3):
        with pytest.raises(Exception, match="state_unavailable"):
            await house.pager.deliver_due()
    house.outbox.broken.clear()
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1


# ---- crashes ----


async def test_a_crash_before_the_outbox_knew_loses_nothing_because_the_next_call_raises_it_again(house: House) -> None:
    house.pager.notify([notice()])
    house.start().notify([notice(spent_nanousd=41_000_000_000)])
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1


async def test_a_crash_before_the_page_was_sent_sends_it_after_the_start_without_any_call(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.close()
    assert house.world.sent == []
    await house.start().deliver_due()
    assert len(house.world.to("bot")) == 1
    assert len(house.log.named("budget.crossed")) == 1


async def test_a_crash_between_the_answer_and_the_note_of_it_repeats_the_page_under_the_same_id(house: House) -> None:
    house.outbox.broken.add("done")
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.outbox.broken.clear()
    await house.start().deliver_due()
    first, second = house.world.to("bot")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert await house.outbox.waiting() == []


async def test_pages_outlive_the_process_in_sqlite(tmp_path: Path) -> None:
    clock, log = FakeClock(wall_s=DAY[0] + 3600), FakeLog()
    world = FakeWorld(clock)
    world.script["bot"].append(503)
    for _ in range(3):
        store = await SqliteStore.open(tmp_path, clock)
        restarted = pager(store, world, log, clock, BOT)
        restarted.notify([notice()])
        await restarted.deliver_due()
        await restarted.close()
        await store.close()
        clock.advance(60)
    assert [fields["attempts"] for fields in log.named("page.delivered")] == [2]
    assert len(log.named("budget.crossed")) == 1
    assert len(world.to("bot")) == 2


# ---- reloads ----


async def test_a_changed_address_is_used_for_what_waits_and_at_once(house: House) -> None:
    house.world.always["bot"] = 503
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.world.always.clear()
    house.pager.configure({"bot": sink("bot", path="/new")})
    house.pager.notify([notice(threshold=100)])
    await house.pager.deliver_due()
    assert [sent.url.partition("test")[2] for sent in house.world.to("bot")] == ["", "/new"]
    house.clock.advance(5)
    await house.pager.deliver_due()
    assert [sent.url.partition("test")[2] for sent in house.world.to("bot")] == ["", "/new", "/new"]


async def test_a_reload_that_changes_nothing_for_a_sink_does_not_end_its_rest(house: House) -> None:
    house.world.always["bot"] = 503
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.pager.configure({"bot": sink("bot")})
    house.pager.notify([notice(threshold=100)])
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1


async def test_a_page_to_a_name_that_is_gone_waits_for_it_and_says_so(house: House) -> None:
    house.pager.notify([notice()])
    house.pager.configure({})
    await house.pager.deliver_due()
    assert house.world.sent == []
    assert house.log.counts == [("log", "delivered"), ("none", "failed")]
    assert house.log.named("page.failed")[0]["exception"] == "proxy.lane.NotConfigured"
    house.clock.advance(5)
    house.pager.configure({"bot": BOT})
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 1


async def test_a_reload_while_a_sink_is_slow_sends_the_rest_to_the_new_address(house: House) -> None:
    answer = asyncio.Event()
    house.world.script["bot"].append(answer)
    house.pager.notify([notice(threshold=percent) for percent in (50, 80, 100)])
    delivering = asyncio.create_task(house.pager.deliver_due())
    await house.world.reached("bot", 1)
    house.pager.configure({"bot": sink("bot", path="/new")})
    answer.set()
    await delivering
    await house.pager.deliver_due()
    assert [sent.url.partition("test")[2] for sent in house.world.to("bot")] == ["", "/new", "/new"]


# ---- what stands without a call ----


async def test_what_was_crossed_before_the_start_is_paged_without_any_call(house: House) -> None:
    house.alarms.standing.append(notice())
    await house.start().deliver_due()
    assert len(house.world.to("bot")) == 1


async def test_everything_that_stands_is_paged_at_the_start_however_much_it_is(house: House) -> None:
    house.alarms.standing.extend(notice(subject=f"user=web/{number}", to=()) for number in range(2 * MOST_QUEUED))
    await house.start().deliver_due()
    await house.pager.close()
    assert len(await house.outbox.waiting()) + len(house.log.named("budget.crossed")) == 2 * MOST_QUEUED


async def test_what_was_paged_before_the_start_and_still_stands_is_not_paged_again(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.alarms.standing.append(notice(spent_nanousd=45 * 10**9))
    await house.start().deliver_due()
    assert len(house.world.to("bot")) == 1


async def test_a_budget_that_a_reload_raises_resolves_its_page_at_once_and_only_once(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.alarms.limit = 100 * 10**9
    for _ in range(3):
        house.pager.configure({"bot": BOT, "team": TEAM})
        await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == ["budget.threshold_crossed", "budget.threshold_resolved"]
    assert await house.outbox.resolving() == []
    house.clock.advance(86_400)
    await house.pager.deliver_due()
    assert len(house.world.to("bot")) == 2


async def test_a_budget_that_is_raised_while_its_page_waits_for_a_sink_resolves_it_as_soon_as_it_was_taken(house: House) -> None:
    house.world.script["bot"].append(503)
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.alarms.limit = 100 * 10**9
    house.pager.configure({"bot": BOT, "team": TEAM})
    house.clock.advance(10)
    for _ in range(3):
        await house.pager.deliver_due()
    crossed, resolved = "budget.threshold_crossed", "budget.threshold_resolved"
    assert types_of(house.world.to("bot")) == [crossed, crossed, resolved]


async def test_a_threshold_that_a_raised_budget_lifted_pages_anew_when_it_is_crossed_again(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.alarms.limit = 100 * 10**9
    house.pager.configure({"bot": BOT, "team": TEAM})
    await house.pager.deliver_due()
    house.alarms.limit = None
    again = notice(spent_nanousd=80 * 10**9, limit_nanousd=100 * 10**9)
    for _ in range(3):
        house.pager.notify([again])
        await house.pager.deliver_due()
    house.clock.advance(86_400)
    await house.pager.deliver_due()
    sent = house.world.to("bot")
    assert types_of(sent) == ["budget.threshold_crossed", "budget.threshold_resolved"] * 2
    assert len({one.headers["webhook-id"] for one in sent}) == 4


async def test_a_crossing_that_comes_while_the_resolve_of_the_one_before_waits_is_paged_after_it(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.world.script["bot"].append(503)
    house.alarms.limit = 100 * 10**9
    house.pager.configure({"bot": BOT, "team": TEAM})
    await house.pager.deliver_due()
    house.alarms.limit = None
    house.alarms.standing.append(notice(spent_nanousd=80 * 10**9, limit_nanousd=100 * 10**9))
    house.pager.notify(house.alarms.standing)
    await house.pager.deliver_due()
    house.clock.advance(10)
    for _ in range(2):
        await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == [
        "budget.threshold_crossed",
        "budget.threshold_resolved",
        "budget.threshold_resolved",
        "budget.threshold_crossed",
    ]


async def test_a_review_that_the_outbox_could_not_answer_is_made_again(house: House) -> None:
    house.pager.notify([notice()])
    await house.pager.deliver_due()
    house.alarms.limit = 100 * 10**9
    house.pager.configure({"bot": BOT, "team": TEAM})
    for operation in ("due", "replace"):
        house.outbox.broken.add(operation)
        with pytest.raises(StateUnavailable):
            await house.pager.deliver_due()
        house.outbox.broken.clear()
    await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == ["budget.threshold_crossed", "budget.threshold_resolved"]


async def test_a_page_says_who_had_spent_when_the_threshold_was_crossed(house: House) -> None:
    asked: list[Notice] = []

    def top(crossed: Notice) -> Top:
        asked.append(crossed)
        return Top((("gpt-4.1", 40 * 10**9),), (("web/ada", 40 * 10**9),), 40 * 10**9, None, 0)

    means = {"clock": house.clock, "send": house.world.send, "log": house.log, "count": house.log.count, "alarms": FakeAlarms()}
    house.pager = Pager(house.outbox, **means, random=lambda size: bytes(size), top=top)
    house.pager.configure({"bot": BOT})
    for _ in range(3):
        house.pager.notify([notice()])
    await house.pager.deliver_due()
    assert asked == [notice()]
    assert orjson.loads(house.world.to("bot")[0].body)["data"]["top_users"][0]["name"] == "web/ada"


# ---- the loop ----


@pytest.fixture
async def running(house: House) -> AsyncIterator[House]:
    task = asyncio.create_task(house.pager.run())
    yield house
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await house.pager.close(within_s=0)


def test_a_crossing_wakes_a_pager_that_has_nothing_to_do() -> None:
    clock = FakeClock(wall_s=DAY[0] + 3600)

    async def scenario() -> None:
        house = House(clock)
        task = asyncio.create_task(house.pager.run())
        await asyncio.sleep(POLL_S / 2)
        crossed_s = asyncio.get_running_loop().time()
        house.pager.notify([notice()])
        await house.world.reached("bot", 1)
        assert house.world.sent[0].at_s - crossed_s < 0.001
        task.cancel()
        await house.pager.close()

    leap(scenario(), clock)


async def test_a_sink_that_hangs_with_a_long_queue_holds_up_nobody_else(running: House) -> None:
    hangs = asyncio.Event()
    running.world.script["bot"].append(hangs)
    running.pager.notify([notice(subject=f"user=web/{number}") for number in range(200)])
    await running.world.reached("bot", 1)
    running.pager.notify([notice(to=("team",))])
    await running.world.reached("team", 1)
    assert len(running.world.to("bot")) == 1
    hangs.set()
    await running.world.reached("bot", 5)


async def test_no_sink_is_sent_two_pages_at_once(running: House) -> None:
    hangs = asyncio.Event()
    running.world.script["bot"].append(hangs)
    running.pager.notify([notice()])
    await running.world.reached("bot", 1)
    running.pager.notify([notice(threshold=100), notice(to=("team",))])
    await running.world.reached("team", 1)
    assert len(running.world.to("bot")) == 1
    assert "0 to store, sending to ['bot'" in repr(running.pager)
    hangs.set()
    await running.world.reached("bot", 2)


def test_without_any_call_a_page_is_tried_again_when_its_time_has_come() -> None:
    clock = FakeClock(wall_s=DAY[0] + 3600)

    async def scenario() -> None:
        house = House(clock)
        house.world.script["bot"].extend([503, 503, 503])
        task = asyncio.create_task(house.pager.run())
        house.pager.notify([notice()])
        await house.world.reached("bot", 4)
        task.cancel()
        await house.pager.close()
        at_s = [sent.at_s for sent in house.world.to("bot")]
        for wait_s, earlier, later in zip((5, 10, 20), at_s[:-1], at_s[1:], strict=True):
            assert wait_s <= later - earlier <= wait_s + POLL_S + 0.01

    leap(scenario(), clock)


def test_pages_keep_the_pace_that_their_sink_allows() -> None:
    clock = FakeClock(wall_s=DAY[0] + 3600)

    async def scenario() -> None:
        house = House(clock)
        task = asyncio.create_task(house.pager.run())
        house.pager.notify([notice(subject=f"user=web/{number}", to=("bot", "team")) for number in range(60)])
        await house.world.reached("team", 60)
        task.cancel()
        await house.pager.close()
        assert house.world.to("team")[-1].at_s - house.world.to("team")[0].at_s == pytest.approx(59, abs=1)
        assert house.world.to("bot")[-1].at_s - house.world.to("bot")[0].at_s == pytest.approx(5, abs=1)

    leap(scenario(), clock)


def test_an_outbox_that_comes_back_is_found_within_a_minute() -> None:
    clock = FakeClock(wall_s=DAY[0] + 3600)

    async def scenario() -> None:
        house = House(clock)
        house.outbox.broken.update(("put", "due"))
        task = asyncio.create_task(house.pager.run())
        house.pager.notify([notice()])
        await asyncio.sleep(3600)
        failures = len(house.log.named("state.failed"))
        assert 60 <= failures <= 70
        house.outbox.broken.clear()
        back_s = asyncio.get_running_loop().time()
        await house.world.reached("bot", 1)
        assert house.world.sent[0].at_s - back_s <= 60
        task.cancel()
        await house.pager.close()

    leap(scenario(), clock)


# ---- the end ----


async def test_closing_writes_what_is_queued_and_sends_nothing(house: House) -> None:
    house.pager.notify([notice(to=("bot", "team"))])
    await house.pager.close()
    assert {delivery.sink for delivery in await house.outbox.waiting()} == {"", "bot", "team"}
    assert house.world.sent == []


async def test_closing_waits_for_an_answer_on_its_way_and_starts_no_other_page(house: House) -> None:
    answer = asyncio.Event()
    house.world.script["bot"].append(answer)
    house.pager.notify([notice(), notice(threshold=100)])
    delivering = asyncio.create_task(house.pager.deliver_due())
    await house.world.reached("bot", 1)
    closing = asyncio.create_task(house.pager.close())
    await asyncio.sleep(0)
    assert not closing.done()
    answer.set()
    await closing
    await delivering
    assert len(house.world.to("bot")) == 1
    assert [delivery.id[-6:] for delivery in await house.outbox.waiting()] == ["00/bot"]


async def test_closing_does_not_wait_for_a_sink_that_hangs_and_keeps_its_page(house: House) -> None:
    house.world.script["bot"].append(asyncio.Event())
    house.pager.notify([notice()])
    run = asyncio.create_task(house.pager.run())
    await house.world.reached("bot", 1)
    run.cancel()
    await house.pager.close(within_s=0.01)
    assert [delivery.sink for delivery in await house.outbox.waiting()] == ["bot"]


async def test_closing_succeeds_also_when_the_outbox_fails(house: House) -> None:
    house.outbox.broken.add("put")
    house.pager.notify([notice()])
    await house.pager.close()
    assert house.log.named("state.failed") == [
        {"level": "error", "operation": "outbox", "exception": "proxy.errors.StateUnavailable"}
    ]


# ---- over a real socket ----


async def test_a_receiver_that_was_down_gets_its_page_once_when_it_is_back(house: House) -> None:
    received: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        received.append(request.headers["webhook-id"])
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/pages", receive)
    first = TestServer(app)
    await first.start_server()
    port = first.port
    await first.close()

    courier = Courier(house.clock)
    house.pager = Pager(
        house.outbox,
        clock=house.clock,
        send=courier.post,
        log=house.log,
        count=house.log.count,
        random=lambda size: bytes(size),
        alarms=FakeAlarms(),
        top=lambda notice: None,
    )
    house.pager.configure({"bot": Sink("bot", kind="webhook", url=f"http://127.0.0.1:{port}/pages")})
    house.pager.notify([notice()])
    for _ in range(3):
        await house.pager.deliver_due()
        house.clock.advance(600)
    assert "ClientConnectorError" in house.log.named("page.failed")[0]["exception"]

    app = web.Application()
    app.router.add_post("/pages", receive)
    async with TestServer(app, port=port):
        for _ in range(3):
            await house.pager.deliver_due()
            house.clock.advance(600)
    await courier.close()
    assert len(received) == 1
    assert await house.outbox.waiting() == []


# ---- what is wrong with an upstream ----

REFUSED = Outage("openai", "credentials", ("bot", "team"))


async def test_an_outage_is_paged_once_and_resolved_once_when_it_is_over(house: House) -> None:
    for _ in range(3):
        house.pager.notify([REFUSED])
        await house.pager.deliver_due()
    house.clock.advance(86_400)
    await house.pager.deliver_due()
    assert Counter(sent.sink for sent in house.world.sent) == {"bot": 1, "team": 1}
    assert [(began["upstream"], began["error"]) for began in house.log.named("outage.began")] == [
        ("openai", "upstream_credentials")
    ]
    house.alarms.over = True
    house.pager.outage_over()
    await house.pager.deliver_due()
    house.pager.outage_over()
    await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == ["upstream.outage_began", "upstream.outage_ended"]
    assert len(house.world.to("team")) == 2
    assert len(house.log.named("outage.ended")) == 1
    assert await house.outbox.under("tollhouse/upstream/") == ()


async def test_the_next_outage_is_another_page(house: House) -> None:
    for _ in range(2):
        house.alarms.over = False
        house.pager.notify([REFUSED])
        await house.pager.deliver_due()
        house.clock.advance(600)
        house.alarms.over = True
        house.pager.outage_over()
        await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == ["upstream.outage_began", "upstream.outage_ended"] * 2
    assert len({sent.headers["webhook-id"] for sent in house.world.to("bot")}) == 4


async def test_an_outage_that_begins_while_the_resolve_of_the_one_before_waits_is_paged_after_it(house: House) -> None:
    house.pager.notify([REFUSED])
    await house.pager.deliver_due()
    house.world.script["bot"].append(503)
    house.alarms.over = True
    house.pager.outage_over()
    await house.pager.deliver_due()
    house.alarms.over, house.alarms.wrong = False, [REFUSED]
    house.pager.notify([REFUSED])
    house.clock.advance(3600)
    await house.pager.deliver_due()
    await house.pager.deliver_due()
    assert types_of(house.world.to("bot"))[-2:] == ["upstream.outage_ended", "upstream.outage_began"]


async def test_after_a_restart_an_outage_is_not_paged_again_and_is_resolved_by_the_first_call_that_goes_well(house: House) -> None:
    house.pager.notify([REFUSED])
    await house.pager.deliver_due()
    house.start().notify([REFUSED])
    await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == ["upstream.outage_began"]
    house.alarms.over = True
    house.pager.outage_over()
    await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == ["upstream.outage_began", "upstream.outage_ended"]


async def test_what_is_over_before_its_page_was_taken_is_resolved_right_after_it(house: House) -> None:
    house.world.script["bot"].append(503)
    house.pager.notify([REFUSED])
    await house.pager.deliver_due()
    house.alarms.over = True
    house.pager.outage_over()
    house.clock.advance(60)
    await house.pager.deliver_due()
    await house.pager.deliver_due()
    assert types_of(house.world.to("bot"))[1:] == ["upstream.outage_began", "upstream.outage_ended"]


@pytest.mark.parametrize("operation", ["put", "under", "replace", "done"])
async def test_an_outbox_that_fails_delays_an_outage_and_its_resolve_and_loses_neither(house: House, operation: str) -> None:
    async def turn() -> None:
        house.outbox.broken = {operation}
        try:
            await house.pager.deliver_due()
        except StateUnavailable:
            pass
        house.outbox.broken = set()
        house.clock.advance(3600)
        await house.pager.deliver_due()
        await house.pager.deliver_due()

    house.pager.notify([REFUSED])
    await turn()
    house.alarms.over = True
    house.pager.outage_over()
    await turn()
    assert types_of(house.world.to("bot")) == ["upstream.outage_began", "upstream.outage_ended"]


async def test_an_outage_after_one_that_no_sink_took_is_paged(house: House) -> None:
    house.world.script["bot"].append(400)
    for _ in range(2):
        house.alarms.over = False
        house.pager.notify([REFUSED])
        await house.pager.deliver_due()
        house.clock.advance(600)
        house.alarms.over = True
        house.pager.outage_over()
        await house.pager.deliver_due()
    assert types_of(house.world.to("bot")) == ["upstream.outage_began", "upstream.outage_began", "upstream.outage_ended"]
