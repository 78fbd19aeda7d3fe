"""Every metric, declared once, and the Metrics that counts calls.

The rule a reader could break: a label's values come from a closed list or from the policy file, never from a client or an upstream.
A model is shown by name only if the policy file or the price table knows it, a key only by its declared id, an error only by its
public code. And a sum over all values of a label must mean something, so token classes do not overlap.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from proxy.call import NOBODY, Call, Outcome, Principal, Usage
from proxy.clock import Clock
from proxy.errors import CODES
from proxy.policy.contract import Balance, Unit
from proxy.telemetry.exposition import AnyFamily, render
from proxy.telemetry.instruments import OTHER, Counter, Declaration, Family, Gauge, Histogram

# Doubling from 10 ms, as the OpenTelemetry conventions for LLMs have it, and three more, since a long answer takes minutes.
_CALL_BUCKETS = tuple(0.01 * 2**n for n in range(17))  # 0.01 … 655.36 s
# Our own share is a fraction of a millisecond and the upstream's is minutes: factors of four keep both in sight.
_STAGE_BUCKETS = tuple(0.00016 * 4**n for n in range(12))  # 0.16 ms … 671 s
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

STAGES = ("admit", "first_byte", "stream", "settle")
TOKEN_CLASSES = ("input", "cached", "cache_write", "audio_input", "output", "reasoning", "audio_output")
USAGE_SOURCES = ("reported", "counted", "estimated")
MODES = ("enforce", "shadow")
NONE = "none"  # a call that names no model, or whose key is not known yet

MOST_LINES = 5000  # of all metrics together, whatever clients, upstreams and policy files do

DECLARED: Mapping[str, Declaration] = {
    "tollhouse_build_info": Declaration("gauge", "1, labelled with the version of Tollhouse.", ("version",)),
    "tollhouse_calls_total": Declaration(
        "counter", "Calls that ended, by how they ended.", ("surface", "model", "key", "ending", "status"), most=1200
    ),
    "tollhouse_errors_total": Declaration("counter", "Calls that ended in an error, by public error code.", ("code",), most=60),
    "tollhouse_inflight_calls": Declaration("gauge", "Calls that are running."),
    "tollhouse_call_seconds": Declaration(
        "histogram", "Time of an admitted call, from its head to the last byte of its answer.", ("surface",), _CALL_BUCKETS, most=12
    ),
    "tollhouse_stage_seconds": Declaration(
        "histogram",
        "Time within a call: admit (ours), first_byte (the upstream's head), stream (the rest of the answer), settle (ours).",
        ("stage",),
        _STAGE_BUCKETS,
        most=8,
    ),
    "tollhouse_first_token_seconds": Declaration(
        "histogram", "Time from the head of a call to the first output of its answer.", ("model",), _CALL_BUCKETS, most=40
    ),
    "tollhouse_tokens_total": Declaration(
        "counter", "Tokens used. Classes do not overlap: their sum is what was used.", ("model", "class", "source"), most=600
    ),
    "tollhouse_cost_usd_total": Declaration("counter", "Cost in US dollars.", ("model", "key"), most=600, scale=1_000_000_000),
    "tollhouse_usage_source_total": Declaration("counter", "Calls by where their token counts come from.", ("source",), most=3),
    "tollhouse_usage_mismatch_total": Declaration(
        "counter", "Answers whose usage block was there and made no sense; they are counted instead."
    ),
    "tollhouse_refusals_total": Declaration(
        "counter",
        "Calls refused, or that would have been in shadow mode, by policy and clause.",
        ("policy", "clause", "mode"),
        most=400,
    ),
    "tollhouse_clamps_total": Declaration("counter", "Output caps that were lowered or added, by field.", ("field",), most=8),
    "tollhouse_budget_spent_ratio": Declaration(
        "gauge", "Spent share of a budget in its window, 1 = all; of several subjects, the highest.", ("policy",), most=100
    ),
    "tollhouse_upstream_errors_total": Declaration(
        "counter", "Calls that an upstream failed, by public code.", ("upstream", "code"), most=200
    ),
    "tollhouse_pages_total": Declaration("counter", "Attempts to deliver a page.", ("kind", "result"), most=20),
    "tollhouse_policy_info": Declaration("gauge", "1, labelled with the policy version in force.", ("version",)),
    "tollhouse_policy_loads_total": Declaration("counter", "Policy files loaded.", ("result",), most=2),
    "tollhouse_state_failures_total": Declaration("counter", "Times that the store of limits and money failed."),
    "tollhouse_log_dropped_total": Declaration("counter", "Log lines lost because their reader was too slow or gone."),
    "tollhouse_loop_lag_seconds": Declaration("histogram", "How late the event loop woke a timer.", buckets=_LAG_BUCKETS),
}

_PAGE_KINDS = ("log", "webhook", "slack", "pagerduty", "alertmanager")
_PAGE_RESULTS = ("delivered", "failed", "given_up")
_GLOB = frozenset("*?[")
_MOST_BOUND = 4096
_NO_PARTS = Usage()[2:]
_STATUS_CLASSES = {0: NONE, 1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
_UPSTREAM_ENDINGS = frozenset(("upstream_error", "upstream_broken", "timed_out"))


class _Classes:
    """The token counters of one model and source, each made when it first counts."""

    __slots__ = ("_counters", "_family", "_model", "_source")

    def __init__(self, family: Family[Counter], model: str, source: str) -> None:
        self._family, self._model, self._source = family, model, source
        self._counters: dict[str, Counter] = {}

    def add(self, name: str, count: int) -> None:
        if not count:
            return
        counter = self._counters.get(name)
        if counter is None:
            counter = self._counters[name] = self._family.child(self._model, name, self._source)
        counter.value += count


@dataclass(slots=True, eq=False)
class _Series:
    """What calls of one surface, model and key count on. model, key: the labels. calls: by ending and hundreds of the status."""

    model: str
    key: str
    cost: Counter
    seconds: Histogram
    calls: dict[tuple[str, int], Counter] = field(default_factory=dict)
    tokens: dict[str, _Classes] = field(default_factory=dict)


class Metrics:
    """All metrics of one process. Counting is for the event loop's thread only.

    version: of Tollhouse. surfaces: their names, so that each is there from the first scrape.
    """

    def __init__(self, *, version: str, clock: Clock, surfaces: Iterable[str] = ()) -> None:
        self._clock = clock
        self._families: list[AnyFamily] = []
        self._collect: list[Callable[[], None]] = []
        self._models: frozenset[str] = frozenset()
        self._model_globs: tuple[str, ...] = ()
        self._keys: frozenset[str] = frozenset()
        self._budget_ends: dict[str, int] = {}
        self._series: dict[tuple[str, str | None, str], _Series] = {}

        self.build_info = self._gauge("tollhouse_build_info")
        self.calls = self._counter("tollhouse_calls_total")
        self.errors = self._counter("tollhouse_errors_total")
        self.inflight_calls = self._gauge("tollhouse_inflight_calls").child()
        self.call_seconds = self._histogram("tollhouse_call_seconds")
        self.stage_seconds = self._histogram("tollhouse_stage_seconds")
        self.first_token_seconds = self._histogram("tollhouse_first_token_seconds")
        self.tokens = self._counter("tollhouse_tokens_total")
        self.cost_nanousd = self._counter("tollhouse_cost_usd_total")
        self.usage_source = self._counter("tollhouse_usage_source_total")
        self.usage_mismatch = self._counter("tollhouse_usage_mismatch_total").child()
        self.refusals = self._counter("tollhouse_refusals_total")
        self.clamps = self._counter("tollhouse_clamps_total")
        self.budget_spent_ratio = self._gauge("tollhouse_budget_spent_ratio")
        self.upstream_errors = self._counter("tollhouse_upstream_errors_total")
        self.pages = self._counter("tollhouse_pages_total")
        self.policy_info = self._gauge("tollhouse_policy_info")
        self.policy_loads = self._counter("tollhouse_policy_loads_total")
        self.state_failures = self._counter("tollhouse_state_failures_total").child()
        self.log_dropped = self._counter("tollhouse_log_dropped_total").child()
        self.loop_lag_seconds = self._histogram("tollhouse_loop_lag_seconds").child()

        # Known label values start at zero, so that a rate is right from the first scrape.
        self.build_info.child(version).set(1)
        self._stages = tuple(self.stage_seconds.child(stage) for stage in STAGES)
        for surface in surfaces:
            self.call_seconds.child(surface)
        for source in USAGE_SOURCES:
            self.usage_source.child(source)
        for kind in _PAGE_KINDS:
            for result in _PAGE_RESULTS:
                self.pages.child(kind, result)
        for result in ("activated", "rejected"):
            self.policy_loads.child(result)

    def __repr__(self) -> str:
        return f"<Metrics {len(self._families)} families inflight={self.inflight_calls.value}>"

    def call_finished(self, call: Call, outcome: Outcome, *, settle_ms: float | None = None) -> None:
        """Count one call: how it ended, how long it took, what it used and cost. settle_ms: time the settlement took."""
        about = (call.surface.name, call.model, call.principal.key)
        series = self._series.get(about) or self._bind(about, call.principal)
        status = outcome.status // 100
        ended = series.calls.get((outcome.ending, status))
        if ended is None:
            ended = series.calls[outcome.ending, status] = self.calls.child(
                about[0], series.model, series.key, outcome.ending, _STATUS_CLASSES.get(status, OTHER)
            )
        ended.value += 1
        self._time(series, outcome, settle_ms)
        if outcome.usage_source is not None:
            self.usage_source.child(outcome.usage_source).inc()
            self._used(series, outcome.usage, outcome.usage_source)
            series.cost.value += outcome.cost_nanousd
        if outcome.refused_by is not None:
            self.refusals.child(*outcome.refused_by, "enforce").inc()
        elif call.clamps:
            for field in call.clamps:
                self.clamps.child(field).inc()
        if outcome.error is not None:
            code = outcome.error if outcome.error in CODES else OTHER  # an upstream words its own
            self.errors.child(code).inc()
            if outcome.ending in _UPSTREAM_ENDINGS and outcome.upstream is not None:
                self.upstream_errors.child(outcome.upstream, code).inc()

    def budget_settled(self, balance: Balance) -> None:
        """Show where a budget stands. A balance that is not one of money in a window is passed over."""
        limit, window = balance.charge.limit, balance.window
        if window is None or limit.unit is not Unit.NANOUSD:
            return
        policy, most = limit.policy, limit.rule.amount
        ratio = balance.spent / most if most else 1.0
        gauge = self.budget_spent_ratio.child(policy)
        known_end = self._budget_ends.get(policy, 0)
        if window[1] > known_end:
            self._budget_ends[policy] = window[1]
            gauge.value = ratio
        elif window[1] == known_end and ratio > gauge.value:
            gauge.value = ratio

    def policy_activated(
        self, *, version: str, models: Iterable[str], keys: Iterable[str], clauses: Iterable[tuple[str, str, str]]
    ) -> None:
        """Count a load, and show from here on the names of this policy file.

        models: names and patterns (`gemma-*`, shown as such) of the price table and the policy file; keys: ids;
        clauses: (policy, clause, mode), mode one of MODES.
        """
        names = frozenset(models)
        self._model_globs = tuple(sorted(name for name in names if not _GLOB.isdisjoint(name)))
        self._models = names.difference(self._model_globs)
        self._keys = frozenset(keys)
        self._budget_ends.clear()
        self._series.clear()
        self.budget_spent_ratio.clear()
        for policy, clause, mode in clauses:
            self.refusals.child(policy, clause, mode)
            if clause == "budget":
                self.budget_spent_ratio.child(policy)
        self.policy_info.clear()
        self.policy_info.child(version).set(1)
        self.policy_loads.child("activated").inc()

    def policy_rejected(self) -> None:
        """Count a load that changed nothing."""
        self.policy_loads.child("rejected").inc()

    def before_render(self, collect: Callable[[], None]) -> None:
        """Call `collect` before every scrape, to read what is kept elsewhere."""
        self._collect.append(collect)

    async def render(self) -> bytes:
        """All metrics in Prometheus text format 0.0.4 (`exposition.CONTENT_TYPE`)."""
        now_s = self._clock.wall_s()
        for policy, end in tuple(self._budget_ends.items()):
            if end <= now_s:  # the window has turned and no call has come since
                self.budget_spent_ratio.child(policy).set(0)
                del self._budget_ends[policy]
        for collect in self._collect:
            collect()
        return await render(self._families)

    def _bind(self, about: tuple[str, str | None, str], principal: Principal) -> "_Series":
        """The children of calls of one surface, model and key, looked up once. Names come from clients, so there is a bound."""
        surface, asked, _ = about
        model, key = self._model_label(asked), self._key_label(principal)
        series = _Series(model=model, key=key, cost=self.cost_nanousd.child(model, key), seconds=self.call_seconds.child(surface))
        if len(self._series) >= _MOST_BOUND:
            self._series.clear()
        self._series[about] = series
        return series

    def _used(self, series: "_Series", usage: Usage, source: str) -> None:
        classes = series.tokens.get(source)
        if classes is None:
            classes = series.tokens[source] = _Classes(self.tokens, series.model, source)
        if usage[2:] == _NO_PARTS:  # neither cached nor reasoned, as most
            classes.add("input", usage.input_tokens)
            classes.add("output", usage.output_tokens)
        else:
            for name, count in disjoint(usage):
                classes.add(name, count)

    def _time(self, series: "_Series", outcome: Outcome, settle_ms: float | None) -> None:
        admit, first_byte, stream, settle = self._stages
        admit_ms, first_byte_ms, total_ms = outcome.admit_ms, outcome.first_byte_ms, outcome.total_ms
        if admit_ms is not None:
            admit.observe(admit_ms / 1000)
            if first_byte_ms is not None:
                first_byte.observe((first_byte_ms - admit_ms) / 1000)
                stream.observe((total_ms - first_byte_ms) / 1000)
        if outcome.first_token_ms is not None:
            self.first_token_seconds.child(series.model).observe(outcome.first_token_ms / 1000)
        if settle_ms is not None:
            settle.observe(settle_ms / 1000)
        if outcome.ending != "refused":  # a refusal takes no time, and many would hide how slow the answers are
            series.seconds.observe(total_ms / 1000)

    def _key_label(self, principal: Principal) -> str:
        if principal.key in self._keys:
            return principal.key
        return NONE if principal is NOBODY else OTHER

    def _model_label(self, model: str | None) -> str:
        if model is None:
            return NONE
        if model in self._models:
            return model
        return next((glob for glob in self._model_globs if fnmatchcase(model, glob)), OTHER)

    def _counter(self, name: str) -> Family[Counter]:
        family = Family(name, DECLARED[name], Counter)
        self._families.append(family)
        return family

    def _gauge(self, name: str) -> Family[Gauge]:
        family = Family(name, DECLARED[name], Gauge)
        self._families.append(family)
        return family

    def _histogram(self, name: str) -> Family[Histogram]:
        family = Family(name, DECLARED[name], Histogram)
        self._families.append(family)
        return family


def disjoint(usage: Usage) -> tuple[tuple[str, int], ...]:
    """The tokens of each of TOKEN_CLASSES, none counted twice, with the same precedence as in `Price.cost_nanousd`."""
    audio_input = min(usage.audio_input_tokens, usage.input_tokens)
    cached = min(usage.cached_tokens, usage.input_tokens - audio_input)
    written = min(usage.cache_write_tokens, usage.input_tokens - audio_input - cached)
    audio_output = min(usage.audio_output_tokens, usage.output_tokens)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens - audio_output)
    return (
        ("input", usage.input_tokens - audio_input - cached - written),
        ("cached", cached),
        ("cache_write", written),
        ("audio_input", audio_input),
        ("output", usage.output_tokens - audio_output - reasoning),
        ("reasoning", reasoning),
        ("audio_output", audio_output),
    )
