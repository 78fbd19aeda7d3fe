"""Which alarms stand after a start or a reload, where no call has raised them."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from policies import KINDS
from proxy.page import Page
from proxy.policy.contract import Notice, Unit
from proxy.policy.policyset import PolicySet
from proxy.policy.shelf import Shelf
from proxy.standing import Standing
from proxy.state.memory import MemoryStore, Spend
from tests.clock import FakeClock
from tests.pages import DAY

USD = 10**9
TEXT = """
version: 1
keys: [{{id: app, anonymous: true}}]
pages: {{ops: {{log: {{}}}}}}
policies: [{policies}]
"""
BUDGET = "{name: everyone, budget: {usd: 50, per: day, alarm_at: [50, 80], page: [ops]}}"


class House:
    """Policies, and a store that was just restored."""

    def __init__(self, folder: Path, policies: str = BUDGET, *, spent: int = 41 * USD, subject: str = "everyone") -> None:
        self.file = folder / "policy.yaml"
        self.clock = FakeClock(wall_s=DAY[0] + 3600)
        self.store = MemoryStore(self.clock)
        self.store.restore([Spend("everyone", "budget", subject, Unit.NANOUSD, DAY, spent)])
        self.standing = Standing(lambda: self.set, self.store, self.clock)
        self.load(policies)

    def load(self, policies: str) -> None:
        self.file.write_text("upstreams: {up: {base_url: http://127.0.0.1:9/v1}}" + TEXT.format(policies=policies), "utf-8")
        self.set: PolicySet = Shelf(kinds=KINDS, env={}, upstream=None).load(self.file)

    def notices(self) -> list[Notice]:
        return [notice for found in self.standing.notices() for notice in found]

    def thresholds(self) -> list[int]:
        return [notice.threshold for notice in self.notices()]

    def page(self, threshold: int = 80) -> Page:
        (notice,) = [notice for notice in self.notices() if notice.threshold == threshold]
        return Page.of(notice, crossed_s=self.clock.wall_s())


def test_spend_of_before_the_start_raises_what_it_crossed(tmp_path: Path) -> None:
    house = House(tmp_path)
    first, second = house.notices()
    assert [first.threshold, second.threshold] == [50, 80]
    assert (second.spent_nanousd, second.window, second.to, second.refuses) == (41 * USD, DAY, ("ops",), False)


@pytest.mark.parametrize(("spent_usd", "thresholds"), [(24, []), (25, [50]), (39, [50]), (40, [50, 80])])
def test_only_what_was_crossed_is_raised(tmp_path: Path, spent_usd: int, thresholds: list[int]) -> None:
    assert House(tmp_path, spent=spent_usd * USD).thresholds() == thresholds


def test_a_reload_that_lowers_a_budget_raises_what_is_crossed_now(tmp_path: Path) -> None:
    house = House(tmp_path, spent=30 * USD)
    house.load(BUDGET.replace("usd: 50", "usd: 35"))
    assert house.thresholds() == [50, 80]


@pytest.mark.parametrize("change", [("per: day", "per: hour"), ("name: everyone", "name: other"), ("usd: 50", "usd: 500")])
def test_spend_that_no_budget_is_about_raises_nothing(tmp_path: Path, change: tuple[str, str]) -> None:
    assert House(tmp_path, BUDGET.replace(*change)).thresholds() == []


def test_the_spend_of_yesterday_raises_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.clock.advance(86_400)
    assert house.thresholds() == []


@pytest.mark.parametrize(("mode", "refuses"), [("enforce", True), ("shadow", False)])
def test_a_shadowed_budget_does_not_say_that_it_refuses(tmp_path: Path, mode: str, refuses: bool) -> None:
    budget = BUDGET.replace("alarm_at", "when_spent: reject, alarm_at").replace("budget:", f"mode: {mode}, budget:")
    assert {notice.refuses for notice in House(tmp_path, budget).notices()} == {refuses}


@pytest.mark.parametrize(
    ("usd", "raised"),
    [(50, None), (40, None), (51, None), (52, 52 * USD), (100, 100 * USD)],  # 41 of 51 is still more than 80 %
)
def test_a_page_is_over_when_its_budget_was_raised_above_what_is_spent(tmp_path: Path, usd: int, raised: int | None) -> None:
    house = House(tmp_path)
    page = house.page()
    house.load(BUDGET.replace("usd: 50", f"usd: {usd}"))
    assert house.standing.raised(page) == raised


def test_what_was_spent_since_the_page_counts_too(tmp_path: Path) -> None:
    house = House(tmp_path)
    page = house.page()
    later = House(tmp_path, BUDGET.replace("usd: 50", "usd: 100"), spent=90 * USD)
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
def test_in_doubt_an_alarm_stands(tmp_path: Path, policies: str) -> None:
    house = House(tmp_path)
    page = house.page()
    house.load(policies)
    assert house.standing.raised(page) is None


def test_a_page_that_knows_of_more_than_a_crash_left_on_the_books_is_over_when_that_is_below_the_threshold_too(
    tmp_path: Path,
) -> None:
    house = House(tmp_path)
    page = replace(house.page(), spent_nanousd=49 * USD)
    for usd, raised in ((61, None), (62, 62 * USD)):
        house.load(BUDGET.replace("usd: 50", f"usd: {usd}"))
        assert house.standing.raised(page) == raised


def test_a_subject_of_which_nothing_is_known_stands(tmp_path: Path) -> None:
    house = House(tmp_path)
    page = house.page()
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
def test_a_reset_is_when_the_open_window_turns(tmp_path: Path, per: str, zone: str, turns: str) -> None:
    house = House(tmp_path, BUDGET.replace("per: day", f"per: {per}, timezone: {zone}"))
    house.clock.advance(datetime.fromisoformat("2027-03-28T12:30+00:00").timestamp() - house.clock.wall_s())
    assert dict(house.standing.resets()) == {"everyone": datetime.fromisoformat(turns).timestamp()}


def test_policies_without_a_budget_have_no_reset(tmp_path: Path) -> None:
    assert dict(House(tmp_path, "{name: everyone, rate_limit: {requests: 5, per: minute}}").standing.resets()) == {}
