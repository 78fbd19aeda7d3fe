"""How each upstream does, as calls find it: whether it is asked, how much is tried again there, and what is told and paged of it.

One Health for each name and address, which outlives a reload, so what the policy file says about it comes with every question. The rule
a reader could break: a call that goes well on an upstream that does well costs two look-ups here and an addition.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from proxy.breaker import Breaker
from proxy.clock import Clock
from proxy.errors import UpstreamError
from proxy.outage import Outage, What
from proxy.policy.policyset import UpstreamConfig
from proxy.retries import Retries
from proxy.telemetry.logs import Level
from proxy.telemetry.metrics import Metrics

# An upstream that refuses one call and answers the next would page and resolve without end.
PAGED_AGAIN_S = 300.0


class EventLog(Protocol):
    def event(self, name: str, /, *, level: Level = "info", **fields: Any) -> None: ...


class Pages(Protocol):
    """Who pages."""

    def notify(self, outages: tuple[Outage, ...], /) -> None: ...

    def outage_over(self) -> None: ...


class Health:
    """One upstream's.

    calls: that it was asked, without their further tries. shut: its breaker lets none pass but a probe. uneasy: a success would say
    something new, as the first one of a process does.
    """

    __slots__ = (
        "_breaker",
        "_clock",
        "_log",
        "_metrics",
        "_name",
        "_paged",
        "_pages",
        "_retries",
        "_worth",
        "_wrong",
        "calls",
        "shut",
        "uneasy",
    )

    def __init__(self, name: str, *, clock: Clock, log: EventLog, metrics: Metrics, pages: Pages) -> None:
        self.calls = 0
        self.shut = False
        self.uneasy = True
        self._name = name
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._pages = pages
        self._wrong: dict[What, bool] = {}  # whether it is; what is not here is not known yet
        self._worth: set[What] = set()  # what is wrong and worth a page
        self._paged: dict[What, float] = {}  # since when the last was
        self._breaker = Breaker()
        self._retries = Retries()

    def __repr__(self) -> str:
        return f"<Health {self._name} calls={self.calls} {self._breaker!r} {self._retries!r}>"

    # ── for a call ───────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, config: UpstreamConfig) -> int | None:
        """Of one that is shut: None where the call may not pass, and else its probe, for what is told of it; 0 for none."""
        if not config.failures:  # a reload turned the breaker off
            self._breaker.close()
            self._closed()
            return 0
        return self._breaker.probe(self._now()) or None

    def again(self, config: UpstreamConfig, reason: str) -> bool:
        """Whether one more try of a call may be made here; it is then counted. reason: why, one of metrics.RETRY_REASONS."""
        if not self._retries.take(self.calls, percent=config.retry_percent):
            self._metrics.upstream_retries_withheld.child(self._name).inc()
            return False
        self._metrics.upstream_retries.child(self._name, reason).inc()
        return True

    def succeeded(self, *, probe: int) -> None:
        """A 2xx came. Need not be told while it is not `uneasy`."""
        self.answered(probe=probe)
        self._over("credentials")
        self.uneasy = self.shut

    def answered(self, *, probe: int) -> None:
        """A head came that is no failure of the upstream's, whatever it says."""
        if self._breaker.answered(probe=probe):
            self._closed()
        elif not self.shut:
            self._over("down")

    def refused_us(self, config: UpstreamConfig) -> None:
        """It does not accept the credentials that the policy file gives us."""
        self.uneasy = True
        self._began("credentials", config)

    def failed(self, config: UpstreamConfig, *, probe: int) -> None:
        """It could not be reached, did not answer in time or not sensibly, or with a 5xx."""
        self.uneasy = True
        if self._breaker.failed(self._now(), probe=probe, most=config.failures, open_s=config.open_s):
            self.shut = True
            self._log.event("upstream.opened", level="warning", upstream=self._name, open_s=self.wait_s)
        if self.shut:
            self._began("down", config)

    def left(self, *, probe: int) -> None:
        """The call ended, and says nothing of the upstream."""
        self._breaker.left(probe=probe)

    @property
    def wait_s(self) -> float:
        """Of one that is shut: seconds until a call may pass."""
        return self._breaker.wait_s(self._now())

    def unavailable(self) -> UpstreamError:
        """What a call is told that has no other upstream to go to. Of one that is shut."""
        return UpstreamError(
            "upstream_unavailable",
            "The upstream failed call after call, and is not asked for now. Come back after `retry-after`.",
            sent=False,
            retry_after_s=self.wait_s,
        )

    # ── for the owner ────────────────────────────────────────────────────────────────────────────────────────────────

    def roll(self) -> None:
        """ROLL_S of `retries` have passed."""
        self._retries.roll(self.calls)

    def wrong(self, what: What) -> bool | None:
        """None as long as no call of this process has shown."""
        return self._wrong.get(what)

    def outages(self, config: UpstreamConfig) -> Iterator[Outage]:
        """What is wrong and worth a page."""
        if config.page:
            for what in self._worth:
                yield Outage(self._name, what, config.page)

    def _began(self, what: What, config: UpstreamConfig) -> None:
        """Also told again and again while it lasts."""
        now, paged = self._now(), self._paged.get(what)
        if what not in self._worth and (paged is None or now - paged >= PAGED_AGAIN_S):
            self._worth.add(what)
            self._paged[what] = now
        self._wrong[what] = True
        if config.page and what in self._worth:
            self._pages.notify((Outage(self._name, what, config.page),))

    def _over(self, what: What) -> None:
        if self._wrong.get(what) is not False:
            self._wrong[what] = False
            self._worth.discard(what)
            self._pages.outage_over()

    def _closed(self) -> None:
        self.shut = False
        self._log.event("upstream.closed", upstream=self._name)
        self._over("down")

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9


class Healths:
    """The Health of every upstream that was asked, by name and base URL. As with the clients, one that a reload dropped is kept."""

    def __init__(self, make: Callable[[str], Health]) -> None:
        self._make = make
        self._known: dict[tuple[str, str], Health] = {}

    def __repr__(self) -> str:
        return f"<Healths {list(self._known.values())}>"

    def __iter__(self) -> Iterator[Health]:
        return iter(self._known.values())

    def of(self, name: str, config: UpstreamConfig) -> Health:
        known = self._known.get((name, config.base_url))
        if known is None:
            known = self._known[name, config.base_url] = self._make(name)
        return known

    def stands(self, name: str, config: UpstreamConfig, what: What) -> bool | None:
        """Whether that is wrong with an upstream; None where it is not known."""
        known = self._known.get((name, config.base_url))
        return known.wrong(what) if known is not None else None

    def outages(self, upstreams: Mapping[str, UpstreamConfig]) -> Iterator[Outage]:
        """What is wrong with these and worth a page."""
        for name, config in upstreams.items():
            known = self._known.get((name, config.base_url))
            if known is not None:
                yield from known.outages(config)

    def shut(self, name: str, config: UpstreamConfig) -> bool:
        """Whether its breaker lets no call pass but a probe."""
        known = self._known.get((name, config.base_url))
        return known is not None and known.shut

    def roll(self) -> None:
        """ROLL_S of `retries` have passed."""
        for health in self._known.values():
            health.roll()
