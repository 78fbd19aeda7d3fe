"""What a page says: the facts of one notice, as they wait in the outbox, and the sentences that every sink shares.

Pure. How a sink wants it is in `sinks`. The rule a reader could break: a subject holds what a client put into a header, so it is
tidied here, once, and still escaped by every sink that reads markup. Nothing else of a call comes near a page.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Self

from proxy.allowance import usd
from proxy.policy.contract import Notice

THRESHOLD_CROSSED = "budget.threshold_crossed"

# PagerDuty takes no longer a key, and it is the strictest (Events API v2, dedup_key).
MOST_ID_BYTES = 255
# Enough for every id a person would recognise; the id of the page tells longer ones apart.
MOST_SUBJECT_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A budget crossed a threshold. Pages with one id are one, from whichever process or replica they come.

    threshold: percent. window: epoch seconds, start and end. crossed_s: epoch seconds at which we noticed.
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

    @classmethod
    def of(cls, notice: Notice, *, crossed_s: float) -> Self:
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
        )

    @classmethod
    def read(cls, body: bytes) -> Self:
        """What `write` wrote. Errors: ValueError, also for the page of a newer version that knows other types."""
        facts = json.loads(body)
        try:
            if facts.pop("type") != THRESHOLD_CROSSED:
                raise ValueError("not a page of a type known here")
            start_s, end_s = facts.pop("window")
            return cls(window=(start_s, end_s), **facts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a page") from error

    def write(self) -> bytes:
        # Not orjson: it refuses integers beyond 64 bits, and a page that cannot be written would hold up all behind it.
        return json.dumps({"type": THRESHOLD_CROSSED, **asdict(self)}).encode()

    @property
    def refuses_now(self) -> bool:
        return self.refuses and self.spent_nanousd >= self.limit_nanousd

    def headline(self, *, subject: str | None = None) -> str:
        """Which budget, who, how much: what stands first, and alone where there is one line only. subject: as the sink spells it."""
        spent, limit = usd(self.spent_nanousd), usd(self.limit_nanousd)
        who = self.subject if subject is None else subject
        return f"Budget of policy '{self.policy}' crossed {self.threshold} %: {who} spent {spent} of {limit} USD"

    @property
    def effect(self) -> str:
        """What the budget does to calls from now on."""
        end = rfc3339(self.window[1])
        if self.refuses_now:
            return f"Calls it applies to are refused until the window turns at {end}."
        if self.refuses:
            return f"Calls still pass; they are refused once it is spent. The window turns at {end}."
        return f"Calls still pass: this budget counts and never refuses. The window turns at {end}."

    @property
    def remedy(self) -> str:
        """What to do, in one line."""
        return (
            "Find who spends: sum cost_nanousd by key, user and model over the call.finished log lines. "
            f"Then lower their limits, or raise `usd` in the budget of policy '{self.policy}'."
        )

    def facts(self) -> dict[str, Any]:
        """The page for programs. Amounts are decimal text: exact in every language that reads JSON."""
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
            "summary": self.headline(),
            "effect": self.effect,
            "remedy": self.remedy,
        }


def rfc3339(epoch_s: float) -> str:
    """`2026-11-22T10:00:00Z`: whole seconds, UTC."""
    return datetime.fromtimestamp(int(epoch_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
