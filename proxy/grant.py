"""Whether a call is recorded: what its head asks for, held against what the policies allow.

The rule a reader could break: what is asked for is granted or refused, never dropped. Who sends an Idempotency-Key believes that a retry
is free, who sends Last-Event-ID takes what comes for the rest of his old answer, and who prefers a task may not wait for an answer.
"""

from collections.abc import Mapping

from proxy.call import Call
from proxy.errors import InvalidCall
from proxy.policy.contract import Terms
from proxy.policy.policyset import PolicySet
from proxy.wire.surfaces import RECORDED
from proxy.wire.wish import Wish, event_id, idempotency_key, preferences, wait_s

_ASKING = frozenset({"idempotency-key", "prefer", "last-event-id"})
_PAGE = Wish()
_NOTHING: frozenset[str] = frozenset()


def granted(policies: PolicySet, call: Call, headers: Mapping[str, str]) -> tuple[Wish | None, Terms | None]:
    """What is granted of what a head asks for, and under which terms; None for nothing. A page of a task is its own wish.

    headers: names in lower case. Errors: InvalidCall.
    """
    if call.surface is RECORDED:
        return _PAGE, None
    if call.method != "POST" or _ASKING.isdisjoint(headers):
        return None, None
    terms = policies.recording(call.principal, call.path) if call.surface.metered else None
    allowed = terms.allow if terms is not None else _NOTHING
    key, last = headers.get("idempotency-key"), headers.get("last-event-id")
    preferred = preferences(headers["prefer"]) if "prefer" in headers else {}
    for asked, header, purpose in (
        (key is not None, "Idempotency-Key", "idempotency"),
        (last is not None, "Last-Event-ID", "resume"),
        ("respond-async" in preferred, "Prefer: respond-async", "tasks"),
        ("event-ids" in preferred, "Prefer: event-ids", "resume"),
    ):
        if asked and purpose not in allowed:
            raise _not_recorded(header, purpose)
    wish = Wish(
        key=idempotency_key(key) if key is not None else None,
        task="respond-async" in preferred,
        wait_s=_waits(preferred.get("wait")),
        event_ids="event-ids" in preferred,
        after=event_id(last) if last is not None else None,
    )
    if wish.key is None and not wish.task and not wish.event_ids and wish.after is None:
        return None, None
    return wish, terms


def _waits(asked: str | None) -> float:
    """Source: RFC 7240, section 4.3: whole seconds."""
    try:
        return wait_s(asked) if asked else 0.0
    except ValueError:
        return 0.0


def _not_recorded(header: str, purpose: str) -> InvalidCall:
    return InvalidCall(
        "not_recorded",
        f"The header '{header}' asks for what is not kept here: no policy records this call (`record: {{allow: [{purpose}]}}`).",
    )
