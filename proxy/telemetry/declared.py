"""Every metric, declared once: its kind, what it says, its labels and how many series it may have.

The rule a reader could break: a label's values come from a closed list or from the policy file, never from a client or an upstream.
"""

from collections.abc import Mapping

from proxy.telemetry.instruments import Declaration
from proxy.telemetry.recorded import RECORDED
from proxy.timeouts import DEADLINES

# Doubling from 10 ms, as the OpenTelemetry conventions for LLMs have it, and three more, since a long answer takes minutes.
_CALL_BUCKETS = tuple(0.01 * 2**n for n in range(17))  # 0.01 … 655.36 s
# Our own share is a fraction of a millisecond and the upstream's is minutes: factors of four keep both in sight.
_STAGE_BUCKETS = tuple(0.00016 * 4**n for n in range(12))  # 0.16 ms … 671 s
_NS = 1_000_000_000
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

STAGES = ("admit", "first_byte", "stream", "settle")
TOKEN_CLASSES = ("input", "cached", "cache_write", "audio_input", "output", "reasoning", "audio_output")
USAGE_SOURCES = ("reported", "counted", "estimated")
MODES = ("enforce", "shadow")
RETRY_REASONS = ("unreachable", "rate_limited", "overloaded", "failed")
NONE = "none"  # a call that names no model, or whose key is not known yet

MOST_LINES = 5000  # of all metrics together, whatever clients, upstreams and policy files do

DECLARED: Mapping[str, Declaration] = {
    "tollhouse_build_info": Declaration("gauge", "1, labelled with the version of Tollhouse.", ("version",)),
    "tollhouse_calls_total": Declaration(
        "counter", "Calls that ended, by how they ended.", ("surface", "model", "key", "ending", "status"), most=1200
    ),
    "tollhouse_errors_total": Declaration("counter", "Calls that ended in an error, by public error code.", ("code",), most=60),
    "tollhouse_deadlines_total": Declaration("counter", "Deadlines that passed, by name.", ("deadline",), most=len(DEADLINES)),
    "tollhouse_edge_rejections_total": Declaration(
        "counter", "What came to the data port and was no request, by reason.", ("reason",), most=16
    ),
    "tollhouse_inflight_calls": Declaration("gauge", "Calls that are running."),
    "tollhouse_call_seconds": Declaration(
        "histogram",
        "Time of an admitted call, from its head to the last byte of its answer.",
        ("surface",),
        _CALL_BUCKETS,
        most=12,
        scale=_NS,
    ),
    "tollhouse_stage_seconds": Declaration(
        "histogram",
        "Time within a call: admit (ours), first_byte (the upstream's head), stream (the rest of the answer), settle (ours).",
        ("stage",),
        _STAGE_BUCKETS,
        most=8,
        scale=_NS,
    ),
    "tollhouse_first_token_seconds": Declaration(
        "histogram",
        "Time from the head of a call to the first output of its answer.",
        ("model",),
        _CALL_BUCKETS,
        most=40,
        scale=_NS,
    ),
    "tollhouse_tokens_total": Declaration(
        "counter", "Tokens used. Classes do not overlap: their sum is what was used.", ("model", "class", "source"), most=600
    ),
    "tollhouse_cost_usd_total": Declaration("counter", "Cost in US dollars.", ("model", "key"), most=600, scale=1_000_000_000),
    "tollhouse_usage_source_total": Declaration("counter", "Calls by where their token counts come from.", ("source",), most=3),
    "tollhouse_usage_mismatch_total": Declaration(
        "counter", "Answers whose usage block made no sense, and was not used, or was tenfold off the text that came."
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
    "tollhouse_budget_reset_timestamp_seconds": Declaration(
        "gauge", "When the window of a budget turns, in seconds since 1970.", ("policy",), most=100
    ),
    "tollhouse_upstream_errors_total": Declaration(
        "counter", "Calls that an upstream failed, by public code.", ("upstream", "code"), most=200
    ),
    "tollhouse_upstream_retries_total": Declaration(
        "counter",
        "Tries of a call beyond its first at an upstream, by why the one before failed.",
        ("upstream", "reason"),
        most=100,
    ),
    "tollhouse_upstream_retries_withheld_total": Declaration(
        "counter", "Tries that an upstream's share of retries did not allow.", ("upstream",), most=50
    ),
    "tollhouse_upstream_open": Declaration(
        "gauge", "1 while an upstream that failed call after call is not asked, else 0.", ("upstream",), most=50
    ),
    "tollhouse_pages_total": Declaration("counter", "Attempts to deliver a page.", ("kind", "result"), most=20),
    "tollhouse_policy_info": Declaration("gauge", "1, labelled with the policy version in force.", ("version",)),
    "tollhouse_policy_loads_total": Declaration("counter", "Policy files loaded.", ("result",), most=2),
    "tollhouse_policy_last_load_successful": Declaration(
        "gauge", "1 while the policy file is the one in force, 0 after it was changed to one with mistakes."
    ),
    "tollhouse_state_failures_total": Declaration("counter", "Times that the store of limits and money failed."),
    "tollhouse_log_dropped_total": Declaration("counter", "Log lines lost because their reader was too slow or gone."),
    "tollhouse_log_thinned_total": Declaration(
        "counter", "Log lines left out, of calls that were refused before it was known who calls, beyond 10 a second."
    ),
    "tollhouse_shed_total": Declaration(
        "counter",
        "Calls and connections refused because there was too little memory, calls, loop time or connections.",
        ("reason",),
        most=4,
    ),
    "tollhouse_overloaded": Declaration("gauge", "1 while calls or connections are refused for overload, else 0."),
    "tollhouse_connections": Declaration("gauge", "Connections of clients that are open, by port.", ("port",), most=2),
    "tollhouse_memory_limit_bytes": Declaration("gauge", "The memory near which calls are refused; 0 = there is no limit."),
    "tollhouse_wrong_keys_total": Declaration(
        "counter", "Wrong keys that were shown, by how they were answered.", ("code",), most=2
    ),
    "tollhouse_loop_lag_seconds": Declaration("histogram", "How late the event loop woke a timer.", buckets=_LAG_BUCKETS),
    **RECORDED,
}
