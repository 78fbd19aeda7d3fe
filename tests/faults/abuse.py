"""Abuse of what costs money, of names, and of what is told of calls: rows B10 to B24."""

import asyncio
import json
import re
from itertools import product
from typing import Any

import orjson

from proxy.wire.surfaces import SURFACES
from tests.fakes import FakeUpstream, Step, Wait, json_answer
from tests.faults.fuzzed import fuzzed
from tests.faults.guard import APP_KEY, MIB
from tests.faults.malformed import CANARY, PATH, request
from tests.faults.raw import told, told_each
from tests.faults.rig import CHAT, KEY, OK, Proxy, Rig
from tests.faults.row import row
from tests.house import error_of, hash_of
from tests.whole.process import ran

_ENCODINGS = 80 * MIB  # of memory, which a process takes with the first call whose tokens it must count
_IN_NANOUSD, _OUT_NANOUSD = 400, 1600  # of gpt-4.1-mini, for a token
# Deadlines that no call comes near which the row lets wait.
PATIENT = "connect: 5s, first_byte: 60s, first_token: 60s, idle: 60s, total: 100s, write_stall: 30s"


def _post(target: bytes, body: bytes, *fields: bytes) -> bytes:
    return request(b"content-length: %d" % len(body), *fields, line=b"POST %b HTTP/1.1" % target, body=body)


def _get(target: bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    return request(*fields, line=b"%b %b HTTP/1.1" % (method, target), body=b"")


_WRONG: tuple[tuple[str, Any], ...] = tuple(
    (field, value)
    for field in ("max_tokens", "max_completion_tokens", "n", "best_of", "max_tool_calls")
    for value in (1.0, 1.5, "1", "", True, False, [1], {"a": 1}, -1, 10**12, 2**64, 1e30, "1e3")
) + tuple((field, value) for field in ("stream", "background") for value in ("true", 1, 0, [], {})) + (
    ("model", 1), ("model", ""), ("model", ["gpt-4.1-mini"]), ("model", "a\nb"), ("model", None),
    ("messages", "Hello"), ("messages", {"role": "user"}), ("messages", None),
    ("stream_options", True), ("stream_options", []), ("service_tier", 1), ("service_tier",
    "Flex "), ("n_predict", 5), ("n_cmpl", 5),
)  # fmt: skip


@row(
    "B10",
    "wrong types and absurd numbers in the fields that cost money",
    "400 that names the field, nothing upstream; whatever is accepted is held for at least as much as an honest upstream can bill",
)
async def wrong_types(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        for field, value in _WRONG:
            status, _, body = await proxy.post(PATH.decode(), json.dumps({**CHAT, field: value}).encode(), KEY)
            error = error_of(body)
            assert (status, error["param"]) == (400, field), f"{field}={value!r}: {status} {body!r}"
            assert error["code"] in ("invalid_type", "invalid_value", "missing_field"), error
        assert upstream.received_bytes == 0
        for sound in ({"max_tokens": 0}, {"max_tokens": None}, {"n": 1, "stream": None}):
            assert (await proxy.chat(**sound))[0] == 200
        tried = await fuzzed("bodies", rig, seconds=45)
    return f"{len(_WRONG)} wrong values by name; at random {tried}"


@row(
    "B11",
    "128 choices, best of 20, 2,048 prompts",
    "exactly what they can cost is held while they run; refused where that is more than is left",
)
async def many_choices(rig: Rig) -> str:
    chat = {**CHAT, "max_tokens": 1000, "n": 128}
    prompts = {"model": "gpt-4.1-mini", "prompt": ["a"] * 2048, "max_tokens": 100, "n": 2, "best_of": 20}
    calls = (
        ("/v1/chat/completions", chat, 128 * 1000),
        ("/v1/completions", {**prompts, "prompt": "a", "n": 1}, 20 * 100),
        ("/v1/completions", {**prompts, "n": 1, "best_of": None, "max_tokens": 10}, 2048 * 10),
    )
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, alone=True, timeouts=PATIENT, growth=_ENCODINGS) as proxy:
        for number, (path, fields, output) in enumerate(calls, 1):
            go = asyncio.Event()
            upstream.queue([Wait(go), *OK])
            body = orjson.dumps(fields)
            call = asyncio.create_task(proxy.post(path, body, KEY))
            await upstream.arrived(number)
            held = await _held_nanousd(proxy)
            go.set()
            assert (await call)[0] == 200
            assert held == len(body) * _IN_NANOUSD + output * _OUT_NANOUSD, f"{path}: {held} nanodollars held"
            async with asyncio.timeout(10):
                while await _held_nanousd(proxy):
                    await asyncio.sleep(0.02)
        # 2,048 prompts, 20 tries of 100 tokens each, would be 6.55 dollars of a budget of 5.
        status, headers, body = await proxy.post("/v1/completions", orjson.dumps(prompts), KEY)
        assert status == 200 or error_of(body)["code"] == "budget_exceeded", body
        if status == 200:
            sent = orjson.loads(upstream.requests[-1].body)
            assert 2048 * 20 * sent["max_tokens"] * _OUT_NANOUSD <= 5 * 10**9, "it was made to fit"
            assert "max_tokens=100->" in headers["tollhouse-clamped"]
        reached = len(upstream.requests)
        status, _, body = await proxy.post(
            "/v1/completions", orjson.dumps({**prompts, "max_tokens": 2**31 - 1, "prompt": ["a"] * 60_000}), KEY
        )
        assert (status, error_of(body)["code"]) == (429, "budget_exceeded")
        assert len(upstream.requests) == reached
    return "three holds, exact to the nanodollar; one beyond the budget lowered to fit, one refused"


async def _held_nanousd(proxy: Proxy) -> int:
    usage = await asyncio.to_thread(ran, proxy.state.parent, "usage", "--json", "--state-dir", str(proxy.state))
    assert usage.returncode == 0, usage.stderr
    return int(json.loads(usage.stdout)["total"]["held_nanousd"])


_NAMES = (
    "no-such-model", "GPT-4O", "Gpt-4.1-mini", "gpt-4.1-mini ", " gpt-4.1-mini", "gpt‑4.1‑mini", "gpt-4.1-mıni", "ɡpt-4.1-mini",
    "gpt-4.1-mini\u3164", "ft:gpt-4.1-mini:org::id", "ft:no-such-model", "gpt-4.1-mini/../gpt-5", "gpt-4.1-mini%00",
    "openai/gpt-4.1-mini",
    "models/gpt-4.1-mini", "*", "gpt-*", "gpt-4.1-mini;", "'; DROP TABLE", "${env:OPENAI_API_KEY}", "{{7*7}}",
    "../../etc/passwd", "a" * 256,
    "gpt-4.1-mini,gpt-5", "nan", "null", "0", "-", "🤖" * 10, "other",
)  # fmt: skip
_NO_NAMES = (
    "",
    "a" * 257,
    "a" * 10_240,
    "a\nb",
    "a\x00b",
    "a\x7fb",
    "a\u200bb",
    "\u202egpt-4.1-mini",
    "a\u2028b",
    "gpt-4.1-mini\u00a0",
)


@row(
    "B12",
    "models that are unknown, look like known ones, or are 10 KB long",
    "denied by default (403 `model_not_priced`), 400 where it is no name; nothing upstream; `other` in every metric",
)
async def odd_models(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        priced = 0
        for name in _NAMES:
            before = len(upstream.requests)
            status, _, body = await proxy.chat(model=name)
            if status == 200:  # a fine-tuned model has the price of its kind, and so has one that is named with its maker
                assert name.startswith(("ft:gpt-4.1-mini", "openai/")), name
                assert orjson.loads(upstream.requests[-1].body)["model"] == name
                priced += 1
                continue
            assert (status, error_of(body)["code"]) == (403, "model_not_priced"), f"{name!r}: {body!r}"
            assert len(upstream.requests) == before
        for name in _NO_NAMES:
            status, _, body = await proxy.chat(model=name)
            assert (status, error_of(body)["param"]) == (400, "model"), f"{name[:20]!r}: {body[:200]!r}"
        _, metrics = await proxy.admin("/metrics")
        shown = set(re.findall(r'model="([^"]*)"', metrics))
        assert not shown & {name for name in _NAMES if name != "other"}, shown & set(_NAMES)
        assert "other" in shown
    return f"{len(_NAMES) - priced} names denied, {len(_NO_NAMES)} are none; all of them are `other`"


_TAMPER = (
    "{}/", "{}//", "/{}", "//{}", "/.{}", "/..{}", "{}/.", "{}/..", "{}/../completions", "/v1/x/..{v1}", "/v1/./{rest}",
    "/v1//{rest}", "/v1/%2e/{rest}",
    "/v1/%2e%2e{}", "/v1/..%2f{rest}", "/v1%2f{rest}", "/%76%31/{rest}", "{}%2f", "{}%20", "{}%00", "{}%0a", "{}%0d%0ax:y",
    "{};a=b", "/v1;a/{rest}",
    "{}%3b", "{}%3fa=b", "{}%23", "{}#a", "\\v1\\{rest}", "/v1\\{rest}", "/v1/{rest}\\", "{upper}", "{title}", "{}.json",
    "{}?beta=true", "{}?a=b&a=c",
    "{}?", "{}??", "{}?a=%0a", "{}?a=\\", "{}?a=<b>", "{}?a=b#c", "http://model{}", "https://model{}",
    "http://169.254.169.254{}", "file://{}",
    "http:{}", "//169.254.169.254{}", "/v1/\u00a0{rest}", "/v1/ﾉ{rest}", "/v2/{rest}", "/v1beta/{rest}", "/{rest}",
    "/api/v1/{rest}", "/v1/{rest}/extra",
    "/v1/%252e%252e/{rest}", "/v1/%c0%ae%c0%ae/{rest}", "/v1/%u002e%u002e/{rest}", "/v1/.%00./{rest}", "/v1/..;/{rest}",
    "/v1/{rest}%", "/v1/{rest}%2",
    "/v1/{rest}%zz", "/v1/{rest}\t", "/v1/{rest}%09", "/v1/{rest}~", "/v1/{rest}*", "/v1/{rest}'", "/v1/{rest}|",
    "/v1/{rest}\"", "/v1/{rest}^",
    "/v1/{rest}`", "/v1/{{{rest}}}", "/v1/[{rest}]", "/v1/{rest}?/../../files", "/v1/files/../{rest}",
    "/v1/files/%2e%2e/{rest}", "/v1/files/..%2f{rest}",
    "/v1/files/..%5c{rest}", "/v1/files/...//{rest}", "/v1/files;/../{rest}", "/v1/files%2f..%2f{rest}",
)  # fmt: skip
_TAMPERED = ("chat/completions", "completions", "responses", "embeddings", "images/generations", "audio/speech", "batches")


@row(
    "B13",
    "paths with tricks: slashes, dots, encodings, backslashes, semicolons, absolute forms, other cases",
    "one spelling each, and 404, 403 or 400 for every other; what goes upstream goes there in the spelling that was judged",
)
async def odd_paths(rig: Rig) -> str:
    body = orjson.dumps({**CHAT, "input": "a", "prompt": "a"})
    variants = []
    for rest, pattern in product(_TAMPERED, _TAMPER):
        path = f"/v1/{rest}"
        target = pattern.format(path, rest=rest, v1=path, upper=path.upper(), title=path.title())
        variants.append(target.encode())
    metered = {surface.path for surface in SURFACES}
    passed = 0
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, more='unmetered: ["/v1/files*"]') as proxy:
        for target in variants:
            before = len(upstream.requests)
            reply = await told(proxy.port, _post(target, body))
            assert reply is not None, target
            sent = upstream.requests[before:]
            if not sent:
                assert reply.status in (400, 403, 404, 405), (target, reply)
                continue
            passed += 1
            assert len(sent) == 1
            path = sent[0].target.partition("?")[0]
            assert sent[0].target.encode() in (target, target.removesuffix(b"?")), (target, sent[0].target)
            assert path in metered or re.fullmatch(r"/v1/files[A-Za-z0-9._~!$&'()*+,=:@/-]*", path), target
            assert "/.." not in path
            assert path.startswith("/v1/")
    return f"{len(variants)} variants, {passed} of them (queries, and neighbours that are files) sent on as they were"


# Every path of OpenAI's API that Tollhouse has no meter for, with an id in place of each name in braces.
_UNMETERED = (
    "assistants", "assistants/a", "batches", "batches/b", "batches/b/cancel", "chat/completions/c",
    "chat/completions/c/messages", "chatkit/sessions",
    "containers", "containers/c", "containers/c/files", "conversations", "conversations/c", "conversations/c/items", "evals",
    "evals/e", "evals/e/runs",
    "evals/e/runs/r", "files", "files/f", "files/f/content", "fine_tuning/jobs", "fine_tuning/jobs/j",
    "fine_tuning/jobs/j/cancel",
    "fine_tuning/jobs/j/events", "fine_tuning/checkpoints/c/permissions", "fine_tuning/alpha/graders/run",
    "organization/admin_api_keys",
    "organization/costs", "organization/projects", "organization/usage/completions", "organization/users",
    "projects/p/certificates", "realtime",
    "realtime/calls", "realtime/client_secrets", "realtime/sessions", "realtime/transcription_sessions", "threads",
    "threads/runs", "threads/t",
    "threads/t/messages", "threads/t/runs", "threads/t/runs/r", "uploads", "uploads/u", "uploads/u/parts",
    "uploads/u/complete", "vector_stores",
    "vector_stores/v", "vector_stores/v/files", "vector_stores/v/search", "videos", "videos/v", "videos/v/content",
    "videos/v/remix", "engines/e/completions",
    "edits", "answers", "classifications", "search", "rerank", "audio/voices", "models/m/x", "responses/r/x", "tokenize",
    "v1/chat/completions", "internal",
)  # fmt: skip
_METHODS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS")


@row(
    "B14",
    "surfaces without a meter: files, batches, realtime, videos, fine-tuning, runs in the background, WebSockets",
    "403 `path_not_metered` (405 or 400 for a wrong method or an upgrade) unless the policy lists it; a background run costs its bound",
)
async def unmetered(rig: Rig) -> str:
    body = orjson.dumps({**CHAT, "input": "a", "prompt": "a"})
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        for rest, method in product(_UNMETERED, _METHODS):
            target = b"/v1/" + rest.encode()
            sent = (
                _post(target, body).replace(b"POST", method, 1)
                if method not in (b"GET", b"HEAD", b"OPTIONS")
                else _get(target, method=method)
            )
            reply = await told(proxy.port, sent, bodiless=method == b"HEAD")
            assert reply is not None, (method, rest)
            assert reply.status in (403, 405), (method, rest, reply)
        opening = _get(b"/v1/realtime?model=gpt-realtime", b"upgrade: websocket", b"connection: upgrade")
        reply = await told(proxy.port, opening)
        assert reply is not None
        assert reply.status in (400, 403)
        assert upstream.received_bytes == 0, "something without a meter was sent on"
        known = 0
        for surface in SURFACES:
            for method in _METHODS:
                if method.decode() in surface.methods:
                    continue
                target = surface.path.replace("*", "r").encode()
                if any(
                    method.decode() in other.methods and other.path == "/v1/responses/*" for other in SURFACES
                ) and surface.path.startswith("/v1/responses/"):
                    continue  # a reading of the same path that is metered by nothing, since it is free
                reply = await told(proxy.port, _get(target, method=method), bodiless=method == b"HEAD")
                assert reply is not None
                assert reply.status == 405, (method, target, reply)
                known += 1
        assert upstream.received_bytes == 0
        background = orjson.dumps({"model": "gpt-4.1-mini", "input": "a", "max_output_tokens": 100, "background": True})
        upstream.queue(_queued())
        status, _, _ = await proxy.post("/v1/responses", background, KEY)
        assert status == 200
        async with asyncio.timeout(20):
            while not (lines := [line for line in await proxy.call_lines() if line["status"] == 200]):
                await asyncio.sleep(0.02)
        [line] = lines
        assert line["cost_nanousd"] == len(background) * _IN_NANOUSD + 100 * _OUT_NANOUSD
    return f"{len(_UNMETERED)} paths by {len(_METHODS)} methods refused, {known} wrong methods of known ones; a background run at its bound"


def _queued() -> list[Step]:
    return json_answer(
        200, {"id": "resp_1", "object": "response", "status": "queued", "background": True, "output": [], "usage": None}
    )


@row(
    "B15",
    "200 calls at once where one more fits",
    "as many are let through as fit, to the unit, and the others are told 429: by requests, by running calls, by money",
    tests=("tests/proxy/state/test_conservation.py",),
)
async def burst(rig: Rig) -> str:
    at_once, rounds = rig.times(short=60, long=200), rig.times(short=1, long=20)
    body = orjson.dumps(CHAT)
    hold = len(body) * _IN_NANOUSD + CHAT["max_tokens"] * _OUT_NANOUSD
    fits = 3
    usd = (hold * fits + CHAT["max_tokens"] * _OUT_NANOUSD // 2) / 10**9
    money = f"budget: {{usd: {usd:.9f}, per: month, by: user, when_spent: reject, least_cap: 1000}}"
    rules = f"""
- {{name: few, match: {{keys: [app], paths: [/v1/chat/completions]}}, rate_limit: {{requests: 1, per: hour, by: user}}}}
- {{name: slots, match: {{paths: [/v1/completions]}}, concurrency: {{calls: 1, by: user}}}}
- {{name: money, match: {{paths: [/v1/responses]}}, {money}}}
"""
    async with FakeUpstream() as upstream, rig.proxy(upstream, rules=rules, timeouts=PATIENT, growth=_ENCODINGS) as proxy:
        for number in range(rounds):
            for path, expected in (("/v1/chat/completions", 1), ("/v1/completions", 1), ("/v1/responses", fits)):
                fields = {"model": "gpt-4.1-mini", "max_tokens": CHAT["max_tokens"], "messages": CHAT["messages"]}
                if path == "/v1/completions":
                    fields = {"model": "gpt-4.1-mini", "max_tokens": 50, "prompt": "a"}
                elif path == "/v1/responses":
                    fields = {"model": "gpt-4.1-mini", "max_output_tokens": 50, "input": "a"}
                    fields["input"] = "a" * (len(body) - len(orjson.dumps(fields)) + 1)
                    assert len(orjson.dumps(fields)) == len(body)
                go = asyncio.Event()
                for _ in range(expected):
                    upstream.queue([Wait(go), *OK])
                headers = {**KEY, "x-user": f"user-{number}"}
                before = len(upstream.requests)
                calls = [asyncio.create_task(proxy.post(path, orjson.dumps(fields), headers)) for _ in range(at_once)]
                async with asyncio.timeout(30):
                    while sum(call.done() for call in calls) < at_once - expected:
                        await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
                go.set()
                statuses = [status for status, _, _ in await asyncio.gather(*calls)]
                assert len(upstream.requests) - before == expected, f"{path}: {len(upstream.requests) - before} were let through"
                assert sorted(statuses) == [200] * expected + [429] * (at_once - expected), path
    return f"{rounds} times {at_once} calls at once on each of three limits: 1, 1 and {fits} let through, every time"


def _disk(proxy: Proxy) -> int:
    return sum(path.stat().st_blocks * 512 for path in proxy.state.rglob("*") if path.is_file())


def _unkeyed(*fields: bytes, target: bytes = PATH) -> bytes:
    """A call that shows its key, if it has one, by these fields alone."""
    sent = _post(target, orjson.dumps(CHAT), *fields)
    return sent.replace(b"authorization: Bearer " + APP_KEY.encode() + b"\r\n", b"", 1)


@row(
    "B18",
    "keys that are guessed, revoked, shown twice or in odd places",
    "one body for every key that is not known, whatever is wrong with it; a revoked one is refused once the file is read",
)
async def guessed_keys(rig: Rig) -> str:
    key = APP_KEY.encode()
    guesses = [
        b"x",
        key[:-1],
        key + b"a",
        key.upper(),
        key[::-1],
        hash_of(APP_KEY).encode(),
        b"sk-" + b"a" * 2000,
        "schlüssel".encode(),
        b"null",
        b"*",
    ]
    guesses += [b"guess-%d" % n for n in range(rig.times(short=200, long=5000))]
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        replies = await told_each(proxy.port, [_unkeyed(b"authorization: Bearer " + guess) for guess in guesses])
        replies += await told_each(proxy.port, [_unkeyed(b"api-key: " + guess) for guess in guesses[:10]])
        assert len({(reply.status, reply.body) for reply in replies}) == 1, "which key was guessed shows in the answer"
        assert (replies[0].status, replies[0].code) == (401, "invalid_api_key")
        names = {frozenset(reply.fields) for reply in replies}
        assert len(names) == 1, names
        for odd in (
            _unkeyed(target=PATH + b"?api_key=" + key),
            _unkeyed(b"sec-websocket-protocol: openai-insecure-api-key." + key),
            _unkeyed(b"x-api-key: " + key),
            _unkeyed(b"cookie: api-key=" + key),
            _unkeyed(b"proxy-authorization: Bearer " + key),
        ):
            reply = await told(proxy.port, odd)
            assert reply is not None
            assert (reply.status, reply.code) == (401, "missing_api_key"), odd
        for twice in (
            (b"authorization: Bearer " + key, b"api-key: " + key),
            (b"authorization: Bearer " + key,) * 2,
            (b"api-key: " + key,) * 2,
        ):
            reply = await told(proxy.port, _unkeyed(*twice))
            assert reply is not None
            assert (reply.status, reply.code) == (400, "ambiguous_credentials")
        for scheme in (b"authorization: " + key, b"authorization: Basic " + key, b"authorization: Bearer"):
            reply = await told(proxy.port, _unkeyed(scheme))
            assert reply is not None
            assert (reply.status, reply.code) == (400, "bad_request")
        assert upstream.received_bytes == 0
        good = await told(proxy.port, _unkeyed(b"API-Key: " + key))
        assert good is not None
        assert good.status == 200
        text = proxy.file.read_text()
        proxy.file.write_text(text.replace(hash_of(APP_KEY), hash_of("a new key")))
        await proxy.logged("policy.activated", 2)
        revoked = await told(proxy.port, _unkeyed(b"authorization: Bearer " + key))
        assert revoked is not None
        assert (revoked.status, revoked.body) == (401, replies[0].body), "whether a key was ever known does not show"
    return f"{len(replies):,} guesses, one answer; a revoked key is refused like them"


_ODD_VALUES = (
    b"a\rb", b"a\nb", b"a\0b", b"\xf0\x9f\xa4\x96", b"a\x1bb", b"a\x7fb", b"\xff\xfe", b"a\tb", b"a b", b"", b'"a"',
    b"a" * 4096, b"<script>", b"a%0d%0ab",
    b"${jndi:ldap://x}", b"\xe2\x80\xae", b"a\xc2\x85b", b"a\xe2\x80\xa8b", b"',{}", b"00-0-0-0", b"a=b;c",
)  # fmt: skip


@row(
    "B19",
    "line breaks, NUL, emoji and 4 KB in request ids, traces, users and metadata",
    "what cannot stand in a head is 400; so is an odd user; an odd request id or trace is replaced; one log line a call, whole",
)
async def odd_values(rig: Rig) -> str:
    body = orjson.dumps(CHAT)
    calls = refused = 0
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        for field, value in product((b"x-request-id", b"traceparent", b"x-user", b"user-agent", b"x-stainless-lang"), _ODD_VALUES):
            before = len(upstream.requests)
            reply = await told(proxy.port, _post(PATH, body, field + b": " + value))
            assert reply is not None, (field, value)
            no_head = any(bad in value for bad in (b"\r", b"\n", b"\0", b"\x1b", b"\x7f"))
            if no_head or (field == b"x-user" and not re.fullmatch(rb"[ -~]{0,128}", value)):
                assert (reply.status, reply.code) == (400, "bad_request"), (field, value, reply)
                assert len(upstream.requests) == before
                refused += not no_head
                continue
            calls += 1
            assert reply.status == 200, (field, value, reply)
            id = reply.fields["x-request-id"]
            assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", id), id
            assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", upstream.requests[-1].header("traceparent") or "")
            assert upstream.requests[-1].header("x-user") is None
        for metadata in ({"a\r\nb": "c\0d"}, {"🤖": "\u2028"}, {"a": "b" * 4096}):
            status, _, _ = await proxy.chat(metadata=metadata, user="a\nb\u202e")
            assert status == 200
            calls += 1
        lines = await proxy.call_lines(calls + refused)
        assert len(lines) == calls + refused, "a line for each call, and none for what is no request"
        assert all(len(line.get("user") or "") <= 4096 for line in lines)
    for told_of in proxy.stdout.splitlines():
        json.loads(told_of)
    return f"{calls} calls with odd values, a line of JSON each; {5 * len(_ODD_VALUES) + 3 - calls} others 400"


@row(
    "B20",
    "forced sampling, trace ids that collide, 64 KB of tracestate and baggage",
    "a sane trace is continued with a span of ours, any other begins anew; tracestate and baggage never go upstream; 64 KB of them is 400",
)
async def odd_traces(rig: Rig) -> str:
    trace = "0af7651916cd43dd8448eb211c80319c"
    sane = f"00-{trace}-b7ad6b7169203331-"
    wrong = (f"ff-{trace}-b7ad6b7169203331-01", sane + "0", sane + "zz", f"00-{'0' * 32}-b7ad6b7169203331-01",
    f"00-{trace.upper()}-b7ad6b7169203331-01",
             f"00-{trace}-{'0' * 16}-01", f"{sane}01-more", f"00-{trace}", "", "a" * 5000)  # fmt: skip
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        spans = set()
        for flags, kept in (("00", "00"), ("01", "01"), ("ff", "03"), ("03", "03"), ("01", "01"), ("01", "01")):
            headers = {**KEY, "traceparent": sane + flags, "tracestate": "vendor=secret", "baggage": "user=ada"}
            await proxy.post(PATH.decode(), orjson.dumps(CHAT), headers)
            sent = upstream.requests[-1]
            version, id, span, told_flags = (sent.header("traceparent") or "").split("-")
            assert (version, id, told_flags) == ("00", trace, kept)
            spans.add(span)
            assert sent.header("tracestate") is None
            assert sent.header("baggage") is None
        assert len(spans) == 6
        assert "b7ad6b7169203331" not in spans, "a span of ours each"
        for one in wrong:
            await proxy.post(PATH.decode(), orjson.dumps(CHAT), {**KEY, "traceparent": one})
            version, id, _, told_flags = (upstream.requests[-1].header("traceparent") or "").split("-")
            assert (version, told_flags) == ("00", "02")
            assert id not in (trace, "0" * 32)
        went = len(upstream.requests)
        for field in (b"tracestate: ", b"baggage: "):
            reply = await told(proxy.port, _post(PATH, orjson.dumps(CHAT), field + b"a=b," * (16 << 10)))
            assert reply is not None
            assert (reply.status, reply.code) == (400, "bad_request")
        assert len(upstream.requests) == went
        lines = await proxy.call_lines(6 + len(wrong))
        assert sum(line["trace_id"] == trace for line in lines) == 6
    return f"6 traces continued with 6 spans, {len(wrong)} begun anew"


@row(
    "B21",
    "a million distinct models, users, paths and methods",
    "at most 5,000 series and 1 MB of metrics; no memory for what was never let in",
)
async def label_bomb(rig: Rig) -> str:
    count = rig.times(short=1000, long=500_000)  # requests, each with two names that never came before
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, alone=True, growth=24 * MIB) as proxy:
        _, before = await proxy.admin("/metrics")
        for start in range(0, count, 1000):
            replies = await told_each(proxy.port, [_named(n) for n in range(start, start + 1000)], at_once=50)
            assert {reply.status for reply in replies} <= {400, 403, 404, 405}
            await proxy.call_lines(1000)
            proxy.forget()
        status, text = await proxy.admin("/metrics")
        assert status == 200
        series = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert len(series) <= 5000, f"{len(series)} series"
        assert len(text) < 1_000_000
        assert len(text) - len(before) < 100_000, "what clients make up becomes series"
        assert "made-up" not in text
        assert upstream.received_bytes == 0
    return f"{2 * count:,} names: {len(series):,} series, {len(text) / 1000:.0f} kB"


def _named(number: int) -> bytes:
    user = b"x-user: made-up-%d" % number
    if number % 2:
        return _post(b"/v1/made-up-%d/a" % number, b"{}", user)
    return _post(PATH, b'{"model":"made-up-%d","messages":[]}' % number, user)


@row(
    "B22",
    "a flood of errors in the log",
    "a short line a call, nothing on disk; a reader that is stuck loses lines, which are counted, and holds nobody up",
    tests=(
        "tests/proxy/telemetry/test_writer.py::test_a_stuck_reader_holds_nobody_up_and_learns_later_how_much_it_missed",
        "tests/proxy/telemetry/test_logs.py::test_lines_that_were_lost_are_counted_and_announced",
    ),
)
async def log_flood(rig: Rig) -> str:
    count = rig.times(short=1000, long=100_000)
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, alone=True, growth=24 * MIB) as proxy:
        disk, size = _disk(proxy), 0
        asked = {"model": "m" * 256, "messages": [{"role": "user", "content": CANARY.decode() * 50}]}
        sent = _post(PATH, orjson.dumps(asked), b"x-user: " + b"u" * 128, b"x-request-id: " + b"i" * 128)
        proxy.forget()
        for _ in range(0, count, 1000):
            await told_each(proxy.port, [sent] * 1000)
            lines = await proxy.call_lines(1000)
            assert len(lines) == 1000
            assert CANARY not in proxy.stdout
            size += len(proxy.stdout)
            proxy.forget()
        each = size / count
        assert each < 2048, f"{each:.0f} bytes a line"
        assert _disk(proxy) - disk < 4 * MIB
        _, metrics = await proxy.admin("/metrics")
        [dropped] = re.findall(r"^tollhouse_log_dropped\w*(?:_total)? (\d+)", metrics, re.MULTILINE)
        assert int(dropped) == 0, "its reader was not stuck"
    return f"{count:,} refusals, {count:,} lines of {each:.0f} bytes; nothing on disk"
