"""Realtime sessions: which events cost, what they may ask for, and what each turn used.

    response.create ─► held ─► response.created ─► running ─► response.done ─► settled
                         └► error: nothing was used             ▲
         response.created without one (the server heard a turn end) ┘ held then; refused, it is cancelled, and the session ends

The rule a reader could break: whatever of the upstream's begins or ends a turn comes through `heard` before the client sees it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from proxy.call import Surface
from proxy.errors import InvalidCall, NotAdmitted, ProxyError, Refusal, StateUnavailable
from proxy.realtime.frames import Message
from proxy.realtime.ledger import Ledger
from proxy.realtime.talk import MOST_TURNS, Heard
from proxy.trip import Trip
from proxy.wire import body
from proxy.wire.conversation import Conversation, transcriber, with_transcriber
from proxy.wire.events import MOST_ID_CHARS, Event, cap_edits, read_asked, read_told, written
from proxy.wire.failure import in_band_refusal
from proxy.wire.surfaces import OLD_TURN, TURN
from proxy.wire.turn import TurnMeter, transcribed

_TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
_ID_BYTES = 12


@dataclass(eq=False, slots=True)
class Turn:
    """event_id: of the event that asked for it. since: what had been added to the conversation when it was sent."""

    trip: Trip
    meter: TurnMeter
    since: int
    event_id: str | None = None


class Voice:
    """The `Talk` of one realtime session. beta: it speaks the older dialect."""

    flat = False

    def __init__(self, ledger: Ledger, *, beta: bool, random: Callable[[int], bytes]) -> None:
        self._ledger = ledger
        self._beta = beta
        self._base = self._surface = OLD_TURN if beta else TURN
        self._random = random
        self._model = ledger.opening.call.model_asked
        self._conversation = Conversation()
        self._cap: int | None = None  # of turns that name none, None = there is none
        self._unconfirmed = 0  # changes of the session that the upstream has yet to answer
        self._transcriber: str | None = None
        self._asked: deque[Turn] = deque()  # whose first event has not come
        self._running: dict[str, Turn] = {}  # by the id of the response
        self._ours: dict[str, str] = {}  # our own events, by their ids: what is answered to them is nobody else's
        self._hidden_updates = 0
        self._over: ProxyError | None = None

    def __repr__(self) -> str:
        return f"<Voice asked={len(self._asked)} running={len(self._running)} cap={self._cap} {self._conversation!r}>"

    @property
    def running(self) -> bool:
        return bool(self._asked or self._running)

    # ── from the client ──────────────────────────────────────────────────────────────────────────────────────────────

    def first(self) -> bytes | None:
        """The cap of turns that the server begins by itself, where a policy has one."""
        trip = self._ledger.begin(self._base, model=self._model)
        self._ledger.admission.meet(trip)
        cap = trip.call.cap
        if cap is None:
            return None
        session = {self._base.caps[0]: cap} if self._beta else {"type": "realtime", self._base.caps[0]: cap}
        self._hidden_updates += 1
        self._unconfirmed += 1
        return self._own({"type": "session.update", "session": session})[0]

    async def asked(self, message: Message) -> bytes:
        event = read_asked(message.data, text=message.text)
        if self._over is not None:
            raise self._over
        since = self._conversation.added
        data = self._update(event) if event.kind in ("session.update", "transcription_session.update") else event.data
        self._conversation.sent(event.kind, event.fields, len(data))
        return await self._create(event, since) if event.kind == "response.create" else data

    async def _create(self, event: Event, since: int) -> bytes:
        """A turn that is asked for. since: what had been added to the conversation before the event."""
        if len(self._asked) + len(self._running) >= MOST_TURNS:
            raise InvalidCall("bad_request", f"At most {MOST_TURNS} responses may be asked for at once.")
        part = event.part("response").fields
        trip = self._shaped(part, self._surface)
        call = trip.call
        try:
            self._ledger.admit(trip)
            self._ledger.admission.meet(trip)
            self._bound(trip)
            await self._ledger.hold(trip)
        except (NotAdmitted, Refusal, StateUnavailable) as error:
            self._ledger.refused(trip, error)
            raise
        known = event.id
        event_id = known if known is not None else f"event_{self._random(_ID_BYTES).hex()}"
        turn = Turn(trip, TurnMeter(), since, event_id)
        trip.meter = turn.meter
        self._asked.append(turn)
        self._suppose(turn)
        edits = cap_edits(part, _named(call.edits, part), TURN.caps)
        return event.changed("response", edits, {} if known is not None else {"event_id": event_id})

    def _update(self, event: Event) -> bytes:
        """A change of the session: its caps and the models that it names are held to what the policies say."""
        part = event.part("session").fields
        trip = self._shaped(part, self._base)
        call = trip.call
        edits: dict[str, Any] = {}
        writer, judged = transcriber(part), trip
        try:
            self._ledger.admit(trip)
            self._ledger.admission.meet(trip)
            if writer is not None:
                judged = self._ledger.begin(TURN, model=writer)
                self._ledger.admission.meet(judged, units=True)
                if judged.call.model != writer and judged.call.model is not None:
                    edits |= with_transcriber(part, judged.call.model)
        except (NotAdmitted, Refusal, StateUnavailable) as error:
            self._ledger.refused(judged, error)
            raise
        edits |= cap_edits(part, _named(call.edits, part), TURN.caps)
        if event.kind != "session.update" or not (call.asked_caps or _uncaps(part)):
            # A session has a cap already, from `first`, unless the upstream refused it.
            for name in (name for name in TURN.caps if name not in part):
                edits.pop(name, None)
        if isinstance(part.get("model"), str):
            self._model = part["model"]
        self._transcriber = writer or self._transcriber
        if call.asked_caps or _uncaps(part):
            self._set_cap(None if call.cap is None or self._cap is None else max(call.cap, self._cap))
        self._unconfirmed += 1
        return event.changed("session", edits, {}) if edits else event.data

    def _shaped(self, part: Mapping[str, Any], surface: Surface) -> Trip:
        """A turn, or what is asked of turns to come, with its caps. Errors: InvalidCall."""
        body.check(surface, part)
        trip = self._ledger.begin(surface, model=part.get("model") or self._model)
        call = trip.call
        call.fields = part
        call.asked_caps = {name: cap for name in TURN.caps if type(cap := part.get(name)) is int}
        call.cap = surface.default_cap if call.asked_cap is None else call.asked_cap
        return trip

    def _bound(self, trip: Trip) -> None:
        """What the turn can read and write at most."""
        trip.call.input_bound = self._conversation.bound(self._ledger.window(trip))
        if trip.call.cap is None:
            trip.call.uncapped = self._ledger.most_output(trip)

    # ── from the upstream ────────────────────────────────────────────────────────────────────────────────────────────

    async def heard(self, message: Message) -> Heard:
        event = read_told(message.data, text=message.text)
        if event is None:
            return Heard()
        kind, fields = event.kind, event.fields
        if kind == "response.created":
            return await self._created(event)
        if kind == "response.done":
            return await self._done(event)
        response_id = fields.get("response_id")
        if isinstance(response_id, str):
            if (turn := self._running.get(response_id)) is not None:
                self._take_note(turn, kind, fields)
            return Heard()
        if kind == _TRANSCRIBED:
            return await self._heard_out(fields)
        if kind == "error":
            return await self._failed(fields)
        self._conversation.told(kind, fields, len(event.data))
        if kind in ("session.created", "session.updated"):
            return self._session(kind, fields)
        return Heard()

    def _take_note(self, turn: Turn, kind: str, fields: Mapping[str, Any]) -> None:
        meter = turn.meter
        before = meter.first_token
        meter.heard(kind, fields)
        if meter.first_token and not before:
            turn.trip.first_token_ns = turn.trip.now_ns()

    def _session(self, kind: str, fields: Mapping[str, Any]) -> Heard:
        session = fields.get("session")
        session = session if isinstance(session, Mapping) else {}
        if kind == "session.updated":
            self._unconfirmed -= 1
        if self._unconfirmed <= 0 or kind == "session.created":
            told = next((session[name] for name in self._base.caps if session.get(name) is not None), None)
            self._set_cap(told if type(told) is int and 0 < told <= body.MOST_CAP else None)
        self._transcriber = transcriber(session) or self._transcriber
        if kind == "session.updated" and self._hidden_updates:
            self._hidden_updates -= 1
            return Heard(passes=False)
        return Heard()

    async def _created(self, event: Event) -> Heard:
        response = event.fields.get("response")
        response_id = response.get("id") if isinstance(response, Mapping) else None
        if not isinstance(response_id, str) or response_id in self._running:
            return Heard()
        refused = None
        if self._asked:
            turn = self._asked.popleft()
        else:
            turn, refused = await self._begun()
        self._running[response_id] = turn
        turn.trip.answered = True
        turn.trip.first_byte_ns = turn.trip.now_ns()
        if isinstance(response, Mapping) and isinstance(model := response.get("model"), str):
            turn.meter.model = model
        if refused is None:
            return Heard()
        self._over = refused
        return Heard(back=self._own({"type": "response.cancel", "response_id": response_id}), told=refused)

    async def _begun(self) -> tuple[Turn, ProxyError | None]:
        """A turn that the server has begun by itself, and why it may not."""
        trip = self._ledger.begin(self._surface, model=self._model)
        trip.call.cap = self._cap
        self._bound(trip)
        refused = await self._ledger.take_on(trip)
        turn = Turn(trip, TurnMeter(), self._conversation.added)
        trip.meter = turn.meter
        self._suppose(turn)
        return turn, refused

    async def _done(self, event: Event) -> Heard:
        response = event.fields.get("response")
        if not isinstance(response, Mapping):
            return Heard()
        turn = self._running.pop(str(response.get("id")), None)
        refused = None
        if turn is None:
            turn, refused = (self._asked.popleft(), None) if self._asked else await self._begun()
            turn.trip.answered = True
        meter, call = turn.meter, turn.trip.call
        meter.done(response)
        self._suppose(turn)
        if meter.usage is None:
            self._conversation.wrote(call.held_output)
        elif response.get("conversation_id", "") is not None:  # null: it stood beside the conversation
            self._conversation.turned(meter.usage.total_tokens, turn.since)
        error = None
        if meter.status == "failed":
            details = response.get("status_details")
            error = in_band_refusal(details.get("error") if isinstance(details, Mapping) else None, secrets=self._secrets())
        await self._ledger.settle(turn.trip, error)
        return Heard(told=refused, over=refused or self._over)

    async def _heard_out(self, fields: Mapping[str, Any]) -> Heard:
        """What was heard is written down, by a model of its own, which is paid for beside the turns."""
        trip = self._ledger.begin(TURN, model=self._transcriber or self._model)
        call, meter = trip.call, TurnMeter()
        call.stream = False
        prices = trip.set.prices.at(self._ledger.admission.clock.wall_s())
        price = prices.find(call.model) or self._ledger.opening.call.price
        assert price is not None, "a session without a price is not opened"
        usage, told = transcribed(fields.get("usage"), price, self._conversation.heard_ms(fields.get("item_id")))
        call.input_bound, call.cap, call.units = usage.input_tokens, usage.output_tokens, usage.units
        meter.guess, meter.usage, meter.ended, meter.model = usage, usage if told else None, True, call.model
        trip.meter, trip.answered = meter, True
        refused = await self._ledger.take_on(trip, units=True)
        await self._ledger.settle(trip)
        self._over = refused or self._over
        return Heard(told=refused, over=refused)

    async def _failed(self, fields: Mapping[str, Any]) -> Heard:
        """An error. One about an event of ours is nobody else's; one about a turn that was asked for ends that."""
        error = fields.get("error")
        about = error.get("event_id") if isinstance(error, Mapping) else None
        told = in_band_refusal(error, secrets=self._secrets())
        if not isinstance(about, str):
            # Of a server that does not say what it is about. If the turn begins all the same, it is held then.
            if self._asked and not self._running:
                await self._refuse(self._asked.popleft(), told)
            return Heard(passes=False, told=told)
        if (ours := self._ours.pop(about, None)) is not None:
            if ours == "session.update":
                self._hidden_updates -= 1
                self._unconfirmed -= 1
            return Heard(passes=False)
        turn = next((turn for turn in self._asked if turn.event_id == about), None)
        if turn is not None:
            self._asked.remove(turn)
            await self._refuse(turn, told)
        return Heard(passes=False, told=told, about=about[:MOST_ID_CHARS])

    async def _refuse(self, turn: Turn, error: ProxyError) -> None:
        """The upstream does not begin the turn: nothing was used."""
        turn.trip.answered, turn.trip.meter = True, None
        await self._ledger.settle(turn.trip, error)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def hush(self) -> tuple[bytes, ...]:
        return tuple(e for id in self._running for e in self._own({"type": "response.cancel", "response_id": id}))

    async def end(self, error: ProxyError | None) -> None:
        left = [*self._asked, *self._running.values()]
        self._asked.clear()
        self._running.clear()
        for turn in left:
            self._suppose(turn)
        await self._ledger.settle_all([turn.trip for turn in left], error)

    # ── parts of it ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _suppose(self, turn: Turn) -> None:
        call, spoken = turn.trip.call, self._conversation.spoken(turn.meter.sound_chars)
        turn.meter.suppose(read=call.input_bound, spoken=spoken, most=call.held_output, sounds=self._conversation.sounds)

    def _set_cap(self, cap: int | None) -> None:
        if cap != self._cap:
            self._cap = cap
            self._surface = replace(self._base, default_cap=cap)

    def _own(self, fields: Mapping[str, Any]) -> tuple[bytes]:
        """An event of ours. What the upstream has to say to it is kept from the client."""
        event_id = f"event_{self._random(_ID_BYTES).hex()}"
        if len(self._ours) >= MOST_TURNS:
            self._ours.pop(next(iter(self._ours)))
        self._ours[event_id] = str(fields["type"])
        return (written({**fields, "event_id": event_id}),)

    def _secrets(self) -> tuple[str, ...]:
        return self._ledger.opening.secrets()


def _named(edits: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Edits without a model's other name where the event names none."""
    return {name: value for name, value in edits.items() if name != "model" or part.get("model") is not None}


def _uncaps(part: Mapping[str, Any]) -> bool:
    return any(part.get(name) == body.NO_CAP for name in TURN.caps)
