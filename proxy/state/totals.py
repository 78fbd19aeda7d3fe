"""What was spent and used since some moment, summed up: what the journal amounts to, and what the database is given.

The rule a reader could break: these are differences, so each is given to the database once; the generation of the journal that they
come from is written with them, and that is how a restart knows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.call import Usage
from proxy.policy.contract import Unit
from proxy.state.contract import Booking, Holder
from proxy.state.counters import SpendKey

UsageKey = tuple[int, Holder, str]  # epoch second of the UTC hour, who, source
HOUR_S = 3600
# Columns of a sum: calls, then the classes of Usage, then nanodollars.
COLUMNS = (
    "calls",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
    "cost_nanousd",
)


@dataclass(frozen=True, slots=True)
class OpenHold:
    """What a call holds that has not ended. id: of the process that has the directory. amounts: of each quota that it is held of.

    began_s, expires_s: epoch seconds.
    """

    id: int
    holder: Holder
    began_s: float
    expires_s: float
    amounts: tuple[tuple[SpendKey, int], ...]

    @property
    def nanousd(self) -> int:
        """The most that is held of any one quota of money, for several may hold the same; 0 where none is."""
        return self._most(Unit.NANOUSD)

    @property
    def tokens(self) -> int:
        """The same of tokens."""
        return self._most(Unit.TOKENS)

    def _most(self, unit: Unit) -> int:
        return max((amount for key, amount in self.amounts if key[3] is unit), default=0)

    def booking(self) -> Booking:
        """How it counts when nobody can say what came of it: it costs all that was held."""
        return Usage(), "recovered", self.nanousd


@dataclass(eq=False, slots=True)
class Totals:
    """spent: by quota; used: sums by hour, holder and source, in the order of COLUMNS."""

    spent: dict[SpendKey, int] = field(default_factory=dict)
    used: dict[UsageKey, list[int]] = field(default_factory=dict)

    def spend(self, key: SpendKey, amount: int) -> None:
        self.spent[key] = self.spent.get(key, 0) + amount

    def use(self, key: UsageKey, numbers: Iterable[int]) -> None:
        """numbers: one for each of COLUMNS."""
        sums = self.used.get(key)
        if sums is None:
            self.used[key] = list(numbers)
        else:
            for at, number in enumerate(numbers):
                sums[at] += number

    def book(self, key: UsageKey, booking: Booking) -> None:
        """One call more."""
        sums = self.used.get(key)
        if sums is None:
            sums = self.used[key] = [0] * len(COLUMNS)
        usage, _, cost_nanousd = booking
        sums[0] += 1
        sums[1] += usage.input_tokens
        sums[5] += usage.output_tokens
        sums[8] += cost_nanousd
        if usage.cached_tokens or usage.reasoning_tokens:
            sums[2] += usage.cached_tokens
            sums[6] += usage.reasoning_tokens
        if usage.cache_write_tokens or usage.audio_input_tokens or usage.audio_output_tokens:
            sums[3] += usage.cache_write_tokens
            sums[4] += usage.audio_input_tokens
            sums[7] += usage.audio_output_tokens

    def add(self, other: "Totals") -> None:
        for key, amount in other.spent.items():
            self.spend(key, amount)
        for usage_key, numbers in other.used.items():
            self.use(usage_key, numbers)

    def recover(self, hold: OpenHold, now_s: float) -> None:
        """Settle what a dead process held: at all of it, since nobody knows how much of it was used."""
        for key, amount in hold.amounts:
            self.spend(key, amount)
        booking = hold.booking()
        self.book((hour_of(now_s), hold.holder, booking[1]), booking)


def hour_of(now_s: float) -> int:
    return int(now_s) // HOUR_S * HOUR_S
