"""Every path of the API with every method: it has a meter, is free by nature, or is refused. There is no fourth."""

from typing import Any

import pytest

from proxy.admission import Admission
from proxy.call import Call
from proxy.errors import ProxyError
from proxy.state.memory import MemoryStore
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.trip import Trip
from proxy.wire.request import RequestHead
from tests.clock import FakeClock
from tests.proxy.policy.files import HEAD, compiled

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
# Source: facts on the OpenAI API, section 1.
_NAMED = """
/chat/completions /chat/completions/x /chat/completions/x/messages /completions /responses /responses/x /responses/x/cancel
/responses/x/input_items /responses/input_tokens /responses/compact /embeddings /moderations /models /models/x
/audio/transcriptions /audio/translations /audio/speech /audio/voices /audio/voice_consents /images/generations
/images/edits /images/variations /files /files/x /files/x/content /uploads /uploads/x/parts /uploads/x/complete
/uploads/x/cancel /batches /batches/x /batches/x/cancel /videos /videos/x /videos/edits /videos/extensions /videos/x/remix
/videos/x/content /fine_tuning/jobs /fine_tuning/jobs/x /fine_tuning/jobs/x/cancel /fine_tuning/jobs/x/events
/fine_tuning/alpha/graders/run /evals /evals/x /evals/x/runs /vector_stores /vector_stores/x /vector_stores/x/search
/vector_stores/x/files /vector_stores/x/file_batches /containers /containers/x /containers/x/files /assistants
/assistants/x /threads /threads/x /threads/runs /threads/x/messages /threads/x/runs /threads/x/runs/y/submit_tool_outputs
/conversations /conversations/x /conversations/x/items /skills /skills/x /chatkit/sessions /chatkit/threads /realtime
/realtime/sessions /realtime/client_secrets /realtime/calls /realtime/calls/x/accept /realtime/transcription_sessions
/organization/costs /organization/admin_api_keys /projects/x /never/heard/of
"""
PATHS = sorted(_NAMED.split())
METERED = {
    *("/chat/completions", "/completions", "/responses", "/responses/compact", "/embeddings", "/moderations"),
    *("/images/generations", "/images/edits", "/images/variations"),
    *("/audio/speech", "/audio/transcriptions", "/audio/translations"),
}
FREE = {
    *(("GET", path) for path in ("/models", "/models/x", "/responses/x", "/responses/x/input_items")),
    ("DELETE", "/responses/x"),
    ("POST", "/responses/x/cancel"),
    ("POST", "/responses/input_tokens"),
}
REFUSED = compiled(HEAD)


def entered(method: str, path: str, *, policies: Any = REFUSED) -> str:
    """`metered`, `free`, or the code of the refusal."""
    clock, unused = FakeClock(), None
    admission = Admission(
        MemoryStore(clock), unused, clock, unused, guesses=unused, overload=unused, body_s=1.0, pseudonym="tollhouse"
    )  # type: ignore[arg-type]
    head = RequestHead(method=method, target=path, headers={"content-type": "application/json"}, keep=True, modern=True)
    trip = Trip(Call("req_1", method), continue_trace(None, random="01" * TRACE_BYTES), policies, lambda: 0, 0)
    arrival: Any = type("Arrival", (), {"head": head, "loopback": True})()
    try:
        surface = admission.enter(trip, arrival).surface
    except ProxyError as error:
        return error.code
    return "metered" if surface.metered else "free"


@pytest.mark.parametrize("path", PATHS)
def test_a_path_has_a_meter_or_is_free_by_nature_or_is_refused(path: str) -> None:
    found = {method: entered(method, f"/v1{path}") for method in METHODS}
    expected = {
        method: "metered" if method == "POST" and path in METERED else "free" if (method, path) in FREE else "refused"
        for method in METHODS
    }
    refusals = {"path_not_metered", "method_not_allowed"}
    assert {method: "refused" if what in refusals else what for method, what in found.items()} == expected


@pytest.mark.parametrize("query", ["?beta=true", "?", "?x=/v1/models"])
def test_a_query_makes_no_other_path_of_it(query: str) -> None:
    assert entered("POST", f"/v1/responses{query}") == "metered"
    assert entered("POST", f"/v1/batches{query}") == "path_not_metered"


@pytest.mark.parametrize("path", sorted(METERED))
def test_a_path_with_a_meter_keeps_it_when_the_file_lets_everything_pass(path: str) -> None:
    assert entered("POST", f"/v1{path}", policies=compiled(HEAD + 'unmetered: ["/v1/*"]\n')) == "metered"
