"""Paths with tricks, and paths without a meter: rows B13 and B14.

The rule a reader could break: each row walks its whole table in either form; a variant is one request.
"""

import asyncio
import re
from itertools import product

import orjson

from proxy.wire.surfaces import SURFACES
from tests.fakes import FakeUpstream, Step, json_answer
from tests.faults.costs import IN_NANOUSD, OUT_NANOUSD
from tests.faults.malformed import get, post
from tests.faults.raw import told
from tests.faults.rig import CHAT, KEY, OK, Rig
from tests.faults.row import row

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
            reply = await told(proxy.port, post(target, body))
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
    "surfaces without a meter: files, batches, realtime by other ways than a WebSocket, videos, fine-tuning; runs in the background",
    "403 `path_not_metered` (405 or 400 for a wrong method or an upgrade) unless the policy lists it; a background run costs its bound",
)
async def unmetered(rig: Rig) -> str:
    body = orjson.dumps({**CHAT, "input": "a", "prompt": "a"})
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        for rest, method in product(_UNMETERED, _METHODS):
            target = b"/v1/" + rest.encode()
            sent = (
                post(target, body).replace(b"POST", method, 1)
                if method in (b"POST", b"PUT", b"PATCH")
                else get(target, method=method)
            )
            reply = await told(proxy.port, sent, bodiless=method == b"HEAD")
            assert reply is not None, (method, rest)
            assert reply.status in (403, 405), (method, rest, reply)
        opening = get(b"/v1/realtime?model=gpt-realtime", b"upgrade: websocket", b"connection: upgrade")
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
                reply = await told(proxy.port, get(target, method=method), bodiless=method == b"HEAD")
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
        assert line["cost_nanousd"] == len(background) * IN_NANOUSD + 100 * OUT_NANOUSD
    return f"{len(_UNMETERED)} paths by {len(_METHODS)} methods refused, {known} wrong methods of known ones; a background run at its bound"


def _queued() -> list[Step]:
    return json_answer(
        200, {"id": "resp_1", "object": "response", "status": "queued", "background": True, "output": [], "usage": None}
    )
