"""The sections of a policy file as values: one dataclass for each mapping a person can write, its fields the YAML keys.

Clauses are not here: each kind is a file in `policies/`. No defaults hide here either: what a key means when it is left out stands
in its documentation. The rule a reader could break: a field without `option` is no YAML key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from proxy.policy.contract import Clause, option
from proxy.policy.reading import Entry, Shape, Shapes, shape_of
from proxy.policy.scalar import NotEmpty, Wrong
from proxy.policy.values import (
    Attempts,
    BaseUrl,
    Count,
    Credential,
    Day,
    Duration,
    Failures,
    Flag,
    Glob,
    Header,
    KeyHash,
    Mode,
    Name,
    PathGlob,
    RoutingKey,
    Share,
    SigningSecret,
    Size,
    Tier,
    Url,
    UsdEach,
    UsdPrice,
    Version,
    words,
)

PriceEntries = tuple["PriceEntry", ...]
Unpriced = Annotated[str, words("deny", "free")]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTimeouts:
    """Deadlines of one upstream; a policy can shorten them and never lengthen them."""

    connect: Duration | None = option("to reach the upstream (5s)", default=None)
    first_byte: Duration | None = option("from the call sent to the head of its answer (60s)", default=None)
    first_token: Duration | None = option("from the call sent to the first token of a stream (2m)", default=None)
    idle: Duration | None = option("the longest silence within an answer (60s)", default=None)
    total: Duration | None = option("the whole call (15m)", default=None)
    write_stall: Duration | None = option("how long a client may stop reading (30s)", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a call is tried that its upstream did not take."""

    attempts: Attempts = option(
        "tries in all, only of a call that was not sent or was refused unread; 1 = never again (2)", default=2
    )
    budget: Share = option("tries beyond a call's first, as a share of the upstream's calls of the last 10 s (20%)", default=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When an upstream that fails is not asked for a while."""

    failures: Failures = option("failures in a row that open it, whatever calls they are of; 0 = it never opens (5)", default=5)
    open: Duration = option(
        "how long no call is sent there before one tries; doubled each time it fails, up to 1m (10s)", default=10.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """An OpenAI-compatible model server."""

    base_url: BaseUrl = option("where its API begins, with /v1 where it has one")
    api_key: Credential | None = option(
        "the key it is called with; better a reference than the key itself", default=None, repr=False
    )
    timeouts: UpstreamTimeouts | None = option("deadlines that differ from the usual", default=None)
    retries: Retries | None = option("tries when it does not take a call", default=None)
    breaker: Breaker | None = option("when it is left alone because it fails", default=None)
    page: tuple[Name, ...] = option(
        "names under `pages` that are told when it refuses our credentials or its breaker opens; left out: the log only", default=()
    )
    forward_headers: tuple[Header, ...] = option("request headers passed on besides the usual ones", default=())
    largest_answer: Size | None = option("how large an answer of a metered path may grow, about (256MiB)", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which upstream takes a call. The first that matches the model sent is used."""

    models: Annotated[tuple[Glob, ...], NotEmpty("leave it out to take every model")] | None = option(
        "models it takes; left out: all, and calls without a model", default=None
    )
    to: Annotated[tuple[Name, ...], NotEmpty("a route leads to an upstream")] = option(
        "names of upstreams; those after the first are the fallback"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserHeader:
    """How the caller's app names its user."""

    header: Header = option("request header whose value is the user; only this key's callers are believed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Who may call: a hashed key, or callers on loopback without one."""

    id: Name = option("its name in policies, logs and limits")
    hash: KeyHash | None = option("sha256 of the key, from `tollhouse keys new`", default=None, repr=False)
    anonymous: Flag = option("true: callers on loopback that send no key", default=False)
    tags: tuple[Name, ...] = option("words that policies can match", default=())
    user: UserHeader | None = option("where the user's name comes from; left out: the key is its one user", default=None)
    expires: Day | None = option("the first day, in UTC, on which it is refused", default=None)

    def __post_init__(self) -> None:
        if self.anonymous and self.hash is not None:
            raise Wrong("a key has a hash or is anonymous, not both")
        if not self.anonymous and self.hash is None:
            raise Wrong('missing key "hash" (or `anonymous: true`)')


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices:
    """What tokens cost, in US dollars per million."""

    input: UsdPrice = option("input tokens")
    output: UsdPrice = option("output tokens")
    cached_input: UsdPrice | None = option("input read from the cache (as input)", default=None)
    cache_write: UsdPrice | None = option("input written to the cache (as input)", default=None)
    audio_input: UsdPrice | None = option("audio input (as input)", default=None)
    audio_output: UsdPrice | None = option("audio output (as output)", default=None)
    image_input: UsdPrice | None = option("image input (as input)", default=None)
    image_output: UsdPrice | None = option("image output (as output)", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPrices(TokenPrices):
    """What tokens cost in a call with a long input: all of them, not only those above."""

    above: Count = option("input tokens above which a call costs this")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPrices(TokenPrices):
    """What tokens cost at one service tier, in US dollars per million."""

    long: LongPrices | None = option("what a call with a long input costs", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry(TierPrices):
    """What one model costs, in US dollars per million tokens and for what is not sold by the token."""

    tiers: Mapping[Tier, TierPrices] = option("prices at other service tiers, such as priority", default_factory=dict)
    image: UsdEach | None = option("each image, for a model that is paid by the image", default=None)
    character: UsdEach | None = option("each character spoken, for a model that is paid by the character", default=None)
    second: UsdEach | None = option("each second heard, for a model that is paid by the second", default=None)
    call: UsdEach | None = option("each call, beside what it uses", default=None)
    from_: Day | None = option("the first day, in UTC, on which it holds; in a list of prices", default=None)

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.image, self.character, self.second)) > 1:
            raise Wrong("a model is paid by the image, by the character or by the second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What is added to the shipped price table, and what becomes of a model that no table knows."""

    unknown: Unpriced | PriceEntry = option("deny, free, or a price for every model without one (deny)", default="deny")
    models: Mapping[Glob, PriceEntry | PriceEntries] = option(
        "prices by model name or pattern, one or a list of them by date; they come before the shipped ones", default_factory=dict
    )
    tier: Tier = option("the service tier that the upstream gives to calls which name none (default)", default="default")
    tools: Mapping[Tier, UsdEach] = option(
        "what a call of a hosted tool costs, such as web_search; one without a price is refused", default_factory=dict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSink:
    """Pages that stand in the log only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSink:
    """Pages as signed HTTP requests (Standard Webhooks)."""

    url: Url = option("where pages are posted", repr=False)
    secret: SigningSecret | None = option("signs each page; left out: unsigned", default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackSink:
    """Pages as Slack messages."""

    url: Url = option("an incoming webhook's URL, which is a secret", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerDutySink:
    """Pages as PagerDuty events (Events API v2)."""

    routing_key: RoutingKey = option("an integration's routing key", repr=False)
    url: Url | None = option("where events are posted (https://events.pagerduty.com/v2/enqueue)", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertmanagerSink:
    """Pages as Prometheus Alertmanager alerts (API v2)."""

    url: Url = option("Alertmanager's address, such as http://alertmanager:9093", repr=False)


PageSink = LogSink | WebhookSink | SlackSink | PagerDutySink | AlertmanagerSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Who is told: exactly one way."""

    exactly_one: ClassVar[bool] = True

    log: LogSink | None = option("the log only: `log: {}`", default=None)
    webhook: WebhookSink | None = option("any HTTP receiver", default=None)
    slack: SlackSink | None = option("a Slack channel", default=None)
    pagerduty: PagerDutySink | None = option("a PagerDuty service", default=None)
    alertmanager: AlertmanagerSink | None = option("an Alertmanager", default=None)

    @property
    def sink(self) -> PageSink:
        chosen = self.log or self.webhook or self.slack or self.pagerduty or self.alertmanager
        assert chosen is not None, "the reader takes exactly one"
        return chosen


_NONE_MATCHES = NotEmpty("leave it out to match everything")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which calls a policy is about: those that fit every list that is given."""

    keys: Annotated[tuple[Name, ...], _NONE_MATCHES] | None = option("ids of keys", default=None)
    tags: Annotated[tuple[Name, ...], _NONE_MATCHES] | None = option("tags of keys; one shared tag is enough", default=None)
    models: Annotated[tuple[Glob, ...], _NONE_MATCHES] | None = option(
        "models, by the name asked for or the name sent", default=None
    )
    paths: Annotated[tuple[PathGlob, ...], _NONE_MATCHES] | None = option("paths, such as /v1/embeddings", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """A rule: which calls it is about, and one clause for each thing it says about them."""

    name: Name = option("its name in refusals, logs, metrics and pages; a limit's count belongs to this name")
    match: Match | None = option("which calls it is about; left out: every call", default=None)
    mode: Mode = option("enforce, or shadow: evaluated and counted, never refusing (enforce)", default="enforce")
    clauses: tuple[Clause, ...] = ()

    def __post_init__(self) -> None:
        if not self.clauses:
            raise Wrong("says nothing: it has no clause such as rate_limit or budget")


Upstreams = Annotated[Mapping[Name, Upstream], NotEmpty("leave it out to use the one from the settings")]
Routes = Annotated[tuple[Route, ...], NotEmpty("leave it out to send everything to the only upstream")]
Keys = Annotated[tuple[Key, ...], NotEmpty("`{id: app, anonymous: true}` admits callers on loopback")]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """A Tollhouse policy file."""

    version: Version = option("the version of this format: 1")
    upstreams: Upstreams | None = option("model servers by name; left out: the one from the settings", default=None)
    routes: Routes | None = option("which upstream takes which model; left out: the only upstream takes all", default=None)
    keys: Keys = option("who may call")
    unmetered: tuple[PathGlob, ...] = option("paths that may pass without a meter; all others without one are refused", default=())
    prices: Prices = option("additions to the shipped price table", default=Prices())
    pages: Mapping[Name, Page] = option("who is told of alarms, by name", default_factory=dict)
    policies: tuple[PolicyEntry, ...] = option("the rules; every one that matches applies, and the strictest wins", default=())


def shapes(kinds: tuple[type[Clause], ...]) -> Shapes:
    """The keys of a policy: its own, and one for each kind of clause."""

    def build(**values: object) -> PolicyEntry:
        clauses = tuple(c for c in values.values() if isinstance(c, Clause))
        own = {name: v for name, v in values.items() if not isinstance(v, Clause)}
        return PolicyEntry(clauses=clauses, **own)  # type: ignore[arg-type]

    own = shape_of(PolicyEntry)
    entries = tuple(Entry(kind.clause, kind, shape_of(kind).doc, required=False) for kind in kinds)
    return {PolicyEntry: Shape((*own.entries, *entries), build, own.doc)}
