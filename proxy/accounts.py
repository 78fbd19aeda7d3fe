"""What is said of an ended call: one log line, one set of metrics. The observer that the pipeline tells.

Ended calls are gathered for some milliseconds and told of together: no client waits for it, and work of one kind in a row costs half of
what it costs between calls. The rule a reader could break: whoever shows metrics or closes the log calls `tell` first.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from proxy.call import Kind
from proxy.errors import UpstreamError
from proxy.policy.contract import Balance, Rate
from proxy.state.arithmetic import NS, pace, retry_after_ns, take
from proxy.telemetry.faults import report
from proxy.telemetry.logs import CallLine, Log
from proxy.telemetry.metrics import Metrics, Series
from proxy.trip import Trip

_GATHER_S = 0.01
# Lines of calls that were refused before it was known who calls: anybody may cause those, as many as he likes.
_STRANGERS = pace(Rate(amount=10, per_s=1, burst=100))
_SAY_NS = 10 * NS
# Models and an upstream's error codes are part of a kind, so neither how many are remembered nor how long they are is up to whoever
# sends them. One kind takes about 2 KiB.
MOST_KINDS = 1024
MOST_NAME_CHARS = 512


_Told = tuple[CallLine | None, Series, bool]  # what is remembered of a kind of call: no line where none is written; whether few are


class Accounts:
    """Tells the log and the metrics. Nothing here can fail a call: it is over when this hears of it.

    changed: where the quotas stand on which calls settled since it was last called.
    """

    def __init__(
        self, *, log: Log, metrics: Metrics, changed: Callable[[], Iterable[Balance]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._log = log
        self._changed = changed
        self._metrics = metrics
        self._loop = loop
        self._ended: list[Trip] = []
        self._kinds: dict[tuple[Any, ...], _Told] = {}
        self._strangers = self._thinned = self._since_ns = 0  # a bucket; lines left out, and since when
        metrics.when_labels_change(self._kinds.clear)

    def finished(self, trip: Trip) -> None:
        if not self._ended:
            self._loop.call_later(_GATHER_S, self.tell)
        self._ended.append(trip)

    def tell(self) -> None:
        """Tell of every call that has ended by now."""
        ended, self._ended = self._ended, []
        lines: list[bytes] = []
        ts = self._log.timestamp()
        for trip in ended:
            try:
                kind = trip.kind()
                line, series, stranger = self._kinds.get(kind) or self._meet(Kind(*kind))
                if line is not None and not (stranger and self._left_out(trip.ended_ns)):
                    lines.append(self._log.call_finished(line, trip, ts))
                self._metrics.call_finished(series, trip)
                if trip.error is not None and isinstance(trip.error, UpstreamError):
                    self._upstream_failed(trip, trip.error)
            except Exception as error:  # a last line of defence: the call is over and settled, and the next one must be told of
                self.fault(error, trip.call.id)
            for balance in trip.balances:  # of the limit that refused it
                self._metrics.budget_settled(balance)
        self._log.write(lines)
        for balance in self._changed():
            self._metrics.budget_settled(balance)

    def _meet(self, kind: Kind) -> _Told:
        """A kind of call that is not remembered. It is from here on, if its names are not too long."""
        told = self._log.call_line(kind), self._metrics.series(kind), kind.ending == "refused" and not kind.key
        outside = (kind.model_asked, kind.model, kind.model_served, kind.error)
        if sum(len(name) for name in outside if name) <= MOST_NAME_CHARS:
            if len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            self._kinds[kind] = told
        return told

    def _left_out(self, now_ns: int) -> bool:
        """Whether a line of somebody unknown is one too many. How many were is said now and then, before one that is not."""
        if retry_after_ns(_STRANGERS, self._strangers, now_ns, 1):
            self._since_ns = self._since_ns if self._thinned else now_ns
            self._thinned += 1
            self._metrics.log_thinned.inc()
            return True
        self._strangers = take(_STRANGERS, self._strangers, now_ns, 1)
        if self._thinned and now_ns - self._since_ns >= _SAY_NS:
            self._log.event("log.thinned", level="warning", left_out=self._thinned)
            self._thinned = 0
        return False

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
            deadline=error.deadline,
            request_id=trip.call.id,
        )
