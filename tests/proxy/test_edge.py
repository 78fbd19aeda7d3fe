"""What the data port refuses by itself: in OpenAI's error shape, quoting nothing, and without a byte to the upstream."""

import asyncio
from pathlib import Path

import orjson
import pytest

from tests.fakes import FakeUpstream, json_answer, raw_exchange
from tests.house import CHAT, UPSTREAM_KEY, House, error_of, policy

CHAT_PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "x"}]


def chat(**fields: object) -> bytes:
    return orjson.dumps({**CHAT, **fields})


BAD_BODIES = [
    pytest.param(b"", "invalid_json", None, id="empty"),
    pytest.param(b"{", "invalid_json", None, id="cut"),
    pytest.param(b"[1]", "invalid_json", None, id="no object"),
    pytest.param(b'{"model":"gpt-4.1-mini","messages":[{"content":"\xff"}]}', "invalid_json", None, id="no UTF-8"),
    pytest.param(b"\xef\xbb\xbf{}", "invalid_json", None, id="byte order mark"),
    pytest.param('{"model":"x"}'.encode("utf-16"), "invalid_json", None, id="UTF-16"),
    pytest.param(b'{"model":"gpt-4.1-mini","messages":[],"temperature":NaN}', "invalid_json", None, id="NaN"),
    pytest.param(b'{"a":' * 1000 + b"1" + b"}" * 1000, "nested_too_deeply", None, id="1,000 levels"),
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, None, None, id="100,000 levels"),
    pytest.param(b'{"model":"gpt-4.1-mini","messages":[],"n":1,"n":128}', "duplicate_field", "n", id="twice"),
    pytest.param(b'{"model":"gpt-4.1-mini","messages":[],"n":1,"\\u006e":128}', "duplicate_field", "n", id="twice, escaped"),
    pytest.param(orjson.dumps({"messages": MESSAGES}), "missing_field", "model", id="no model"),
    pytest.param(orjson.dumps({"model": "gpt-4.1-mini"}), "missing_field", "messages", id="no messages"),
    pytest.param(chat(model=7), "invalid_type", "model", id="model is a number"),
    pytest.param(chat(model="a\nb"), "invalid_type", "model", id="model with a line break"),
    pytest.param(chat(model="m" * 10_000), "invalid_type", "model", id="model of 10 kB"),
    pytest.param(chat(messages="x"), "invalid_type", "messages", id="messages is a string"),
    pytest.param(chat(max_tokens="100"), "invalid_type", "max_tokens", id="cap is a string"),
    pytest.param(chat(max_tokens=1.5), "invalid_type", "max_tokens", id="cap is a fraction"),
    pytest.param(chat(max_tokens=True), "invalid_type", "max_tokens", id="cap is true"),
    pytest.param(chat(max_completion_tokens=-1), "invalid_value", "max_completion_tokens", id="cap is negative"),
    pytest.param(b'{"model":"gpt-4.1-mini","messages":[],"max_tokens":1e30}', "invalid_type", "max_tokens", id="cap is absurd"),
    pytest.param(chat(max_tokens=2**40), "invalid_value", "max_tokens", id="cap is huge"),
    pytest.param(chat(n=0), "invalid_value", "n", id="n is zero"),
    pytest.param(chat(n=129), "invalid_value", "n", id="n is 129"),
    pytest.param(chat(stream="yes"), "invalid_type", "stream", id="stream is a string"),
    pytest.param(chat(stream=True, stream_options=[]), "invalid_type", "stream_options", id="stream options are a list"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD_BODIES)
async def test_a_body_that_cannot_be_right_is_refused_and_goes_nowhere(
    tmp_path: Path, body: bytes, code: str | None, param: str | None
) -> None:
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        status, headers, answer = await house.post(CHAT_PATH, body)
    error = error_of(answer)
    assert status == 400
    assert error["code"] == code or (code is None and error["code"] in ("invalid_json", "nested_too_deeply", "too_many_values"))
    assert error["param"] == param
    assert headers["x-request-id"].startswith("req_")
    assert upstream.received_bytes == 0


KEY = {"authorization": "Bearer app-key", "content-type": "application/json"}
BAD_REQUESTS = [
    pytest.param("POST", CHAT_PATH, {"content-type": "application/json"}, 401, "missing_api_key", id="no key"),
    pytest.param("POST", CHAT_PATH, {**KEY, "authorization": "Bearer wrong"}, 401, "invalid_api_key", id="wrong key"),
    pytest.param("POST", CHAT_PATH, {**KEY, "authorization": "Basic eDp5"}, 400, "bad_request", id="not Bearer"),
    pytest.param("POST", CHAT_PATH, {**KEY, "api-key": "app-key"}, 400, "ambiguous_credentials", id="two keys"),
    pytest.param("POST", CHAT_PATH, {**KEY, "content-type": "text/plain"}, 415, "unsupported_media_type", id="not JSON"),
    pytest.param("POST", CHAT_PATH, {**KEY, "content-encoding": "gzip"}, 415, "unsupported_media_type", id="compressed"),
    pytest.param("POST", CHAT_PATH, {**KEY, "upgrade": "h2c"}, 400, "upgrade_not_supported", id="upgrade"),
    pytest.param("PUT", CHAT_PATH, KEY, 405, "method_not_allowed", id="method"),
    pytest.param("GET", CHAT_PATH, KEY, 400, "bad_request", id="GET with a body"),
    pytest.param("POST", CHAT_PATH, {**KEY, "expect": "a-miracle"}, 417, "expectation_failed", id="expectation"),
    pytest.param("POST", "/v1/" + "x" * 9000, KEY, 414, "target_too_long", id="long target"),
    pytest.param("TRACE", CHAT_PATH, KEY, 405, "method_not_allowed", id="TRACE"),
    pytest.param("POST", "/v1/videos", KEY, 403, "path_not_metered", id="no meter"),
    pytest.param("POST", "/", KEY, 404, "not_found", id="root"),
    pytest.param("POST", "/chat/completions", KEY, 404, "not_found", id="without /v1"),
    pytest.param("POST", "/v1//chat/completions", KEY, 404, "not_found", id="two slashes"),
    pytest.param("POST", "/v1/chat%2fcompletions", KEY, 404, "not_found", id="encoded slash"),
    pytest.param("POST", "/v1/x/../chat/completions", KEY, 404, "not_found", id="dots"),
    pytest.param("POST", "/v1/chat/completions/", KEY, 404, "not_found", id="trailing slash"),
    pytest.param("POST", "/V1/chat/completions", KEY, 404, "not_found", id="case"),
]


@pytest.mark.parametrize(("method", "path", "headers", "status", "code"), BAD_REQUESTS)
async def test_a_request_that_may_not_pass_says_why(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = chat()
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}content-length: {len(body)}\r\n\r\n"
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], head.encode() + body)
    first, _, said = answer.partition(b"\r\n\r\n")
    assert int(first.split()[1]) == status
    assert error_of(said)["code"] == code
    assert (b"\r\nallow: " in first) == (status == 405)
    assert (b"\r\nwww-authenticate: Bearer\r\n" in first) == (status == 401)
    assert upstream.received_bytes == 0


MALFORMED = [
    pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\ncanary header\r\n\r\n", id="no colon"),
    pytest.param(
        b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", id="two framings"
    ),
    pytest.param(b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", id="two lengths"),
    pytest.param(b"canary\r\n\r\n", id="no request line"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
]


@pytest.mark.parametrize("request_bytes", MALFORMED)
async def test_a_malformed_request_gets_our_own_error_which_quotes_nothing(tmp_path: Path, request_bytes: bytes) -> None:
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == 400
    assert error_of(body)["code"] == "bad_request"
    assert b"canary" not in answer
    assert b"aiohttp" not in answer
    assert upstream.received_bytes == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_before_it_is_read_to_its_end(tmp_path: Path, chunked: bool) -> None:
    text = policy("- {name: small, request_size: {max: 1KiB}}")
    body = chat(user="x" * 5000)
    framing = (
        b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body) if chunked else b"content-length: 500000000\r\n\r\n"
    )
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ncontent-type: application/json\r\n"
    async with FakeUpstream() as upstream, House(text, upstream.url + "/v1", tmp_path) as house:
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], head + framing)
    first, _, said = answer.partition(b"\r\n\r\n")
    assert int(first.split()[1]) == 413
    assert error_of(said)["code"] == "request_too_large"
    assert "'small'" in error_of(said)["message"]
    assert upstream.received_bytes == 0


async def test_a_body_is_invited_only_once_its_caller_is_known(tmp_path: Path) -> None:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{}content-type: application/json\r\n"
        "expect: 100-continue\r\ncontent-length: {}\r\n\r\n"
    )
    body = chat()
    async with FakeUpstream(default=json_answer(200, {"choices": []})) as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            port = house.app.data_address[1]
            refused = await raw_exchange("127.0.0.1", port, head.format("connection: close\r\n", len(body)).encode())
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.format("authorization: Bearer app-key\r\n", len(body)).encode())
            invited = await reader.readuntil(b"\r\n\r\n")
            writer.write(body)
            answered = await reader.readuntil(b"\r\n\r\n")
            writer.close()
    assert refused.startswith(b"HTTP/1.1 401 ")
    assert invited == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answered.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("rest", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}xx\r\n0\r\n\r\n", b"-2\r\n{}\r\n"])
async def test_a_body_whose_chunks_are_malformed_is_400(tmp_path: Path, rest: bytes) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ncontent-type: application/json\r\n"
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], head + b"transfer-encoding: chunked\r\n\r\n" + rest)
        assert not house.lines("fault.caught")
    assert answer.split()[1] == b"400"
    assert upstream.received_bytes == 0


async def test_a_transfer_coding_that_we_would_not_undo_is_refused(tmp_path: Path) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ncontent-type: application/json\r\n"
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        request = head + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], request)
    assert answer.split()[1] == b"501"
    assert error_of(answer.partition(b"\r\n\r\n")[2])["code"] == "coding_not_supported"
    assert upstream.received_bytes == 0


async def test_a_head_that_is_too_large_is_431_and_quotes_nothing(tmp_path: Path) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-long: " + b"canary" * 8000 + b"\r\n\r\n"
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], head)
    assert answer.split()[1] == b"431"
    assert error_of(answer.partition(b"\r\n\r\n")[2])["code"] == "head_too_large"
    assert b"canary" not in answer


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("body", [b"0\r\n\r\n", b"zz\r\n", b"2\r\n{}xx\r\n"])
async def test_a_body_where_none_can_be_reaches_no_upstream(tmp_path: Path, method: str, body: bytes) -> None:
    head = f"{method} /v1/responses/r HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ntransfer-encoding: chunked\r\n\r\n"
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], head.encode() + body)
    assert answer.split()[1] == b"400"
    assert upstream.received_bytes == 0


async def test_names_that_look_like_others_to_whoever_makes_variables_of_them_go_nowhere(tmp_path: Path) -> None:
    """`x_user` is no `x-user`: it names nobody here, and never reaches an upstream that could take it for one."""
    odd = [
        "authorization_",
        "api_key: app-key",
        "x_api_key: k",
        "x_user: eve",
        "x_request_id: r",
        "content_type: t",
        "x_stainless_lang: l",
    ]
    fields = "".join(f"{line if ':' in line else line + ': k'}\r\n" for line in odd)
    body = chat()
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
    )
    async with FakeUpstream(default=json_answer(200, {})) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        unknown = await raw_exchange("127.0.0.1", house.app.data_address[1], f"{head}\r\n".encode() + body)
        known = f"{head}authorization: Bearer app-key\r\nx-user: ada\r\n\r\n".encode() + body
        answer = await raw_exchange("127.0.0.1", house.app.data_address[1], known)
        lines = await house.logged("call.finished", 2)
    assert (unknown.split()[1], answer.split()[1]) == (b"401", b"200")
    assert lines[1]["user"] == "ada"
    [request] = upstream.requests
    assert not [name for name, _ in request.headers if "_" in name]


async def test_a_client_that_leaves_while_it_sends_its_body_is_no_fault_of_ours(tmp_path: Path) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ncontent-type: application/json\r\n"
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        _, writer = await asyncio.open_connection("127.0.0.1", house.app.data_address[1])
        writer.write(head + b"content-length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        [line] = await house.logged("call.finished")
        assert not house.lines("fault.caught")
    assert line["outcome"] == "client_gone"
    assert upstream.received_bytes == 0


async def test_a_head_that_never_ends_is_408_and_seen(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path, env={"TOLLHOUSE_HEADER_S": "0.1"}) as house:
            answer = await raw_exchange("127.0.0.1", house.app.data_address[1], b"POST /v1/chat/completions HTTP/1.1\r\nhost:")
            [line] = await house.logged("edge.rejected")
            metrics = await house.metrics()
    assert answer.startswith(b"HTTP/1.1 408 ")
    error = error_of(answer.partition(b"\r\n\r\n")[2])
    assert (error["code"], "deadline: header_read" in error["message"]) == ("request_timeout", True)
    assert (line["count"], line["reasons"]) == (1, ["header_read=1"])
    assert 'tollhouse_deadlines_total{deadline="header_read"} 1\n' in metrics
    assert 'tollhouse_edge_rejections_total{reason="header_read"} 1\n' in metrics


async def test_a_body_that_never_comes_is_408(tmp_path: Path) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ncontent-type: application/json\r\n"
    async with FakeUpstream() as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path, env={"TOLLHOUSE_BODY_S": "0.1"}) as house:
            answer = await raw_exchange("127.0.0.1", house.app.data_address[1], head + b"content-length: 10\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"deadline: body_read" in answer


async def test_a_call_that_comes_back_to_us_is_not_sent_round_again(tmp_path: Path) -> None:
    """An upstream that points at the proxy itself is found out on the second round."""
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        looped = house.file.read_text().replace("${env:UPSTREAM}", house.url + "/v1").replace(UPSTREAM_KEY, "app-key")
        house.file.write_text(looped)
        await house.logged("policy.activated", 2)
        status, _, body = await house.post(CHAT_PATH, CHAT)
        lines = await house.logged("call.finished", 2)
    assert (status, error_of(body)["code"]) == (400, "bad_request")
    assert len(lines) == 2


async def test_bytes_in_a_request_id_that_could_forge_a_log_line_are_replaced(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, {})) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        for odd in ("a b", "x" * 500, "{}", "é", '"'):
            _, headers, _ = await house.post(CHAT_PATH, CHAT, headers={"x-request-id": odd})
            assert headers["x-request-id"].startswith("req_")
        lines = await house.logged("call.finished", 5)
    assert len(lines) == 5
