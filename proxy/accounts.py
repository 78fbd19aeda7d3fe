"""What is said of an ended call: one log line, one set of metrics. The observer that the pipeline tells.

Ended calls are gathered for some milliseconds and told of together: no client waits for it, and work of one kind in a row costs half of
what it costs between calls. The rule a reader could break: whoever shows metrics or closes the log calls `tell` first.
"""

import asyncio

from proxy.errors import UpstreamError
from proxy.policy.contract import Balance
from proxy.telemetry.faults import report
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from proxy.trip import Trip

_GATHER_S = 0.01


class Accounts:
    """Tells the log and the metrics. Nothing here can fail a call: it is over when this hears of it."""

    def __init__(self, *, log: Log, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._metrics = metrics
        self._loop = loop
        self._ended: list[Trip] = []

    def finished(self, trip: Trip) -> None:
        if not self._ended:
            self._loop.call_later(_GATHER_S, self.tell)
        self._ended.append(trip)

    def tell(self) -> None:
        """Tell of every call that has ended by now."""
        ended, self._ended = self._ended, []
        settled: dict[tuple[str, str], Balance] = {}  # by policy and subject, the latest of each
        for trip in ended:
            try:
                self._tell(trip)
            except Exception as error:  # a last line of defence: the call is over and settled, and the next one must be told of
                self.fault(error, trip.call.id)
            for balance in trip.balances:
                if balance.window is not None:
                    settled[balance.charge.limit.policy, balance.charge.subject] = balance
        for balance in settled.values():
            self._metrics.budget_settled(balance)

    def _tell(self, trip: Trip) -> None:
        call, outcome, metrics = trip.call, trip.outcome(), self._metrics
        self._log.call_finished(
            call,
            outcome,
            policy_version=trip.set.version,
            price_version=trip.set.prices.version if call.price is not None else None,
            trace_id=trip.trace.trace_id,
            settle_ms=trip.settle_ms,
        )
        metrics.call_finished(call, outcome, settle_ms=trip.settle_ms)
        if trip.meter is not None and trip.meter.nonsense:
            metrics.usage_mismatch.inc()
        if isinstance(trip.error, UpstreamError):
            self._upstream_failed(trip, trip.error)

    def would_refuse(self, policy: str, clause: str) -> None:
        self._metrics.refusals.child(policy, clause, "shadow").inc()

    def fault(self, error: BaseException, request_id: str) -> None:
        report(self._log, error, where="pipeline", request_id=request_id)

    def _upstream_failed(self, trip: Trip, error: UpstreamError) -> None:
        if error.code == "upstream_credentials":
            event, level = "upstream.credentials_refused", "error"
        elif error.code in ("upstream_unreachable", "upstream_broken", "upstream_timeout"):
            event, level = "upstream.broke", "warning"
        else:
            return
        self._log.event(
            event,
            level="error" if level == "error" else "warning",
            upstream=trip.upstream,
            error=error.code,
            exception=error.detail,
            request_id=trip.call.id,
        )
