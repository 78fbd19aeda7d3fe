"""Recorded calls through the whole proxy: joined, replayed, polled, followed, cancelled, and charged once."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.fakes import Abort, FakeUpstream, Step, UntilClosed, Wait, json_answer, sse_answer
from tests.house import CHAT, House, error_of, policy
from tests.whole.conversation import ANSWER, OK, STREAM, chunk

PATH = "/v1/chat/completions"
RULES = "- {name: all, record: {%s}, budget: {usd: 5, per: day, when_spent: reject}, concurrency: {calls: 50}}"
SEEN = [one for one in STREAM if b'"choices":[]' not in one]  # what a client sees that did not ask for the usage
EACH_NANOUSD = 10 * 400 + 1000 * 1600
STREAMED = {**CHAT, "stream": True}


def house(
    upstream: FakeUpstream, folder: Path, record: str = "", rules: str = RULES, env: Mapping[str, str] | None = None
) -> House:
    return House(policy(rules % record if "%s" in rules else rules), upstream.url + "/v1", folder, env=env)


def asking(user: str = "ada", **headers: str) -> dict[str, str]:
    return {"x-user": user, **{name.replace("_", "-"): value for name, value in headers.items()}}


async def get(
    proxy: House, path: str, user: str = "ada", method: str = "GET", **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    return await proxy.request(method, path, headers={"authorization": "Bearer app-key", **asking(user, **headers)})


async def task(proxy: House, id: str, query: str = "") -> dict[str, Any]:
    status, _, body = await get(proxy, f"/tasks/{id}{query}")
    assert status == 200, body
    return dict(orjson.loads(body))


def held(*, go: asyncio.Event, after: int = 1) -> list[Step]:
    """A stream that stops behind so many events until it may go on."""
    head, *rest = sse_answer(STREAM)
    return [head, *rest[:after], Wait(go), *rest[after:]]


async def costs(proxy: House, count: int) -> list[int]:
    """What each call cost that asked an upstream."""
    await proxy.logged("call.finished", count)
    return [line["cost_nanousd"] for line in proxy.lines("call.finished") if line["cost_nanousd"]]


async def test_two_calls_with_one_key_are_one(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue([Wait(go), *OK])
        async with house(upstream, tmp_path) as proxy:
            asked = asking(idempotency_key="k")
            calls = [asyncio.create_task(proxy.post(PATH, CHAT, headers=asked)) for _ in range(2)]
            await upstream.arrived()
            await proxy.logged("recording.read")
            go.set()
            first, second = await asyncio.gather(*calls)
            third = await proxy.post(PATH, CHAT, headers=asking(idempotency_key='"k"'))
            found = await costs(proxy, 3)
    assert len(upstream.requests) == 1
    assert {status for status, _, _ in (first, second, third)} == {200}
    assert len({body for _, _, body in (first, second, third)}) == 1
    assert len({headers["tollhouse-task"] for _, headers, _ in (first, second, third)}) == 1
    assert len({headers["x-request-id"] for _, headers, _ in (first, second, third)}) == 3
    assert sorted("idempotent-replayed" in headers for _, headers, _ in (first, second, third)) == [False, True, True]
    assert found == [EACH_NANOUSD]


@pytest.mark.parametrize(
    "other",
    [(PATH, {**CHAT, "n": 1}), (PATH + "?a=b", CHAT), ("/v1/completions", {"model": "gpt-4.1-mini", "prompt": "x"})],
    ids=["body", "query", "path"],
)
async def test_a_key_is_for_one_call(tmp_path: Path, other: tuple[str, Any]) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path) as proxy:
            await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k"))
            status, _, body = await proxy.post(*other, headers=asking(idempotency_key="k"))
    assert (status, error_of(body)["code"]) == (422, "idempotency_key_reused")
    assert len(upstream.requests) == 1


async def test_a_key_of_another_user_is_another_key(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path) as proxy:
            answers = [await proxy.post(PATH, CHAT, headers=asking(user, idempotency_key="k")) for user in ("ada", "bob")]
    assert len(upstream.requests) == 2
    assert not any("idempotent-replayed" in headers for _, headers, _ in answers)


async def test_two_keys_in_one_head_and_one_that_is_too_long_are_refused(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path) as proxy:
            status, _, body = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k" * 256))
    assert (status, error_of(body)["code"]) == (400, "invalid_idempotency_key")
    assert not upstream.requests


REFUSALS = {
    "429": json_answer(429, {"error": {"message": "slow", "type": "x", "param": None, "code": "rate"}}),
    "500": json_answer(500, {}),
}


@pytest.mark.parametrize("how", REFUSALS)
async def test_a_call_that_used_nothing_frees_its_key(tmp_path: Path, how: str) -> None:
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue(REFUSALS[how])
        async with house(upstream, tmp_path) as proxy:
            first, _, _ = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k"))
            second, headers, body = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k"))
            found = await costs(proxy, 2)
    assert (first, second) == (int(how), 200)
    assert "idempotent-replayed" not in headers
    assert orjson.loads(body) == ANSWER
    assert found == [EACH_NANOUSD]


async def test_a_call_that_a_policy_refused_or_that_reached_nobody_frees_its_key(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path, rules="- {name: all, record: {}, rate_limit: {requests: 1, per: minute}}") as proxy:
            await proxy.post(PATH, CHAT, headers=asking())
            codes = set()
            for _ in range(2):
                status, headers, body = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k"))
                codes.add((status, error_of(body)["code"], "idempotent-replayed" in headers))
    assert codes == {(429, "rate_limit_exceeded", False)}
    async with House(policy(RULES % ""), "http://127.0.0.1:9/v1", tmp_path) as proxy:
        codes = set()
        for _ in range(2):
            status, headers, body = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k"))
            codes.add((status, error_of(body)["code"], "idempotent-replayed" in headers))
    assert codes == {(502, "upstream_unreachable", False)}


async def test_a_call_that_cost_something_keeps_its_failure(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue(sse_answer(STREAM, cut_after=2))
        async with house(upstream, tmp_path) as proxy:
            answers = [await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="k")) for _ in range(2)]
            found = await costs(proxy, 2)
    assert len(upstream.requests) == 1
    assert answers[0][2] == answers[1][2]
    assert b'"code":"upstream_broken"' in answers[0][2]
    assert b"[DONE]" not in answers[0][2]
    assert len(found) == 1


async def test_who_is_replayed_a_failure_hears_that_the_key_is_worth_no_other_try(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        head, part, _ = json_answer(200, ANSWER, splits=[20])
        upstream.queue([head, part, Abort()])
        async with house(upstream, tmp_path) as proxy:
            answers = [await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k")) for _ in range(2)]
    assert len(upstream.requests) == 1
    assert [status for status, _, _ in answers] == [502, 502]
    assert [headers.get("x-should-retry") for _, headers, _ in answers] == [None, "false"]


async def test_a_400_of_the_upstream_is_kept(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue(json_answer(400, {"error": {"message": "no", "type": "x", "param": None, "code": "bad"}}))
        async with house(upstream, tmp_path) as proxy:
            answers = [await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k")) for _ in range(2)]
    assert [status for status, _, _ in answers] == [400, 400]
    assert len(upstream.requests) == 1


async def test_a_stream_goes_on_when_its_client_drops_and_is_resumed(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue(held(go=go, after=2))
        async with house(upstream, tmp_path) as proxy:
            headers = {"content-type": "application/json", "authorization": "Bearer app-key", "prefer": "event-ids"}
            async with aiohttp.ClientSession() as session:
                headers |= asking(idempotency_key="k")
                answer = await session.post(proxy.url + PATH, data=orjson.dumps(STREAMED), headers=headers)
                first = await answer.content.readuntil(b"\n\n")
                answer.close()
            id, _, number = first.partition(b"\n")[0].removeprefix(b"id: ").decode().partition(".")
            assert first.endswith(SEEN[0])
            go.set()
            last = {"last_event_id": f"{id}.{number}"}
            status, got, rest = await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="k", **last))
            _, _, same = await proxy.post(PATH, STREAMED, headers=asking(**last))
            _, _, page = await get(proxy, f"/tasks/{id}/events", **last)
            _, _, all_of_it = await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="k"))
            found = await costs(proxy, 5)
    assert len(upstream.requests) == 1
    assert (status, got["content-type"]) == (200, "text/event-stream")
    assert rest == same == b"".join(SEEN[1:])
    assert page == b"".join(b"id: %b.%d\n" % (id.encode(), n) + one for n, one in enumerate(SEEN[1:], 2))
    assert all_of_it == b"".join(SEEN)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("last", "status", "code"),
    [
        ("nonsense", 400, "invalid_event_id"),
        ("task_" + "0" * 32 + ".1", 404, "task_not_found"),
        ("{id}.99", 409, "event_not_reached"),
    ],
)
async def test_who_resumes_from_an_event_that_is_none_is_told_so(tmp_path: Path, last: str, status: int, code: str) -> None:
    async with FakeUpstream(default=sse_answer(STREAM)) as upstream:
        async with house(upstream, tmp_path) as proxy:
            _, headers, _ = await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="k"))
            asked = asking(last_event_id=last.format(id=headers["tollhouse-task"]))
            got, _, body = await proxy.post(PATH, STREAMED, headers=asked)
            assert (got, error_of(body)["code"]) == (status, code)
            foreign = asking("bob", last_event_id=headers["tollhouse-task"] + ".1")
            got, _, body = await proxy.post(PATH, STREAMED, headers=foreign)
            assert (got, error_of(body)["code"]) == (404, "task_not_found")
            other = asking(last_event_id=headers["tollhouse-task"] + ".1")
            got, _, body = await proxy.post(PATH, {**STREAMED, "n": 1}, headers=other)
            assert (got, error_of(body)["code"]) == (422, "idempotency_key_reused")
    assert len(upstream.requests) == 1


async def test_a_task_survives_its_client_and_is_followed_by_two(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue(held(go=go, after=2))
        async with house(upstream, tmp_path, "grace: 1ms") as proxy:
            status, headers, body = await proxy.post(PATH, STREAMED, headers=asking(prefer="respond-async"))
            id = headers["tollhouse-task"]
            assert status == 202
            assert headers["location"] == f"/tasks/{id}"
            assert headers["preference-applied"] == "respond-async"
            assert int(headers["retry-after"]) == 1
            assert orjson.loads(body)["status"] == "running"
            await upstream.arrived()
            proxy.app.records.desk().recorder.look()  # nobody reads it, and nobody has to
            got, _, said = await get(proxy, f"/tasks/{id}/result")
            assert (got, error_of(said)["code"]) == (409, "task_running")
            readers = [asyncio.create_task(get(proxy, f"/tasks/{id}/events")) for _ in range(2)]
            await proxy.logged("recording.read", 2)
            waiting = asyncio.create_task(task(proxy, id, "?wait=30s"))
            go.set()
            pages = [page for _, _, page in await asyncio.gather(*readers)]
            ended = await waiting
            _, result_headers, result = await get(proxy, f"/tasks/{id}/result")
            found = await costs(proxy, 6)
    assert pages[0] == pages[1] == b"".join(b"id: %b.%d\n" % (id.encode(), n) + one for n, one in enumerate(SEEN, 1))
    assert result == b"".join(SEEN)
    assert result_headers["content-type"] == "text/event-stream"
    assert ended["status"] == "completed"
    assert ended["usage"] == {
        "input_tokens": 9,
        "cached_tokens": 0,
        "output_tokens": 2,
        "total_tokens": 11,
        "usage_source": "reported",
    }
    assert ended["cost_usd"] == "0.0000068"
    assert len(found) == 1


async def test_a_task_that_is_done_in_time_is_answered_at_once(tmp_path: Path) -> None:
    """RFC 7240, section 4.3."""
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path) as proxy:
            status, headers, body = await proxy.post(PATH, CHAT, headers=asking(prefer="respond-async, wait=20"))
    assert (status, orjson.loads(body)) == (200, ANSWER)
    assert "tollhouse-task" in headers


async def test_a_task_is_cancelled_and_settled(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue([*held(go=go, after=2)[:3], UntilClosed()])
        async with house(upstream, tmp_path) as proxy:
            _, headers, _ = await proxy.post(PATH, STREAMED, headers=asking(prefer="respond-async", idempotency_key="k"))
            id = headers["tollhouse-task"]
            request = await upstream.arrived()
            while (await task(proxy, id))["last_event"] != 2:
                await asyncio.sleep(0.1)
            following = asyncio.create_task(get(proxy, f"/tasks/{id}/events?after=1"))
            await proxy.logged("recording.read")
            status, _, body = await get(proxy, f"/tasks/{id}", method="DELETE")
            async with asyncio.timeout(10):
                await request.closed_early.wait()
            _, _, page = await following
            again = await get(proxy, f"/tasks/{id}", method="DELETE")
            _, _, replay = await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="k"))
            lines = await proxy.logged("call.finished", 5)
    assert (status, orjson.loads(body)["status"]) == (200, "cancelled")
    assert (again[0], orjson.loads(again[2])["status"]) == (200, "cancelled")
    assert b'"code":"call_cancelled"' in page
    assert b"[DONE]" not in page
    assert b'"code":"call_cancelled"' in replay
    [call] = [line for line in lines if line["surface"] == "chat"]
    assert (call["outcome"], call["error"]) == ("client_gone", "call_cancelled")
    assert call["output_tokens"] == 1  # "Hello"


async def test_a_call_that_nobody_reads_ends_after_its_grace(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue([*sse_answer(STREAM)[:2], UntilClosed()])
        async with house(upstream, tmp_path, "grace: 1ms") as proxy:
            headers = {"content-type": "application/json", "authorization": "Bearer app-key", **asking(idempotency_key="k")}
            async with aiohttp.ClientSession() as session:
                answer = await session.post(proxy.url + PATH, data=orjson.dumps(STREAMED), headers=headers)
                await answer.content.readany()
                answer.close()
            request = await upstream.arrived()
            async with asyncio.timeout(10):
                await request.closed_early.wait()
            [line] = await proxy.logged("call.finished")
    assert (line["outcome"], line["error"], line["output_tokens"]) == ("client_gone", "call_cancelled", 1)


async def test_what_is_not_ones_own_was_never_there(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path) as proxy:
            _, headers, _ = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k"))
            id = headers["tollhouse-task"]
            for path in (id, f"{id}/result", f"{id}/events", "task_" + "0" * 32, "x", f"{id}/other", id.upper()):
                for method in ("GET", "DELETE"):
                    if not path.startswith(id) or "other" in path:
                        status, _, body = await get(proxy, f"/tasks/{path}", method=method)
                        assert (status, error_of(body)["code"]) == (404, "task_not_found"), path
                    status, _, body = await get(proxy, f"/tasks/{path}", "bob", method=method)
                    assert (status, error_of(body)["code"]) == (404, "task_not_found"), path
            assert (await proxy.request("GET", f"/tasks/{id}"))[0] == 401
            assert (await get(proxy, f"/tasks/{id}", method="PUT"))[0] == 405
            assert (await task(proxy, id))["status"] == "completed"


async def test_whoever_asks_without_pause_is_slowed_down(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path) as proxy:
            answers = [await get(proxy, "/tasks/x") for _ in range(300)]
            statuses = [status for status, _, _ in answers]
            bobs, _, _ = await get(proxy, "/tasks/x", "bob")
    assert statuses[0] == bobs == 404
    assert 429 in statuses


async def test_so_many_tasks_of_one_user_run_at_once(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream(default=[Wait(go), *OK]) as upstream:
        async with house(upstream, tmp_path, "running: 2") as proxy:
            asked = asking(prefer="respond-async")
            statuses = [(await proxy.post(PATH, CHAT, headers=asked))[0] for _ in range(3)]
            bobs, _, _ = await proxy.post(PATH, CHAT, headers=asking("bob", prefer="respond-async"))
            go.set()
    assert (statuses, bobs) == ([202, 202, 429], 202)


async def test_without_a_clause_what_needs_one_is_refused_and_tasks_are_not_found(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with house(upstream, tmp_path, rules="- {name: all, budget: {usd: 5, per: day}}") as proxy:
            for asked in ({"idempotency_key": "k"}, {"prefer": "respond-async"}, {"prefer": "event-ids"}):
                status, _, body = await proxy.post(PATH, CHAT, headers=asking(**asked))
                assert (status, orjson.loads(body)["error"]["code"]) == (400, "not_recorded")
            assert (await proxy.post(PATH, CHAT, headers=asking(prefer="return=minimal")))[0] == 200
            assert (await get(proxy, "/tasks/x"))[0] == 404
    assert len(upstream.requests) == 1, "nothing was asked of the upstream, and nothing paid"


def holding(folder: Path, canary: bytes) -> list[Path]:
    """The files in which a text stands."""
    return [file for file in folder.rglob("*") if file.is_file() and canary in file.read_bytes()]


async def test_content_is_in_memory_only(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, {**ANSWER, "id": "canary-7391"})) as upstream:
        async with house(upstream, tmp_path) as proxy:
            _, _, body = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="key-canary-7391"))
            await proxy.post(PATH, CHAT, headers=asking(idempotency_key="key-canary-7391"))
            await proxy.logged("call.finished", 2)
            said = await proxy.metrics()
    assert b"canary-7391" in body
    assert "canary-7391" not in said
    assert holding(tmp_path, b"canary-7391") == []
    assert "recordings.sqlite3" not in os.listdir(tmp_path / "state")
    assert 'tollhouse_recording_reads_total{how="replayed"} 1' in said
    assert 'tollhouse_recorded_calls_total{status="completed"} 1' in said


async def test_a_drain_ends_recorded_calls_honestly(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        said = chunk("Hel", usage={"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10})
        upstream.queue([*sse_answer([said])[:2], UntilClosed()])
        async with house(upstream, tmp_path) as proxy:
            calling = asyncio.create_task(proxy.post(PATH, STREAMED, headers=asking(idempotency_key="k")))
            await upstream.arrived()
            while not proxy.app.records.desk().recorder.archive.size > 4300:
                await asyncio.sleep(0.01)
            await proxy.stop()
            status, _, body = await calling
    assert status == 200
    assert b'"code":"draining"' in body
    assert b"[DONE]" not in body
