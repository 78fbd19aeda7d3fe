"""The Metrics that counts calls: whose series go up by what.

The rule a reader could break: a label's values come from a closed list or from the policy file, never from a client or an upstream.
A model is shown by name only if the policy file or the price table knows it, a key only by its declared id, an error only by its
public code. And a sum over all values of a label must mean something, so token classes do not overlap.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxy.call import Kind, Usage
from proxy.clock import Clock
from proxy.errors import CODES
from proxy.policy.contract import Balance, Unit
from proxy.telemetry.declared import (
    DECLARED,
    NONE,
    STAGES,
    USAGE_SOURCES,
)
from proxy.telemetry.ended import Ended
from proxy.telemetry.exposition import AnyFamily, render
from proxy.telemetry.instruments import OTHER, Counter, Family, Gauge, Histogram
from proxy.telemetry.recorded import RecordedMetrics
from proxy.timeouts import DEADLINES

_NS = 1_000_000_000
_MOST_WAITING = 256  # calls whose times are not sorted in yet
_PAGE_KINDS = ("log", "webhook", "slack", "pagerduty", "alertmanager", NONE)  # none: to a sink that the file no longer names
_PAGE_RESULTS = ("delivered", "failed", "given_up")
_GLOB = frozenset("*?[")
_STATUS_CLASSES = {0: NONE, 1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
_UPSTREAM_ENDINGS = frozenset(("upstream_error", "upstream_broken", "timed_out"))


class _Tokens(dict[str, Counter]):
    """The token counters of one model and source by class, each made when it first counts."""

    def __init__(self, family: Family[Counter], model: str, source: str) -> None:
        super().__init__()
        self._family, self._model, self._source = family, model, source

    def __missing__(self, name: str) -> Counter:
        counter = self[name] = self._family.child(self._model, name, self._source)
        return counter


@dataclass(slots=True, eq=False)
class Series:
    """What calls of one kind count on. each: what goes up by one with each of them.

    tokens: None where nothing is used; seconds: None where time does not count; first_token: made when there is one.
    """

    model: str
    each: tuple[Counter, ...]
    cost: Counter
    tokens: _Tokens | None
    seconds: Histogram | None
    first_token: Histogram | None = None


class Metrics:
    """All metrics of one process. Counting is for the event loop's thread only.

    version: of Tollhouse. surfaces: their names, so that each is there from the first scrape; rejections: likewise, their reasons.
    """

    def __init__(self, *, version: str, clock: Clock, surfaces: Iterable[str] = (), rejections: Iterable[str] = ()) -> None:
        self._clock = clock
        self._families: list[AnyFamily] = []
        self._collect: list[Callable[[], None]] = []
        self._models: frozenset[str] = frozenset()
        self._model_globs: tuple[str, ...] = ()
        self._keys: frozenset[str] = frozenset()
        self._budget_ends: dict[str, int] = {}
        self._waiting = 0
        self._when_labels_change: list[Callable[[], object]] = []

        self.build_info = self._gauge("tollhouse_build_info")
        self.calls = self._counter("tollhouse_calls_total")
        self.errors = self._counter("tollhouse_errors_total")
        self.deadlines = self._counter("tollhouse_deadlines_total")
        self.edge_rejections = self._counter("tollhouse_edge_rejections_total")
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
        self.budget_reset = self._gauge("tollhouse_budget_reset_timestamp_seconds")
        self.upstream_errors = self._counter("tollhouse_upstream_errors_total")
        self.upstream_retries = self._counter("tollhouse_upstream_retries_total")
        self.upstream_retries_withheld = self._counter("tollhouse_upstream_retries_withheld_total")
        self.upstream_open = self._gauge("tollhouse_upstream_open")
        self.pages = self._counter("tollhouse_pages_total")
        self.policy_info = self._gauge("tollhouse_policy_info")
        self.policy_loads = self._counter("tollhouse_policy_loads_total")
        self.policy_last_load_successful = self._gauge("tollhouse_policy_last_load_successful").child()
        self.state_failures = self._counter("tollhouse_state_failures_total").child()
        self.log_dropped = self._counter("tollhouse_log_dropped_total").child()
        self.log_thinned = self._counter("tollhouse_log_thinned_total").child()
        self.shed = self._counter("tollhouse_shed_total")
        self.overloaded = self._gauge("tollhouse_overloaded").child()
        self.connections = self._gauge("tollhouse_connections")
        self.memory_limit = self._gauge("tollhouse_memory_limit_bytes").child()
        self.wrong_keys = self._counter("tollhouse_wrong_keys_total")
        self.loop_lag_seconds = self._histogram("tollhouse_loop_lag_seconds").child()
        self.recorded = RecordedMetrics(self._counter, self._gauge)

        # Known label values start at zero, so that a rate is right from the first scrape.
        self.build_info.child(version).set(1)
        self._stages = tuple(self.stage_seconds.child(stage) for stage in STAGES)
        for surface in surfaces:
            self.call_seconds.child(surface)
        for reason in rejections:
            self.edge_rejections.child(reason)
        for deadline in DEADLINES:
            self.deadlines.child(deadline)
        for source in USAGE_SOURCES:
            self.usage_source.child(source)
        for kind in _PAGE_KINDS:
            for result in _PAGE_RESULTS:
                self.pages.child(kind, result)
        for result in ("activated", "rejected"):
            self.policy_loads.child(result)
        for code in ("invalid_api_key", "too_many_wrong_keys"):
            self.wrong_keys.child(code)

    def __repr__(self) -> str:
        return f"<Metrics {len(self._families)} families inflight={self.inflight_calls.value}>"

    def series(self, kind: Kind) -> Series:
        """What calls of this kind count on, for `call_finished`. To be kept until labels change (`when_labels_change`)."""
        model, key, source = self._model_label(kind.model), self._key_label(kind.key), kind.usage_source
        seconds = self.call_seconds.child(kind.surface)
        return Series(
            model=model,
            each=tuple(self._each(kind, model, key)),
            cost=self.cost_nanousd.child(model, key),
            tokens=_Tokens(self.tokens, model, source) if source is not None else None,
            # A refusal takes no time, and many would hide how slow the answers are.
            seconds=seconds if kind.ending != "refused" else None,
        )

    def call_finished(self, series: Series, ended: Ended) -> None:
        """Count one call: how it ended, how long it took, what it used and cost."""
        for counter in series.each:
            counter.value += 1
        tokens = series.tokens
        if tokens is not None:
            series.cost.value += ended.cost_nanousd
            usage = ended.usage
            if (
                usage.cached_tokens
                or usage.cache_write_tokens
                or usage.audio_input_tokens
                or usage.reasoning_tokens
                or usage.audio_output_tokens
            ):
                for name, count in disjoint(usage):
                    if count:
                        tokens[name].value += count
            else:
                if usage.input_tokens:
                    tokens["input"].value += usage.input_tokens
                if usage.output_tokens:
                    tokens["output"].value += usage.output_tokens
        admit, first_byte, stream, settle = self._stages
        began_ns, admitted_ns, first_byte_ns, ended_ns = ended.started_ns, ended.admitted_ns, ended.first_byte_ns, ended.ended_ns
        if admitted_ns is not None:
            admit.waiting.append(admitted_ns - began_ns)
            if first_byte_ns is not None:
                first_byte.waiting.append(first_byte_ns - admitted_ns)
                stream.waiting.append(ended_ns - first_byte_ns)
        if ended.first_token_ns is not None:
            if series.first_token is None:
                series.first_token = self.first_token_seconds.child(series.model)
            series.first_token.waiting.append(ended.first_token_ns - began_ns)
        if ended.settle_ns is not None:
            settle.waiting.append(ended.settle_ns)
        if series.seconds is not None:
            series.seconds.waiting.append(ended_ns - began_ns)
        self._waiting += 1
        if self._waiting >= _MOST_WAITING:
            self._waiting = 0
            for family in (self.stage_seconds, self.first_token_seconds, self.call_seconds):
                for histogram in family:
                    histogram.sort_in()

    def rejected(self, reason: str, deadline: str | None) -> None:
        """Count what was no request."""
        self.edge_rejections.child(reason).inc()
        if deadline is not None:
            self.deadlines.child(deadline).inc()

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
        for forget in self._when_labels_change:
            forget()
        self.budget_spent_ratio.clear()
        self.budget_reset.clear()
        self.upstream_open.clear()
        for policy, clause, mode in clauses:
            self.refusals.child(policy, clause, mode)
            if clause == "budget":
                self.budget_spent_ratio.child(policy)
        self.policy_info.clear()
        self.policy_info.child(version).set(1)
        self.policy_loads.child("activated").inc()
        self.policy_last_load_successful.set(1)

    def policy_rejected(self) -> None:
        """Count a load that changed nothing."""
        self.policy_loads.child("rejected").inc()
        self.policy_last_load_successful.set(0)

    def when_labels_change(self, forget: Callable[[], object]) -> None:
        """Call `forget` when a policy file with other names is activated: every Series made before counts under the old ones."""
        self._when_labels_change.append(forget)

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

    def _each(self, kind: Kind, model: str, key: str) -> Iterator[Counter]:
        status = _STATUS_CLASSES.get(kind.status // 100, OTHER)
        yield self.calls.child(kind.surface, model, key, kind.ending, status)
        if kind.usage_source is not None:
            yield self.usage_source.child(kind.usage_source)
        if kind.usage_nonsense:
            yield self.usage_mismatch
        if kind.refused_by is not None:
            yield self.refusals.child(*kind.refused_by, "enforce")
        else:
            for clamp in kind.clamps:
                yield self.clamps.child(clamp.field)
        if kind.error is not None:
            code = kind.error if kind.error in CODES else OTHER  # an upstream words its own
            yield self.errors.child(code)
            if kind.deadline is not None:
                yield self.deadlines.child(kind.deadline)
            if kind.ending in _UPSTREAM_ENDINGS and kind.upstream is not None:
                yield self.upstream_errors.child(kind.upstream, code)

    def _key_label(self, key: str) -> str:
        if key in self._keys:
            return key
        return OTHER if key else NONE

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
