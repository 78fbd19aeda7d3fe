"""What is said of an ended call: one log line, one set of metrics. The observer that the pipeline tells."""

from proxy.errors import UpstreamError
from proxy.telemetry.faults import report
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from proxy.trip import Trip


class Accounts:
    """Tells the log and the metrics. Nothing here can fail a call: it is over when this hears of it."""

    def __init__(self, *, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics

    def finished(self, trip: Trip) -> None:
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
        for balance in trip.balances:
            metrics.budget_settled(balance)
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
