"""The pretend upstream answers the official client as OpenAI would, and says what it is."""

import math
from collections.abc import AsyncIterator

import openai
import orjson
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from proxy.pretend import Pretend
from tests.clock import FakeClock
from tests.fakes import dechunk, raw_exchange

MODEL = "gpt-4.1-mini"
HELLO = "Hello there, old friend"  # four words, four tokens
MESSAGES = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": [{"type": "text", "text": HELLO}]}]
CHAT = {"model": MODEL, "messages": MESSAGES}
OPENING = "This is Tollhouse's pretend upstream; no model was asked."
WHOLE = 72  # tokens of an answer that nothing cuts


@pytest.fixture
async def url() -> AsyncIterator[str]:
    pretend = Pretend(pace_s=0, clock=FakeClock(wall_s=1_700_000_000.5))
    yield await pretend.start()
    await pretend.stop()


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


async def exchange(url: str, method: str, path: str, body: object = None) -> tuple[bytes, bytes]:
    """Head and body of an answer as they come off the socket, the body without its chunks."""
    sent = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
    request = (
        f"{method} {path} HTTP/1.1\r\nHost: pretend\r\nConnection: close\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent
    )
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    head, _, got = (await raw_exchange("127.0.0.1", port, request)).partition(b"\r\n\r\n")
    if b"chunked" in head:
        whole = dechunk(got)
        assert whole is not None, "the stream was cut"
        got = whole[0]
    return head, got


def events(stream: bytes) -> list[dict[str, object]]:
    """The JSON of every event but [DONE]."""
    data = [block.rpartition(b"data: ")[2] for block in stream.split(b"\n\n") if block]
    return [orjson.loads(d) for d in data if d != b"[DONE]"]


async def test_a_chat_answer_says_that_no_model_was_asked(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(**CHAT)
    answer = raw.parse()
    assert answer.choices[0].message.content.startswith(OPENING)
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.model, answer.object, answer.created) == (MODEL, "chat.completion", 1_700_000_000)
    assert raw.headers["x-pretend"] == "true"
    assert answer._request_id == "req_pretend1"


async def test_usage_counts_the_words_of_input_and_answer(client: AsyncOpenAI) -> None:
    usage = (await client.chat.completions.create(**CHAT)).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, WHOLE, 6 + WHOLE)


@pytest.mark.parametrize(
    ("caps", "tokens", "finish"),
    [
        ({"max_tokens": 5}, 5, "length"),
        ({"max_completion_tokens": 7}, 7, "length"),
        ({"max_tokens": 5, "max_completion_tokens": 3}, 3, "length"),
        ({"max_tokens": WHOLE}, WHOLE, "stop"),
        ({"max_tokens": 4096}, WHOLE, "stop"),
        ({"max_tokens": None}, WHOLE, "stop"),
    ],
)
async def test_every_spelling_of_the_chat_cap_cuts_the_answer(client: AsyncOpenAI, caps: dict, tokens: int, finish: str) -> None:
    answer = await client.chat.completions.create(**CHAT, **caps)
    assert len(answer.choices[0].message.content.split()) == answer.usage.completion_tokens == tokens
    assert answer.choices[0].finish_reason == finish


async def test_every_choice_of_n_is_given_and_billed(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**CHAT, n=3, max_tokens=5)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 15


async def collect(stream: AsyncStream[ChatCompletionChunk]) -> tuple[dict[int, str], list[ChatCompletionChunk]]:
    texts, chunks = {}, []
    async for chunk in stream:
        chunks.append(chunk)
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts, chunks


async def test_a_stream_adds_up_to_the_whole_answer_for_every_choice(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(**CHAT)
    texts, chunks = await collect(await client.chat.completions.create(**CHAT, n=2, stream=True))
    assert texts == dict.fromkeys((0, 1), whole.choices[0].message.content)
    assert {c.choices[0].finish_reason for c in chunks[:-2]} == {None}
    assert [c.choices[0].finish_reason for c in chunks[-2:]] == ["stop", "stop"]
    assert len({(c.id, c.created) for c in chunks}) == 1


async def test_a_stream_tells_usage_in_one_last_chunk_only_when_asked(client: AsyncOpenAI, url: str) -> None:
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    _, chunks = await collect(await client.chat.completions.create(**asked))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 6 + WHOLE
    *rest, last = events((await exchange(url, "POST", "/v1/chat/completions", asked))[1])
    assert last["usage"]["completion_tokens"] == WHOLE
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in rest)
    unasked = events((await exchange(url, "POST", "/v1/chat/completions", {**CHAT, "stream": True}))[1])
    assert all("usage" not in chunk and chunk["choices"] for chunk in unasked)


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"model": MODEL, "prompt": "a b"})])
async def test_the_wire_form_of_a_stream_is_data_lines_and_done(url: str, path: str, body: dict) -> None:
    head, stream = await exchange(url, "POST", path, {**body, "stream": True})
    assert b"content-type: text/event-stream" in head.lower()
    assert b"x-pretend: true" in head
    assert stream.endswith(b"}\n\ndata: [DONE]\n\n")
    assert all(block.startswith(b"data: {") for block in stream.split(b"\n\n")[:-2])


async def test_completions_cap_at_16_unless_told_otherwise(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=HELLO)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.choices[0].finish_reason) == (4, 16, "length")
    assert answer.choices[0].text.startswith(OPENING)
    nothing = await client.completions.create(model=MODEL, prompt=HELLO, max_tokens=0)
    assert (nothing.choices[0].text, nothing.usage.completion_tokens) == ("", 0)


@pytest.mark.parametrize(
    ("fields", "choices", "input_tokens", "output_tokens"),
    [
        ({"prompt": ["one", "two words"]}, 2, 3, 10),
        ({"prompt": [1, 2, 3]}, 1, 3, 5),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4, 3, 20),
        ({"prompt": "one", "n": 2, "best_of": 4}, 2, 1, 20),
    ],
)
async def test_completions_bill_every_prompt_and_every_candidate(
    client: AsyncOpenAI, fields: dict, choices: int, input_tokens: int, output_tokens: int
) -> None:
    answer = await client.completions.create(model=MODEL, max_tokens=5, **fields)
    assert [c.index for c in answer.choices] == list(range(choices))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (input_tokens, output_tokens)


async def test_completions_stream_adds_up_and_tells_usage_when_asked(client: AsyncOpenAI) -> None:
    options = {"include_usage": True}
    chunks = [c async for c in await client.completions.create(model=MODEL, prompt=HELLO, stream=True, stream_options=options)]
    text = "".join(choice.text for c in chunks for choice in c.choices)
    assert len(text.split()) == chunks[-1].usage.completion_tokens == 16
    assert chunks[-2].choices[0].finish_reason == "length"


async def test_responses_answer_whole(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model=MODEL, input=HELLO, instructions="Be brief")
    assert answer.output_text.startswith(OPENING)
    assert answer.status == "completed"
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (6, WHOLE, 6 + WHOLE)


async def test_responses_that_reach_their_cap_are_incomplete(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model=MODEL, input=[{"role": "user", "content": HELLO}], max_output_tokens=16)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 16)
    stream = [e async for e in await client.responses.create(model=MODEL, input=HELLO, max_output_tokens=16, stream=True)]
    assert stream[-1].type == "response.incomplete"
    assert stream[-1].response.usage.output_tokens == 16


async def test_a_responses_stream_has_numbered_events_and_one_terminal_with_usage(client: AsyncOpenAI) -> None:
    got = [e async for e in await client.responses.create(model=MODEL, input=HELLO, stream=True)]
    assert [e.sequence_number for e in got] == list(range(len(got)))
    deltas = [e for e in got if e.type == "response.output_text.delta"]
    assert [e.type for e in got if e not in deltas] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(e.delta for e in deltas) == got[-1].response.output_text
    assert got[-1].response.usage.total_tokens == 4 + WHOLE
    assert [e.response.usage for e in got[:2]] == [None, None]


async def test_the_wire_form_of_a_responses_stream_names_every_event_and_has_no_done(url: str) -> None:
    _, stream = await exchange(url, "POST", "/v1/responses", {"model": MODEL, "input": HELLO, "stream": True})
    for block in stream.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        assert name == b"event: " + orjson.loads(data.removeprefix(b"data: "))["type"].encode()
    assert b"[DONE]" not in stream


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings_are_unit_vectors_that_depend_on_the_input(client: AsyncOpenAI, form: str) -> None:
    given = ["one", "two words", "one"]
    answer = await client.embeddings.create(model="text-embedding-3-small", input=given, encoding_format=form, dimensions=8)
    first, second, third = (e.embedding for e in answer.data)
    if form == "float":
        assert math.isclose(math.hypot(*first), 1.0)
        assert len(first) == 8
    assert first == third != second
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)


async def test_the_sdk_reads_the_vectors_it_asks_for_by_default(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="text-embedding-3-small", input=[[1, 2], [3]])
    assert [len(e.embedding) for e in answer.data] == [1536, 1536]
    assert math.isclose(math.hypot(*answer.data[0].embedding), 1.0, rel_tol=1e-5)
    assert answer.usage.prompt_tokens == 3


async def test_moderations_flag_nothing(client: AsyncOpenAI) -> None:
    answer = await client.moderations.create(input=["one", "two"])
    assert [r.flagged for r in answer.results] == [False, False]
    assert answer.results[0].categories.self_harm_intent is False
    assert answer.model == "omni-moderation-latest"


async def test_models_are_listed_and_found(client: AsyncOpenAI) -> None:
    listed = [m.id async for m in client.models.list()]
    assert MODEL in listed
    assert [(await client.models.retrieve(m)).id for m in listed] == listed


@pytest.mark.parametrize(
    ("path", "body", "param", "code", "error"),
    [
        ("/chat/completions", {**CHAT, "model": "gpt-99"}, "model", "model_not_found", openai.NotFoundError),
        ("/chat/completions", {"messages": MESSAGES}, "model", None, openai.BadRequestError),
        ("/chat/completions", {"model": MODEL}, "messages", "missing_required_parameter", openai.BadRequestError),
        ("/chat/completions", {**CHAT, "max_tokens": 0}, "max_tokens", "invalid_value", openai.BadRequestError),
        ("/chat/completions", {**CHAT, "max_tokens": "9"}, "max_tokens", "invalid_type", openai.BadRequestError),
        ("/chat/completions", {**CHAT, "n": 129}, "n", "invalid_value", openai.BadRequestError),
        ("/chat/completions", {**CHAT, "stream": "yes"}, "stream", "invalid_type", openai.BadRequestError),
        ("/chat/completions", {**CHAT, "stream_options": {}}, "stream_options", None, openai.BadRequestError),
        ("/completions", {"model": MODEL, "prompt": ["a"] * 9, "n": 128}, "prompt", None, openai.BadRequestError),
        (
            "/responses",
            {"model": MODEL, "input": "a", "max_output_tokens": 15},
            "max_output_tokens",
            "invalid_value",
            openai.BadRequestError,
        ),
        ("/embeddings", {"model": MODEL, "input": []}, "input", "missing_required_parameter", openai.BadRequestError),
        ("/chat/completions", [], None, None, openai.BadRequestError),
        ("/nowhere", {}, None, None, openai.NotFoundError),
    ],
)
async def test_a_wrong_call_gets_an_error_in_openais_form(
    client: AsyncOpenAI, path: str, body: object, param: str | None, code: str | None, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        await client.post(path, body=body, cast_to=object)
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")
    assert caught.value.request_id
    assert caught.value.body.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [b"", b'{"model": ', b'{"model": "\xff"}', b"NaN"])
async def test_a_body_that_is_not_json_is_a_400(url: str, body: bytes) -> None:
    head, got = await exchange(url, "POST", "/v1/chat/completions", body)
    assert b" 400 " in head.split(b"\r\n")[0]
    assert orjson.loads(got)["error"]["type"] == "invalid_request_error"


async def test_it_can_be_stopped_and_says_where_it_is() -> None:
    pretend = Pretend(pace_s=0.5)
    assert repr(pretend) == "<Pretend not started pace_s=0.5>"
    url = await pretend.start()
    assert repr(pretend) == f"<Pretend {url} pace_s=0.5>"
    await pretend.stop()
    await pretend.stop()
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        await raw_exchange("127.0.0.1", port, b"GET /v1/models HTTP/1.1\r\n\r\n")
