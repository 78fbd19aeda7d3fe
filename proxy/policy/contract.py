"""What a policy is: a clause that shapes, checks and charges a call, and says which notices its balances call for.

Clauses decide; they do not act. Every hook is synchronous and pure: no I/O, no clock, no state of its own. The engine runs
`prepare` of every matching clause, then `check` of every one, then `charges` of every one, then reserves all charges in one atomic
step. Because `prepare` only lowers and renames, and `check` only refuses, the order of policies in the file never matters.
"""

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from itertools import product
from typing import Any, ClassVar, NamedTuple

from proxy.call import Call
from proxy.errors import CODES, Refusal

# Callers that each clause with a limit remembers: half a megabyte. One more is made anew, and the oldest forgotten.
MOST_REMEMBERED = 1024


class Stage(IntEnum):
    """Who speaks first when several would refuse."""

    VALIDATE = 1
    SHAPE = 2
    ADMIT = 3
    SPEND = 4


class Unit(Enum):
    """What a limit counts. The value is the word in logs and headers."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    SLOTS = "slots"
    NANOUSD = "nanousd"

    __hash__ = object.__hash__  # Enum hashes its name in Python, a dozen times a call


# For whoever asks in every call: Python 3.11 looks a member of an enumeration up in Python.
REQUESTS, TOKENS, SLOTS, NANOUSD = Unit


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket (GCRA): `amount` units per `per_s` seconds, at most `burst` at once."""

    amount: int
    per_s: int
    burst: int


@dataclass(frozen=True, slots=True)
class Slots:
    """At most `amount` held at the same time."""

    amount: int


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `amount` within one calendar window. period: minute, hour, day, week or month; zone: IANA name."""

    amount: int
    period: str
    zone: str


@dataclass(frozen=True, slots=True)
class Limit:
    """One counter's rule. Its identity in the store is (policy, clause, subject); the amounts may change on a reload.

    told_from: how much of a quota must be spent for its clause to hear of it (`Clause.settled`); None = it never wants to.
    traced: whether it is remembered who spends of it.
    """

    policy: str
    clause: str
    unit: Unit
    rule: Rate | Slots | Quota
    error: str  # the code of the refusal, a key of CODES
    told_from: int | None = None
    traced: bool = False
    amount: int = field(init=False, repr=False, compare=False)  # the most that can be held at once

    def __post_init__(self) -> None:
        object.__setattr__(self, "amount", self.rule.burst if isinstance(self.rule, Rate) else self.rule.amount)


@dataclass(slots=True)
class Charge:
    """What to hold of a limit for one subject (`user=ada`, `key=web,model=gpt-4.1`, or `everyone`).

    enforced: False counts without ever refusing (alarms, shadow mode). The rule a reader could break: a charge is shared by all calls
    it fits, and never changed. It is not frozen because that triples the cost of making one, and calls make them by the handful.
    """

    limit: Limit
    subject: str
    amount: int
    enforced: bool = True


@dataclass(slots=True)
class Balance:
    """Where one charge's counter stands. reset_s: seconds until it is whole again (rate) or its window turns (quota), 0 for slots.

    spent excludes holds; held is what running calls may still spend; remaining = what a new call could take, ≥ 0.
    window: epoch seconds (start, end) of a quota's window, None otherwise. Never changed, and not frozen, as a Charge.
    """

    charge: Charge
    remaining: int
    reset_s: float
    spent: int = 0
    held: int = 0
    window: tuple[int, int] | None = None


class Notice(NamedTuple):  # no dataclass: every call over a threshold makes it anew, and a frozen one takes thrice as long
    """A fact worth a page: a budget crossed a threshold within a window. Two notices with one `dedup` are one fact.

    threshold: percent. amounts: nanodollars. to: names under `pages`; empty = the log only. zone: in which the window turns.
    """

    policy: str
    subject: str
    threshold: int
    spent_nanousd: int
    limit_nanousd: int
    window: tuple[int, int]
    to: tuple[str, ...]
    refuses: bool
    zone: str = "UTC"

    @property
    def dedup(self) -> str:
        return f"tollhouse/budget/{self.policy}/{self.subject}/{self.window[0]}/{self.threshold}"


class Toll:
    """A limit, who shares it, and whether it refuses: what the charges of one clause have in common.

    by: words among user, key, tag, model, everyone, as for `subjects`. It remembers whom it charged last, for most calls are made by
    one who made another; the rule a reader could break: what it remembers follows from the caller and the model alone.
    """

    __slots__ = ("_by", "_by_caller", "_by_model", "_enforced", "_known", "limit")

    def __init__(self, limit: Limit, by: tuple[str, ...], *, enforced: bool = True) -> None:
        self.limit = limit
        self._by = by
        self._by_caller = not {"user", "key", "tag"}.isdisjoint(by)
        self._by_model = "model" in by
        self._enforced = enforced
        self._known: dict[object, tuple[Charge, ...]] = {}  # one unit for each subject, by what decides the subjects

    def __repr__(self) -> str:
        return f"<Toll {self.limit.policy}/{self.limit.clause} by {','.join(self._by)}: {len(self._known)} remembered>"

    def charges(self, call: Call, amount: int) -> tuple[Charge, ...]:
        """So much of the limit for each of the call's subjects."""
        who: object
        if self._by_caller:
            who = (call.principal, call.model) if self._by_model else call.principal
        else:
            who = call.model if self._by_model else None
        known = self._known.get(who)
        if known is None:
            known = tuple([Charge(self.limit, subject, 1, self._enforced) for subject in subjects(call, self._by)])
            if len(self._known) >= MOST_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[who] = known
        if amount == 1:
            return known
        if len(known) == 1:
            return (Charge(self.limit, known[0].subject, amount, self._enforced),)
        return tuple([Charge(self.limit, one.subject, amount, self._enforced) for one in known])


@dataclass(frozen=True, slots=True)
class Terms:
    """What policies allow of recordings. policy: whose `most_total` it is, the bytes of all recordings under it.

    kept_s: after the end. grace_s: without a reader. most_bytes: of one. most_running: at once, of one user. allow: words among
    idempotency, tasks, resume. tell: names under `pages`.
    """

    policy: str
    kept_s: float
    grace_s: float
    most_bytes: int
    most_total: int
    most_running: int
    allow: frozenset[str]
    tell: frozenset[str] = frozenset()

    def within(self, other: "Terms") -> "Terms":
        """The strictest of each."""
        tightest = min(self, other, key=lambda terms: (terms.most_total, terms.policy))
        return Terms(
            policy=tightest.policy,
            kept_s=min(self.kept_s, other.kept_s),
            grace_s=min(self.grace_s, other.grace_s),
            most_bytes=min(self.most_bytes, other.most_bytes),
            most_total=tightest.most_total,
            most_running=min(self.most_running, other.most_running),
            allow=self.allow & other.allow,
            tell=self.tell | other.tell,
        )


def option(doc: str, **kwargs: Any) -> Any:
    """A YAML field of a clause: one line of documentation, and dataclasses.field's own arguments (default, default_factory)."""
    return field(metadata={"doc": doc}, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One kind of policy. Its dataclass fields are the YAML fields, each declared with `option`.

    Source of a field's YAML type: `proxy.policy.values`. `policy` is the name of the policy it stands in; the compiler sets it.
    """

    clause: ClassVar[str]
    stage: ClassVar[Stage]
    steady: ClassVar[bool] = False  # whether what it charges follows from the caller and the model alone, so that it is asked once
    policy: str

    def sends(self, model: str) -> str:
        """The model that goes upstream where the client asks for `model`. Policies match by both names."""
        return model

    def body_limit(self) -> int | None:
        """The most bytes of body that pass, where that can be said before the body is read; None = any."""
        return None

    def terms(self) -> Terms | None:
        """What may be recorded of a call, where that can be said before the body is read; None = nothing is said of it."""
        return None

    def prepare(self, call: Call) -> None:
        """Shape the call: lower a bound or rename, so that any order of clauses gives the same call. Never refuses.

        It looks neither at the messages nor at the length of the body: what it does is remembered for the next body that differs in them.
        """

    def check(self, call: Call) -> None:
        """Raise `Refusal` if the shaped call may not pass. Messages of plain text may be in `call.unread` alone: see `body.all_fields`."""

    def charges(self, call: Call) -> tuple[Charge, ...]:
        """What to hold before the upstream sees the call."""
        return ()

    def lowered(self, call: Call, left: int) -> tuple[int, int] | None:
        """The output cap that brings this clause's charge down to `left`, which is less than it is; and the least cap that is of use.

        The first may be less than the second, or below zero: then the call does not fit. None where no cap changes the charge.
        """
        return None

    def settled(self, balance: Balance) -> tuple[Notice, ...]:
        """Notices that a settled balance of one of this clause's charges calls for.

        Called for quotas of which `Limit.told_from` or more is spent, with the same facts again and again: `dedup` tells them apart.
        """
        return ()

    def counts(self) -> bool:
        """Whether it may refuse a call for its tokens or its cost, and so have its input counted."""
        return False

    def watched(self, subject: str) -> Charge | None:
        """A charge of nothing on the quota of which `settled` hears, for one subject; None where there is no such quota."""
        return None

    def refuse(self, code: str, message: str, **kwargs: Any) -> Refusal:
        """A Refusal in this policy's name. code: a key of CODES."""
        assert code in CODES, code
        return Refusal(code, message, policy=self.policy, clause=self.clause, **kwargs)


def subjects(call: Call, by: tuple[str, ...]) -> tuple[str, ...]:
    """The subjects that `by` names for this call, one limit each.

    by: words among user, key, tag, model, everyone. A call with several tags has one subject per tag; without any, `tag=`.
    >>> subjects(call, ("user", "model"))
    ('user=ada,model=gpt-4.1',)
    """
    axes = [tuple(f"tag={tag}" for tag in call.principal.tags or ("",)) if word == "tag" else (_of(word, call),) for word in by]
    return tuple(",".join(combination) for combination in product(*axes))


def _of(word: str, call: Call) -> str:
    """One dimension of a subject that has a single value. A user belongs to the key that named it."""
    if word == "user":
        return f"user={call.principal.key}/{call.principal.user}"
    if word == "key":
        return f"key={call.principal.key}"
    if word == "model":
        return f"model={call.model or ''}"
    return "everyone"
