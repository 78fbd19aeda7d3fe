"""The counter of recorded calls, as the pipeline has it: new calls to the recorder, questions about old ones to the pages.

Made when the first call wants it, or with the process where there is a key for the disk. The rule a reader could break: recordings are
never told of by what is in them; log and metrics hear of ids of calls, sizes and counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.clock import Clock
from proxy.deadlines import Watch
from proxy.errors import StateUnavailable
from proxy.pipeline import Carried, CarryOn
from proxy.recording.archive import Why
from proxy.recording.pages import Pages
from proxy.recording.recorder import How, Recorder
from proxy.recording.recording import Recording
from proxy.recording.statement import facts_of
from proxy.relay import Sink
from proxy.telemetry.faults import exception_types, report
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from proxy.trip import Arrival, Trip
from proxy.wire.surfaces import RECORDED


class Desk:
    """Answers what the pipeline hands it."""

    def __init__(self, recorder: Recorder, pages: Pages) -> None:
        self.recorder = recorder
        self._pages = pages

    def __repr__(self) -> str:
        return f"<Desk {self.recorder!r}>"

    @classmethod
    def in_memory(cls, books: "Books", *, clock: Clock, random: Callable[[int], bytes]) -> "Desk":
        return cls._with(Recorder(clock=clock, random=random, told=books), books, clock)

    @classmethod
    async def on_disk(cls, directory: Path, key: bytes, books: "Books", *, clock: Clock, random: Callable[[int], bytes]) -> "Desk":
        """Errors: StateUnavailable; ImportError where the package that seals is missing."""
        from proxy.recording.vault import Vault

        vault, found = await Vault.open(directory, key, random, clock.wall_s())
        vault.failed = books.failed
        recorder = Recorder(clock=clock, random=random, told=books, vault=vault)
        recorder.restore(found)
        books.found(found, unreadable=vault.unreadable)
        return cls._with(recorder, books, clock)

    @classmethod
    def _with(cls, recorder: Recorder, books: "Books", clock: Clock) -> "Desk":
        books.measure(recorder)
        return cls(recorder, Pages(recorder, clock))

    async def answer(self, carried: Carried, arrival: Arrival, sink: Sink, watch: Watch, carry_on: CarryOn) -> None:
        """The contract's `answer`."""
        if carried.trip.call.surface is RECORDED:
            await self._pages.answer(carried.trip, arrival, sink, watch)
        else:
            await self.recorder.answer(carried, arrival, sink, watch, carry_on)

    async def close(self) -> None:
        await self.recorder.close()


class Books:
    """What the log, the metrics and webhooks hear of recordings. announce: see `Records`."""

    def __init__(self, log: Log, metrics: Metrics, announce: Callable[[Iterable[str], Mapping[str, Any]], None]) -> None:
        self._log = log
        self._metrics = metrics
        self._announce = announce

    def found(self, found: Sequence[Recording], *, unreadable: int) -> None:
        """At the start. unreadable: rows that another key sealed; they are gone, so this is said once."""
        if found or unreadable:
            self._log.event(
                "recordings.found",
                level="warning" if unreadable else "info",
                kept=len(found),
                interrupted=sum(recording.state == "interrupted" for recording in found),
                unreadable=unreadable,
            )

    def read(self, how: How, recording: Recording, trip: Trip) -> None:
        self._metrics.recorded.reads.child(how).inc()
        self._log.event(
            "recording.read", request_id=trip.call.id, call_id=recording.request_id, read_how=how, key=recording.owner[0]
        )

    def forgot(self, recording: Recording, why: Why) -> None:
        self._metrics.recorded.forgotten.child(why).inc()

    def ended(self, recording: Recording) -> None:
        self._metrics.recorded.calls.child(recording.state).inc()
        if recording.task and recording.terms.tell:
            self._announce(recording.terms.tell, facts_of(recording))

    def fault(self, error: BaseException, request_id: str) -> None:
        report(self._log, error, where="recording", request_id=request_id)

    def failed(self, error: StateUnavailable) -> None:
        """A restart will not find what was to be written."""
        self._log.event("state.failed", level="error", store="recordings", operation="write", exception=exception_types(error))

    def measure(self, recorder: Recorder) -> None:
        """Have every scrape show where it stands."""
        archive, recorded = recorder.archive, self._metrics.recorded

        def look() -> None:
            recorded.count.child("running").set(archive.running)
            recorded.count.child("ended").set(archive.kept)
            recorded.bytes.set(archive.size)

        self._metrics.before_render(look)
