"""Nothing leaks: distinct words are planted wherever a secret or a content can stand, and looked for wherever the process speaks.

Every way a call can go is driven once, failures most of all. An upstream's explanation of a 4xx is the one thing that may pass, to
the app alone.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.fakes import Abort, Close, FakeUpstream, Send, Step, UntilClosed, json_answer, raw_exchange, sse_answer
from tests.house import hash_of
from tests.whole.conversation import ANSWER, chunk
from tests.whole.process import Serving, ran

PLANTED = (
    *("AppKey", "WrongKey", "SecondKey", "UpstreamKey", "RotatedKey", "UpstreamPath", "WebhookPath", "SlackPath", "RoutingKey"),
    *("PastedKey", "ShortSecret", "PastedUrl", "Prompt", "System", "ToolCall", "Answer", "Chunk", "HalfEvent", "InBand", "Body500"),
    *("Body503", "Body401", "Body302", "Header500", "Cookie", "Query", "Baggage", "Agent", "Custom", "BadJson", "BadType", "BadId"),
    *("BadHead", "Upload", "UploadAnswer", "UpstreamHead", "PageAnswer", "ResponseHeader", "Organisation", "Embedded", "Legacy"),
)
MARK = "Canary4d7e"
# Filled up to the 32 letters and digits of a PagerDuty key.
WORD: Mapping[str, str] = {name: f"{name}{MARK}".ljust(32, "0") for name in PLANTED}
WHY = "ExplanationCanary4d7e"  # may reach the app
USER = "UserName4d7e"  # is no secret: it names who pays
SIGNING = "whsec_" + "U2lnbmluZ0NhbmFyeTRkN2VTaWduaW5nQ2FuYXJ5NGQ3ZQ=="

POLICY = f"""version: 1
upstreams:
  main: {{base_url: "${{env:UPSTREAM}}", api_key: "${{file:key}}", retries: {{attempts: 1}}}}
  dead: {{base_url: "${{env:DEAD}}", api_key: "${{file:key}}", retries: {{attempts: 1}}}}
routes:
  - {{models: ["gpt-4o-mini"], to: [dead]}}
  - {{to: [main]}}
keys:
  - {{id: app, hash: "{hash_of(WORD["AppKey"])}", user: {{header: x-user}}}}
unmetered: ["/v1/files*"]
pages:
  hook:  {{webhook: {{url: "${{env:PAGES}}/{WORD["WebhookPath"]}", secret: "{SIGNING}"}}}}
  slack: {{slack: {{url: "${{env:PAGES}}/{WORD["SlackPath"]}"}}}}
  duty:  {{pagerduty: {{routing_key: "{WORD["RoutingKey"]}", url: "${{env:PAGES}}/duty"}}}}
  alert: {{alertmanager: {{url: "${{env:PAGES}}"}}}}
  gone:  {{webhook: {{url: "${{env:DEAD}}/{WORD["WebhookPath"]}", secret: "{SIGNING}"}}}}
policies:
  - name: everyone
    max_tokens: {{cap: 2000}}
    budget: {{usd: 0.002, per: month, by: user, alarm_at: [50], page: [hook, slack, duty, alert, gone]}}
  - {{name: quick, match: {{models: ["gpt-4.1-nano"]}}, timeouts: {{first_byte: 100ms}}}}
  - {{name: spent, match: {{models: ["o3"]}}, budget: {{usd: 0.000001, per: month, when_spent: reject}}}}
"""
BAD_POLICY = f"""version: 1
upstreams:
  main: {{base_url: "http://user:{WORD["PastedUrl"]}@h/v1", api_key: "{WORD["UpstreamKey"]} with a space\\n"}}
keys:
  - {{id: app, hash: "{WORD["PastedKey"]}"}}
pages:
  hook: {{webhook: {{url: "ftp://{WORD["PastedUrl"]}", secret: "{WORD["ShortSecret"]}"}}}}
  duty: {{pagerduty: {{routing_key: "${{file:key}} {WORD["RoutingKey"]}"}}}}
policies: [{{name: a, budget: {{usd: 1, per: day, page: [nobody]}}}}]
"""

JSON = {"content-type": "application/json", "authorization": f"Bearer {WORD['AppKey']}", "x-user": USER}
MESSAGES = [
    {"role": "system", "content": WORD["System"]},
    {"role": "user", "content": WORD["Prompt"]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}],
    },
]
CHAT: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": MESSAGES, "user": WORD["Prompt"]}
PATH = "/v1/chat/completions"


def failure(status: int, body: str) -> list[Step]:
    """An upstream's error, as loud as they come."""
    said = {"error": {"message": f"{body} for Bearer sk-{WORD['UpstreamKey']}", "type": body, "param": body, "code": body}}
    headers = {
        "x-error-detail": WORD["Header500"],
        "www-authenticate": f'Bearer realm="{WORD["Header500"]}"',
        "openai-organization": WORD["Organisation"],
        "location": f"http://169.254.169.254/{body}",
        "x-request-id": f"{body} {WORD['Header500']}",
        "set-cookie": WORD["Header500"],
    }
    return json_answer(status, said, headers=headers)


def scripts(upstream: FakeUpstream) -> list[tuple[str, dict[str, Any], list[Step]]]:
    """(path, body, what the upstream does), for every way a call can end."""
    stream = {**CHAT, "stream": True}
    answer = {
        **ANSWER,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": WORD["Answer"]}, "finish_reason": "stop"}],
    }
    uncounted = {key: value for key, value in answer.items() if key != "usage"}
    nonsense = {**answer, "usage": {"prompt_tokens": WORD["Answer"], "completion_tokens": -1}}
    chunks = [chunk(WORD["Chunk"]), chunk(WORD["ToolCall"])]
    shown = {"x-secret": WORD["ResponseHeader"], "openai-organization": WORD["Organisation"], "set-cookie": WORD["Cookie"]}
    places = f"http://10.1.2.3:9000/{WORD['UpstreamPath']}, 10.9.8.7:80, model.ml.svc:8000 and {upstream.url}"
    explained = f"{WHY}: sk-{WORD['UpstreamKey']} of org-abcdef123456 may not use {places}"
    return [
        (PATH, CHAT, json_answer(200, answer, headers=shown)),
        (f"{PATH}?api_key={WORD['Query']}", CHAT, json_answer(200, uncounted)),
        (PATH, CHAT, json_answer(200, nonsense)),
        (PATH, stream, sse_answer([*chunks, b"data: [DONE]\n\n"], headers=shown)),
        (PATH, stream, sse_answer(chunks, framing="close")),
        (PATH, stream, sse_answer([chunks[0], b'data: {"x":"' + WORD["HalfEvent"].encode()], framing="close")),
        (PATH, stream, sse_answer([chunks[0], b"data: " + WORD["HalfEvent"].encode() + b"\n\n"], framing="close")),
        (PATH, stream, [*sse_answer(chunks)[:2], Abort()]),
        (PATH, stream, sse_answer([chunks[0], b'data: {"error":{"message":"%b","code":500}}\n\n' % WORD["InBand"].encode()])),
        (PATH, CHAT, [*json_answer(200, answer, splits=[60])[:2], Close()]),
        (PATH, CHAT, [Send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % WORD["UpstreamHead"].encode()), Close()]),
        (PATH, CHAT, [Send(b"%b\r\n\r\n" % WORD["UpstreamHead"].encode()), Close()]),
        (PATH, CHAT, [Abort()]),
        (PATH, CHAT, json_answer(200, WORD["Answer"])),
        *((PATH, CHAT, failure(status, WORD[f"Body{status}"])) for status in (500, 503, 401, 302)),
        (PATH, stream, failure(500, WORD["Body500"])),
        (
            PATH,
            CHAT,
            json_answer(400, {"error": {"message": explained, "type": "invalid_request_error", "param": None, "code": "too_long"}}),
        ),
        (PATH, {**CHAT, "model": "gpt-4.1-nano"}, [UntilClosed()]),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": WORD["Embedded"]}, failure(500, WORD["Body500"])),
        ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": WORD["Legacy"]}, json_answer(200, uncounted)),
        ("/v1/responses", {"model": "gpt-4.1", "input": WORD["Prompt"], "stream": True}, sse_answer([], framing="close")),
    ]


# What never gets to an upstream: (path, headers beside or instead of the usual, body).
REFUSED: list[tuple[str, dict[str, str], bytes]] = [
    (PATH, {"authorization": f"Bearer {WORD['WrongKey']}"}, orjson.dumps(CHAT)),
    (PATH, {"authorization": f"Basic {WORD['WrongKey']}"}, orjson.dumps(CHAT)),
    (PATH, {"api-key": WORD["SecondKey"]}, orjson.dumps(CHAT)),
    (PATH, {}, b'{"messages": "' + WORD["BadJson"].encode()),
    (PATH, {}, orjson.dumps({**CHAT, "max_tokens": WORD["BadType"]})),
    (PATH, {}, orjson.dumps({**CHAT, "messages": WORD["BadType"]})),
    (PATH, {}, orjson.dumps({**CHAT, "stream": WORD["BadType"]})),
    (PATH, {}, orjson.dumps({**CHAT, "n": [WORD["BadType"]]})),
    (PATH, {"content-type": f"text/{WORD['BadType']}"}, orjson.dumps(CHAT)),
    (PATH, {"x-request-id": f"{WORD['BadId']} {{}}"}, b"[]"),
    (PATH, {"upgrade": WORD["Custom"], "connection": "upgrade"}, orjson.dumps(CHAT)),
    (PATH, {}, orjson.dumps({**CHAT, "model": "o3"})),
    (PATH, {}, orjson.dumps({**CHAT, "model": "gpt-4o-mini"})),
    (f"/v1/nowhere?{WORD['Query']}", {}, orjson.dumps(CHAT)),
]
EXTRAS = {
    "cookie": WORD["Cookie"],
    "baggage": WORD["Baggage"],
    "tracestate": f"a={WORD['Baggage']}",
    "user-agent": WORD["Agent"],
    "x-custom": WORD["Custom"],
}


def found(text: bytes, *, also: tuple[str, ...] = ()) -> set[str]:
    """The planted names of which a text holds the word, or most of it, and what else must not stand there."""
    return {name for name in PLANTED if f"{name}{MARK}".encode() in text} | {word for word in also if word.encode() in text}


async def test_a_planted_word_is_found_nowhere_but_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"sk-{WORD['UpstreamKey']}\n")
    errors: list[bytes] = []
    async with FakeUpstream() as upstream, FakeUpstream(default=json_answer(200, {"x": WORD["PageAnswer"]})) as receiver:
        async with FakeUpstream() as gone:
            dead = gone.url
        receiver.queue(failure(500, WORD["PageAnswer"]))
        base = f"{upstream.url}/{WORD['UpstreamPath']}/v1"
        env = {"DEAD": f"{dead}/v1", "PAGES": receiver.url, "TOLLHOUSE_LOG_LEVEL": "debug"}
        async with Serving(tmp_path, POLICY, upstream=base, env=env) as proxy:
            for path, asked, script in scripts(upstream):
                upstream.queue(script)
                status, headers, body = await proxy.post(path, orjson.dumps(asked), {**JSON, **EXTRAS})
                errors.append(spoken(status, headers, body))
            for path, changes, sent in REFUSED:
                status, headers, body = await proxy.post(path, sent, {**JSON, **EXTRAS, **changes})
                assert status >= 400
                errors.append(spoken(status, headers, body))
            await leave_in_the_middle(proxy, upstream)
            await upload(proxy, upstream, errors)
            errors.append(await raw_exchange("127.0.0.1", proxy.port, f"GET / HTTP/1.1\r\n{WORD['BadHead']}\r\n\r\n".encode()))
            await proxy.logged("page.delivered", 3)
            await proxy.logged("page.failed", 2)
            (tmp_path / "key").write_text(f"sk-{WORD['RotatedKey']}\n")
            await proxy.logged("policy.activated", 2)
            proxy.file.write_text(BAD_POLICY)
            await proxy.logged("policy.rejected")
            lines = await proxy.logged("call.finished", len(scripts(upstream)) + len(REFUSED) + 3)
            _, metrics = await proxy.admin("/metrics")
            _, shown = await proxy.admin("/policy")
    checked = ran(tmp_path, "check", str(proxy.file))
    started = ran(tmp_path, "serve", "--policy", str(proxy.file))
    assert (checked.returncode, started.returncode) == (1, 2)

    state = b"".join(path.read_bytes() for path in sorted(proxy.state.iterdir()))
    said = {
        "log": proxy.stdout,
        "metrics": metrics.encode(),
        "policy page": shown.encode(),
        "state": state,
        "check": (checked.stdout + checked.stderr).encode(),
        "start": (started.stdout + started.stderr).encode(),
    }
    sent = b"".join(request.body + repr(request.headers).encode() for request in upstream.requests)
    assert found(sent) == {"UpstreamKey", "Prompt", "System", "Embedded", "Legacy", "Upload", "Agent"}, "what belongs there, there"
    hosts = tuple(url.removeprefix("http://") for url in (upstream.url, receiver.url, dead))
    places = (WHY, SIGNING, *hosts, "169.254")
    assert {place: found(text, also=places) for place, text in said.items()} == {place: set() for place in said}
    for error in errors:
        assert found(error, also=places) <= {WHY}, error
    assert sum(WHY.encode() in error for error in errors) == 1
    assert b"[hidden]" in (explained := next(error for error in errors if WHY.encode() in error))
    assert not any(hidden in explained for hidden in (b"org-abc", b"10.1.2.3", b"10.9.8.7", b"ml.svc"))
    for request in receiver.requests:
        own = {"RoutingKey"} if request.target == "/duty" else set()
        assert (
            found(request.body + repr(request.headers).encode(), also=(WHY, SIGNING, *({*hosts} - {request.header("host")}))) == own
        )
    assert USER.encode() in proxy.stdout, "the user's name is said: it tells who pays"
    assert USER not in metrics
    assert all(line["user"] in (USER, "app") for line in lines if line.get("user"))


def spoken(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """What the proxy itself said in an answer: its headers, and its error; the events before that are the upstream's."""
    fields = "\n".join(f"{name}: {value}" for name, value in headers.items()).encode()
    if status >= 400:
        return fields + body
    last = body.rstrip().rpartition(b"\n\n")[2]
    return fields + (last if b'"error"' in last else b"")


async def leave_in_the_middle(proxy: Serving, upstream: FakeUpstream) -> None:
    upstream.queue([*sse_answer([chunk(WORD["Chunk"])])[:2], UntilClosed()])
    body = orjson.dumps({**CHAT, "stream": True})
    head = "".join(f"{name}: {value}\r\n" for name, value in JSON.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(f"POST {PATH} HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(WORD["Chunk"].encode())
    writer.transport.abort()
    await upstream.requests[-1].closed_early.wait()


async def upload(proxy: Serving, upstream: FakeUpstream, errors: list[bytes]) -> None:
    upstream.queue(json_answer(200, {"id": WORD["UploadAnswer"]}))
    upstream.queue(failure(500, WORD["Body500"]))
    for _ in range(2):
        status, headers, body = await proxy.post("/v1/files", WORD["Upload"].encode(), {**JSON, "content-type": "text/plain"})
        errors.append(spoken(status, headers, body))
