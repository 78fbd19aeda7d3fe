"""Who spends of a budget: the largest users and models of each window, in bounded memory.

A tally of names (Misra and Gries, with amounts) is exact until it holds 256 of them. From then on the small ones are dropped, and every
amount is too low by at most 1/129 of what was counted; the tally knows by how much. The rule a reader could break: `add` is called while
a client waits. Nothing here is written to disk: after a restart a tally knows from when on it has counted, and says so.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from proxy.call import Call, Principal
from proxy.clock import Clock
from proxy.policy.contract import Charge, Notice
from proxy.state.contract import Spent

# Names that survive when a tally is cut down, and how many there may be before it is. 256 names take about 30 kB.
KEPT = 128
MOST_NAMES = 2 * KEPT
# Budgets and windows that are told apart: 4 MB with a few names each. The oldest goes first, and counts anew if it comes again.
MOST_BUDGETS = 2048
NAMED = 3

K = TypeVar("K")
_Key = tuple[str, str, tuple[int, int]]  # policy, subject, window


class Top(NamedTuple):
    """The largest spenders of one budget in one window: names and nanodollars, the largest first.

    counted_nanousd: what all of them together spent while it was counted, ≥ 0. since_s: epoch seconds at which counting began; None =
    with the window's first call. error_nanousd: by how much each amount may be too low.
    """

    models: tuple[tuple[str, int], ...]
    users: tuple[tuple[str, int], ...]
    counted_nanousd: int
    since_s: float | None
    error_nanousd: int


class Spenders:
    """The tallies of one process. It is told of each call that has settled."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tallies: dict[Spent, _Tally] = {}
        self._by_name: dict[_Key, _Tally] = {}

    def __repr__(self) -> str:
        return f"<Spenders of {len(self._tallies)} budgets>"

    def add(self, quotas: Sequence[tuple[Charge, Spent]], call: Call, cost_nanousd: int) -> None:
        """A call has settled on these quotas, and they know. cost_nanousd: > 0."""
        for charge, spent in quotas:
            if charge.limit.traced:
                try:
                    tally = self._tallies[spent]
                    tally.users[call.principal] += cost_nanousd
                    tally.models[call.model] += cost_nanousd
                except KeyError:
                    self._add_name(charge, spent, call, cost_nanousd)

    def top(self, notice: Notice) -> Top | None:
        """Who has spent most of the budget that a notice is about; None where nothing was counted."""
        tally = self._by_name.get((notice.policy, notice.subject, notice.window))
        if tally is None:
            return None
        users: dict[str, int] = {}
        for principal, amount in tally.users.items():  # of one user, several where his key has had other tags
            name = _name(principal)
            users[name] = users.get(name, 0) + amount
        return Top(
            models=_largest({model or "no model": amount for model, amount in tally.models.items()}),
            users=_largest(users),
            counted_nanousd=max(0, notice.spent_nanousd - tally.before_nanousd),
            since_s=tally.since_s,
            error_nanousd=max(tally.users_error, tally.models_error),
        )

    def _add_name(self, charge: Charge, spent: Spent, call: Call, cost_nanousd: int) -> None:
        """What `add` could not do: a budget or a name that is new. A user may have been counted when his model turned out to be new."""
        tally = self._tallies.get(spent)
        if tally is None:
            tally = self._new(charge, spent, cost_nanousd)
        elif call.principal in tally.users and call.model not in tally.models:
            tally.users[call.principal] -= cost_nanousd
        tally.add(call.principal, call.model, cost_nanousd)

    def _new(self, charge: Charge, spent: Spent, cost_nanousd: int) -> "_Tally":
        if len(self._tallies) >= MOST_BUDGETS:
            oldest = self._tallies.pop(next(iter(self._tallies)))
            if self._by_name.get(oldest.key) is oldest:
                del self._by_name[oldest.key]
        key = (charge.limit.policy, charge.subject, spent.window)
        before = max(0, spent.spent - cost_nanousd)
        tally = _Tally(key, before, self._clock.wall_s() if before else None)
        self._tallies[spent] = self._by_name[key] = tally
        return tally


class _Tally:
    """Amounts of one budget in one window. before_nanousd: what was spent of it before anything was counted."""

    __slots__ = ("before_nanousd", "key", "models", "models_error", "since_s", "users", "users_error")

    def __init__(self, key: _Key, before_nanousd: int, since_s: float | None) -> None:
        self.key = key
        self.before_nanousd = before_nanousd
        self.since_s = since_s
        self.users: dict[Principal, int] = {}
        self.models: dict[str | None, int] = {}
        self.users_error = self.models_error = 0

    def add(self, user: Principal, model: str | None, amount: int) -> None:
        self.users_error += _add(self.users, user, amount)
        self.models_error += _add(self.models, model, amount)


def _add(names: dict[K, int], name: K, amount: int) -> int:
    """Count, and cut down what has grown too large. Returns by how much amounts became too low by that."""
    names[name] = names.get(name, 0) + amount
    if len(names) <= MOST_NAMES:
        return 0
    cut = sorted(names.values(), reverse=True)[KEPT]
    kept = {name: amount - cut for name, amount in names.items() if amount > cut}
    names.clear()
    names.update(kept)
    return cut


def _largest(names: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))[:NAMED])


def _name(principal: Principal) -> str:
    """A user belongs to the key that named it; a key that names none is its one user."""
    return principal.key if principal.user == principal.key else f"{principal.key}/{principal.user}"
