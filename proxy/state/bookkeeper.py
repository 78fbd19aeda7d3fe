"""Writes down what calls hold and what came of it: in the journal line by line, and in sums for the database.

    held ─────► journal, at once ──────────┐ turn: a new journal begins, and the sums so far with all
    settled ──► journal, soon; sums ───────┘ that is open are handed out, which is where it begins

The rule a reader could break: the sums and the journals since the last turn that the database took say the same. Where the journal
could not be written the sums know more, and until the next turn only this process does. What a limit has spent and held on the disk is
never more than the limit, so a restart finds nobody over it who was not.

What was spent before is looked up when a quota is first met. Then the database has all of it: whatever it has yet to be given belongs to a
tally that is in use, and as long as one is, it is the only one of its quota and window, and the one to ask.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from proxy.clock import Clock
from proxy.errors import StateUnavailable
from proxy.policy.contract import Unit
from proxy.state.arithmetic import NS
from proxy.state.contract import Booking
from proxy.state.counters import SpendKey, Tally
from proxy.state.database import disk_failed, unusable
from proxy.state.journal import Journal, path_of
from proxy.state.memory import MemoryReservation
from proxy.state.past import Past
from proxy.state.totals import OpenHold, Totals, hour_of

_Ended = tuple[MemoryReservation, Mapping[Unit, int], Booking | None]


class Bookkeeper:
    """A `Keeper` for one directory. wrote: called when something was written down, once until the next `flush`.

    failures: writes that failed, each made good or tried again; last_failure: why the last one did. open_holds: by id.
    """

    def __init__(self, directory: Path, clock: Clock, *, past: Past, generation: int, room: int, wrote: Callable[[], None]) -> None:
        """room: of each journal. Errors: StateUnavailable."""
        self._directory = directory
        self._clock = clock
        self._wrote = wrote
        self._past = past
        self._tallies: WeakValueDictionary[SpendKey, Tally] = WeakValueDictionary()
        self._totals = Totals()  # of what was used alone
        self._spent: dict[Tally, int] = {}
        self._handed: dict[Tally, int] = {}  # to the database, which has not said yet whether it took it
        self._ended: list[_Ended] = []  # what was settled and is yet to be written
        self._last_id = 0
        self._pending: dict[Tally, int] = {}  # what those held of limits that refuse, which on the disk they still do
        self._room = room
        self._waits = False  # for `flush`, and whoever is to call it was told
        try:
            self.journal = Journal(directory, generation, room=room)
        except OSError as error:
            raise disk_failed(directory, error) from error
        self.open_holds: dict[int, MemoryReservation] = {}
        self.closed = False
        self.failures = 0
        self.last_failure: str | None = None

    def __repr__(self) -> str:
        return f"<Bookkeeper {len(self.open_holds)} holds, {self.unwritten} sums; {self.journal!r}>"

    @property
    def unwritten(self) -> int:
        """What the database has yet to be given: sums, and calls that ended and are not in them yet."""
        return len(self._ended) + len(self._spent) + len(self._totals.used)

    def tally(self, key: SpendKey) -> Tally:
        """As the Keeper's."""
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(key, unread=True)
        if tally.unread and tally not in self._handed:  # else nobody knows whether that is in what would be read
            try:
                tally.spent += self._past.spent(key)
                tally.unread = False
            except StateUnavailable as error:
                self.failed(error)
        return tally

    def held(self, reservation: MemoryReservation, now_s: float) -> None:
        """As the Keeper's. Where the journal cannot be written, what never refuses is held all the same."""
        quotas, pending = reservation.quotas, self._pending
        for charge, tally in quotas:
            if not charge.enforced:
                continue
            if tally.unread:
                raise unusable(self.last_failure or f"what was spent cannot be read in {self._directory}")
            if tally in pending and tally.spent + tally.held + pending[tally] > charge.limit.amount:
                self.flush()  # what others gave back makes room for this, so it is to be seen on the disk before
        id = self._last_id + 1
        began_s = int(now_s)
        try:
            self.journal.hold(id, reservation.holder, began_s, began_s + reservation.lasts_s, quotas)
        except OSError as error:
            failure = self.failed(error)
            if any(charge.enforced for charge, _ in quotas):
                raise failure from error
            return
        self._last_id = reservation.id = id
        reservation.began_s = began_s
        self.open_holds[id] = reservation
        if not self._waits:
            self._waits = True
            self._wrote()

    def settled(self, reservation: MemoryReservation, used: Mapping[Unit, int], booking: Booking | None, *, over: bool) -> None:
        """As the Keeper's. Until it is written the hold stands for it, so only what is more than that is written at once."""
        self.open_holds.pop(reservation.id, None)
        if self.closed:
            raise unusable(f"the state in {self._directory} is closed")
        if not self._waits:
            self._waits = True
            self._wrote()
        self._ended.append((reservation, used, booking))
        for charge, tally in reservation.quotas:
            if charge.enforced:
                self._pending[tally] = self._pending.get(tally, 0) + charge.amount
        if over:
            self.flush()

    def flush(self) -> None:
        """Sum up what ended, and write it to the journal. A failure to write is counted: the sums have it."""
        self._waits = False
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        self._pending.clear()
        hour_s = hour_of(self._clock.wall_s())
        fresh, spent = Totals(), self._spent
        settled: list[tuple[int, list[int]]] = []
        loose: list[tuple[Tally, int]] = []
        for reservation, used, booking in ended:
            if booking is not None:
                fresh.book((hour_s, reservation.holder, booking[1]), booking)
            amounts = []
            for charge, tally in reservation.quotas:
                amount = max(0, used.get(charge.limit.unit, charge.amount))
                spent[tally] = spent.get(tally, 0) + amount
                amounts.append(amount)
                if not reservation.id:
                    loose.append((tally, amount))
            if reservation.id:
                settled.append((reservation.id, amounts))
        self._totals.add(fresh)
        try:
            self.journal.end(settled, loose, fresh.used)
        except OSError as error:
            self.failed(error)

    def turn(self) -> tuple[Totals, list[OpenHold], Journal]:
        """Begin a new journal. The sums of those before it, what is open where it begins, and the last of them. Errors: OSError."""
        following = Journal(self._directory, self.journal.generation + 1, room=self._room)
        now_ns = self._clock.monotonic_ns()
        for reservation in () if self.closed else tuple(self.open_holds.values()):
            if reservation.began_ns + reservation.lasts_s * NS < now_ns:  # nobody's call any more, though nobody said so
                reservation.end({}, _open_hold(reservation).booking())
        self.flush()
        before, self.journal = self.journal, following
        totals, self._totals = self._totals, Totals()
        self._handed, self._spent = self._spent, {}
        for tally, amount in self._handed.items():
            if amount:
                totals.spend(tally.key, amount)
        return totals, [_open_hold(reservation) for reservation in self.open_holds.values()], before

    def written(self) -> None:
        """The database took what `turn` handed out."""
        for tally, amount in self._handed.items():
            if tally.unread:
                tally.spent -= amount  # it is in what will be read
        self._handed = {}

    def take_back(self, totals: Totals) -> None:
        """What `turn` handed out could not be written; the journals have it still, or the next turn will."""
        for tally, amount in self._spent.items():
            self._handed[tally] = self._handed.get(tally, 0) + amount
        self._spent, self._handed = self._handed, {}
        later, self._totals = self._totals, Totals(used=totals.used)
        self._totals.add(later)

    def close(self) -> None:
        """After the last turn: let go of the journal, and of its file where nothing was written to it. Errors: OSError."""
        self.journal.close()
        if not self.journal.size:
            path_of(self._directory, self.journal.generation).unlink(missing_ok=True)

    def failed(self, error: Exception) -> StateUnavailable:
        """Count a write that failed. Returns it in our words."""
        failure = error if isinstance(error, StateUnavailable) else disk_failed(self._directory, error)
        self.failures += 1
        self.last_failure = failure.detail
        return failure


def _open_hold(reservation: MemoryReservation) -> OpenHold:
    amounts = tuple([(tally.key, charge.amount) for charge, tally in reservation.quotas])
    began_s = reservation.began_s
    return OpenHold(reservation.id, reservation.holder, began_s, began_s + reservation.lasts_s, amounts)
