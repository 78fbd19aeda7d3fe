"""The pages of tasks: where one stands, its answer, its events, and its end before its time.

    GET /tasks/{id} ─► where it stands, after `wait`          GET /tasks/{id}/result ─► the answer as it would have been
    DELETE /tasks/{id} ─► it is ended and settled             GET /tasks/{id}/events ─► its events with ids, after one of them

The rule a reader could break: what is another caller's is answered as what never was, in the same words and the same time.
"""

import re
from urllib.parse import parse_qsl

from proxy.clock import Clock
from proxy.deadlines import CANCELLED, Watch
from proxy.errors import InvalidCall, Refusal
from proxy.policy.contract import Rate
from proxy.recording.reader import copy, events
from proxy.recording.recorder import Recorder, check_place, owner_of, unknown
from proxy.recording.recording import Owner, Recording
from proxy.recording.statement import statement
from proxy.relay import Sink
from proxy.state.arithmetic import NS, pace, retry_after_ns, take
from proxy.trip import Arrival, Trip
from proxy.wire.wish import event_id, wait_s

_PATH = re.compile(r"/tasks/(task_[0-9a-f]{32})(?:/(result|events))?\Z")
_CANCEL_S = 5.0  # a cancelled call is settled by then; its task says so later where it is not
# Twenty a second, and a hundred at once, of one owner: far more than whoever waits with `wait` needs.
_PACE = pace(Rate(20, 1, 100))
_MOST_PACED = 4096


class Pages:
    """Answers requests below /tasks."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock
        self._asked: dict[Owner, int] = {}

    def __repr__(self) -> str:
        return f"<Pages of {self._recorder!r}>"

    async def answer(self, trip: Trip, arrival: Arrival, sink: Sink, watch: Watch) -> None:
        """Errors: ProxyError; those of a client that left."""
        owner = owner_of(trip)
        self._slow_down(owner)
        path, _, query = arrival.head.target.partition("?")
        match = _PATH.match(path)
        recording = self._recorder.archive.find(match[1], owner) if match is not None else None
        if match is None or recording is None:
            raise unknown()
        asked, part = dict(parse_qsl(query)), match[2]
        trip.status = 200
        own = [f"x-request-id: {trip.call.id}", f"tollhouse-task: {recording.id}"]
        if part is None:
            await self._stands(recording, trip, sink, watch, own, asked.get("wait"))
        elif trip.call.method != "GET":
            raise InvalidCall("method_not_allowed", "This path accepts GET.", headers=(("allow", "GET"),))
        elif part == "result":
            await self._result(recording, trip, sink, watch, own)
        else:
            after = _place(recording, asked.get("after"), arrival.head.headers.get("last-event-id"))
            await self._events(recording, trip, sink, watch, own, after)

    async def _stands(self, recording: Recording, trip: Trip, sink: Sink, watch: Watch, own: list[str], wait: str | None) -> None:
        with self._recorder.reading(recording):
            if trip.call.method == "DELETE":
                if recording.carrier is not None:
                    recording.carrier.stop(CANCELLED)
                await self._recorder.wait(recording, watch, _CANCEL_S)
            elif wait is not None:
                await self._recorder.wait(recording, watch, _waits(wait))
        lines = [*own, "content-type: application/json", "cache-control: no-store"]
        if recording.state == "running":
            lines.append("retry-after: 1")
        sink.whole(statement(recording), 200, lines)
        await sink.room()

    async def _result(self, recording: Recording, trip: Trip, sink: Sink, watch: Watch, own: list[str]) -> None:
        if recording.state == "running":
            raise InvalidCall("task_running", "The call has not ended yet.", retry_after_s=1.0)
        with self._recorder.reading(recording):
            await self._readable(recording)
            self._recorder.told.read("result", recording, trip)
            await copy(recording, sink, watch, own)
        trip.status = recording.head.status if recording.head is not None else trip.status

    async def _events(self, recording: Recording, trip: Trip, sink: Sink, watch: Watch, own: list[str], after: int) -> None:
        with self._recorder.reading(recording):
            await self._readable(recording)
            check_place(recording, after)
            last = recording.last if recording.stream else 1  # of what is no stream, all is one event
            if after and recording.over and after >= last:
                trip.status = 204  # which tells an EventSource not to come back
                sink.whole(b"", 204, own)
                return
            self._recorder.told.read("events", recording, trip)
            await events(recording, sink, watch, own, after=after)

    async def _readable(self, recording: Recording) -> None:
        if recording.state == "interrupted" and recording.head is None:
            raise InvalidCall(
                "task_interrupted", "The proxy stopped while the call ran; what it held is charged.", should_retry=False
            )
        await self._recorder.warm(recording)

    def _slow_down(self, owner: Owner) -> None:
        """Errors: Refusal for who asks too often."""
        now_ns = self._clock.monotonic_ns()
        tat = self._asked.pop(owner, 0)
        wait_ns = retry_after_ns(_PACE, tat, now_ns, 1)
        self._asked[owner] = tat if wait_ns else take(_PACE, tat, now_ns, 1)
        if len(self._asked) > _MOST_PACED:
            del self._asked[next(iter(self._asked))]
        if wait_ns:
            raise Refusal(
                "recording_limit_exceeded",
                "Tasks are asked for too often; wait for news with '?wait=30s'.",
                retry_after_s=wait_ns / NS,
            )


def _waits(text: str) -> float:
    try:
        return wait_s(text)
    except ValueError:
        raise InvalidCall("invalid_value", "'wait' must be a time such as 30s.", param="wait") from None


def _place(recording: Recording, after: str | None, last: str | None) -> int:
    """The number of the last event that the reader has. after: a number, or an id as in the header, which counts where both are there."""
    if last is not None:
        after = last
    if not after:
        return 0
    if after.isascii() and after.isdigit() and len(after) <= 12:
        return int(after)
    id, number = event_id(after)
    if id != recording.id:
        raise unknown()
    return number
