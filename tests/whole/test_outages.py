"""Pages about upstreams, from a process that serves: one when it begins, one when it is over, also over a kill."""

import signal
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from tests.fakes import FakeUpstream, json_answer
from tests.house import hash_of
from tests.whole.conversation import CHAT, OK
from tests.whole.process import Serving

TOOK = json_answer(200, {})
REFUSED = json_answer(
    401, {"error": {"message": "Incorrect API key provided: sk-upstreamcanary0123456789", "code": "invalid_api_key"}}
)
FAILED = json_answer(500, {"error": {"message": "boom"}})


def watched(receiver: FakeUpstream) -> str:
    return f"""version: 1
upstreams:
  main:
    base_url: ${{env:UPSTREAM}}
    api_key: sk-upstreamcanary0123456789
    retries: {{attempts: 1}}
    breaker: {{failures: 3, open: 100ms}}
    page: [team]
keys:
  - {{id: app, hash: "{hash_of("app-key")}"}}
pages:
  team: {{webhook: {{url: "{receiver.url}/pages"}}}}
"""


def pages(receiver: FakeUpstream) -> list[tuple[str, dict[str, Any]]]:
    events = [orjson.loads(request.body) for request in receiver.requests]
    return [(event["type"], event["data"]) for event in events]


async def fails(app: openai.AsyncOpenAI, code: str) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        await app.chat.completions.create(**CHAT)
    assert raised.value.code == code


async def test_refused_credentials_are_paged_once_and_resolved_when_a_call_goes_well(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=TOOK) as receiver:
        async with Serving(tmp_path, watched(receiver), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            for _ in range(5):
                upstream.queue(REFUSED)
                await fails(app, "upstream_credentials")
            [began] = await proxy.logged("outage.began")
            await proxy.logged("page.delivered")
            await app.chat.completions.create(**CHAT)
            await app.chat.completions.create(**CHAT)
            [ended] = await proxy.logged("outage.ended")
            await proxy.logged("page.delivered", 2)
            said = proxy.stdout
    assert (began["upstream"], began["error"], began["page"]) == ("main", "upstream_credentials", ended["page"])
    (first, facts), (second, over) = pages(receiver)
    assert (first, second) == ("upstream.outage_began", "upstream.outage_ended")
    assert facts["id"] == over["id"]
    assert over["reason"] == "upstream_answered"
    shown = said + b"".join(request.body for request in receiver.requests)
    assert b"canary" not in shown
    assert b"127.0.0.1:%d" % upstream.port not in shown


async def test_what_stood_when_the_process_was_killed_is_not_paged_again_and_resolved_by_the_next(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=TOOK) as receiver:
        first = Serving(tmp_path, watched(receiver), upstream=upstream.url + "/v1")
        await first.__aenter__()
        async with first.client() as app:
            upstream.queue(REFUSED)
            await fails(app, "upstream_credentials")
            await first.logged("page.delivered")
        first.signal(signal.SIGKILL)
        await first.ended()
        await first._session.close()
        async with Serving(tmp_path, watched(receiver), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            for _ in range(2):
                upstream.queue(REFUSED)
                await fails(app, "upstream_credentials")
            await app.chat.completions.create(**CHAT)
            await proxy.logged("outage.ended")
            await proxy.logged("page.delivered")
            assert proxy.lines("outage.began") == []
    assert [type for type, _ in pages(receiver)] == ["upstream.outage_began", "upstream.outage_ended"]


async def test_an_upstream_that_is_down_is_paged_and_resolved_by_the_call_that_finds_it_back(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=TOOK) as receiver:
        async with Serving(tmp_path, watched(receiver), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            for _ in range(3):
                upstream.queue(FAILED)
                await fails(app, "upstream_error")
            await proxy.logged("upstream.opened")
            await proxy.logged("page.delivered")
            async with proxy.client(max_retries=9) as patient:  # the SDK comes back when it is told to
                await patient.chat.completions.create(**CHAT)
            await proxy.logged("upstream.closed")
            await proxy.logged("page.delivered", 2)
    assert [(type, data["error"]) for type, data in pages(receiver)] == [
        ("upstream.outage_began", "upstream_unavailable"),
        ("upstream.outage_ended", "upstream_unavailable"),
    ]
