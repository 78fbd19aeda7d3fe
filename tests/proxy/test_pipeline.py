"""What becomes of a call, told from both ends: what the client got, what the upstream saw, what was logged."""

import asyncio
import re
from pathlib import Path

import orjson
import pytest

from tests.fakes import Abort, FakeUpstream, Send, UntilClosed, json_answer, sse_answer
from tests.house import CHAT, UPSTREAM_KEY, House, error_of, policy

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4.1-mini-2025-04-14",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi there"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


def chunk(content: str | None = None, *, usage: object = None, choices: bool = True) -> bytes:
    """One event of a chat stream."""
    delta = {"content": content} if content is not None else {}
    payload = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "gpt-4.1-mini",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}] if choices else [],
        "usage": usage,
    }
    return b"data: " + orjson.dumps(payload) + b"\n\n"


USAGE = chunk(usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}, choices=False)
DONE = b"data: [DONE]\n\n"
STREAM = [chunk("Hel"), chunk("lo"), chunk(" world"), USAGE, DONE]


async def test_an_answer_passes_with_its_cost_and_one_log_line(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, ANSWER, headers={"x-request-id": "up-1"})) as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            status, headers, body = await house.post(
                "/v1/chat/completions", CHAT, headers={"x-user": "ada", "x-request-id": "mine-1"}
            )
            [line] = await house.logged("call.finished")
    assert status == 200
    assert orjson.loads(body) == ANSWER
    assert headers["x-request-id"] == "mine-1"
    assert headers["x-upstream-request-id"] == "up-1"
    assert headers["tollhouse-tokens"] == "input=9, output=3"
    assert headers["tollhouse-cost-usd"] == "0.0000084"  # 9 × 0.40 + 3 × 1.60 dollars a million
    assert re.fullmatch(r"admit;dur=[\d.]+, upstream;dur=[\d.]+", headers["server-timing"])
    assert line["key"] == "app"
    assert line["user"] == "ada"
    assert line["path"] == "/v1/chat/completions"
    assert line["model_asked"] == "gpt-4.1-mini"
    assert line["model_served"] == "gpt-4.1-mini-2025-04-14"
    assert (line["input_tokens"], line["output_tokens"], line["usage_source"]) == (9, 3, "reported")
    assert line["cost_nanousd"] == 8_400
    assert line["outcome"] == "completed"
    assert line["status"] == 200
    assert line["upstream"] == "main"
    assert line["policy_version"] == headers["tollhouse-policy"]


async def test_a_body_that_no_policy_changed_is_passed_byte_for_byte(tmp_path: Path) -> None:
    body = (
        b'{ "seed": 123456789012345678901234567890, "temperature":1.0,"model":"gpt-4.1-mini",\n'
        b'"messages":[{"role":"user","content":"\\u00e9"}]}'
    )
    async with FakeUpstream(default=json_answer(200, ANSWER)) as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            await house.post("/v1/chat/completions", body)
            request = await upstream.arrived()
    assert request.body == body
    assert request.target == "/v1/chat/completions"


async def test_the_upstream_sees_its_own_credential_and_nothing_of_ours(tmp_path: Path) -> None:
    sent = {"cookie": "a=b", "x-secret": "s", "x-stainless-lang": "python", "connection": "x-stainless-lang", "x-user": "ada"}
    async with FakeUpstream(default=json_answer(200, ANSWER)) as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            await house.post("/v1/chat/completions", CHAT, headers=sent)
            request = await upstream.arrived()
    names = {name.lower() for name, _ in request.headers}
    assert request.header("authorization") == f"Bearer {UPSTREAM_KEY}"
    assert names.isdisjoint({"cookie", "x-secret", "x-stainless-lang", "x-user"})
    assert request.header("accept-encoding") == "identity"
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", request.header("traceparent") or "")
    assert re.fullmatch(r"1\.1 tollhouse-[0-9a-f]{8}", request.header("via") or "")


async def test_a_clamp_changes_its_field_only_and_says_so(tmp_path: Path) -> None:
    rules = "- {name: small, max_tokens: {cap: 100}}"
    body = b'{"model":"gpt-4.1-mini","max_tokens":8000,"messages":[{"role":"user","content":"\\"max_tokens\\":8000"}]}'
    async with FakeUpstream(default=json_answer(200, ANSWER)) as upstream:
        async with House(policy(rules), upstream.url + "/v1", tmp_path) as house:
            _, headers, _ = await house.post("/v1/chat/completions", body)
            request = await upstream.arrived()
            _, uncapped, _ = await house.post("/v1/chat/completions", CHAT)
            second = await upstream.arrived(2)
    assert headers["tollhouse-clamped"] == "max_tokens=8000->100"
    assert request.body == body.replace(b'"max_tokens":8000,', b'"max_tokens":100,')
    assert uncapped["tollhouse-clamped"] == "max_completion_tokens=none->100"
    assert orjson.loads(second.body) == {**CHAT, "max_completion_tokens": 100}


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("splits", [None, [1, 2, 3, 5, 8, 13, 21, 34, 55, 89]])
async def test_a_stream_comes_as_it_was_sent_without_the_usage_chunk_nobody_asked_for(
    tmp_path: Path, framing: str, splits: list[int] | None
) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer(STREAM, framing=framing, splits=splits))
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            status, headers, body = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
            request = await upstream.arrived()
            [line] = await house.logged("call.finished")
    assert status == 200
    assert headers["content-type"] == "text/event-stream"
    assert body == b"".join(event for event in STREAM if event is not USAGE)
    assert orjson.loads(request.body)["stream_options"] == {"include_usage": True}
    assert (line["usage_source"], line["output_tokens"], line["stream"]) == ("reported", 3, True)
    assert line["first_token_ms"] >= line["first_byte_ms"] >= line["admit_ms"]


async def test_a_client_that_asked_for_usage_gets_it(tmp_path: Path) -> None:
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer(STREAM))
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            _, _, body = await house.post("/v1/chat/completions", asked)
            request = await upstream.arrived()
    assert body == b"".join(STREAM)
    assert request.body == orjson.dumps(asked)


async def test_what_the_upstream_does_not_report_is_counted(tmp_path: Path) -> None:
    silent = [event for event in STREAM if event is not USAGE]
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer(silent))
        upstream.queue(json_answer(200, {k: v for k, v in ANSWER.items() if k != "usage"}))
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            await house.post("/v1/chat/completions", {**CHAT, "stream": True})
            await house.post("/v1/chat/completions", CHAT)
            streamed, whole = await house.logged("call.finished", 2)
    assert streamed["usage_source"] == whole["usage_source"] == "counted"
    assert streamed["output_tokens"] == whole["output_tokens"] == 2  # "Hello world", "Hi there"
    assert 1 <= streamed["input_tokens"] <= 12
    assert streamed["cost_nanousd"] > 0


async def test_a_client_that_leaves_stops_the_upstream_and_pays_for_what_was_sent(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue([*sse_answer(STREAM)[:3], UntilClosed()])
        async with House(policy("- {name: one, concurrency: {calls: 1}}"), upstream.url + "/v1", tmp_path) as house:
            async with house.open_stream({**CHAT, "stream": True}) as answer:
                await answer.content.readany()
                request = await upstream.arrived()
                answer.close()
            await asyncio.wait_for(request.played.wait(), 5)
            [line] = await house.logged("call.finished")
            upstream.queue(json_answer(200, ANSWER))
            status, _, _ = await house.post("/v1/chat/completions", CHAT)
    assert line["outcome"] == "client_gone"
    assert line["usage_source"] == "counted"
    assert line["output_tokens"] in (1, 2)
    assert status == 200, "its slot is free again"


async def test_a_client_that_leaves_before_the_first_byte_is_noticed(tmp_path: Path) -> None:
    async with FakeUpstream(default=[UntilClosed()]) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        call = asyncio.create_task(house.post("/v1/chat/completions", CHAT))
        request = await upstream.arrived()
        call.cancel()
        await asyncio.wait_for(request.played.wait(), 5)
        [line] = await house.logged("call.finished")
    assert line["outcome"] == "client_gone"
    assert line["status"] == 0
    assert line["input_tokens"] > 0, "the input was sent, so it is paid for"


async def test_a_client_that_leaves_a_call_over_a_kept_connection_stops_the_upstream(tmp_path: Path) -> None:
    async with FakeUpstream(default=[UntilClosed()]) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        upstream.queue(json_answer(200, {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}))
        await house.post("/v1/chat/completions", CHAT)
        call = asyncio.create_task(house.post("/v1/chat/completions", CHAT))
        request = await upstream.arrived(2)
        call.cancel()
        async with asyncio.timeout(20):
            await request.closed_early.wait()
        assert upstream.accepted == 1, "it went over the first one's connection"


async def test_leaving_before_a_whole_answer_is_no_way_past_a_budget(tmp_path: Path) -> None:
    async with FakeUpstream(default=[UntilClosed()]) as upstream:
        async with House(policy("- {name: a, max_tokens: {cap: 70}}"), upstream.url + "/v1", tmp_path) as house:
            call = asyncio.create_task(house.post("/v1/chat/completions", {**CHAT, "n": 2}))
            await upstream.arrived()
            call.cancel()
            [line] = await house.logged("call.finished")
    assert (line["outcome"], line["usage_source"], line["output_tokens"]) == ("client_gone", "estimated", 140)


CUTS = [
    pytest.param(sse_answer(STREAM, framing=framing, cut_after=count), id=f"{framing}-{count}")
    for framing in ("chunked", "length", "close")
    for count in (0, 1, 3)
]


@pytest.mark.parametrize("script", [*CUTS, pytest.param([*sse_answer(STREAM, cut_after=2)[:-1], Abort()], id="reset")])
async def test_a_stream_that_breaks_off_ends_in_an_error_event_and_no_done(tmp_path: Path, script: list[object]) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(script)  # type: ignore[arg-type]
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            status, _, body = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
            [line] = await house.logged("call.finished")
    events = body.split(b"\n\n")
    assert status == 200
    assert orjson.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "upstream_broken"
    assert events[-1] == b""
    assert b"[DONE]" not in body
    assert b"".join(STREAM).startswith(b"\n\n".join(events[:-2]))
    assert line["outcome"] == "upstream_broken"
    assert line["status"] == 200


async def test_half_an_event_is_never_passed_on(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer([STREAM[0], STREAM[1][:-9]], framing="close"))
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            _, _, body = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert body.startswith(STREAM[0] + b'data: {"error"')


async def test_a_responses_stream_that_breaks_off_ends_in_the_surfaces_own_error(tmp_path: Path) -> None:
    created = b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"model":"gpt-4.1"}}\n\n'
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":1,"delta":"Hi"}\n\n'
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer([created, delta], framing="close"))
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            _, _, body = await house.post("/v1/responses", {"model": "gpt-4.1", "input": "Hello", "stream": True})
    last = body.removeprefix(created + delta)
    assert last.startswith(b"event: error\ndata: ")
    said = orjson.loads(last.partition(b"data: ")[2])
    assert (said["type"], said["code"], said["sequence_number"]) == ("error", "upstream_broken", 2)


async def test_an_error_within_the_stream_ends_it_in_our_words(tmp_path: Path) -> None:
    failed = b'data: {"error":{"message":"worker 10.1.2.3 lost secretcanary","code":500}}\n\n'
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer([STREAM[0], failed, DONE]))
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            _, _, body = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
            [line] = await house.logged("call.finished")
    assert body.startswith(STREAM[0] + b'data: {"error"')
    assert b"[DONE]" not in body
    assert b"secretcanary" not in body
    assert line["outcome"] == "upstream_error"


async def test_a_json_answer_that_breaks_off_is_502_and_not_half_an_answer(tmp_path: Path) -> None:
    whole = json_answer(200, ANSWER, splits=[40])
    async with FakeUpstream() as upstream:
        upstream.queue([*whole[:2], Abort()])
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            status, _, body = await house.post("/v1/chat/completions", CHAT)
    assert status == 502
    assert error_of(body)["code"] == "upstream_broken"


async def test_a_json_answer_to_a_streamed_call_passes_as_it_is(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, ANSWER)) as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            status, headers, body = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert (status, headers["content-type"]) == (200, "application/json")
    assert orjson.loads(body) == ANSWER


UPSTREAM_SAYS = {
    "error": {"message": f"No such model at http://10.0.0.7:8000/v1 for org-abcdef123456 with {UPSTREAM_KEY}", "type": "x"}
}


@pytest.mark.parametrize(
    ("upstream_status", "status", "code", "explained"),
    [
        (400, 400, "upstream_error", True),
        (403, 403, "upstream_error", True),
        (404, 404, "upstream_error", True),
        (409, 409, "upstream_error", True),
        (422, 422, "upstream_error", True),
        (429, 429, "upstream_error", True),
        (401, 502, "upstream_credentials", False),
        (402, 402, "upstream_error", False),
        (500, 500, "upstream_error", False),
        (503, 503, "upstream_error", False),
        (302, 502, "upstream_broken", False),
    ],
)
async def test_an_upstream_error_is_explained_only_where_it_is_about_the_request(
    tmp_path: Path, upstream_status: int, status: int, code: str, explained: bool
) -> None:
    script = json_answer(upstream_status, UPSTREAM_SAYS, headers={"location": "http://169.254.169.254/", "retry-after": "7"})
    async with FakeUpstream(default=script) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        seen, headers, body = await house.post("/v1/chat/completions", CHAT)
        [line] = await house.logged("call.finished")
    error = error_of(body)
    assert (seen, error["code"]) == (status, code)
    assert ("No such model" in error["message"]) is explained
    for secret in ("10.0.0.7", "abcdef123456", UPSTREAM_KEY, "169.254"):
        assert secret not in body.decode()
    if upstream_status == 429:
        assert headers["retry-after"] == "7"
    assert line["cost_nanousd"] == 0


async def test_an_upstream_that_is_not_there_is_502_without_its_address(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        port = upstream.port
    async with House(policy(), f"http://127.0.0.1:{port}/v1", tmp_path) as house:
        status, _, body = await house.post("/v1/chat/completions", CHAT)
        [line] = await house.logged("call.finished")
        [broke] = await house.logged("upstream.broke")
    assert status == 502
    assert error_of(body)["code"] == "upstream_unreachable"
    assert str(port) not in body.decode()
    assert line["outcome"] == "upstream_error"
    assert line["usage_source"] is None
    assert broke["upstream"] == "main"


async def test_a_call_goes_to_the_next_upstream_of_its_route_when_the_first_takes_no_connection(tmp_path: Path) -> None:
    async with FakeUpstream() as dead:
        port = dead.port
    text = policy().replace(
        "keys:", f"  down: {{base_url: 'http://127.0.0.1:{port}/v1'}}\nroutes:\n  - {{to: [down, main]}}\nkeys:"
    )
    async with FakeUpstream(default=json_answer(200, ANSWER)) as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        status, _, _ = await house.post("/v1/chat/completions", CHAT)
        [line] = await house.logged("call.finished")
    assert status == 200
    assert line["upstream"] == "main"


@pytest.mark.parametrize(
    ("stage", "script", "stream"),
    [
        ("first_byte", [UntilClosed()], False),
        ("idle", [*json_answer(200, ANSWER, splits=[10])[:2], UntilClosed()], False),
        ("first_token", [sse_answer(STREAM)[0], UntilClosed()], True),
        ("idle", [*sse_answer(STREAM)[:2], UntilClosed()], True),
        ("total", [*sse_answer(STREAM)[:2], UntilClosed()], True),
    ],
)
async def test_each_deadline_of_the_upstream_ends_the_call_and_is_named(
    tmp_path: Path, stage: str, script: list[object], stream: bool
) -> None:
    text = policy(f"- {{name: quick, timeouts: {{{stage}: 100ms}}}}")
    async with FakeUpstream() as upstream:
        upstream.queue(script)  # type: ignore[arg-type]
        async with House(text, upstream.url + "/v1", tmp_path) as house:
            status, _, body = await house.post("/v1/chat/completions", {**CHAT, "stream": stream})
            request = await upstream.arrived()
            await asyncio.wait_for(request.played.wait(), 5)
            [line] = await house.logged("call.finished")
            [broke] = await house.logged("upstream.broke")
            metrics = await house.metrics()
    assert f"deadline: {stage}" in body.decode()
    assert line["deadline"] == broke["deadline"] == stage
    assert f'tollhouse_deadlines_total{{deadline="{stage}"}} 1\n' in metrics
    assert status == (200 if stream else 504)
    assert b"[DONE]" not in body
    assert line["outcome"] == "timed_out"
    assert line["error"] == "upstream_timeout"
    assert line["usage_source"] == ("counted" if stream else "estimated")


@pytest.mark.parametrize("whole", [False, True])
async def test_the_time_that_counting_takes_is_no_silence_of_the_upstream(tmp_path: Path, whole: bool) -> None:
    """A text of two megabytes takes several times longer to count than this upstream may be silent."""
    text = policy("- {name: quick, timeouts: {idle: 100ms}}")
    said = chunk("the toll is four " * 120_000)
    async with FakeUpstream() as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        upstream.queue(sse_answer([said, b"data: [DONE]\n\n"] if whole else [said], framing="close"))
        _, _, body = await house.post("/v1/chat/completions", {**CHAT, "stream": True})
        [line] = await house.logged("call.finished")
    assert line["outcome"] == ("completed" if whole else "upstream_broken")
    assert b"upstream_timeout" not in body
    assert body.endswith(b"data: [DONE]\n\n") == whole


async def test_a_path_without_a_meter_is_refused_and_passes_when_the_file_lists_it(tmp_path: Path) -> None:
    upload = b"--b\r\ncontent-disposition: form-data; name=file\r\n\r\nbytes\r\n--b--\r\n"
    kind = {"authorization": "Bearer app-key", "content-type": "multipart/form-data; boundary=b"}
    async with FakeUpstream(default=json_answer(200, {"id": "file-1"})) as upstream:
        async with House(policy(more='unmetered: ["/v1/files*"]'), upstream.url + "/v1", tmp_path) as house:
            refused, _, why = await house.request("POST", "/v1/videos", body=b"{}", headers=kind)
            status, _, body = await house.request("POST", "/v1/files?purpose=vision", body=upload, headers=kind)
            got, _, _ = await house.request("GET", "/v1/files/file-1/content", headers={"authorization": "Bearer app-key"})
    assert (refused, error_of(why)["code"]) == (403, "path_not_metered")
    assert (status, got) == (200, 200)
    assert orjson.loads(body) == {"id": "file-1"}
    assert upstream.requests[0].body == upload
    assert upstream.requests[0].target == "/v1/files?purpose=vision"
    assert upstream.requests[0].header("content-type") == "multipart/form-data; boundary=b"
    assert len(upstream.requests) == 2


async def test_an_embeddings_answer_larger_than_is_held_back_still_reports_its_usage(tmp_path: Path) -> None:
    vectors = [{"object": "embedding", "index": i, "embedding": [0.123456789] * 1500} for i in range(80)]
    answer = {
        "object": "list",
        "data": vectors,
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 80, "total_tokens": 80},
    }
    async with FakeUpstream(default=json_answer(200, answer)) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        _, _, body = await house.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a"] * 80})
        [line] = await house.logged("call.finished")
    assert len(body) > 1 << 20
    assert orjson.loads(body) == answer
    assert (line["input_tokens"], line["output_tokens"], line["usage_source"]) == (80, 0, "reported")


async def test_models_and_moderations_cost_nothing_and_pass(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, {"id": "m", "results": []})) as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            listed, _, _ = await house.request("GET", "/v1/models", headers={"authorization": "Bearer app-key"})
            moderated, _, _ = await house.post("/v1/moderations", {"input": "text"})
            lines = await house.logged("call.finished", 2)
    assert (listed, moderated) == (200, 200)
    assert [line["cost_nanousd"] for line in lines] == [0, 0]


async def test_a_slow_upstream_write_is_backpressured_by_a_client_that_does_not_read(tmp_path: Path) -> None:
    """The upstream's writes stop once the buffers between are full, long before the whole answer was sent."""
    event = b"data: " + b'{"choices":[{"index":0,"delta":{"content":"' + b"x" * 60_000 + b'"}}]}' + b"\n\n"
    head, *_ = sse_answer([])
    flood = [head, *(Send(b"%x\r\n%b\r\n" % (len(event), event)) for _ in range(1500)), UntilClosed()]
    async with FakeUpstream() as upstream:
        upstream.queue(flood)
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            reader, writer = await asyncio.open_connection("127.0.0.1", house.app.data_address[1], limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            body = orjson.dumps({**CHAT, "stream": True})
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            request = await upstream.arrived()
            before = -1
            while request.sent_bytes != before:  # until nothing moves any more
                before = request.sent_bytes
                await asyncio.sleep(0.3)
            assert 0 < request.sent_bytes < 40 << 20, "90 MB were to be sent"
            assert not request.played.is_set()
            writer.transport.abort()
            await asyncio.wait_for(request.played.wait(), 5)
            assert reader is not None


async def test_an_answer_without_end_is_ended_by_its_size(tmp_path: Path) -> None:
    text = policy().replace("retries:", "largest_answer: 1MiB, retries:")
    other = b"data: " + b'{"choices":[{"index":0,"delta":{"content":"' + b"x" * 60_000 + b'"}}]}' + b"\n\n"
    endless = [sse_answer([])[0], *[Send(b"%x\r\n%b\r\n" % (len(other), other))] * 40_000]
    async with FakeUpstream() as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        upstream.queue(endless)
        size = 0
        async with house.open_stream({**CHAT, "stream": True}) as answer, asyncio.timeout(30):
            while piece := await answer.content.readany():
                size, last = size + len(piece), piece
        [line] = await house.logged("call.finished")
    assert b'"code":"answer_too_large"' in last
    assert 1 << 20 < size < len(other) * 40_000
    assert (line["error"], line["deadline"], line["outcome"]) == ("answer_too_large", None, "upstream_error")
    assert line["output_tokens"] > 0
