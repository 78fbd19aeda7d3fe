"""The page about an upstream with which something is wrong: raised when it begins, resolved when a call shows that it is over.

Pure. Until the resolve is due nobody knows when that is, so it waits in the outbox without a time, from the moment its page was taken. The
rule a reader could break: a page names an upstream by its name in the policy file, and never says where it is or who we are there.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from proxy.outage import Outage, What
from proxy.page import Logged, Page, rfc3339

BEGAN, ENDED = "upstream.outage_began", "upstream.outage_ended"
# A resolve that nobody asked for yet. The year 2100: a number that every store and every calendar can take.
NO_TIME_S = 4_102_444_800.0
# Alertmanager forgets an alert at its end. An outage that lasts longer is paged again by then only if the process starts anew.
STANDS_S = 7 * 86_400

_CODES = {"credentials": "upstream_credentials", "down": "upstream_unavailable"}
_EFFECTS = {
    "credentials": "Calls that go there fail with 502 upstream_credentials.",
    "down": "Calls go to the next upstream of their route, and where there is none they fail with 503 upstream_unavailable.",
}
_REMEDIES = {
    "credentials": "Look whether its key was revoked, has expired, or lacks a permission, and put a valid one where `api_key` of upstream "
    "'{name}' points to; a file is read again when it changes.",
    "down": "Look at the upstream.broke lines of the log for what fails, and at the upstream's own status. "
    "One call tries it each time the pause is over.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutagePage:
    """An upstream refuses our credentials, or is down. Fields with a name of Page's mean the same.

    removed: resolved because the policy file no longer names the upstream, not because it answered.
    """

    id: str
    upstream: str
    what: What
    crossed_s: float
    resolved_s: float | None = None
    resolvable_s: float = 0.0
    over: bool = False
    removed: bool = False

    @classmethod
    def of(cls, outage: Outage, *, crossed_s: float) -> Self:
        return cls(id=outage.dedup, upstream=outage.upstream, what=outage.what, crossed_s=crossed_s)

    @classmethod
    def read(cls, facts: dict[str, Any]) -> Self:
        """Errors: TypeError, ValueError."""
        kind = facts.pop("type")
        page = cls(**facts)
        if kind != page.type or page.what not in _CODES:
            raise ValueError("not a page of a type known here")
        return page

    def write(self) -> bytes:
        return json.dumps({"type": self.type, **asdict(self)}).encode()

    def resolving(self, *, taken_s: float, lasts_s: float) -> Self:
        """What follows from this page, which its sink took: it is resolved some time."""
        return replace(self, resolved_s=NO_TIME_S, resolvable_s=taken_s + lasts_s)

    def ended(self, *, now_s: float, removed: bool) -> Self:
        """Resolved now, or as soon as it would be heard. For one that is `resolving`."""
        return replace(self, over=True, removed=removed, resolved_s=max(now_s, self.resolvable_s))

    @property
    def type(self) -> str:
        return BEGAN if self.resolved_s is None else ENDED

    @property
    def since_s(self) -> float:
        return self.crossed_s if self.resolved_s is None else self.resolved_s

    # ── what is asked of a page, whatever it is about ────────────────────────────────────────────────────────────────

    @property
    def reopens(self) -> bool:
        return self.over

    @property
    def severity(self) -> str:
        return "critical"

    @property
    def subject(self) -> str:
        return self.upstream

    @property
    def component(self) -> str:
        return self.upstream

    @property
    def key(self) -> str:
        """The next outage of the same kind is another page."""
        return f"{self.crossed_s} {self.id}"

    @property
    def labels(self) -> dict[str, str]:
        name = {"credentials": "TollhouseUpstreamCredentialsRefused", "down": "TollhouseUpstreamDown"}[self.what]
        return {"alertname": name, "upstream": self.upstream, "severity": self.severity}

    @property
    def annotations(self) -> dict[str, str]:
        facts = self.facts()
        return {name: facts[name] for name in ("summary", "effect", "remedy") if name in facts}

    @property
    def ends_s(self) -> float:
        return self.crossed_s + STANDS_S

    def logged(self) -> Logged:
        fields = {"page": self.id, "upstream": self.upstream, "error": _CODES[self.what]}
        return ("outage.began", "error", fields) if self.resolved_s is None else ("outage.ended", "info", fields)

    # ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────

    def headline(self, *, subject: str | None = None) -> str:
        """What is wrong, and where. subject: the upstream as the sink spells it."""
        name = f"'{self.upstream}'" if subject is None else subject
        if self.resolved_s is None:
            return {
                "credentials": f"Upstream {name} refuses our credentials",
                "down": f"Upstream {name} failed call after call and is not asked",
            }[self.what]
        if self.removed:
            return f"Resolved: the policy file no longer names upstream {name}"
        return {
            "credentials": f"Resolved: upstream {name} accepts our credentials again",
            "down": f"Resolved: upstream {name} answers again",
        }[self.what]

    @property
    def effect(self) -> str:
        return _EFFECTS[self.what] if self.resolved_s is None else "There is nothing to do."

    def lines(self, *, quote: str = "") -> tuple[str, ...]:
        """Everything a person wants to know below the headline."""
        if self.resolved_s is not None:
            return (self.effect,)
        return (f"Since {rfc3339(self.crossed_s)}.", self.effect, self._remedy)

    def facts(self) -> dict[str, Any]:
        """The page for programs."""
        facts = {
            "id": self.id,
            "upstream": self.upstream,
            "error": _CODES[self.what],
            "since": rfc3339(self.crossed_s),
            "summary": self.headline(),
            "effect": self.effect,
        }
        if self.resolved_s is None:
            return facts | {"remedy": self._remedy}
        return facts | {"reason": "upstream_removed" if self.removed else "upstream_answered"}

    @property
    def _remedy(self) -> str:
        return _REMEDIES[self.what].format(name=self.upstream)


AnyPage = Page | OutagePage


def read_page(body: bytes) -> AnyPage:
    """What a page's `write` wrote. Errors: ValueError, also for the page of a newer version that knows other types."""
    try:
        facts = json.loads(body)
        return OutagePage.read(facts) if facts["type"] in (BEGAN, ENDED) else Page.read(body)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a page") from error
