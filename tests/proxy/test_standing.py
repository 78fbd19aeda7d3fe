"""Which alarms stand after a start or a reload, where no call has raised them."""

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from policies import KINDS
from proxy.page import Page
from proxy.policy.contract import Notice, Quota, Unit
from proxy.policy.policyset import PolicySet
from proxy.policy.shelf import Shelf
from proxy.standing import Standing
from proxy.state.contract import Denial
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock
from tests.pages import DAY, NoUpstreams
from tests.proxy.state.limits import money

USD = 10**9
TEXT = """
version: 1
keys: [{{id: app, anonymous: true}}]
pages: {{ops: {{log: {{}}}}}}
policies: [{policies}]
"""
BUDGET = "{name: everyone, budget: {usd: 50, per: day, alarm_at: [50, 80], page: [ops]}}"


class House:
    """Policies, and a store that knows of what was spent before its start."""

    def __init__(self, file: Path, store: SqliteStore, clock: FakeClock, policies: str) -> None:
        self.file = file
        self.clock = clock
        self.store = store
        self.standing = Standing(lambda: self.set, store, NoUpstreams())
        self.load(policies)

    @classmethod
    async def build(
        cls, folder: Path, houses: "list[House]", policies: str = BUDGET, *, spent: int = 41 * USD, subject: str = "everyone"
    ) -> "House":
        clock, directory = FakeClock(wall_s=DAY[0] + 3600), folder / f"state-{len(houses)}"
        store = await SqliteStore.open(directory, clock)
        held = await store.reserve((money(0, quota=Quota(50 * USD, "day", "UTC"), subject=subject),))
        assert not isinstance(held, Denial)
        await held.settle({Unit.NANOUSD: spent})
        await store.close()
        houses.append(cls(folder / "policy.yaml", await SqliteStore.open(directory, clock), clock, policies))
        return houses[-1]

    def load(self, policies: str) -> None:
        self.file.write_text("upstreams: {up: {base_url: http://127.0.0.1:9/v1}}" + TEXT.format(policies=policies), "utf-8")
        self.set: PolicySet = Shelf(kinds=KINDS, env={}, upstream=None).load(self.file)

    async def notices(self) -> list[Notice]:
        return [notice async for found in self.standing.notices() for notice in found]

    async def thresholds(self) -> list[int]:
        return [notice.threshold for notice in await self.notices()]

    async def page(self, threshold: int = 80) -> Page:
        (notice,) = [notice for notice in await self.notices() if notice.threshold == threshold]
        return Page.of(notice, crossed_s=self.clock.wall_s())


Build = Callable[..., Coroutine[Any, Any, House]]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    houses: list[House] = []
    yield partial(House.build, tmp_path, houses)
    for house in houses:
        await house.store.close()


async def test_spend_of_before_the_start_raises_what_it_crossed(build: Build) -> None:
    house = await build()
    first, second = await house.notices()
    assert [first.threshold, second.threshold] == [50, 80]
    assert (second.spent_nanousd, second.window, second.to, second.refuses) == (41 * USD, DAY, ("ops",), False)


@pytest.mark.parametrize(("spent_usd", "thresholds"), [(24, []), (25, [50]), (39, [50]), (40, [50, 80])])
async def test_only_what_was_crossed_is_raised(build: Build, spent_usd: int, thresholds: list[int]) -> None:
    assert await (await build(spent=spent_usd * USD)).thresholds() == thresholds


async def test_a_reload_that_lowers_a_budget_raises_what_is_crossed_now(build: Build) -> None:
    house = await build(spent=30 * USD)
    house.load(BUDGET.replace("usd: 50", "usd: 35"))
    assert await house.thresholds() == [50, 80]


@pytest.mark.parametrize("change", [("per: day", "per: hour"), ("name: everyone", "name: other"), ("usd: 50", "usd: 500")])
async def test_spend_that_no_budget_is_about_raises_nothing(build: Build, change: tuple[str, str]) -> None:
    assert await (await build(BUDGET.replace(*change))).thresholds() == []


async def test_the_spend_of_yesterday_raises_nothing(build: Build) -> None:
    house = await build()
    house.clock.advance(86_400)
    assert await house.thresholds() == []


@pytest.mark.parametrize(("mode", "refuses"), [("enforce", True), ("shadow", False)])
async def test_a_shadowed_budget_does_not_say_that_it_refuses(build: Build, mode: str, refuses: bool) -> None:
    budget = BUDGET.replace("alarm_at", "when_spent: reject, alarm_at").replace("budget:", f"mode: {mode}, budget:")
    assert {notice.refuses for notice in await (await build(budget)).notices()} == {refuses}


@pytest.mark.parametrize(
    ("usd", "raised"),
    [(50, None), (40, None), (51, None), (52, 52 * USD), (100, 100 * USD)],  # 41 of 51 is still more than 80 %
)
async def test_a_page_is_over_when_its_budget_was_raised_above_what_is_spent(build: Build, usd: int, raised: int | None) -> None:
    house = await build()
    page = await house.page()
    house.load(BUDGET.replace("usd: 50", f"usd: {usd}"))
    assert house.standing.raised(page) == raised


async def test_what_was_spent_since_the_page_counts_too(build: Build) -> None:
    house = await build()
    page = await house.page()
    later = await build(BUDGET.replace("usd: 50", "usd: 100"), spent=90 * USD)
    assert later.standing.raised(page) is None


@pytest.mark.parametrize(
    "policies",
    [
        BUDGET.replace("usd: 50", "usd: 500").replace("per: day", "per: hour"),
        BUDGET.replace("usd: 50", "usd: 500").replace("name: everyone", "name: other"),
        "{name: everyone, request_size: {max: 1MiB}}",
    ],
    ids=["another window", "another name", "no budget"],
)
async def test_in_doubt_an_alarm_stands(build: Build, policies: str) -> None:
    house = await build()
    page = await house.page()
    house.load(policies)
    assert house.standing.raised(page) is None


async def test_a_page_that_knows_of_more_than_a_crash_left_on_the_books_is_over_when_that_is_below_the_threshold_too(
    build: Build,
) -> None:
    house = await build()
    page = replace(await house.page(), spent_nanousd=49 * USD)
    for usd, raised in ((61, None), (62, 62 * USD)):
        house.load(BUDGET.replace("usd: 50", f"usd: {usd}"))
        assert house.standing.raised(page) == raised


async def test_a_subject_of_which_nothing_is_known_stands(build: Build) -> None:
    house = await build()
    page = await house.page()
    house.load(BUDGET.replace("usd: 50", "usd: 500"))
    assert house.standing.raised(replace(page, subject="key=other")) is None


@pytest.mark.parametrize(
    ("per", "zone", "turns"),
    [
        ("hour", "UTC", "2027-03-28T13:00+00:00"),
        ("day", "UTC", "2027-03-29T00:00+00:00"),
        ("day", "Europe/Berlin", "2027-03-29T00:00+02:00"),
        ("month", "America/New_York", "2027-04-01T00:00-04:00"),
    ],
)
async def test_a_reset_is_when_the_open_window_turns(build: Build, per: str, zone: str, turns: str) -> None:
    house = await build(BUDGET.replace("per: day", f"per: {per}, timezone: {zone}"))
    now_s = datetime.fromisoformat("2027-03-28T12:30+00:00").timestamp()
    assert dict(house.standing.resets(now_s)) == {"everyone": datetime.fromisoformat(turns).timestamp()}


async def test_policies_without_a_budget_have_no_reset(build: Build) -> None:
    house = await build("{name: everyone, rate_limit: {requests: 5, per: minute}}")
    assert dict(house.standing.resets(house.clock.wall_s())) == {}
