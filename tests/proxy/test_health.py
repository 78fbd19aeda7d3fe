"""What is told and paged of an upstream, and how often."""

from typing import Any

from proxy.health import PAGED_AGAIN_S, Health, Healths
from proxy.outage import Outage
from proxy.policy.policyset import UpstreamConfig
from proxy.telemetry.metrics import Metrics
from tests.clock import FakeClock
from tests.pages import FakeLog

CONFIG = UpstreamConfig(base_url="http://127.0.0.1:9/v1", failures=2, page=("ops",))
REFUSED, DOWN = Outage("up", "credentials", ("ops",)), Outage("up", "down", ("ops",))


class House:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = FakeLog()
        self.paged: list[Outage] = []
        self.looks = 0
        self.healths = Healths(self.make)
        self.health = self.healths.of("up", CONFIG)

    def make(self, name: str) -> Health:
        return Health(name, clock=self.clock, log=self.log, metrics=Metrics(version="1", clock=self.clock), pages=self)

    def notify(self, outages: tuple[Outage, ...], /) -> None:
        self.paged += outages

    def outage_over(self) -> None:
        self.looks += 1

    def standing(self, config: UpstreamConfig = CONFIG) -> list[Outage]:
        return list(self.healths.outages({"up": config}))


def test_the_first_success_of_a_process_is_told_since_an_outage_may_stand_from_before() -> None:
    house = House()
    assert house.health.uneasy
    assert house.healths.stands("up", CONFIG, "credentials") is None
    house.health.succeeded(probe=0)
    assert not house.health.uneasy
    assert house.healths.stands("up", CONFIG, "credentials") is False
    looks = house.looks
    house.health.succeeded(probe=0)
    assert house.looks == looks > 0


def test_refused_credentials_stand_until_a_success() -> None:
    house = House()
    house.health.refused_us(CONFIG)
    house.health.answered(probe=0)  # a 404 says nothing of them
    assert house.paged == house.standing() == [REFUSED]
    assert house.health.uneasy
    house.health.succeeded(probe=0)
    assert house.standing() == []


def test_an_upstream_that_refuses_every_other_call_is_paged_once_in_five_minutes() -> None:
    house = House()
    for _ in range(100):
        house.health.refused_us(CONFIG)
        house.health.succeeded(probe=0)
        house.clock.advance(1)
    assert len(house.paged) == 1
    house.clock.advance(PAGED_AGAIN_S)
    house.health.refused_us(CONFIG)
    assert len(house.paged) == 2


def test_an_open_breaker_is_an_outage_until_a_probe_is_answered() -> None:
    house = House()
    for _ in range(2):
        house.health.failed(CONFIG, probe=0)
    assert house.health.shut
    assert house.paged == house.standing() == [DOWN]
    house.health.answered(probe=0)  # of a call that began before
    assert house.standing() == [DOWN]
    house.clock.advance(CONFIG.open_s)
    probe = house.health.admit(CONFIG)
    assert probe
    assert house.health.admit(CONFIG) is None
    house.health.succeeded(probe=probe)
    assert (house.health.shut, house.standing()) == (False, [])
    assert [name for name, _ in house.log.events] == ["upstream.opened", "upstream.closed"]


def test_nobody_is_paged_where_the_file_names_none() -> None:
    house, silent = House(), UpstreamConfig(base_url=CONFIG.base_url)
    house.health.refused_us(silent)
    assert house.paged == house.standing(silent) == []
    house.health.refused_us(CONFIG)  # a reload names somebody
    assert house.paged == [REFUSED]


def test_health_is_of_a_name_and_an_address() -> None:
    house = House()
    others: list[Any] = [
        house.healths.of("other", CONFIG),
        house.healths.of("up", UpstreamConfig(base_url="http://127.0.0.1:8/v1")),
    ]
    assert house.health not in others
    assert house.healths.of("up", UpstreamConfig(base_url=CONFIG.base_url, attempts=9)) is house.health
