"""All recordings of the process: found by id and by Idempotency-Key, bounded in bytes, forgotten in time.

A pool is the recordings under one policy, whose `max_total` bounds it. The rule a reader could break: what runs, and what is being read, is
never evicted; and a caller who fills a pool pushes out his own before anybody else's.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from proxy.errors import Refusal
from proxy.policy.contract import Terms
from proxy.recording.recording import OWN_BYTES, Owner, Recording

# A recording that runs keeps so much of its end however full its pool is; more of them than fit so are refused.
LEAST_BYTES = 64 << 10
MOST_READERS = 64  # of one owner's recordings at once: attached, or waiting for news
Why = Literal["expired", "evicted", "trimmed"]


class _Pool:
    """idle: ended, and read by nobody, the longest unread first; by owner too. running: how many are."""

    __slots__ = ("by_owner", "idle", "running", "size")

    def __init__(self) -> None:
        # Linked, for a plain dictionary looks for its oldest among all that went before it.
        self.idle: OrderedDict[Recording, None] = OrderedDict()
        self.by_owner: dict[Owner, OrderedDict[Recording, None]] = {}
        self.size = 0
        self.running = 0


class Archive:
    """forgot: told of every recording that goes, and why; of one that loses its beginning too. live: those that run."""

    def __init__(self, forgot: Callable[[Recording, Why], None]) -> None:
        self._forgot = forgot
        self.live: dict[Recording, None] = {}
        self._by_id: dict[str, Recording] = {}
        self._claims: dict[tuple[Owner, str], Recording] = {}
        self._pools: dict[str, _Pool] = {}
        self._sizes: dict[Recording, int] = {}  # as counted in its pool
        self._running: dict[Owner, int] = {}
        self._reading: dict[Owner, int] = {}
        self._due: list[tuple[float, str]] = []

    def __repr__(self) -> str:
        return f"<Archive {self.running} running, {self.kept} kept, {self.size} bytes>"

    @property
    def size(self) -> int:
        return sum(pool.size for pool in self._pools.values())

    @property
    def running(self) -> int:
        return len(self.live)

    @property
    def kept(self) -> int:
        return len(self._by_id) - self.running

    def __len__(self) -> int:
        return len(self._by_id)

    # ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, id: str, owner: Owner) -> Recording | None:
        """The recording of this id, if it is this owner's: for everybody else there is none."""
        found = self._by_id.get(id)
        return found if found is not None and found.owner == owner else None

    def claimed(self, owner: Owner, key: str) -> Recording | None:
        return self._claims.get((owner, key))

    # ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, recording: Recording) -> None:
        """Keep a recording that begins. Errors: Refusal when too many of them run."""
        terms, owner = recording.terms, recording.owner
        pool = self._pool(terms)
        if self._running.get(owner, 0) >= terms.most_running:
            raise _too_many(
                f"Policy '{terms.policy}' lets {terms.most_running} recorded calls of one user run at once.", terms.policy
            )
        if (pool.running + 1) * LEAST_BYTES > terms.most_total:
            raise _too_many(f"Policy '{terms.policy}' has no room for another recorded call just now.", terms.policy)
        self._running[owner] = self._running.get(owner, 0) + 1
        pool.running += 1
        self.live[recording] = None
        self._keep(recording)
        self.grew(recording)

    def restore(self, recording: Recording) -> None:
        """Keep one that ended before this process began."""
        self._pool(recording.terms)
        self._keep(recording)
        self.grew(recording)
        if not recording.forgotten:
            self._rest(recording)
            self._fall_due(recording)

    def grew(self, recording: Recording) -> None:
        """Hold what it has become against the bounds."""
        if recording.forgotten:
            return
        terms = recording.terms
        if recording.size > terms.most_bytes and recording.trim(terms.most_bytes):
            self._forgot(recording, "trimmed")
        pool = self._pool(terms)
        self._count(pool, recording)
        while pool.size > terms.most_total and not recording.forgotten:
            own = pool.by_owner.get(recording.owner)
            victim = next(iter(own or pool.idle), None)
            if victim is None:
                room = max(LEAST_BYTES, recording.size - (pool.size - terms.most_total))
                if recording.trim(room):
                    self._forgot(recording, "trimmed")
                    self._count(pool, recording)
                return
            self.forget(victim, "evicted")

    def ended(self, recording: Recording, *, expires_s: float, frees_key: bool) -> None:
        """It runs no longer. frees_key: its Idempotency-Key may be used for another try."""
        owner, pool = recording.owner, self._pool(recording.terms)
        left = self._running[owner] - 1
        if left:
            self._running[owner] = left
        else:
            del self._running[owner]
        pool.running -= 1
        del self.live[recording]
        if frees_key:
            self._unclaim(recording)
            recording.claim = None  # nor does a restart find it claimed
        recording.expires_s = expires_s
        self._fall_due(recording)
        if not recording.readers:
            self._rest(recording)
        self.grew(recording)

    def expire(self, now_s: float) -> None:
        """Forget what is over its time. Whoever reads it now may read on."""
        while self._due and self._due[0][0] <= now_s:
            _, id = heapq.heappop(self._due)
            recording = self._by_id.get(id)
            if recording is not None:
                self.forget(recording, "expired")

    def forget(self, recording: Recording, why: Why) -> None:
        """Whoever reads it now may read on; what it takes counts until then."""
        pool = self._pool(recording.terms)
        self._wake(pool, recording)
        if not recording.readers:
            self._discount(pool, recording)
        del self._by_id[recording.id]
        self._unclaim(recording)
        recording.forgotten = True
        self._forgot(recording, why)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def expect_reader(self, owner: Owner, terms: Terms) -> None:
        """Errors: Refusal when too many read or wait already."""
        if self._reading.get(owner, 0) >= MOST_READERS:
            raise _too_many(f"{MOST_READERS} readers of recordings at once are accepted from one user.", terms.policy)

    def attach(self, recording: Recording) -> None:
        """Somebody begins to read it, or to wait for news. Errors: Refusal when too many do."""
        owner = recording.owner
        self.expect_reader(owner, recording.terms)
        self._reading[owner] = self._reading.get(owner, 0) + 1
        recording.readers += 1
        recording.alone_since = None
        self._wake(self._pool(recording.terms), recording)

    def detach(self, recording: Recording, now: float) -> None:
        """now: loop time."""
        owner = recording.owner
        left = self._reading[owner] - 1
        if left:
            self._reading[owner] = left
        else:
            del self._reading[owner]
        recording.readers -= 1
        if recording.readers:
            return
        if recording.forgotten:
            self._discount(self._pool(recording.terms), recording)
            return
        if recording.state == "running":
            recording.alone_since = now
        else:
            self._rest(recording)
            self.grew(recording)

    # ── books ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _pool(self, terms: Terms) -> _Pool:
        pool = self._pools.get(terms.policy)
        if pool is None:
            pool = self._pools[terms.policy] = _Pool()
        return pool

    def _keep(self, recording: Recording) -> None:
        self._by_id[recording.id] = recording
        if recording.claim is not None:
            self._claims[recording.owner, recording.claim] = recording

    def _unclaim(self, recording: Recording) -> None:
        if recording.claim is not None and self._claims.get((recording.owner, recording.claim)) is recording:
            del self._claims[recording.owner, recording.claim]

    def _fall_due(self, recording: Recording) -> None:
        assert recording.expires_s is not None
        heapq.heappush(self._due, (recording.expires_s, recording.id))
        if len(self._due) > 2 * len(self._by_id) + 1000:  # most were evicted before their time
            self._due = [due for due in self._due if due[1] in self._by_id]
            heapq.heapify(self._due)

    def _count(self, pool: _Pool, recording: Recording) -> None:
        pool.size += recording.size - self._sizes.get(recording, 0)
        self._sizes[recording] = recording.size

    def _discount(self, pool: _Pool, recording: Recording) -> None:
        pool.size -= self._sizes.pop(recording, 0)

    def _rest(self, recording: Recording) -> None:
        pool = self._pool(recording.terms)
        pool.idle[recording] = None
        pool.by_owner.setdefault(recording.owner, OrderedDict())[recording] = None

    def _wake(self, pool: _Pool, recording: Recording) -> None:
        if recording in pool.idle:
            del pool.idle[recording]
            own = pool.by_owner[recording.owner]
            del own[recording]
            if not own:
                del pool.by_owner[recording.owner]


def _too_many(message: str, policy: str) -> Refusal:
    return Refusal("recording_limit_exceeded", message, retry_after_s=1.0, policy=policy, clause="record")


assert LEAST_BYTES > OWN_BYTES
