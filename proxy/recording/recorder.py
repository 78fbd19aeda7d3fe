"""Recorded calls: who begins one, who joins it, what carries it on, and when it is over.

    head asks ─► body is read ─► the key is claimed, or its recording found      one step of the loop: no other call is in between
                                     │ claimed                │ found
                                     ▼                        ▼
              a task carries the call on into the recording;  everybody reads it, its sender too

The rule a reader could break: between looking for a recording and keeping a new one nothing is awaited, or two calls with one key would
both be sent.
"""

import asyncio
import hmac
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, Protocol

from proxy.clock import Clock
from proxy.deadlines import ABANDONED, Watch
from proxy.errors import InvalidCall, ProxyError
from proxy.pipeline import Carried, CarryOn
from proxy.recording.archive import Archive, Why
from proxy.recording.reader import copy, gap, news
from proxy.recording.recording import Facts, Owner, Recording, State
from proxy.recording.sink import RecordingSink
from proxy.recording.statement import statement
from proxy.relay import Sink
from proxy.trip import Arrival, Trip
from proxy.wire.request import RequestHead
from proxy.wire.surfaces import RECORDED

if TYPE_CHECKING:  # it brings what seals, which only those need who have a key for the disk
    from proxy.recording.vault import Vault

TICK_S = 1.0
_ID_BYTES = 16  # 128 bits: nobody guesses one
_HASHED_ON_LOOP_BYTES = 256 << 10  # a quarter of a millisecond
# Answers of an upstream that say: come back. What another try would end like is kept, and these would not.
_COME_BACK = frozenset({408, 409, 425, 429})

How = Literal["joined", "replayed", "resumed", "result", "events"]


class Told(Protocol):
    """Who hears of what happens to recordings."""

    def read(self, how: How, recording: Recording, trip: Trip) -> None:
        """Somebody else than its sender reads one, or its sender later."""

    def forgot(self, recording: Recording, why: Why) -> None: ...

    def ended(self, recording: Recording) -> None: ...

    def fault(self, error: BaseException, request_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Detached:
    """What is left of an arrival whose body was read."""

    head: RequestHead
    loopback: bool
    length: int | None = None

    def source(self) -> str:
        return ""

    def at_hand(self, most_bytes: int) -> tuple[bytes, int] | None:
        return None

    async def read(self, most_bytes: int) -> bytes | None:
        return None

    async def _no_chunks(self) -> Any:
        return
        yield b""

    def chunks(self, most_bytes: int) -> Any:
        return self._no_chunks()


@dataclass(eq=False, slots=True)
class _Running:
    """What carries a call on. task: kept here, for the loop keeps no task alive."""

    carried: Carried
    task: "asyncio.Task[None] | None" = None

    def stop(self, why: str) -> None:
        if self.carried.watch is not None:
            self.carried.watch.expire(why)

    def beat_s(self) -> float | None:
        call = self.carried.trip.call
        return call.heartbeat if call.stream else None

    def progress(self) -> Mapping[str, Any]:
        meter = self.carried.trip.meter
        if meter is None:
            return {"output_tokens": 0, "usage_source": "estimated"}
        if meter.usage is not None:
            return {"output_tokens": meter.usage.output_tokens, "usage_source": "reported"}
        return {"output_tokens": -(-sum(map(len, meter.texts())) // 4), "usage_source": "estimated"}


class Recorder:
    """All recorded calls of the process. vault: None keeps them in memory only."""

    def __init__(self, *, clock: Clock, random: Callable[[int], bytes], told: Told, vault: "Vault | None" = None) -> None:
        self._clock = clock
        self._random = random
        self.told = told
        self._vault = vault
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.archive = Archive(self._forgot)

    def __repr__(self) -> str:
        return f"<Recorder {self.archive!r} vault={self._vault!r}>"

    def restore(self, found: list[Recording]) -> None:
        """Take in what the vault found."""
        for recording in found:
            self.archive.restore(recording)
        self._look_later()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._vault is not None:
            await self._vault.close()

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, carried: Carried, arrival: Arrival, sink: Sink, watch: Watch, carry_on: CarryOn) -> None:
        """A call whose head asks for a recording. Errors: ProxyError; those of a client that left."""
        trip, received = carried.trip, carried.received
        carried.received = None
        entry = trip.entry
        assert entry is not None
        assert entry.wish is not None
        assert received is not None
        assert entry.terms is not None
        wish = entry.wish
        fingerprint = await _fingerprint(entry.target, received)
        owner = owner_of(trip)
        recording = self._found(owner, wish.key, wish.after)
        how: How | None = None
        if recording is not None:
            if not hmac.compare_digest(recording.fingerprint, fingerprint):
                raise InvalidCall(
                    "idempotency_key_reused",
                    "This Idempotency-Key, or this event's stream, is of another call: its path or its body was another one.",
                    should_retry=False,
                )
            how = "resumed" if wish.after is not None else "joined" if recording.state == "running" else "replayed"
            trip.call.surface = RECORDED
        else:
            self.archive.expect_reader(owner, entry.terms)
            recording = self._begin(trip, arrival, received, fingerprint, carry_on)
        if wish.task:
            recording.task = True
        trip.status = 202 if wish.task else 200
        own = [f"x-request-id: {trip.call.id}", f"tollhouse-task: {recording.id}"]
        if how is not None:
            own.append("idempotent-replayed: true")
        received = None
        with self.reading(recording):
            if wish.task and not await self.wait(recording, watch, wish.wait_s):
                if self._vault is not None:
                    await self._vault.written()
                self._accept(recording, sink, own)
                await sink.room()
                return
            if how is not None:
                self.told.read(how, recording, trip)
            await self.warm(recording)
            after = wish.after[1] if wish.after is not None else 0
            check_place(recording, after)
            await copy(recording, sink, watch, own, after=after, ids=wish.event_ids, again=how is not None)
            if recording.head is not None:
                trip.status = recording.head.status

    def _accept(self, recording: Recording, sink: Sink, own: list[str]) -> None:
        lines = [*own, f"location: /tasks/{recording.id}", "preference-applied: respond-async", "retry-after: 1"]
        sink.whole(statement(recording), 202, [*lines, "content-type: application/json"])

    def _found(self, owner: Owner, key: str | None, after: tuple[str, int] | None) -> Recording | None:
        """The recording that a call is about, None where it is a new one. Errors: InvalidCall."""
        claimed = self.archive.claimed(owner, key) if key is not None else None
        if after is None:
            return claimed
        found = self.archive.find(after[0], owner)
        if found is None or (claimed is not None and claimed is not found):
            raise unknown()
        return found

    def _begin(self, trip: Trip, arrival: Arrival, received: tuple[bytes, int], fingerprint: bytes, carry_on: CarryOn) -> Recording:
        entry = trip.entry
        assert entry is not None
        assert entry.wish is not None
        assert entry.terms is not None
        recording = Recording(
            f"task_{self._random(_ID_BYTES).hex()}",
            owner=owner_of(trip),
            terms=entry.terms,
            request_id=trip.call.id,
            path=trip.call.path,
            surface=trip.call.surface.name,
            claim=entry.wish.key,
            fingerprint=fingerprint,
            task=entry.wish.task,
            began_s=self._clock.wall_s(),
        )
        self.archive.add(recording)
        if self._vault is not None:
            self._vault.begun(recording)
        running = _Running(Carried(trip.hand_on(), received))
        recording.carrier = running
        recording.alone_since = self._loop.time()
        detached = _Detached(arrival.head, arrival.loopback)
        running.task = self._loop.create_task(self._carry(recording, running.carried, detached, carry_on))
        self._look_later()
        return recording

    async def _carry(self, recording: Recording, carried: Carried, arrival: Arrival, carry_on: CarryOn) -> None:
        """The rest of a call's way. Whatever becomes of it, the recording ends."""
        trip = carried.trip
        try:
            await carry_on(arrival, RecordingSink(recording, self.archive.grew), carried=carried)
        except Exception as error:  # a last line of defence: nobody waits for this task, and readers wait for the end
            self.told.fault(error, trip.call.id)
        finally:
            counting = trip.counting
            if counting is None or counting.done():
                self._ended(recording, trip)
            else:
                recording.finish(broken=True)
                counting.add_done_callback(lambda _: self._ended(recording, trip))

    def _ended(self, recording: Recording, trip: Trip) -> None:
        now_s = self._clock.wall_s()
        error = trip.error.code if trip.error is not None else None
        usage = None
        if trip.usage_source is not None:
            used = trip.usage
            usage = {
                "input_tokens": used.input_tokens,
                "cached_tokens": used.cached_tokens,
                "output_tokens": used.output_tokens,
                "total_tokens": used.total_tokens,
            }
        recording.model = trip.meter.model if trip.meter is not None and trip.meter.model is not None else trip.call.model
        state = _state(trip)
        recording.end(state, Facts(usage, trip.usage_source, trip.cost_nanousd, error, now_s))
        self.archive.ended(recording, expires_s=now_s + recording.terms.kept_s, frees_key=state == "interrupted" or frees_key(trip))
        if self._vault is not None and not recording.forgotten:
            self._vault.ended(recording)
        self.told.ended(recording)

    # ── readers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def reading(self, recording: Recording) -> Iterator[None]:
        """As long as somebody reads it or waits for it. Errors: Refusal."""
        self.archive.attach(recording)
        try:
            yield
        finally:
            self.archive.detach(recording, self._loop.time())

    async def wait(self, recording: Recording, watch: Watch, seconds: float) -> bool:
        """Whether it ended within so many seconds."""
        until = self._loop.time() + seconds
        while recording.state == "running" and (left := until - self._loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await news(recording, watch)
            except TimeoutError:
                break
        return recording.state != "running"

    async def warm(self, recording: Recording) -> None:
        """Bring its content back from the disk. Errors: InvalidCall where it is lost, StateUnavailable."""
        if recording.on_disk:
            assert self._vault is not None
            if not await self._vault.load(recording):
                raise gap()
            self.archive.grew(recording)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """End what nobody reads, and forget what is over its time."""
        now = self._loop.time()
        for recording in tuple(self.archive.live):
            since, carrier = recording.alone_since, recording.carrier
            if carrier is not None and since is not None and not recording.task and now - since >= recording.terms.grace_s:
                carrier.stop(ABANDONED)
        self.archive.expire(self._clock.wall_s())

    def _look_later(self) -> None:
        if self._timer is None and len(self.archive):
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.look()
        self._look_later()

    def _forgot(self, recording: Recording, why: Why) -> None:
        self.told.forgot(recording, why)
        if self._vault is not None and recording.forgotten:
            self._vault.forget(recording.id)


def owner_of(trip: Trip) -> Owner:
    return trip.call.principal.key, trip.call.principal.user


def unknown() -> ProxyError:
    """The one answer to whoever asks for what is not his, whether or not it exists."""
    return InvalidCall("task_not_found", "There is no such task or event.")


def check_place(recording: Recording, after: int) -> None:
    """Errors: InvalidCall for an event that has not come."""
    if after > recording.last:
        raise InvalidCall("event_not_reached", f"The stream has {recording.last} events so far.")


def frees_key(trip: Trip) -> bool:
    """Whether the call's Idempotency-Key may be used for another try.

    It may where nothing was used and another try may end otherwise: refused here, not reached, or an upstream that says to come back.
    What was used is paid for, so its answer stays, also where that is a failure; and so does a 4xx about the request itself. (A call that
    the end of the process interrupted frees its key too: its answer is lost for good.)
    """
    error = trip.error
    if error is None or trip.usage_source is not None:
        return False
    return not trip.answered or error.status >= 500 or error.status in _COME_BACK


def _state(trip: Trip) -> State:
    error = trip.error
    if error is None:
        return "completed" if trip.ending == "completed" else "failed"
    if error.code == "call_cancelled":
        return "cancelled"
    return "interrupted" if trip.ending == "drained" else "failed"


async def _fingerprint(target: str, received: tuple[bytes, int]) -> bytes:
    """Of method, path, query and body: all calls here are POSTs, and the owner is in the key."""
    data, at = received
    hashed = sha256(b"POST %b\n" % target.encode("utf-8", "surrogateescape"))
    body = memoryview(data)[at:]
    if len(body) > _HASHED_ON_LOOP_BYTES:
        await asyncio.to_thread(hashed.update, body)
    else:
        hashed.update(body)
    return hashed.digest()
