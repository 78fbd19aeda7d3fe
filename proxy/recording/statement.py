"""What is told of a task: where it stands, how far it is, what it used and cost. No content."""

from datetime import UTC, datetime
from typing import Any

import orjson

from proxy.allowance import usd
from proxy.recording.recording import Recording


def facts_of(recording: Recording) -> dict[str, Any]:
    """The task as its caller sees it. Times are RFC 3339 in UTC."""
    facts, head = recording.facts, recording.head
    said: dict[str, Any] = {
        "id": recording.id,
        "object": "task",
        "status": recording.state,
        "path": recording.path,
        "request_id": recording.request_id,
        "model": recording.model,
        "created_at": _time(recording.began_s),
        "ended_at": _time(facts.ended_s) if facts is not None else None,
        "expires_at": _time(recording.expires_s) if recording.expires_s is not None else None,
        "answer_status": head.status if head is not None else None,
        "last_event": recording.last if recording.stream and not recording.on_disk else None,
        "progress": dict(recording.carrier.progress()) if recording.carrier is not None else None,
        "usage": None,
        "cost_usd": None,
        "error": facts.error if facts is not None else None,
        "result": f"/tasks/{recording.id}/result",
        "events": f"/tasks/{recording.id}/events",
    }
    if facts is not None and facts.usage is not None:
        said["usage"] = {**facts.usage, "usage_source": facts.usage_source}
    if facts is not None and facts.cost_nanousd is not None:
        said["cost_usd"] = usd(facts.cost_nanousd)
    return said


def statement(recording: Recording) -> bytes:
    return orjson.dumps(facts_of(recording))


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
