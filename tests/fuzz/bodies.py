"""JSON bodies: each is refused, or is sent on meaning the same, with at least as much held as it can come to cost.

The first byte of an input says to which path the rest is sent. What a body can cost is found out again here, from the bytes that would be
sent, by code that shares nothing with the product. A body that comes again, and so is known in part, must be judged as it was before.
"""

import json
from typing import Any

from proxy.admission import MOST_CONTEXT, Admission
from proxy.call import Call, Usage
from proxy.errors import ProxyError
from proxy.state.memory import MemoryStore
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.trip import Trip
from proxy.wire import body
from proxy.wire.request import RequestHead
from tests.clock import FakeClock
from tests.proxy.policy.files import compiled

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/compact",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/audio/speech",
)
CAP = 100
_POLICY = f"""version: 1
keys:
  - {{id: app, anonymous: true}}
prices: {{unknown: {{input: 1, output: 2}}, tools: {{web_search: 0.01}}}}
policies:
  - {{name: caps, match: {{models: ["gpt-*"]}}, max_tokens: {{cap: {CAP}}}}}
  - {{name: names, models: {{alias: {{fast: gpt-4.1-mini}}}}}}
"""
_MOST_TOOL_CALLS = 8
_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_EDITED = {*_CAPS, "stream_options", "max_tool_calls", "model"}
_CHAT = b'{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"Hello"}]'
SEEDS = (
    b"\0" + _CHAT + b',"max_tokens":50,"n":3,"stream":true,"temperature":0.5}',
    b"\0" + _CHAT.replace(b"gpt-4.1-mini", b"fast") + b',"max_tokens":5000,"max_completion_tokens":7}',
    b"\0" + _CHAT.replace(b"gpt-4.1-mini", b"gemma") + b',"service_tier":"flex","tools":[{"type":"function","function":{}}]}',
    b'\0{"max_\\u0074okens": 5, "model": "gpt-5", "messages": [], "seed": 123456789012345678901234567890, "stop": ["a", "b"]}',
    b'\1{"model":"gpt-3.5-turbo-instruct","prompt":["a","b",[1,2]],"n":2,"best_of":20,"max_tokens":3}',
    b'\1{"model":"davinci-002","prompt":[1,2,3]}',
    b'\2{"model":"gpt-4.1","input":"a","max_output_tokens":20,"tools":[{"type":"web_search"}],"max_tool_calls":3}',
    b'\2{"model":"gpt-4.1","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}],"background":true}',
    b'\2{"model":"gpt-4.1","prompt":{"id":"p"},"previous_response_id":"resp_1"}',
    b'\3{"model":"gpt-4.1","input":"a"}',
    b'\4{"model":"text-embedding-3-small","input":["a","b"]}',
    b'\5{"input":[{"type":"text","text":"a"}]}',
    b'\6{"model":"gpt-image-1","prompt":"a","n":2,"size":"1024x1536","partial_images":2,"stream":true}',
    b'\6{"model":"dall-e-3","prompt":"a"}',
    b'\7{"model":"gpt-4o-mini-tts","input":"a","speed":0.25}',
    b'\7{"model":"tts-1","input":"\\u00e9","voice":"a"}',
)


class _Door:
    """Where bodies come in. It remembers heads and outlines, as a port does."""

    def __init__(self) -> None:
        clock, unused = FakeClock(), None
        self._policies = compiled(_POLICY)
        self._clock = clock
        self._unused: Any = unused
        self._random = continue_trace(None, random="01" * TRACE_BYTES)

    def admitted(self, path: str, sent: bytes, times: int) -> list[tuple[Call | None, str]]:
        """The call that is made of a body, or None, and how it was judged in words; each time that it comes."""
        unused = self._unused
        admission = Admission(
            MemoryStore(self._clock), unused, self._clock, unused, guesses=unused, overload=unused, body_s=1.0, pseudonym="th"
        )
        head = RequestHead(method="POST", target=path, headers={"content-type": "application/json"}, keep=True, modern=True)
        head.known = True
        arrival: Any = type("Arrival", (), {"head": head, "loopback": True})()
        told: list[tuple[Call | None, str]] = []
        for _ in range(times):
            trip = Trip(Call("req_1", "POST"), self._random, self._policies, lambda: 0, 0)
            try:
                admission.enter(trip, arrival)
                admission.shape(trip, (b"before" + sent, 6))
            except ProxyError as error:
                told.append((None, f"{error.status} {error.code} {error.param} {error.message}"))
                continue
            call = trip.call
            told.append(
                (call, f"{call.model} {call.cap} {call.choices} {call.units} {call.stream} {call.tools} {call.held_nanousd}")
            )
        return told


_door = _Door()


def one(data: bytes) -> None:
    """The target."""
    if not data:
        return
    path, sent = PATHS[data[0] % len(PATHS)], data[1:]
    told = _door.admitted(path, sent, 3)
    assert len({words for _, words in told}) == 1, "a body that came again was judged otherwise"
    call = told[0][0]
    if call is None:
        assert told[0][1].startswith(("400 ", "403 ", "413 ")), told[0][1]
        return
    wires = {b"".join(one.parts or body.patched(one)) for one, _ in told if one is not None}
    assert len(wires) == 1, "a body that came again was sent on in other words"
    [wire] = wires
    _meant(sent, wire)
    _covered(path, call, wire)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {f"{name} twice" if [n for n, _ in pairs].count(name) > 1 else name: value for name, value in pairs}


def _meant(sent: bytes, wire: bytes) -> None:
    """What goes on is what came, but for what a policy sets; and no field stands twice at its top."""
    before, after = json.loads(sent, object_pairs_hook=_once), json.loads(wire, object_pairs_hook=_once)
    assert not any(name.endswith(" twice") for name in after), after
    assert {name for name in {*before, *after} if repr(before.get(name, ...)) != repr(after.get(name, ...))} <= _EDITED


def _covered(path: str, call: Call, wire: bytes) -> None:
    """What an honest upstream can bill is held."""
    fields = json.loads(wire)
    price = call.price
    assert price is not None
    n = max(fields.get("n") or 1, fields.get("best_of") or 1) if "responses" not in path else 1
    if path == "/v1/completions":
        prompt = fields.get("prompt")
        texts = isinstance(prompt, list) and not all(type(token) is int for token in prompt)
        n *= len(prompt) if texts else 1
    caps = [fields[name] for name in _CAPS if fields.get(name) is not None]
    units = written = 0
    if path in PATHS[:4]:
        allowed = [fields[name] for name in _own_caps(path) if fields.get(name) is not None]
        each = max(allowed) if allowed else 16 if path == "/v1/completions" else None
        assert call.cap is None or each is not None or not caps
        written = n * (each if each is not None else 1)
        if each is None:
            assert call.uncapped >= 1000, "a call without a cap is held as much as its model writes"
        if call.model is not None and call.model.startswith("gpt-") and path != "/v1/responses/compact":
            assert call.cap is not None
            assert call.cap <= max(CAP, 16)
    elif path == "/v1/images/generations":
        units = n
    elif path == "/v1/audio/speech":
        units = len(fields["input"])
    assert call.held_output >= written or not price.by_tokens
    assert call.units >= units
    least = len(_shown(fields)) // 8  # no tokenizer makes fewer
    assert call.input_bound >= least or not price.by_tokens or call.input_bound >= MOST_CONTEXT
    for tier in (None, "default", fields.get("service_tier")):  # a tier that was not asked for is the operator's to name
        usage = Usage(input_tokens=call.input_bound, output_tokens=written, units=units)
        assert call.held_nanousd >= price.cost_nanousd(usage, tier=tier), f"held too little for tier {tier}"
    tools = fields.get("max_tool_calls")
    if path == "/v1/responses" and call.tools:
        assert call.tool_calls >= (tools if tools is not None else _MOST_TOOL_CALLS)


def _own_caps(path: str) -> tuple[str, ...]:
    if path == "/v1/chat/completions":
        return ("max_tokens", "max_completion_tokens")
    return ("max_tokens",) if path == "/v1/completions" else ("max_output_tokens",) if path == "/v1/responses" else ()


def _shown(fields: dict[str, Any]) -> str:
    """What certainly is input: the plain texts of a body."""
    found = [fields.get("input"), fields.get("prompt"), fields.get("instructions")]
    messages = fields.get("messages")
    found += [m.get("content") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    return "".join(text for text in found if isinstance(text, str))
