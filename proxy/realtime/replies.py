"""Responses over a WebSocket: each `response.create` is the body of a call of /v1/responses, and is one in everything but its framing.

Answers are told apart by their lane (`stream_id`), and within one come one after another. The rule a reader could break: an answer that
the upstream begins by itself (a successor that steering has asked for) is held as it begins, and refused it ends the session, since
nothing else ends it.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.errors import InvalidCall, NotAdmitted, ProxyError, Refusal, StateUnavailable
from proxy.realtime.frames import Message
from proxy.realtime.ledger import Ledger
from proxy.realtime.talk import MOST_TURNS, Heard
from proxy.trip import Trip
from proxy.wire import body
from proxy.wire.events import Event, read_asked, read_told
from proxy.wire.failure import in_band_refusal
from proxy.wire.inputs import hides_input
from proxy.wire.meter import StreamMeter
from proxy.wire.surfaces import surface_of
from proxy.worst import MOST_TOOL_CALLS

_MOST_REMEMBERED = 64  # answers that the next may go on from
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


@dataclass(eq=False, slots=True)
class Reply:
    """id: of the response, "" until its first event came."""

    trip: Trip
    meter: StreamMeter
    id: str = ""


class Replies:
    """The `Talk` of one session of responses."""

    flat = True

    def __init__(self, ledger: Ledger) -> None:
        surface = surface_of("/v1/responses")
        assert surface is not None
        self._surface = surface
        self._ledger = ledger
        self._lanes: dict[str | None, deque[Reply]] = {}
        self._tokens: dict[str, int] = {}  # that an answer read and wrote, by its id: what the next reads that goes on from it
        self._ended: dict[str | None, Trip] = {}  # the last answer of each lane: one that begins by itself goes on from it
        self._over: ProxyError | None = None

    def __repr__(self) -> str:
        return f"<Replies running={sum(map(len, self._lanes.values()))}>"

    @property
    def running(self) -> bool:
        return bool(self._lanes)

    def first(self) -> bytes | None:
        return None

    async def asked(self, message: Message) -> bytes:
        event = read_asked(message.data, text=message.text)
        if self._over is not None:
            raise self._over
        return await self._create(event) if event.kind == "response.create" else event.data

    async def _create(self, event: Event) -> bytes:
        lane = event.fields.get("stream_id")
        if lane is not None and not isinstance(lane, str):
            raise InvalidCall("invalid_type", "The field 'stream_id' must be a string.", param="stream_id")
        if sum(map(len, self._lanes.values())) >= MOST_TURNS:
            raise InvalidCall("bad_request", f"At most {MOST_TURNS} responses may be asked for at once.")
        trip = self._ledger.begin(self._surface)
        call = trip.call
        try:
            self._ledger.admit(trip)
            self._ledger.admission.shape(trip, (event.data, 0))
            call.stream = True
            self._bound(trip, event.fields)
            await self._ledger.hold(trip)
        except (NotAdmitted, Refusal, StateUnavailable) as error:
            self._ledger.refused(trip, error)
            raise
        reply = Reply(trip, StreamMeter(hide_usage=False))
        trip.meter = reply.meter
        self._lanes.setdefault(lane, deque()).append(reply)
        sent = b"".join(call.parts or body.patched(call))
        call.body = b""
        return sent

    def _bound(self, trip: Trip, fields: Mapping[str, Any]) -> None:
        """What is read of an answer that this session has seen is known, where nothing else hides."""
        call, before = trip.call, fields.get("previous_response_id")
        known = self._tokens.get(before) if isinstance(before, str) else None
        if known is None or call.tools:
            return
        if not hides_input("responses", {name: value for name, value in fields.items() if name != "previous_response_id"}):
            call.input_bound = min(call.input_bound, known + call.size)

    async def heard(self, message: Message) -> Heard:
        event = read_told(message.data, text=message.text)
        if event is None:
            return Heard()
        lane = event.fields.get("stream_id")
        lane = lane if isinstance(lane, str) else None
        response = event.fields.get("response")
        response_id = response.get("id") if isinstance(response, Mapping) else None
        response_id = response_id if isinstance(response_id, str) else ""
        replies = self._lanes.get(lane) or deque()
        refused = None
        if event.kind == "error":
            return await self._failed(lane, replies, event)
        reply = next((r for r in replies if r.id and r.id == response_id), None)
        if reply is None and event.kind == "response.created":
            reply = next((r for r in replies if not r.id), None)
            if reply is None:
                reply, refused = await self._begun(lane)
            reply.id = response_id or "?"
            reply.trip.answered = True
            reply.trip.first_byte_ns = reply.trip.now_ns()
        elif reply is None:
            reply = next((r for r in replies if r.id), None) or (replies[0] if replies and response_id else None)
        if reply is not None:
            await self._take_note(lane, reply, event)
        if refused is None:
            return Heard()
        self._over = refused
        return Heard(told=refused, over=refused)

    async def _take_note(self, lane: str | None, reply: Reply, event: Event) -> None:
        meter, trip = reply.meter, reply.trip
        before = meter.first_token
        meter.feed(b"data: " + event.data.translate(_LINE_ENDS) + b"\n\n")
        if meter.first_token and not before:
            trip.first_token_ns = trip.now_ns()
        if not meter.ended:
            return
        trip.answered = True
        self._leave(lane, reply)
        response = event.fields.get("response")
        error = None
        if event.kind == "response.failed" and isinstance(response, Mapping):
            error = in_band_refusal(response.get("error"), secrets=self._ledger.opening.secrets())
        if meter.usage is not None and reply.id:
            if len(self._tokens) >= _MOST_REMEMBERED:
                self._tokens.pop(next(iter(self._tokens)))
            self._tokens[reply.id] = meter.usage.total_tokens
        await self._ledger.settle(trip, error)

    async def _failed(self, lane: str | None, replies: deque[Reply], event: Event) -> Heard:
        """An error ends the answer that it is told in; before that has begun, nothing was used."""
        told = in_band_refusal(event.fields.get("error") or event.fields, secrets=self._ledger.opening.secrets())
        if replies:
            reply = replies[0]
            self._leave(lane, reply)
            if not reply.id:
                reply.trip.answered, reply.trip.meter = True, None
            await self._ledger.settle(reply.trip, told)
        return Heard(passes=False, told=told)

    async def _begun(self, lane: str | None) -> tuple[Reply, ProxyError | None]:
        """An answer that the upstream has begun by itself. It has the settings of one before it, of which the dearest are not known."""
        trip = self._ledger.begin(self._surface, model=self._ledger.opening.call.model_asked)
        last = self._ended.get(lane)
        call = trip.call
        if last is not None:
            call.model_asked, call.model = last.call.model_asked, last.call.model_asked
            call.cap, call.tools, call.tool_calls = last.call.cap, last.call.tools, last.call.tool_calls
            call.price = last.call.price
        if call.cap is None:
            call.uncapped = self._ledger.most_output(trip)
        call.input_bound = self._ledger.window(trip) * (1 + (MOST_TOOL_CALLS if call.tools else 0))
        refused = await self._ledger.take_on(trip)
        reply = Reply(trip, StreamMeter(hide_usage=False))
        trip.meter = reply.meter
        self._lanes.setdefault(lane, deque()).append(reply)
        return reply, refused

    def _leave(self, lane: str | None, reply: Reply) -> None:
        replies = self._lanes[lane]
        replies.remove(reply)
        if not replies:
            del self._lanes[lane]
        if len(self._ended) >= _MOST_REMEMBERED:
            self._ended.pop(next(iter(self._ended)))
        self._ended[lane] = reply.trip

    def hush(self) -> tuple[bytes, ...]:
        return ()  # an answer ends with its connection

    async def end(self, error: ProxyError | None) -> None:
        left = [reply for replies in self._lanes.values() for reply in replies]
        self._lanes.clear()
        await self._ledger.settle_all([reply.trip for reply in left], error)
