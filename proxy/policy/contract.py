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
    """One counter's rule. Its identity in the store is (policy, clause, subject); the amounts may change on a reload."""

    policy: str
    clause: str
    unit: Unit
    rule: Rate | Slots | Quota
    error: str  # the code of the refusal, a key of CODES

    @property
    def amount(self) -> int:
        return self.rule.burst if isinstance(self.rule, Rate) else self.rule.amount


class Charge(NamedTuple):  # and no dataclass: a frozen one takes twice as long to make, and every call makes several
    """What to hold of a limit for one subject (`user=ada`, `key=web,model=gpt-4.1`, or `everyone`).

    enforced: False counts without ever refusing (alarms, shadow mode).
    """

    limit: Limit
    subject: str
    amount: int
    enforced: bool = True


class Balance(NamedTuple):
    """Where one charge's counter stands. reset_s: seconds until it is whole again (rate) or its window turns (quota), 0 for slots.

    spent excludes holds; held is what running calls may still spend; remaining = what a new call could take, ≥ 0.
    window: epoch seconds (start, end) of a quota's window, None otherwise.
    """

    charge: Charge
    remaining: int
    reset_s: float
    spent: int = 0
    held: int = 0
    window: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A fact worth a page: a budget crossed a threshold within a window. Two notices with one `dedup` are one fact.

    threshold: percent. amounts: nanodollars. to: names under `pages`; empty = the log only.
    """

    policy: str
    subject: str
    threshold: int
    spent_nanousd: int
    limit_nanousd: int
    window: tuple[int, int]
    to: tuple[str, ...]
    refuses: bool

    @property
    def dedup(self) -> str:
        return f"tollhouse/budget/{self.policy}/{self.subject}/{self.window[0]}/{self.threshold}"


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
    policy: str

    def sends(self, model: str) -> str:
        """The model that goes upstream where the client asks for `model`. Policies match by both names."""
        return model

    def body_limit(self) -> int | None:
        """The most bytes of body that pass, where that can be said before the body is read; None = any."""
        return None

    def prepare(self, call: Call) -> None:
        """Shape the call: lower a bound or rename, so that any order of clauses gives the same call. Never refuses."""

    def check(self, call: Call) -> None:
        """Raise `Refusal` if the shaped call may not pass."""

    def charges(self, call: Call) -> tuple[Charge, ...]:
        """What to hold before the upstream sees the call."""
        return ()

    def settled(self, balance: Balance) -> tuple[Notice, ...]:
        """Notices that a settled balance of one of this clause's charges calls for.

        Called with the same facts again and again: `dedup` tells them apart.
        """
        return ()

    def refuse(self, code: str, message: str, **kwargs: Any) -> Refusal:
        """A Refusal in this policy's name. code: a key of CODES."""
        assert code in CODES, code
        return Refusal(code, message, policy=self.policy, clause=self.clause, **kwargs)


def charge_each(limit: Limit, call: Call, by: tuple[str, ...], amount: int, *, enforced: bool = True) -> tuple[Charge, ...]:
    """So much of a limit for each of the call's subjects."""
    if len(by) == 1 and by[0] != "tag":
        return (Charge(limit, _of(by[0], call), amount, enforced),)
    return tuple([Charge(limit, subject, amount, enforced) for subject in subjects(call, by)])


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
