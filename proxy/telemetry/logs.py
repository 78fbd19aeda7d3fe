"""Every event and every field that may stand in the log, and the Log that writes them.

An event is a name and fields, never a sentence. Both are declared here and nowhere else, and an undeclared one is an error of the
program, raised at once. The rule a reader could break: no field may carry prompt or completion text, a header, a URL, a key or the
text of an exception, so none of these is on the list; `exception` is a type, and `stack` is places in the source.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from proxy.call import Ending, Kind
from proxy.clock import Clock
from proxy.telemetry.ended import Ended
from proxy.telemetry.lines import MOST_STRING_BYTES, cut, cut_each, join_json, render_console, render_json, render_rest
from proxy.telemetry.trace import TRACE_ID
from proxy.telemetry.writer import LineWriter
from proxy.timeouts import DEADLINES

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

EVENTS: Mapping[str, str] = {
    "server.ready": "Its ports are open: calls are taken, or reviews of pods.",
    "server.draining": "No new calls are taken; running ones finish.",
    "server.stopped": "Everything is settled and the process ends.",
    "overload.began": "Calls or connections are refused from here on, for `reason`; running ones go on.",
    "overload.ended": "Calls are taken again.",
    "policy.activated": "A version of the policy file is in force from here on.",
    "policy.rejected": "A policy file has mistakes; the version in force stays.",
    "policy.linted": "A policy file is valid, and some of it looks unintended.",
    "call.finished": "A call ended, one way or another. One line for each call.",
    "edge.rejected": "Something came to the data port that was no request. One line a second at most, for all of them.",
    "upstream.broke": "An upstream could not be reached, was too slow or broke off.",
    "upstream.credentials_refused": "An upstream refused the credentials that the policy file gives us.",
    "upstream.opened": "An upstream failed call after call and is not asked for a while.",
    "upstream.closed": "An upstream is asked by every call again.",
    "budget.crossed": "A budget crossed one of its thresholds in this window.",
    "budget.resolved": "A crossing is over: the window turned, or the budget was raised.",
    "outage.began": "Something is wrong with an upstream that is worth a page: it refuses our credentials, or is down.",
    "outage.ended": "What was paged of an upstream is over: it answered, or the policy file no longer names it.",
    "page.delivered": "A page reached its sink.",
    "page.failed": "A page could not be delivered; it is tried again until `due_s`, or given up.",
    "state.failed": "The store of limits and money failed.",
    "state.recovered": "What a process held that died is charged, and what is left of its journal is read.",
    "recording.read": "A recorded call was read by the same key again, from an event on, or by a task's page. No upstream was asked.",
    "recordings.found": "Recordings of the process before were found on the disk.",
    "tokens.unavailable": "An encoding could not be loaded; tokens are estimated.",
    "library.logged": "A library logged something. Its text is left out: it may quote bytes of a call.",
    "log.thinned": "Calls were refused before it was known who calls, and most of their lines are left out.",
    "log.dropped": "The reader of the log was too slow or gone, and lines before this one are missing.",
    "fault.caught": "A defect of the proxy, or what no one else caught.",
    "pod.reviewed": "`inject` answered a review; `decision` is what became of the pod, or of what else it was about.",
    "review.rejected": "Something came to `inject` that is no review it can answer.",
    "files.activated": "A file of `inject` changed, and what it holds now is in force.",
    "files.rejected": "A file of `inject` changed and cannot be used; what was in force stays.",
    "pretend.serving": "The upstream is the pretend one that comes with the package.",
}


@dataclass(frozen=True, slots=True)
class Field:
    """type: what stands in the JSON, None aside. A float may be an int. list: of strings."""

    type: type
    meaning: str


FIELDS: Mapping[str, Field] = {
    # which call
    "request_id": Field(str, "The call's id, as in `x-request-id`."),
    "trace_id": Field(str, "W3C trace id, 32 hex digits."),
    "upstream_request_id": Field(str, "The upstream's own id of the call."),
    # who asked for what
    "key": Field(str, "Id of the key in the policy file; never the key."),
    "user": Field(str, "Value of the trusted user header, or the key's id."),
    "surface": Field(str, "Short name of the API path, as in metrics."),
    "path": Field(str, "Canonical path, without query."),
    "model_asked": Field(str, "Model in the client's body."),
    "model_served": Field(str, "Model in the upstream's answer."),
    "upstream": Field(str, "Name of the upstream in the policy file; of a call, the one that answered, or was asked last."),
    "tries": Field(int, "How often the call was tried, at all upstreams together; 0 when none was asked."),
    "open_s": Field(float, "For how many seconds the upstream is not asked."),
    "stream": Field(bool, "The client asked for a stream."),
    # how it ended
    "status": Field(int, "HTTP status; 0 when nothing was sent."),
    "outcome": Field(
        str, "How the call ended: completed, refused, upstream_error, upstream_broken, client_gone, timed_out, drained."
    ),
    "error": Field(str, "Public error code."),
    "deadline": Field(str, "Deadline that passed: " + ", ".join(DEADLINES) + "."),
    "refused_by": Field(str, "Policy and clause that refused, as `policy.clause`."),
    "clamped": Field(str, "Output caps that were lowered, as `field=before->after`."),
    # what it used and cost
    "input_tokens": Field(int, "Input tokens, cached ones included."),
    "cached_tokens": Field(int, "Input tokens that the upstream read from its cache."),
    "output_tokens": Field(int, "Output tokens, reasoning included."),
    "usage_source": Field(str, "Where the tokens come from: reported, counted or estimated."),
    "cost_nanousd": Field(int, "Cost in 10⁻⁹ US dollars."),
    "price_version": Field(str, "Version of the price table."),
    # how long it took, in milliseconds since the head was read
    "admit_ms": Field(float, "Until the call was admitted or refused."),
    "first_byte_ms": Field(float, "Until the head of the upstream's answer."),
    "first_token_ms": Field(float, "Until the first event that carries output."),
    "total_ms": Field(float, "Until the last byte was sent."),
    "settle_ms": Field(float, "Time the settlement took."),
    # policies
    "policy_version": Field(str, "Version of the policy file in force."),
    "previous_version": Field(str, "Version in force before."),
    "file": Field(str, "Path of the policy file, as given."),
    "mistakes": Field(int, "How many mistakes the file has."),
    "mistake_lines": Field(list, "The mistakes, each as `file:line:column: path: what is wrong`."),
    "lint_lines": Field(list, "What looks unintended, each as `file:line:column: path: why`."),
    # money and pages
    "policy": Field(str, "Name of a policy."),
    "subject": Field(str, "Whose budget: everyone, or key, user, tag, model."),
    "threshold": Field(int, "Percent of the budget that was crossed."),
    "spent_nanousd": Field(int, "Spent in this window, 10⁻⁹ US dollars."),
    "limit_nanousd": Field(int, "The budget of one window, 10⁻⁹ US dollars."),
    "window_start_s": Field(int, "Start of the window, seconds since 1970 UTC."),
    "window_end_s": Field(int, "End of the window, seconds since 1970 UTC."),
    "refuses": Field(bool, "The budget refuses calls when it is spent."),
    "holds": Field(int, "Calls that were running when the process died."),
    "held_nanousd": Field(int, "What they held, and so are charged, in 10⁻⁹ US dollars."),
    "journal_lines": Field(int, "Lines of the journal that were read."),
    "journal_damaged": Field(int, "Lines among them that were torn or had rotted."),
    "spent_by_s": Field(int, "When the budget is spent at the rate so far, seconds since 1970 UTC; absent when that is not known."),
    "top_models": Field(list, "The models that cost most, each with US dollars."),
    "top_users": Field(list, "The users that spent most, each with US dollars."),
    "page": Field(str, "Id of the page: what makes two of them one."),
    "sink": Field(str, "Name under `pages` in the policy file."),
    "kind": Field(str, "Kind of sink: log, webhook, slack, pagerduty, alertmanager; none for one that the file no longer names."),
    "attempts": Field(int, "Tries so far."),
    "due_s": Field(float, "Time of the next try, seconds since 1970 UTC; absent when there is none."),
    # recordings
    "call_id": Field(str, "The request id of the call that was recorded."),
    "read_how": Field(str, "How a recording was read: joined, replayed, resumed, result, events."),
    "kept": Field(int, "Recordings that were found."),
    "interrupted": Field(int, "Calls among them that ran when the process ended."),
    "unreadable": Field(int, "Recordings that another TOLLHOUSE_RECORD_KEY sealed, or that had rotted; they are gone."),
    # the injector
    "why": Field(str, "Why something is no review that can be answered; nothing of it."),
    "review_uid": Field(str, "The API server's id of a review."),
    "namespace": Field(str, "Namespace of the pod."),
    "pod": Field(str, "Name of the pod, or the prefix that its name will be made of."),
    "decision": Field(
        str,
        "injected; present (it has one already); not_asked, not_a_pod, not_created (no business of ours); host_network, windows, mirror, "
        "would_not_end, no_containers (none possible); wrong_annotation, volume_conflict (refused).",
    ),
    # the process
    "version": Field(str, "Version of Tollhouse."),
    "listen": Field(str, "Address and port for calls."),
    "admin_listen": Field(str, "Address and port for probes and metrics."),
    "store": Field(str, "Kind of store: memory, sqlite, redis."),
    "operation": Field(str, "What was asked of it."),
    "grace_s": Field(float, "How long running calls may still take."),
    "running": Field(int, "Calls that are running."),
    "count": Field(int, "How many there were since the last such event."),
    "reasons": Field(list, "Why, each as `reason=count`, by the reasons of `tollhouse_edge_rejections_total`."),
    "dropped": Field(int, "Lines that were lost since the last such event."),
    "left_out": Field(int, "Lines that were left out since the last such event."),
    "reason": Field(str, "What there is too little of: memory, calls, loop (time) or connections."),
    "refused": Field(int, "Calls and connections that were refused meanwhile."),
    "lasted_s": Field(float, "How long it lasted."),
    "where": Field(str, "Part of the program, or `module:line function`."),
    "logger": Field(str, "Name of a library's logger."),
    "exception": Field(str, "Type of an exception, and of its causes after ` < `; never its text."),
    "stack": Field(list, "Where it was raised, innermost first, each as `module:line function`."),
}

_ACCEPTED: Mapping[str, type | tuple[type, ...]] = {
    name: (float, int) if field.type is float else field.type for name, field in FIELDS.items()
}

_SURELY_SHORT = MOST_STRING_BYTES // 4  # characters, each at most four bytes

# A call that ended through no decision of ours or the client's is worth a look.
_ENDING_LEVEL: Mapping[Ending, Level] = {"upstream_error": "warning", "upstream_broken": "warning", "timed_out": "warning"}


@dataclass(frozen=True, slots=True)
class CallLine:
    """What the lines of calls of one kind have in common. Of their JSON: opening, from behind the time to what is a call's own; rest,
    from there on.
    """

    level: Level
    fields: Mapping[str, Any]
    opening: bytes
    rest: bytes


class Log:
    """Writes events to a file descriptor, one line each, without ever waiting for whoever reads it.

    fd: stays the caller's. level: the least that is written. format: `json` for machines; `console` for people, in colour on a tty.
    most_lines: waiting at the same time; beyond them lines are dropped and counted, and `log.dropped` says so later.
    gather_s: how long lines are collected before they are written together.
    """

    def __init__(
        self,
        fd: int,
        *,
        clock: Clock,
        level: Level = "info",
        format: Format = "json",
        most_lines: int = 4096,
        gather_s: float = 0.02,
    ) -> None:
        self._clock = clock
        self._least = LEVELS[level]
        self._format = format
        self._colour = format == "console" and os.isatty(fd)
        self._second = (-1, "")
        self._writer = LineWriter(fd, most_lines=most_lines, gather_s=gather_s, tell=self._dropped_line)

    def __repr__(self) -> str:
        return f"<Log format={self._format} {self._writer!r}>"

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._writer.dropped

    def event(self, name: str, /, *, level: Level = "info", **fields: Any) -> None:
        """Log one event. May be called from any thread, and from a destructor.

        Strings are cut to 256 bytes and lists to 16 items. Errors, all of them defects of the caller and raised also for a level
        that is not written: KeyError for an event, field or level that is not declared, TypeError for a value of another type.
        """
        self._log(name, level, fields)

    def call_line(self, kind: Kind) -> CallLine | None:
        """What the lines of calls of this kind have in common, for `call_finished`; None when they are not written."""
        level: Level = "error" if kind.error == "internal_error" else _ENDING_LEVEL.get(kind.ending, "info")
        if LEVELS[level] < self._least:
            return None
        fields = cut_each(
            {
                "key": kind.key or None,
                "surface": kind.surface,
                "model_asked": kind.model_asked,
                "model_served": kind.model_served,
                "upstream": kind.upstream,
                "status": kind.status,
                "outcome": kind.ending,
                "error": kind.error,
                "deadline": kind.deadline,
                "stream": kind.stream,
                "usage_source": kind.usage_source,
                "price_version": kind.price_version,
                "policy_version": kind.policy_version,
                "refused_by": ".".join(kind.refused_by) if kind.refused_by else None,
                "clamped": ", ".join(map(str, kind.clamps)) or None,
            }
        )
        return CallLine(level, fields, f'","level":"{level}","event":"call.finished",'.encode(), render_rest(fields))

    def call_finished(self, line: CallLine, ended: Ended, ts: str) -> bytes:
        """The one line of a call, for `write`. ts: of `timestamp`."""
        call, usage, began_ns = ended.call, ended.usage, ended.started_ns
        admitted_ns, first_byte_ns = ended.admitted_ns, ended.first_byte_ns
        first_token_ns, settle_ns = ended.first_token_ns, ended.settle_ns
        user, path = call.principal.user, call.path
        # Not checked one by one as the fields of an event are: the types are the annotations'.
        own = {
            "request_id": call.id,
            "user": user or None,
            "path": path or None,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "cost_nanousd": ended.cost_nanousd,
            "admit_ms": None if admitted_ns is None else (admitted_ns - began_ns) / 1e6,
            "first_byte_ms": None if first_byte_ns is None else (first_byte_ns - began_ns) / 1e6,
            "first_token_ms": None if first_token_ns is None else (first_token_ns - began_ns) / 1e6,
            "total_ms": (ended.ended_ns - began_ns) / 1e6,
            "settle_ms": None if settle_ns is None else settle_ns / 1e6,
            "upstream_request_id": ended.upstream_request_id,
            "tries": ended.tries,
            "trace_id": ended.traceparent[TRACE_ID],
        }
        if len(user) + len(path) <= MOST_STRING_BYTES and self._format == "json":
            text = join_json(ts, line.opening, own, line.rest)
            if text is not None:
                return text
        return self._line(ts, "call.finished", line.level, cut_each({**own, **line.fields}))

    def write(self, lines: list[bytes]) -> None:
        """Write lines of calls. For one thread only, the loop's."""
        self._writer.put_together(lines)

    def timestamp(self) -> str:
        """Now, in RFC 3339 in UTC with milliseconds. A second is formatted once: a busy proxy tells of many calls in one."""
        second, ms = divmod(int(self._clock.wall_s() * 1000 + 0.5), 1000)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{ms:03d}Z"

    def close(self, *, within_s: float = 2.0) -> None:
        """Write what waits, and take no more. Blocks its caller for at most `within_s`, also when nobody reads."""
        self._writer.close(within_s=within_s)

    def _log(self, name: str, level: Level, fields: dict[str, Any]) -> None:
        if name not in EVENTS:
            raise KeyError(name)
        for key, value in fields.items():
            accepted = _ACCEPTED[key]
            if value is None:
                continue
            if not isinstance(value, accepted):
                raise TypeError(f"{name}: {key} must be {FIELDS[key].type.__name__}, not {type(value).__name__}")
            if accepted is list or (accepted is str and len(fields[key]) > _SURELY_SHORT):
                fields[key] = cut(value)
        if LEVELS[level] >= self._least:
            self._writer.put(self._line(self.timestamp(), name, level, fields))

    def _line(self, ts: str, name: str, level: Level, fields: dict[str, Any]) -> bytes:
        record = {"ts": ts, "level": level, "event": name, **fields}
        return render_json(record) if self._format == "json" else render_console(record, colour=self._colour)

    def _dropped_line(self, dropped: int) -> bytes:
        return self._line(self.timestamp(), "log.dropped", "warning", {"dropped": dropped})
