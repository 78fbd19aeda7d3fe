"""What the calls of an app have in common beyond their heads: all of a chat body but its messages.

An app's bodies differ in what is said, and hardly in anything else. What follows from the rest, up to the plan and the price, is found
out once and remembered with the bytes around the messages. The rule a reader could break: whatever is remembered here must follow from
those bytes and the entry alone, so neither `prepare` nor `shape` may look at the messages or at the length of a body.
"""

from dataclasses import dataclass, replace
from typing import Any

from proxy.call import Call, Clamp, Price
from proxy.policy.policyset import Plan
from proxy.timeouts import Drain, Timeouts
from proxy.wire import body
from proxy.wire.glance import LARGE, Glance
from proxy.wire.inputs import are_plain, is_usual

MOST_OUTLINES = 4
_MOST_TRIES = 16  # to learn one, without one that came again
_MOST_GLANCES = 16  # at large messages that turn out not to be plain, as those of an app that sends pictures
_MOST_LEARNT_BYTES = 64 << 10  # of a body that is read once more to learn from it; a large one would hold the loop twice as long
_FIELD = "messages"
_SENTINEL = "a-text-that-no-body-holds"


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One of them. before, behind: the bytes around the messages, as received; front, back: as sent.

    fields: as parsed, with nothing for the messages; usual: nothing can hide but in them. The rest is as in the Call that was shaped; no
    call changes it any more, and one whose cap is lowered to what is left is given edits of its own.
    """

    before: bytes
    behind: bytes
    front: bytes
    back: bytes
    fields: dict[str, Any]
    usual: bool
    plan: Plan
    model_asked: str | None
    model: str | None
    stream: bool
    asked_caps: dict[str, int]
    cap: int | None
    uncapped: int
    choices: int
    edits: dict[str, Any]
    clamps: dict[str, Clamp]
    timeouts: Timeouts
    price: Price | None
    drain: Drain | None
    heartbeat: float | None


class Outlines:
    """Those of one entry, a few of them. An app whose bodies never come again in outline is soon left alone."""

    __slots__ = ("_glances_left", "_known", "_tries_left")

    def __init__(self) -> None:
        self._known: list[Outline] = []
        self._tries_left = _MOST_TRIES
        self._glances_left = _MOST_GLANCES

    def __repr__(self) -> str:
        return f"<Outlines {len(self._known)}/{MOST_OUTLINES} tries={self._tries_left}>"

    def fill(self, call: Call, data: bytes, at: int, glance: Glance) -> Plan | None:
        """Shape a call by what is remembered of a body like this, and return its plan; None where there was none, or it is at fault.

        data: bytes that end with the body, which begins at `at`. What stands between the bytes that are known is read, or looked over,
        and is one JSON value: so it is the messages and nothing else.
        """
        for outline in self._known:
            start = at + len(outline.before)
            if data.startswith(outline.before, at) and data.endswith(outline.behind, start):
                middle = memoryview(data)[start : len(data) - len(outline.behind)]
                large = outline.usual and len(middle) >= LARGE and self._glances_left > 0
                if large and glance.are_plain(middle):
                    self._glances_left = _MOST_GLANCES
                    call.fields, call.unread = outline.fields, middle
                elif not self._read(call, outline, middle, looked=large):
                    return None
                self._tries_left = _MOST_TRIES
                call.parts = outline.front, middle, outline.back
                call.model_asked, call.model, call.stream = outline.model_asked, outline.model, outline.stream
                call.asked_caps, call.cap, call.choices = outline.asked_caps, outline.cap, outline.choices
                call.edits, call.clamps = outline.edits, outline.clamps
                call.timeouts, call.price = outline.timeouts, outline.price
                call.uncapped, call.drain, call.heartbeat = outline.uncapped, outline.drain, outline.heartbeat
                return outline.plan
        return None

    def _read(self, call: Call, outline: Outline, middle: memoryview, *, looked: bool) -> bool:
        """Read the messages of a call. False where they are at fault, or may be. looked: a glance has not shown that they are plain."""
        self._glances_left -= looked
        messages = body.messages_in(middle)
        if messages is None:
            return False
        if outline.usual and are_plain(messages):
            call.fields, call.unread = outline.fields, middle  # what is not kept leaves its room to the next call
        elif body.clearly_shallow(messages, len(middle)):
            call.fields = {**outline.fields, _FIELD: messages}
        else:
            return False
        return True

    def learn(self, call: Call, plan: Plan) -> None:
        """Remember what was made of a call, if its body is one of messages between plain fields. Whether it may pass is asked each time."""
        if self._tries_left <= 0 or call.fields is None or call.surface.name != "chat" or len(call.body) > _MOST_LEARNT_BYTES:
            return
        if call.tools:  # the upstream's own, which few bodies offer: what they may cost is not remembered
            return
        self._tries_left -= 1
        place = body.large_value(call.body)
        if place is None or place[0] != _FIELD:
            return
        before, behind = call.body[: place[1]], call.body[place[2] :]
        sentinel = f'"{_SENTINEL}"'.encode()
        fields = {**call.fields, _FIELD: _SENTINEL}
        sent = b"".join(body.patched(replace(call, body=b"".join((before, sentinel, behind)), fields=fields)))
        if sent.count(sentinel) != 1 or before + behind in [known.before + known.behind for known in self._known]:
            return
        front, back = sent.split(sentinel)
        fields[_FIELD] = None
        outline = Outline(
            before=before,
            behind=behind,
            front=front,
            back=back,
            fields=fields,
            usual=is_usual(fields),
            plan=plan,
            model_asked=call.model_asked,
            model=call.model,
            stream=call.stream,
            asked_caps=call.asked_caps,
            cap=call.cap,
            uncapped=call.uncapped,
            choices=call.choices,
            edits=call.edits,
            clamps=call.clamps,
            timeouts=call.timeouts,
            price=call.price,
            drain=call.drain,
            heartbeat=call.heartbeat,
        )
        self._known = [outline, *self._known[: MOST_OUTLINES - 1]]
