"""What a store of limits and money promises, whatever it is built on.

One call reserves once, atomically, all charges or none, and settles once. The rule a reader could break: between `reserve` and
`settle` nothing may be lost, so whoever reserves writes the try/finally on the next line.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from proxy.call import Usage, UsageSource
from proxy.policy.contract import Balance, Charge, Limit, Unit


class Holder(NamedTuple):
    """Whose call holds: the key's id, the user, the model that goes upstream, the surface; "" for what there is none of."""

    key: str = ""
    user: str = ""
    model: str = ""
    surface: str = ""


# What a call used in the end, where it used something; how that is known, recovered = not at all, its process died; nanodollars.
Booking = tuple[Usage, UsageSource | Literal["recovered"], int]

NOBODY = Holder()


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a reservation was not made: the charge that must wait longest.

    retry_after_s: seconds until the same call could pass; None when it never can (it asks for more than the whole limit).
    """

    charge: Charge
    balance: Balance
    retry_after_s: float | None


class Spent(Protocol):
    """What is spent of one quota in one window. It is itself and no other: what is remembered of it goes by it."""

    window: tuple[int, int]
    spent: int


class Reservation(Protocol):
    """What one call holds. shadowed: charges that would have refused. quotas: those of windows, with what is spent of each."""

    @property
    def quotas(self) -> Sequence[tuple[Charge, Spent]]: ...

    @property
    def shadowed(self) -> tuple[Denial, ...]: ...

    def balances(self, *units: Unit) -> tuple[Balance, ...]:
        """Where the counters of its charges of these units, or of all, stand now, settled or not; in the order of the charges."""

    async def settle(self, used: Mapping[Unit, int], booking: Booking | None = None) -> tuple[Balance, ...]:
        """Replace every hold by what was used, by unit; slots are given back whatever `used` says.

        booking: what goes into the books of usage; None = nothing.
        Returns the balances of those of its quotas whose clause wants to hear of them (`Limit.told_from`). A unit that `used` does
        not name keeps what was held. A second call changes nothing and returns the same.
        Completes even if its caller is cancelled: a store that waits shields itself. Errors: StateUnavailable.
        """


class StateStore(Protocol):
    async def reserve(self, charges: Sequence[Charge], holder: Holder = NOBODY, *, lasts_s: int = 3600) -> Reservation | Denial:
        """Hold all charges or none. A charge that is not enforced is counted and never denies.

        lasts_s: how long the call can last at most; one of quotas that is older is nobody's, and a store that writes counts it as spent.
        Errors: StateUnavailable, where what is held cannot be written down; what never refuses is counted all the same.
        """

    def peek(self, charge: Charge) -> Balance:
        """Where a counter stands, without touching it (headers, and what is left for a call).

        Of a quota that no call has met it looks up what was spent before; where that fails it says what is known.
        """

    def quotas(self, *, most: int = 1000) -> Iterator[tuple[Limit, str, int, int, tuple[int, int]]]:
        """The quotas in use, at most so many: (limit, subject, spent, held, window), without touching them (metrics)."""

    def changed(self) -> tuple[Balance, ...]:
        """Where the quotas stand on which calls settled since this was last asked, each once (metrics).

        They are remembered until then: whoever settles calls asks every now and then.
        """

    async def close(self) -> None:
        """Make durable what is durable and let go of files."""


class Spend(NamedTuple):
    """What one subject spent of a quota in a window."""

    policy: str
    clause: str
    subject: str
    window: tuple[int, int]
    spent: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One page to one sink. id: the notice's dedup, a slash and the sink's name; two with the same id are one.

    body: JSON bytes of the notice's facts (no content of any call). due_s: epoch seconds of the next try; attempts made so far.
    """

    id: str
    sink: str
    body: bytes
    due_s: float
    attempts: int = 0


class Outbox(Protocol):
    """Pages to deliver, kept until a sink took them."""

    async def put(self, deliveries: Sequence[Delivery]) -> int:
        """Queue those whose id was never queued before; how many that were."""

    async def due(self, now_s: float, *, most: int = 32, skip: Collection[str] = ()) -> tuple[Delivery, ...]:
        """Undelivered ones whose time has come, oldest first, but for those to the sinks in `skip`: they have enough on hand."""

    async def under(self, prefix: str) -> tuple[Delivery, ...]:
        """Undelivered ones whose ids begin so, whenever they are due. For few: all of them are returned."""

    async def retry(self, id: str, *, due_s: float) -> None:
        """Count a failed attempt and set the next."""

    async def replace(self, delivery: Delivery) -> None:
        """Give the one that waits under this id another body and another time. One that is done stays as it is."""

    async def done(self, id: str, *, then: Delivery | None = None, forget: Collection[str] = ()) -> None:
        """The sink took it, or will never take it. Its id stays known, so that the same page is not queued twice.

        In the same step, all or nothing: then: what follows from it is queued; forget: ids that may be queued anew.
        """
