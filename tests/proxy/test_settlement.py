"""What is billed is exact, is never nothing by accident, and is never more than what was held, on every surface that has a meter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.admission import Admission
from proxy.call import Call, Usage
from proxy.errors import ProxyError
from proxy.policy.policyset import PolicySet
from proxy.settlement import cost_nanousd, known_usage
from proxy.state.memory import MemoryStore
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.trip import Trip
from proxy.wire.meter import BodyMeter, PassMeter
from proxy.wire.request import RequestHead
from tests.clock import FakeClock
from tests.fakes import FakeUpstream, Send, json_answer, sse_answer
from tests.house import House, error_of, policy
from tests.proxy.policy.files import HEAD, compiled

PATIENT = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])

TOOLS = "{web_search: 0.01, file_search: 0.0025, code_interpreter: 0.03}"
OWN = "{dall-e-3: {input: 0, output: 0, image: 0.12}}"
PRICED = compiled(HEAD + f"prices: {{unknown: {{input: 3, output: 9, cache_write: 4}}, tools: {TOOLS}, models: {OWN}}}\n")


def multipart(fields: Mapping[str, str], files: Mapping[str, bytes]) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    for name, data in files.items():
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\nContent-Type: audio/wav\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return b"".join(parts) + b"--b--\r\n"


def admitted(path: str, body: bytes, *, form: bool = False, policies: PolicySet = PRICED, wall_s: float = 1_800_000_000.0) -> Trip:
    """A call that admission has let in, before anything is held. Errors: ProxyError."""
    clock = FakeClock(wall_s=wall_s)
    unused: Any = None
    kind = "multipart/form-data; boundary=b" if form else "application/json"
    head = RequestHead(method="POST", target=path, headers={"content-type": kind}, keep=True, modern=True)
    arrival: Any = type("Arrival", (), {"head": head, "loopback": True})()
    admission = Admission(
        MemoryStore(clock), unused, clock, unused, guesses=unused, overload=unused, body_s=1.0, pseudonym="tollhouse"
    )
    trip = Trip(Call("req_1", "POST"), continue_trace(None, random="01" * TRACE_BYTES), policies, lambda: 0, 0)
    admission.enter(trip, arrival)
    admission.shape(trip, (body, 0))
    trip.sent = True
    return trip


def billed(trip: Trip, answer: object) -> tuple[int, str | None]:
    """What a call costs by its answer, and how that is known. answer: JSON, or None for bytes that say nothing."""
    trip.meter = BodyMeter() if answer is not None else PassMeter(streams=True)
    trip.answered = True
    trip.meter.feed(orjson.dumps(answer) if answer is not None else b"ID3")
    trip.meter.finish()
    known = known_usage(trip)
    assert known is not None
    return cost_nanousd(trip, known[0]), known[1]


# ---- golden: real usage blocks, worked out by hand ----

WHISPER = multipart({"model": "whisper-1"}, {"file": bytes(100_000)})
TRANSCRIBE = multipart({"model": "gpt-4o-transcribe"}, {"file": bytes(100_000)})
EDIT = multipart({"model": "gpt-image-1", "prompt": "a hat", "size": "1024x1024"}, {"image": bytes(50_000)})
GOLDEN = {
    "chat": (
        "chat/completions",
        {"model": "gpt-4o", "messages": []},
        {
            "usage": {
                "prompt_tokens": 2006,
                "completion_tokens": 300,
                "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default",
        },
        86 * 2_500 + 1920 * 1_250 + 300 * 10_000,
    ),
    "chat, audio in and out": (
        "chat/completions",
        {"model": "gpt-audio", "messages": [], "modalities": ["text", "audio"]},
        {
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 200,
                "prompt_tokens_details": {"audio_tokens": 80},
                "completion_tokens_details": {"audio_tokens": 150, "text_tokens": 50},
            }
        },
        20 * 2_500 + 80 * 32_000 + 50 * 10_000 + 150 * 64_000,
    ),
    "chat, asked for priority and served by it": (
        "chat/completions",
        {"model": "gpt-5", "messages": [], "service_tier": "priority"},
        {"usage": {"prompt_tokens": 1000, "completion_tokens": 10}, "service_tier": "priority"},
        1000 * 2_500 + 10 * 20_000,
    ),
    "chat, asked for priority and fallen back": (
        "chat/completions",
        {"model": "gpt-5", "messages": [], "service_tier": "fast"},
        {"usage": {"prompt_tokens": 1000, "completion_tokens": 10}, "service_tier": "default"},
        1000 * 1_250 + 10 * 10_000,
    ),
    "chat, flex": (
        "chat/completions",
        {"model": "gpt-5", "messages": [], "service_tier": "flex"},
        {"usage": {"prompt_tokens": 1000, "completion_tokens": 10}, "service_tier": "flex"},
        1000 * 625 + 10 * 5_000,
    ),
    "chat, priority whose answer does not say": (
        "chat/completions",
        {"model": "gpt-5", "messages": [], "service_tier": "priority"},
        {"usage": {"prompt_tokens": 1000, "completion_tokens": 10}},
        1000 * 2_500 + 10 * 20_000,
    ),
    "chat, a long context": (
        "chat/completions",
        {"model": "gpt-5.4", "messages": []},
        {"usage": {"prompt_tokens": 272_001, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 1}}},
        272_000 * 5_000 + 500 + 10 * 22_500,
    ),
    "chat, not yet a long context": (
        "chat/completions",
        {"model": "gpt-5.4", "messages": []},
        {"usage": {"prompt_tokens": 272_000, "completion_tokens": 10}},
        272_000 * 2_500 + 10 * 15_000,
    ),
    "chat, a model that searches": (
        "chat/completions",
        {"model": "gpt-4o-search-preview", "messages": [], "web_search_options": {}},
        {"usage": {"prompt_tokens": 10, "completion_tokens": 10}},
        10 * 2_500 + 10 * 10_000 + 25_000_000,
    ),
    "completions": (
        "completions",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "x"},
        {"usage": {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}},
        5 * 1_500 + 16 * 2_000,
    ),
    "responses, cache written, reasoning within output": (
        "responses",
        {"model": "gpt-5.6", "input": "x"},
        {
            "usage": {
                "input_tokens": 5000,
                "input_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 3000},
                "output_tokens": 900,
                "output_tokens_details": {"reasoning_tokens": 800},
                "total_tokens": 5900,
            },
            "status": "completed",
        },
        1000 * 4_000 + 1000 * 400 + 3000 * 5_000 + 900 * 20_000,
    ),
    "responses with hosted tools, by their calls": (
        "responses",
        {"model": "gpt-4.1", "input": "x", "tools": [{"type": "web_search_preview"}, {"type": "file_search"}]},
        {
            "usage": {"input_tokens": 100, "output_tokens": 10},
            "output": [{"type": "web_search_call"}, {"type": "web_search_call"}, {"type": "file_search_call"}, {"type": "message"}],
        },
        100 * 2_000 + 10 * 8_000 + 2 * 10_000_000 + 2_500_000,
    ),
    "compact": (
        "responses/compact",
        {"model": "gpt-4.1", "input": "x"},
        {"usage": {"input_tokens": 139, "output_tokens": 438, "total_tokens": 577}},
        139 * 2_000 + 438 * 8_000,
    ),
    "embeddings": (
        "embeddings",
        {"model": "text-embedding-3-small", "input": "x"},
        {"usage": {"prompt_tokens": 8, "total_tokens": 8}},
        8 * 20,
    ),
    "an image by its tokens": (
        "images/generations",
        {"model": "gpt-image-1", "prompt": "a cat", "size": "1024x1024"},
        {
            "usage": {
                "input_tokens": 13,
                "input_tokens_details": {"text_tokens": 13, "image_tokens": 0},
                "output_tokens": 4160,
                "total_tokens": 4173,
            }
        },
        13 * 5_000 + 4160 * 40_000,
    ),
    "an image with text in its output": (
        "images/generations",
        {"model": "gpt-image-1.5", "prompt": "a cat"},
        {
            "usage": {
                "input_tokens": 13,
                "output_tokens": 300,
                "input_tokens_details": {"text_tokens": 13},
                "output_tokens_details": {"text_tokens": 28, "image_tokens": 272},
            }
        },
        13 * 5_000 + 28 * 10_000 + 272 * 32_000,
    ),
    "an image that is edited": (
        "images/edits",
        EDIT,
        {
            "usage": {
                "input_tokens": 350,
                "input_tokens_details": {"text_tokens": 27, "image_tokens": 323},
                "output_tokens": 1056,
                "total_tokens": 1406,
            }
        },
        27 * 5_000 + 323 * 10_000 + 1056 * 40_000,
    ),
    "images by the piece": (
        "images/generations",
        {"model": "dall-e-3", "prompt": "a cat", "n": 2},
        {"data": [{}, {}]},
        240_000_000,
    ),
    "speech by the character": ("audio/speech", {"model": "tts-1", "input": "Hello!", "voice": "alloy"}, None, 6 * 15_000),
    "speech that nobody counted": (
        "audio/speech",
        {"model": "gpt-4o-mini-tts", "input": "x" * 100},
        None,
        len("gpt-4o-mini-tts") * 600 + 100 * 600 + 210 * 12_000,
    ),
    "a transcription by the second": (
        "audio/transcriptions",
        WHISPER,
        {"text": "x", "usage": {"type": "duration", "seconds": 12.5}},
        1_250_000,
    ),
    "a transcription by the token": (
        "audio/transcriptions",
        TRANSCRIBE,
        {
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "input_token_details": {"text_tokens": 10, "audio_tokens": 4},
                "output_tokens": 101,
                "total_tokens": 115,
            }
        },
        14 * 2_500 + 101 * 10_000,
    ),
    "a moderation without a model": ("moderations", {"input": "x"}, {"usage": {"prompt_tokens": 3, "total_tokens": 3}}, 0),
}


@pytest.mark.parametrize(("path", "body", "answer", "nanousd"), GOLDEN.values(), ids=GOLDEN)
def test_a_real_usage_block_costs_what_it_costs_by_hand(path: str, body: Any, answer: object, nanousd: int) -> None:
    form = isinstance(body, bytes)
    trip = admitted(f"/v1/{path}", body if form else orjson.dumps(body), form=form)
    cost, _ = billed(trip, answer)
    assert cost == nanousd


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("audio/transcriptions", WHISPER, None),
        ("audio/transcriptions", WHISPER, {"text": "x"}),
        ("audio/transcriptions", WHISPER, {"usage": {"type": "tokens", "input_tokens": 9, "output_tokens": 9}}),
        ("audio/transcriptions", TRANSCRIBE, {"usage": {"type": "duration", "seconds": 3}}),
        ("images/generations", {"model": "gpt-image-1", "prompt": "x"}, {"data": [{}]}),
        ("responses", {"model": "gpt-5", "input": "x", "background": True}, {"status": "queued", "usage": None}),
        ("chat/completions", {"model": "gpt-audio", "messages": []}, None),
    ],
)
def test_what_nobody_says_or_what_has_no_price_is_billed_as_it_was_held(path: str, body: Any, answer: object) -> None:
    form = isinstance(body, bytes)
    trip = admitted(f"/v1/{path}", body if form else orjson.dumps(body), form=form)
    assert billed(trip, answer) == (trip.call.held_nanousd, "estimated")
    assert trip.call.held_nanousd > 0


# ---- whatever is accepted: held ≥ billed ----

MODELS = st.sampled_from(
    [
        *("gpt-5", "gpt-5.4", "gpt-5.6", "gpt-4o", "gpt-audio", "gpt-4.1", "gpt-4o-search-preview", "no-such-model"),
        *("gpt-image-1", "gpt-image-2", "dall-e-3", "tts-1", "gpt-4o-mini-tts", "whisper-1", "gpt-4o-transcribe"),
        *("omni-moderation-latest", "text-embedding-3-small"),
    ]
)
CAPS = st.none() | st.integers(-1, 5000) | st.sampled_from([True, 1.5, "8", 2**31])
COUNTS = st.none() | st.integers(0, 12) | st.just("2")
TIERS = st.sampled_from([None, "auto", "default", "flex", "priority", "fast", "scale", "Priority", 7])
TEXTS = st.text(max_size=40)
TOOL_LISTS = st.none() | st.lists(
    st.sampled_from(["function", "web_search_preview", "file_search", "code_interpreter", "mcp", "shell", None]).map(
        lambda t: {"type": t}
    )
)
BODIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "chat/completions": st.fixed_dictionaries(
        {"model": MODELS, "messages": st.lists(TEXTS.map(lambda t: {"role": "user", "content": t}), max_size=2)},
        optional={
            **dict.fromkeys(("max_tokens", "max_completion_tokens"), CAPS),
            "n": COUNTS,
            "service_tier": TIERS,
            "tools": TOOL_LISTS,
            "web_search_options": st.just({}),
        },
    ),
    "completions": st.fixed_dictionaries(
        {"model": MODELS, "prompt": TEXTS | st.lists(TEXTS, max_size=3) | st.lists(st.integers(0, 9), max_size=3)},
        optional={"max_tokens": CAPS, "n": COUNTS, "best_of": COUNTS, "service_tier": TIERS},
    ),
    "responses": st.fixed_dictionaries(
        {"input": TEXTS},
        optional={
            "model": MODELS,
            "max_output_tokens": CAPS,
            "service_tier": TIERS,
            "tools": TOOL_LISTS,
            "max_tool_calls": COUNTS,
            "previous_response_id": st.just("resp_1"),
            "background": st.booleans(),
            "prompt": st.just({"id": "pmpt_1"}),
        },
    ),
    "responses/compact": st.fixed_dictionaries({"model": MODELS, "input": TEXTS}, optional={"service_tier": TIERS}),
    "embeddings": st.fixed_dictionaries({"model": MODELS, "input": TEXTS | st.lists(TEXTS, max_size=3)}),
    "moderations": st.fixed_dictionaries({"input": TEXTS}, optional={"model": MODELS}),
    "images/generations": st.fixed_dictionaries(
        {"prompt": TEXTS},
        optional={
            "model": MODELS,
            "n": COUNTS,
            "partial_images": COUNTS,
            "stream": st.booleans(),
            "size": st.sampled_from(["auto", "1024x1024", "1536x1024", "99999x9", "x", None, 3]),
        },
    ),
    "images/edits": st.fixed_dictionaries(
        {"prompt": TEXTS, "images": st.lists(st.just({"file_id": "f"}), max_size=3)}, optional={"model": MODELS, "n": COUNTS}
    ),
    "audio/speech": st.fixed_dictionaries(
        {"model": MODELS, "input": TEXTS},
        optional={"speed": st.sampled_from([0.25, 1, 4, 0, -1, "2", None]), "service_tier": TIERS},
    ),
}
FORMS: dict[str, st.SearchStrategy[dict[str, str]]] = {
    "audio/transcriptions": st.fixed_dictionaries({"model": MODELS}, optional={"prompt": st.just("x"), "stream": st.just("true")}),
    "images/edits": st.fixed_dictionaries(
        {"model": MODELS, "prompt": st.just("x")}, optional={"n": st.sampled_from(["1", "3", "x"])}
    ),
}


def some_of(data: st.DataObject, most: int, *, all_of_it: bool) -> int:
    return most if all_of_it else data.draw(st.integers(0, most))


def honest_usage(data: st.DataObject, trip: Trip) -> Usage:
    """Any usage within what the call can use, split into any classes; often all of it."""
    call, full = trip.call, data.draw(st.booleans())
    tokens_in, tokens_out = some_of(data, call.input_bound, all_of_it=full), some_of(data, call.held_output, all_of_it=full)
    ins = data.draw(st.lists(st.integers(0, tokens_in), min_size=4, max_size=4))
    outs = data.draw(st.lists(st.integers(0, tokens_out), min_size=3, max_size=3))
    return Usage(
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cached_tokens=ins[0],
        cache_write_tokens=ins[1],
        audio_input_tokens=ins[2],
        image_input_tokens=ins[3],
        audio_output_tokens=outs[0],
        image_output_tokens=outs[1],
        reasoning_tokens=outs[2],
        units=some_of(data, call.units, all_of_it=full),
    )


def tiers_that_may_be_told(call: Call) -> list[str | None]:
    """The tier that was asked for, the standard one, or none."""
    asked = (call.fields or {}).get("service_tier")
    return [None, "default", *([] if asked in (None, "auto") else ["priority" if asked == "fast" else asked])]


def check_held(data: st.DataObject, path: str, body: bytes, *, form: bool) -> None:
    try:
        trip = admitted(f"/v1/{path}", body, form=form)
    except ProxyError as error:
        if error.status >= 500:
            raise
        return
    call = trip.call
    meter = BodyMeter()
    meter.ended = True
    meter.usage = honest_usage(data, trip) if data.draw(st.booleans()) else None
    meter.unfinished = meter.usage is None
    meter.tier = data.draw(st.sampled_from(tiers_that_may_be_told(call)))
    words = [word for word, _ in call.tools]
    if words:
        meter.calls = dict.fromkeys(data.draw(st.lists(st.sampled_from(words), max_size=call.tool_calls, unique=True)), 1)
        if data.draw(st.booleans()):
            meter.calls = {data.draw(st.sampled_from(words)): call.tool_calls}
    trip.meter, trip.answered = meter, True
    known = known_usage(trip)
    assert known is not None
    assert call.price is not None
    cost = cost_nanousd(trip, known[0])
    assert 0 <= cost <= call.held_nanousd
    if meter.usage is None and not call.price.free:
        assert cost > 0 or not call.held_nanousd
    assert known[0].total_tokens <= call.held_tokens


@pytest.mark.parametrize("path", BODIES)
@PATIENT
@given(data=st.data())
def test_what_is_held_of_an_accepted_body_is_never_less_than_what_is_billed(path: str, data: st.DataObject) -> None:
    check_held(data, path, orjson.dumps(data.draw(BODIES[path])), form=False)


@pytest.mark.parametrize("path", FORMS)
@PATIENT
@given(data=st.data())
def test_what_is_held_of_an_accepted_form_is_never_less_than_what_is_billed(path: str, data: st.DataObject) -> None:
    file = "image" if path.startswith("images") else "file"
    body = multipart(data.draw(FORMS[path]), {file: bytes(data.draw(st.integers(0, 5000)))})
    check_held(data, path, body, form=True)


@pytest.mark.parametrize(
    ("path", "body", "read", "written"),
    [
        ("chat/completions", {"model": "gpt-4o", "messages": [], "n": 3}, None, 3 * 16_384),
        ("chat/completions", {"model": "no-such-model", "messages": []}, None, 131_072),
        ("chat/completions", {"model": "gpt-4o", "messages": [], "max_tokens": 7}, None, 7),
        ("completions", {"model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b"], "best_of": 3}, None, 2 * 3 * 16),
        ("responses", {"model": "gpt-4.1", "input": "x", "conversation": "conv_1"}, 1_047_576, 32_768),
        ("responses", {"model": "gpt-4.1", "input": "x", "tools": [{"type": "mcp"}], "max_tool_calls": 2}, 3 * 1_047_576, 32_768),
        ("responses/compact", {"model": "gpt-4.1", "input": "x"}, None, 32_768),
        ("images/generations", {"model": "gpt-image-1", "prompt": "x", "n": 2}, None, 2 * 6_250),
        ("embeddings", {"model": "text-embedding-3-small", "input": "x"}, None, 0),
    ],
)
def test_what_a_body_does_not_bound_is_held_at_what_the_model_can_do(
    path: str, body: dict[str, Any], read: int | None, written: int
) -> None:
    call = admitted(f"/v1/{path}", orjson.dumps(body)).call
    assert call.held_output == written
    assert read is None or call.input_bound == read


# ---- through the whole proxy ----


async def test_a_background_run_is_billed_when_it_is_begun_and_not_again_when_it_is_looked_at(tmp_path: Path) -> None:
    receipt = {"id": "resp_1", "object": "response", "status": "queued", "background": True, "model": "gpt-4.1", "usage": None}
    done = {**receipt, "status": "completed", "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}}
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        upstream.queue(json_answer(200, receipt))
        body = {"model": "gpt-4.1", "input": "x", "background": True, "max_output_tokens": 100}
        began, _, _ = await house.post("/v1/responses", body)
        upstream.queue(json_answer(200, done))
        looked, _, seen = await house.request("GET", "/v1/responses/resp_1", headers={"authorization": "Bearer app-key"})
        first, second = await house.logged("call.finished", 2)
    held = len(orjson.dumps(body)) * 2_000 + 100 * 8_000
    assert (began, first["cost_nanousd"], first["usage_source"]) == (200, held, "estimated")
    assert (looked, orjson.loads(seen)) == (200, done)
    assert second["cost_nanousd"] == 0
    assert "input_tokens" not in second or second["input_tokens"] == 0


async def test_an_earlier_answer_is_held_for_at_what_the_model_can_read(tmp_path: Path) -> None:
    rules = "- {name: purse, budget: {usd: 2, per: day, when_spent: reject}}"
    async with FakeUpstream() as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        body = {"model": "gpt-4.1", "input": "x", "max_output_tokens": 16, "previous_response_id": "resp_1"}
        status, _, refused = await house.post("/v1/responses", body)
    assert (status, error_of(refused)["code"]) == (429, "budget_exceeded"), "1,047,576 tokens are more than two dollars"
    assert upstream.requests == []


async def test_a_hosted_tool_is_refused_until_it_has_a_price_and_its_calls_are_bounded(tmp_path: Path) -> None:
    body = {"model": "gpt-4.1", "input": "x", "tools": [{"type": "web_search_preview"}]}
    answer = json_answer(200, {"usage": {"input_tokens": 10, "output_tokens": 1}, "output": [{"type": "web_search_call"}]})
    async with FakeUpstream(default=answer) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        status, _, refused = await house.post("/v1/responses", body)
    assert (status, error_of(refused)["code"], error_of(refused)["param"]) == (403, "tool_not_priced", "tools")
    assert "prices.tools" in error_of(refused)["message"]
    priced = policy(more="prices: {tools: {web_search: 0.01}}")
    async with FakeUpstream(default=answer) as upstream, House(priced, upstream.url + "/v1", tmp_path) as house:
        status, _, _ = await house.post("/v1/responses", body)
        line = (await house.logged("call.finished", 2))[-1]
    assert (status, line["cost_nanousd"]) == (200, 10 * 2_000 + 8_000 + 10_000_000)
    assert upstream.requests[0].json() == {**body, "max_tool_calls": 8}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"model": "gpt-4.1", "input": "x", "service_tier": "scale"}, "service_tier", "tier 'scale'"),
        ({"prompt": {"id": "p"}}, "prompt", "stored prompts"),
        ({"input": "x"}, "model", "names no model"),
        ({"model": "no-such-model", "input": "x", "service_tier": "flex"}, "model", "The model has no price"),
    ],
)
async def test_what_has_no_price_is_refused_and_the_message_says_what(
    tmp_path: Path, body: dict[str, Any], param: str, words: str
) -> None:
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        status, _, refused = await house.post("/v1/responses", body)
    assert (status, error_of(refused)["param"]) == (403, param)
    assert words in error_of(refused)["message"]
    assert upstream.requests == []


async def test_a_batch_is_refused_and_told_why(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        status, _, refused = await house.post("/v1/batches", {"input_file_id": "file-1"})
    assert (status, error_of(refused)["code"]) == (403, "path_not_metered")
    assert "charged later" in error_of(refused)["message"]
    assert "'unmetered'" in error_of(refused)["message"]


async def test_a_recording_passes_byte_for_byte_under_the_models_other_name(tmp_path: Path) -> None:
    rules = "- {name: names, models: {alias: {ears: whisper-1}}}"
    body = multipart({"model": "ears", "language": "de"}, {"file": bytes(range(256)) * 2000})
    kind = {"authorization": "Bearer app-key", "content-type": "multipart/form-data; boundary=b"}
    answer = json_answer(200, {"text": "hello", "usage": {"type": "duration", "seconds": 3}})
    async with FakeUpstream(default=answer) as upstream, House(policy(rules), upstream.url + "/v1", tmp_path) as house:
        status, headers, _ = await house.request("POST", "/v1/audio/transcriptions", body=body, headers=kind)
        [line] = await house.logged("call.finished")
    assert status == 200
    assert upstream.requests[0].body == body.replace(b"\r\n\r\nears", b"\r\n\r\nwhisper-1")
    assert upstream.requests[0].header("content-type") == kind["content-type"]
    assert (line["cost_nanousd"], line["usage_source"], line["model_served"]) == (300_000, "reported", None)
    assert headers["tollhouse-cost-usd"] == "0.0003"


async def test_speech_passes_as_it_comes_and_is_billed_by_its_characters(tmp_path: Path) -> None:
    sound = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 6\r\n\r\nID3\0\1\2"
    async with FakeUpstream(default=[Send(sound)]) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        status, headers, body = await house.post("/v1/audio/speech", {"model": "tts-1-hd", "input": "Grüße", "voice": "alloy"})
        [line] = await house.logged("call.finished")
    assert (status, headers["content-type"], body) == (200, "audio/mpeg", b"ID3\0\1\2")
    assert (line["cost_nanousd"], line["usage_source"]) == (5 * 30_000, "counted")


async def test_a_stream_of_pictures_is_billed_by_what_each_of_them_reports(tmp_path: Path) -> None:
    usage = {"input_tokens": 10, "input_tokens_details": {"text_tokens": 10}, "output_tokens": 272, "total_tokens": 282}
    made = (
        b"event: image_generation.completed\ndata: "
        + orjson.dumps({"type": "image_generation.completed", "usage": usage})
        + b"\n\n"
    )
    partly = b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image","partial_image_b64":"AA"}\n\n'
    body = {"model": "gpt-image-1", "prompt": "a cat", "n": 2, "stream": True, "partial_images": 1, "size": "1024x1024"}
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        upstream.queue(sse_answer([partly, made, made]))
        status, _, seen = await house.post("/v1/images/generations", body)
        upstream.queue(sse_answer([partly, made], cut_after=1))
        _, _, broken = await house.post("/v1/images/generations", body)
        whole, cut = await house.logged("call.finished", 2)
    assert (status, seen) == (200, partly + made + made)
    assert whole["cost_nanousd"] == 2 * (10 * 5_000 + 272 * 40_000)
    assert b"upstream_broken" in broken
    held = 2 * (len("gpt-image-1a cat1024x1024")) * 10_000 + 2 * (65 * 65 + 100) * 40_000
    assert (cut["cost_nanousd"], cut["usage_source"]) == (held, "estimated")
