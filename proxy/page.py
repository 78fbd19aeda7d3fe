"""What a page says: the facts of one notice, as they wait in the outbox, and the sentences that every sink shares.

A page is raised when a threshold is crossed, and resolved when its window turns or its budget is raised: the same page, told again.

Pure. How a sink wants it is in `sinks`. The rule a reader could break: a subject holds what a client put into a header, so it is
tidied here, once, and still escaped by every sink that reads markup. Nothing else of a call comes near a page.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Self
from zoneinfo import ZoneInfo

from proxy.allowance import usd
from proxy.policy.contract import Notice
from proxy.spenders import Top
from proxy.telemetry.logs import Level

THRESHOLD_CROSSED = "budget.threshold_crossed"
THRESHOLD_RESOLVED = "budget.threshold_resolved"

# PagerDuty takes no longer a key, and it is the strictest (Events API v2, dedup_key).
MOST_ID_BYTES = 255
# Enough for every id a person would recognise; the id of the page tells longer ones apart.
MOST_SUBJECT_CHARS = 200
MOST_NAME_CHARS = 80  # of a user or a model among the largest spenders
# A rate over less than this says more about the last call than about the day.
LEAST_SEEN_S = 300

# From the highest down; what is below them all is "info". The words are PagerDuty's.
_SEVERITIES = ((100, "critical"), (80, "warning"))

Spent = tuple[tuple[str, int], ...]  # names and nanodollars
Logged = tuple[str, Level, dict[str, Any]]  # event, level and fields of a line of the log


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A budget crossed a threshold. Pages with one id are one, from whichever process or replica they come.

    threshold: percent. window: epoch seconds, start and end. crossed_s: epoch seconds at which we noticed. zone: IANA name.
    models, users: the largest spenders, largest first, of counted_nanousd, each too low by at most error_nanousd. counted_since_s: None =
    since the window began. resolved_s: epoch seconds from which on it is resolved, None = it is raised. resolvable_s: before that no
    resolve would be heard. raised_nanousd: the larger budget that resolves it; None where the turn of the window does.
    """

    id: str
    policy: str
    subject: str
    threshold: int
    spent_nanousd: int
    limit_nanousd: int
    window: tuple[int, int]
    refuses: bool
    crossed_s: float
    zone: str = "UTC"
    models: Spent = ()
    users: Spent = ()
    counted_nanousd: int = 0
    counted_since_s: float | None = None
    error_nanousd: int = 0
    resolved_s: float | None = None
    resolvable_s: float = 0.0
    raised_nanousd: int | None = None

    @classmethod
    def of(cls, notice: Notice, *, crossed_s: float, top: Top | None = None) -> Self:
        """top: who spent; None where that is not known."""
        known = top or Top((), (), 0, None, 0)
        return cls(
            id=_bounded(notice.dedup),
            policy=notice.policy,
            subject=_tidy(notice.subject, most_chars=MOST_SUBJECT_CHARS),
            threshold=notice.threshold,
            spent_nanousd=notice.spent_nanousd,
            limit_nanousd=notice.limit_nanousd,
            window=notice.window,
            refuses=notice.refuses,
            crossed_s=crossed_s,
            zone=notice.zone,
            models=_tidied(known.models),
            users=_tidied(known.users),
            counted_nanousd=known.counted_nanousd,
            counted_since_s=known.since_s,
            error_nanousd=known.error_nanousd,
        )

    @classmethod
    def read(cls, body: bytes) -> Self:
        """What `write` wrote. Errors: ValueError, also for the page of a newer version that knows other types."""
        facts = json.loads(body)
        try:
            kind = facts.pop("type")
            if kind not in (THRESHOLD_CROSSED, THRESHOLD_RESOLVED):
                raise ValueError("not a page of a type known here")
            start_s, end_s = facts.pop("window")
            models, users = (tuple((who, amount) for who, amount in facts.pop(name, ())) for name in ("models", "users"))
            page = cls(window=(start_s, end_s), models=models, users=users, **facts)
            if kind != page.type:
                raise ValueError("a page of another type than it says")
            return page
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a page") from error

    def write(self) -> bytes:
        # Not orjson: it refuses integers beyond 64 bits, and a page that cannot be written would hold up all behind it.
        return json.dumps({"type": self.type, **asdict(self)}).encode()

    def resolving(self, *, taken_s: float, lasts_s: float) -> Self:
        """What follows from this page, which its sink took: it is resolved when the window turns.

        lasts_s: seconds after which the sink has surely told of the page. One that is resolved sooner might never be heard of.
        """
        return replace(self, resolved_s=max(float(self.window[1]), taken_s + lasts_s), resolvable_s=taken_s + lasts_s)

    def lifted(self, *, raised_nanousd: int, now_s: float) -> Self:
        """Resolved now, or as soon as it would be heard, because the budget was raised. For one that is `resolving`."""
        return replace(self, raised_nanousd=raised_nanousd, resolved_s=max(now_s, self.resolvable_s))

    @property
    def type(self) -> str:
        return THRESHOLD_CROSSED if self.resolved_s is None else THRESHOLD_RESOLVED

    @property
    def since_s(self) -> float:
        """Epoch seconds from which on it is to be told."""
        return self.crossed_s if self.resolved_s is None else self.resolved_s

    @property
    def refuses_now(self) -> bool:
        return self.refuses and self.spent_nanousd >= self.limit_nanousd

    # ── what is asked of a page, whatever it is about ────────────────────────────────────────────────────────────────

    @property
    def reopens(self) -> bool:
        """Whether the same may be paged anew once this, a resolve, was taken."""
        return self.raised_nanousd is not None

    @property
    def severity(self) -> str:
        return severity(self.threshold)

    @property
    def component(self) -> str:
        return self.policy

    @property
    def key(self) -> str:
        """What makes two pages of one type two: its budget too, because a threshold that a larger one lifted may be crossed again."""
        return f"{self.limit_nanousd} {self.id}"

    @property
    def labels(self) -> dict[str, str]:
        """The identity of an alert, which says nothing that changes while it lasts.

        The window is a part: tomorrow's crossing is another alert, even where nobody has yet told that today's is over.
        """
        return {
            "alertname": "TollhouseBudgetThresholdCrossed",
            "policy": self.policy,
            "subject": self.subject,
            "threshold": f"{self.threshold}%",
            "window": rfc3339(self.window[0]),
            "severity": self.severity,
        }

    @property
    def annotations(self) -> dict[str, str]:
        """What an alert says, empty where it has nothing to say."""
        facts = self.facts()
        if self.resolved_s is not None:
            return {name: facts[name] for name in ("summary", "effect")}
        told = {name: facts[name] for name in ("summary", "spent_usd", "limit_usd", "forecast", "effect", "remedy")}
        return told | {"top_models": self.spenders("models", self.models), "top_users": self.spenders("users", self.users)}

    @property
    def ends_s(self) -> float:
        """Epoch seconds at which an alert is over if nobody says so before."""
        return self.window[1]

    def logged(self) -> Logged:
        """The page as an event of the log."""
        budget = {
            "page": self.id,
            "policy": self.policy,
            "subject": self.subject,
            "threshold": self.threshold,
            "window_start_s": self.window[0],
            "window_end_s": self.window[1],
        }
        if self.resolved_s is not None:
            raised = self.raised_nanousd
            return "budget.resolved", "info", {**budget, "limit_nanousd": self.limit_nanousd if raised is None else raised}
        crossing = {
            "spent_nanousd": self.spent_nanousd,
            "limit_nanousd": self.limit_nanousd,
            "refuses": self.refuses,
            "spent_by_s": self.spent_by_s,
            "top_models": [f"{who} {usd(amount)}" for who, amount in self.models] or None,
            "top_users": [f"{who} {usd(amount)}" for who, amount in self.users] or None,
        }
        return "budget.crossed", "warning", budget | crossing

    # ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────

    def headline(self, *, subject: str | None = None) -> str:
        """Which budget, who, how much: what stands first, and alone where there is one line only. subject: as the sink spells it."""
        spent, limit = usd(self.spent_nanousd), usd(self.limit_nanousd)
        who = self.subject if subject is None else subject
        if self.raised_nanousd is not None:
            raised = f"it was raised from {limit} to {usd(self.raised_nanousd)} USD"
            return f"Resolved: {who} is below {self.threshold} % of the budget of policy '{self.policy}' again, as {raised}"
        if self.resolved_s is not None:
            return f"Resolved: the window is over in which {who} crossed {self.threshold} % of the budget of policy '{self.policy}'"
        return f"Budget of policy '{self.policy}' crossed {self.threshold} %: {who} spent {spent} of {limit} USD"

    @property
    def effect(self) -> str:
        """What the budget does to calls from now on."""
        end = rfc3339(self.window[1])
        if self.raised_nanousd is not None:
            return f"The threshold pages again when it is crossed under the new budget. The window turns at {end}."
        if self.resolved_s is not None:
            return f"A new window began at {end}, with nothing spent. There is nothing to do."
        if self.refuses_now:
            return f"Calls it applies to are refused until the window turns at {end}."
        if self.refuses:
            return f"Calls still pass; they are refused once it is spent. The window turns at {end}."
        return f"Calls still pass: this budget counts and never refuses. The window turns at {end}."

    def remedy(self, *, quote: str = "") -> str:
        """What to do, in one line. quote: what stands around each name that comes from a client."""
        if not self.users or not self.models:
            ask = "Find who spends: sum cost_nanousd by key, user and model over the call.finished log lines. "
            return f"{ask}Then lower their limits, or raise `usd` in the budget of policy '{self.policy}'."
        who, model = (f"{quote}{self._unquoted(top[0][0], quote)}{quote}" for top in (self.users, self.models))
        return (
            f"Ask whether what {who} spends on {model} is meant. If so, raise `usd` in the budget of policy '{self.policy}'; "
            "if not, lower the limits of that key, or of that model."
        )

    @property
    def spent_by_s(self) -> int | None:
        """Epoch seconds, a whole minute, by which the budget is spent at the rate of the window so far.

        None where that says nothing: it is spent, too little of the window has passed, or the window turns before that.
        """
        seen_s = self.crossed_s - self.window[0]
        if seen_s < LEAST_SEEN_S or not 0 < self.spent_nanousd < self.limit_nanousd:
            return None
        left_s = (self.limit_nanousd - self.spent_nanousd) * int(seen_s) // self.spent_nanousd
        by_s = -(-(int(self.crossed_s) + left_s + 1) // 60) * 60
        return by_s if by_s < self.window[1] else None

    @property
    def forecast(self) -> str:
        """One sentence, in the budget's own zone."""
        if self.spent_nanousd >= self.limit_nanousd:
            return "The budget is spent."
        if self.spent_by_s is not None:
            return f"At this rate the budget is spent by {self._local(self.spent_by_s)}."
        if self.crossed_s - self.window[0] < LEAST_SEEN_S:
            return "It is too early in the window to say when the budget will be spent."
        return "At this rate the budget lasts until the window turns."

    def spenders(self, what: str, top: Spent, *, quote: str = "") -> str:
        """The largest users or models in one line, empty where none is known. quote: what stands around each name."""
        if not top:
            return ""
        named = ", ".join(f"{quote}{self._unquoted(who, quote)}{quote} {self._amount(amount)}" for who, amount in top)
        since = f", counted since {self._local(self.counted_since_s)}" if self.counted_since_s is not None else ""
        error = f", each up to {usd(self.error_nanousd)} USD more" if self.error_nanousd else ""
        return f"Top {what}{since}{error}: {named}."

    def lines(self, *, quote: str = "") -> tuple[str, ...]:
        """Everything a person wants to know below the headline, one sentence or two in each."""
        if self.resolved_s is not None:
            return (self.effect,)
        top = (self.spenders("models", self.models, quote=quote), self.spenders("users", self.users, quote=quote))
        window = f"Window: {rfc3339(self.window[0])} to {rfc3339(self.window[1])}."
        unknown = () if any(top) else ("Who spent is not known: nothing has been counted since the last start.",)
        return (window, self.forecast, *filter(None, top), *unknown, self.effect, self.remedy(quote=quote))

    def facts(self) -> dict[str, Any]:
        """The page for programs. Amounts are decimal text: exact in every language that reads JSON."""
        if self.resolved_s is not None:
            return self._resolved_facts()
        by_s, since_s = self.spent_by_s, self.counted_since_s
        return {
            "id": self.id,
            "policy": self.policy,
            "subject": self.subject,
            "threshold_percent": self.threshold,
            "spent_usd": usd(self.spent_nanousd),
            "limit_usd": usd(self.limit_nanousd),
            "window": {"start": rfc3339(self.window[0]), "end": rfc3339(self.window[1])},
            "refuses_when_spent": self.refuses,
            "refuses_now": self.refuses_now,
            "spent_by": None if by_s is None else rfc3339(by_s),
            "top_models": self._shares(self.models),
            "top_users": self._shares(self.users),
            "top_counted_since": None if since_s is None else rfc3339(since_s),
            "top_error_usd": usd(self.error_nanousd),
            "summary": self.headline(),
            "forecast": self.forecast,
            "effect": self.effect,
            "remedy": self.remedy(),
        }

    def _resolved_facts(self) -> dict[str, Any]:
        raised = self.raised_nanousd
        return {
            "id": self.id,
            "policy": self.policy,
            "subject": self.subject,
            "threshold_percent": self.threshold,
            "limit_usd": usd(self.limit_nanousd if raised is None else raised),
            "window": {"start": rfc3339(self.window[0]), "end": rfc3339(self.window[1])},
            "crossed": rfc3339(self.crossed_s),
            "reason": "window_turned" if raised is None else "budget_raised",
            "summary": self.headline(),
            "effect": self.effect,
        }

    def _shares(self, top: Spent) -> list[dict[str, Any]]:
        return [{"name": who, "spent_usd": usd(amount), "share_percent": self._percent(amount)} for who, amount in top]

    def _percent(self, amount: int) -> int | None:
        return round(100 * amount / self.counted_nanousd) if self.counted_nanousd >= amount else None

    def _amount(self, amount: int) -> str:
        percent = self._percent(amount)
        return f"{usd(amount)} USD" + ("" if percent is None else f" ({percent} %)")

    def _local(self, at_s: float) -> str:
        """`16:40 (Europe/Berlin)`; with the date where it is not that of the crossing."""
        zone = ZoneInfo(self.zone)
        at, crossed = (datetime.fromtimestamp(int(s), zone) for s in (at_s, self.crossed_s))
        return at.strftime("%H:%M" if at.date() == crossed.date() else "%Y-%m-%d %H:%M") + f" ({self.zone})"

    @staticmethod
    def _unquoted(name: str, quote: str) -> str:
        return name.replace(quote, "'") if quote else name


def severity(threshold: int) -> str:
    """critical, warning or info. threshold: percent."""
    return next((word for least, word in _SEVERITIES if threshold >= least), "info")


def rfc3339(epoch_s: float) -> str:
    """`2026-11-22T10:00:00Z`: whole seconds, UTC."""
    return datetime.fromtimestamp(int(epoch_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tidied(top: Sequence[tuple[str, int]]) -> Spent:
    return tuple((_tidy(who, most_chars=MOST_NAME_CHARS), amount) for who, amount in top)


def _tidy(text: str, *, most_chars: int) -> str:
    """One line without anything that hides, reorders or moves what stands around it."""
    short = text if len(text) <= most_chars else text[: most_chars - 1] + "…"
    return short if short.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in short)


def _bounded(dedup: str) -> str:
    """The dedup as every sink and store can take it. One that is too long or not clean ends in its SHA-256 instead of its tail."""
    if dedup.isprintable() and len(dedup.encode()) <= MOST_ID_BYTES:
        return dedup
    tail = "#" + sha256(dedup.encode(errors="surrogatepass")).hexdigest()
    head = _tidy(dedup, most_chars=MOST_ID_BYTES).encode()[: MOST_ID_BYTES - len(tail)]
    return head.decode(errors="ignore") + tail
