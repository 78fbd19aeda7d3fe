"""Recorded calls under abuse: keys that are used again, stores that are filled, streams resumed and tasks asked for by whoever may not.

What is said of a restart is played to a process that is killed, which the other invariants cannot be asked of: `killed.py`.
"""

import asyncio
import re
from collections.abc import Mapping

import orjson

from tests.fakes import FakeUpstream, Step, Wait, sse_answer
from tests.faults.guard import ANSWER, APP_KEY, MIB, OTHER_KEY
from tests.faults.killed import restarted
from tests.faults.malformed import PATH as TARGET
from tests.faults.malformed import request
from tests.faults.raw import Reply, line, told, told_each
from tests.faults.rig import CHAT, EVENTS, OK, PATH, PATIENT, Proxy, Rig
from tests.faults.row import row
from tests.faults.sdks import keyed_in_node, node_installed
from tests.house import error_of
from tests.whole.conversation import chunk

RULES = "- {name: recorded, record: {running: 50}}"
BODY = orjson.dumps(CHAT)
STREAMED = orjson.dumps({**CHAT, "stream": True})
SEEN = [event for event in EVENTS if b'"choices":[]' not in event]  # by who did not ask for the usage
_NUMBER = re.compile(rb"^id: (task_[0-9a-f]{32})\.(\d+)$", re.MULTILINE)


def headers(user: str = "ada", *, app_key: str = APP_KEY, **more: str) -> dict[str, str]:
    own = {"authorization": f"Bearer {app_key}", "content-type": "application/json", "x-user": user}
    return {**own, **{name.replace("_", "-"): value for name, value in more.items()}}


async def ask(proxy: Proxy, body: bytes = BODY, user: str = "ada", **more: str) -> tuple[int, Mapping[str, str], bytes]:
    return await proxy.post(PATH, body, headers(user, **more))


async def page(
    proxy: Proxy, path: str, user: str = "ada", *, method: str = "GET", **more: str
) -> tuple[int, Mapping[str, str], bytes]:
    """What a page says. more: headers, and the key of an app."""
    async with proxy._session.request(method, proxy.url + path, headers=headers(user, **more)) as answer:
        return answer.status, answer.headers, await answer.read()


async def charged(proxy: Proxy, count: int) -> None:
    """So many calls were charged, and no more, once all is quiet."""
    asked = CHAT["model"]
    async with asyncio.timeout(30):
        while (
            len(found := [one for one in proxy.lines("call.finished") if one["cost_nanousd"] and one["model_asked"] == asked])
            < count
        ):
            await asyncio.sleep(0.02)
    await proxy.guard.quiet()
    assert len(found) == count, f"{len(found)} charged, not {count}"


def raw(*fields: bytes, body: bytes = BODY) -> bytes:
    return request(b"content-length: %d" % len(body), *fields, line=b"POST %b HTTP/1.1" % TARGET, body=body)


# ── B16 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@row(
    "B16",
    "Idempotency-Key: in flight, done, with another body, from another user, after kill -9, 1 MB long, with a line break or NUL",
    "joined; replayed and marked; 422; isolated; replayed after a crash what had ended, with a key for the disk, else a new call; 400, "
    "431 where a head is too long; the upstream is asked once a call, and each is charged once",
)
async def idempotency_keys(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, rules=RULES, timeouts=PATIENT) as proxy:
        at_once = rig.times(short=8, long=40)
        go = asyncio.Event()
        upstream.queue([Wait(go), *OK])
        calls = [asyncio.create_task(ask(proxy, idempotency_key="k")) for _ in range(at_once)]
        await proxy.logged("recording.read", at_once - 1)
        go.set()
        said = [*await asyncio.gather(*calls), await ask(proxy, idempotency_key="k"), await ask(proxy, idempotency_key='"k"')]
        assert {status for status, _, _ in said} == {200}
        assert len({body for _, _, body in said}) == 1
        assert len({fields["x-request-id"] for _, fields, _ in said}) == len(said)
        assert [fields.get("idempotent-replayed") for _, fields, _ in said].count(None) == 1
        assert len(upstream.requests) == 1

        await _other_calls(proxy)
        assert len(upstream.requests) == 1
        for more in ({"user": "bob"}, {"app_key": OTHER_KEY}):
            status, fields, _ = await ask(proxy, idempotency_key="k", **more)
            assert (status, "idempotent-replayed" in fields) == (200, False), more
        assert len(upstream.requests) == 3
        await _no_keys(proxy)
        assert len(upstream.requests) == 3
        assert all(sent.header("idempotency-key") is None for sent in upstream.requests)
        await charged(proxy, 3)
        without = await node_installed(install=not rig.short)
        if without is None:
            await keyed_in_node(proxy, upstream, key=APP_KEY, name="node")
    node = "Node's SDK joins, goes on and replays" if without is None else f"Node's SDK left out ({without})"
    return f"{at_once} calls at once with one key are one; {node}; {await restarted(rig)}"


async def _other_calls(proxy: Proxy) -> None:
    """The same key for what is another call."""
    for path, body in (
        (PATH, orjson.dumps({**CHAT, "n": 1})),
        (PATH, BODY + b" "),
        (PATH, STREAMED),
        (PATH + "?a=b", BODY),
        ("/v1/completions", b'{"model":"gpt-4.1-mini","prompt":"x"}'),
    ):
        status, _, said = await proxy.post(path, body, headers(idempotency_key="k"))
        assert (status, error_of(said)["code"]) == (422, "idempotency_key_reused"), (path, body)


async def _no_keys(proxy: Proxy) -> None:
    """Keys that are none."""
    for key in ("", " ", '""', '"k', "k" * 256, "k\u00e9y", "a\tb"):
        reply = await told(proxy.port, raw(b"x-user: ada", b"idempotency-key: " + key.encode()))
        assert reply is not None
        assert (reply.status, reply.code) == (400, "invalid_idempotency_key"), (key, reply)
    for broken, status in (
        (b"idempotency-key: k\r\nidempotency-key: k", 400),
        (b"idempotency-key: " + b"k" * MIB, 431),
        (b"idempotency-key: k\rk", 400),
        (b"idempotency-key: k\0k", 400),
        (b"idempotency-key: k\r\n k", 400),
    ):
        reply = await told(proxy.port, raw(b"x-user: ada", broken))
        assert reply is not None
        assert reply.status == status, (broken[:40], reply)


# ── B17 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_TOTAL = 8 * MIB
_EVICTED = re.compile(r'^tollhouse_recordings_forgotten_total\{why="evicted"\} (\S+)$', re.MULTILINE)
_BYTES = re.compile(r"^tollhouse_recorded_bytes (\S+)$", re.MULTILINE)


@row(
    "B17",
    "filling the store of idempotency keys and tasks",
    "memory stays within `max_total`; one's own ended ones go first, the longest unread before others; what runs is never evicted, nor is "
    "what others have; nothing on the disk",
    tests=("tests/proxy/recording/test_archive.py::test_a_flood_of_keys_stays_within_the_bound",),
)
async def flood(rig: Rig) -> str:
    count = rig.times(short=4_000, long=60_000)
    rules = "- {name: recorded, record: {max_total: 8MiB, max_bytes: 1MiB, for: 1h}}"
    async with (
        FakeUpstream(default=OK) as upstream,
        rig.proxy(upstream, rules=rules, timeouts=PATIENT, growth=_TOTAL + 8 * MIB) as proxy,
    ):
        await ask(proxy, user="eve", idempotency_key="k")  # with the first, what records is loaded
        await proxy.begin_counting(upstream)
        proxy.guard.forget_peak()
        go, disk = asyncio.Event(), disk_of(proxy)
        upstream.queue(held(go))
        running = asyncio.create_task(ask(proxy, STREAMED, idempotency_key="runs"))
        await upstream.arrived(3)
        _, _, bobs = await ask(proxy, user="bob", idempotency_key="k")
        for start in range(0, count, 1000):
            replies = await told_each(proxy.port, [_refused(n) for n in range(start, start + 1000)])
            assert {reply.status for reply in replies} == {202, 403}
            _, text = await proxy.admin("/metrics")
            [size] = _BYTES.findall(text)
            assert float(size) <= _TOTAL, size
            proxy.forget()
        [evicted] = _EVICTED.findall(text)
        assert float(evicted) > count / 4
        status, fields, body = await ask(proxy, user="bob", idempotency_key="k")
        assert (status, fields.get("idempotent-replayed"), body) == (200, "true", bobs)
        joined = asyncio.create_task(ask(proxy, STREAMED, idempotency_key="runs"))
        await proxy.logged("recording.read", 2)
        go.set()
        assert (await running)[2] == (await joined)[2] == b"".join(SEEN)
        assert len(upstream.requests) == 4
        await charged(proxy, 4)
        grown = proxy.guard.peak()
        assert grown <= _TOTAL + 8 * MIB, f"{grown / MIB:.1f} MiB"
        assert disk_of(proxy) - disk < 4 * MIB
    return f"{count:,} keys and tasks, {int(float(evicted)):,} evicted, {grown / MIB:.1f} MiB more memory at most"


def _refused(number: int) -> bytes:
    """A call that asks nobody, and is kept as any other: with a key, or as a task."""
    wish = b"prefer: respond-async" if number % 2 else b"x-odd: 1"
    return raw(b"x-user: ada", b"idempotency-key: key-%d" % number, wish, body=b'{"model":"no-such-model","messages":[]}')


def disk_of(proxy: Proxy) -> int:
    return sum(path.stat().st_blocks * 512 for path in proxy.state.rglob("*") if path.is_file())


# ── B23 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def held(go: asyncio.Event, *, after: int = 1) -> list[Step]:
    """A stream that stops behind so many events until it may go on."""
    head, *rest = sse_answer(EVENTS)
    return [head, *rest[:after], Wait(go), *rest[after:]]


async def resume(proxy: Proxy, last: str, user: str = "ada", body: bytes = STREAMED, **more: str) -> tuple[int, str | None, bytes]:
    """Status, code of an error, body."""
    status, _, said = await ask(proxy, body, user, last_event_id=last, prefer="event-ids", **more)
    return status, error_of(said)["code"] if status >= 400 else None, said


def _events(task: str, after: int) -> bytes:
    """What follows an event, as who resumes sees it."""
    return b"".join(b"id: %b.%d\n%b" % (task.encode(), n, event) for n, event in enumerate(SEEN[after:], after + 1))


@row(
    "B23",
    "resuming with a Last-Event-ID that is wrong, old, to come or somebody else's; many who resume at once",
    "400 for what is no id; the same 404 for what is not there and what is another's; 409 for what has not come; 410 for what is no longer "
    "kept; 422 for another body; 400 where nothing is recorded; each resumes at his own place, no event lost or doubled, billed once",
)
async def resuming(rig: Rig) -> str:
    rules = "- {name: recorded, record: {max_bytes: 64KiB}}"
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, rules=rules, timeouts=PATIENT) as proxy:
        go = asyncio.Event()
        upstream.queue(held(go, after=2))
        async with line(proxy.port) as cut:
            await cut.send(raw(b"x-user: ada", b"prefer: event-ids", b"idempotency-key: k", body=STREAMED))
            while len(numbers := _NUMBER.findall(cut.got)) < 2:
                assert await cut.more()
        task = numbers[0][0].decode()
        assert (
            await resume(proxy, f"{task}.2", "bob")
            == await resume(proxy, f"task_{'0' * 32}.2")
            == await resume(proxy, f"{task}.2", "")
        )
        assert (await resume(proxy, f"{task}.2", "bob"))[:2] == (404, "task_not_found")
        assert (await resume(proxy, f"{task}.2", app_key=OTHER_KEY))[:2] == (404, "task_not_found")
        assert (await resume(proxy, f"{task}.999999999999"))[:2] == (409, "event_not_reached")
        assert (await resume(proxy, f"{task}.2", body=BODY))[:2] == (422, "idempotency_key_reused")
        for last in (
            "1",
            "task.5",
            "-1",
            "9" * 4000,
            "../x",
            "",
            f"{task}",
            f"{task}.-1",
            f"{task}.1e3",
            f"{task.upper()}.1",
            f"{task}.2 x",
        ):
            assert (await resume(proxy, last))[:2] == (400, "invalid_event_id"), last
        reads = len(proxy.lines("recording.read"))
        places = [place for _ in range(rig.times(short=5, long=14)) for place in (0, 1, 2)]
        readers = [asyncio.create_task(resume(proxy, f"{task}.{place}")) for place in places]
        await proxy.logged("recording.read", reads + len(readers))
        go.set()
        for place, (status, _, said) in zip(places, await asyncio.gather(*readers), strict=True):
            assert (status, said) == (200, _events(task, place)), place
        for place in range(len(SEEN)):
            assert await resume(proxy, f"{task}.{place}") == (200, None, _events(task, place))
            status, _, said = await page(proxy, f"/tasks/{task}/events?after={place}")
            assert (status, said) == (200, _events(task, place))
        status, _, said = await page(proxy, f"/tasks/{task}/events", last_event_id=f"{task}.{len(SEEN)}")
        assert (status, said) == (204, b"")
        assert len(upstream.requests) == 1

        # More than is kept, in parts that are, each once its client has the one before: who is slower than that is told of a gap himself.
        parts = [asyncio.Event() for _ in range(5)]
        head, *rest = sse_answer([chunk(ANSWER + "x" * 1000) for _ in range(20 * len(parts))] + EVENTS)
        upstream.queue(
            [head, *(step for n, part in enumerate(parts) for step in (Wait(part), *rest[20 * n : 20 * n + 20])), *rest[100:]]
        )
        async with line(proxy.port) as client:
            await client.send(raw(b"x-user: ada", b"prefer: event-ids", body=STREAMED))
            for n, part in enumerate(parts, 1):
                part.set()
                while client.got.count(b"x" * 1000) < 20 * n:
                    assert await client.more()
            while b"[DONE]" not in client.got:
                assert await client.more()
        long = _NUMBER.findall(client.got)[0][0].decode()
        assert (await resume(proxy, f"{long}.1"))[:2] == (410, "recording_gap")
        assert (await page(proxy, f"/tasks/{long}/events"))[0] == 410
        reply = await told(proxy.port, request(b"last-event-id: 1", line=b"GET %b HTTP/1.1" % TARGET, body=b""))
        assert reply is not None
        assert reply.status == 405
        assert len(upstream.requests) == 2
        await charged(proxy, 2)
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, alone=True) as proxy:
        await proxy.begin_counting(upstream)
        assert (await resume(proxy, "1"))[:2] == (400, "not_recorded")
        assert len(upstream.requests) == 1
    return f"{len(readers)} resumed one stream at once, each at his place; billed once"


# ── B24 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@row(
    "B24",
    "ids of tasks guessed, polled by the thousand, asked for after a restart",
    "what is another's is the same 404 as what never was; 20 questions a second of one user, then 429 with `retry-after`, nobody else's; "
    "64 wait; over a restart ended ones stay with a key for the disk, running ones are `interrupted`; without it none is there",
)
async def tasks(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, rules=RULES, timeouts=PATIENT) as proxy:
        status, fields, _ = await ask(proxy, prefer="respond-async")
        assert status == 202
        task = fields["location"]
        status, _, said = await page(proxy, f"{task}?wait=20s")
        assert (status, orjson.loads(said)["status"]) == (200, "completed")

        guesses = [
            *(
                f"/tasks/{id}"
                for id in ("", "x", "task_1", "task_" + "0" * 32, f"{task[7:]}0", task[7:].upper(), f"{task[7:]}/x", "..%2fv1")
            ),
            *(task + part for part in ("", "/result", "/events", "/events?after=1", "?wait=1s", "/result/", "/")),
        ]
        told_of = {}
        for user in ("bob", "eve"):
            for path in guesses:
                for method in ("GET", "DELETE"):
                    status, _, body = await page(proxy, path, user, method=method)
                    told_of.setdefault((status, error_of(body)["code"]), set()).add(body)
        assert set(told_of) <= {(404, "task_not_found"), (404, "not_found"), (400, "bad_request")}, told_of.keys()
        assert len(told_of[404, "task_not_found"]) == 1, "one body for all"
        status, _, body = await page(proxy, task, app_key=OTHER_KEY)
        assert {body} == told_of[404, "task_not_found"]
        assert (await page(proxy, f"{task}/result"))[0] == 200
        polled = await _polled(rig, proxy, task)
        assert len(upstream.requests) == 1

        waits = await _waiting(proxy, upstream)
        assert len(upstream.requests) == 2
        await charged(proxy, 2)
    return f"{len(guesses)} guesses have one 404; {polled:,} polls: {waits}; {await restarted(rig)}"


async def _polled(rig: Rig, proxy: Proxy, task: str) -> int:
    """How often somebody asked who asks far too often; beside him, another one."""
    count = rig.times(short=600, long=20_000)
    sent = request(b"x-user: ada", line=b"GET %b HTTP/1.1" % task.encode(), body=b"")
    loop = asyncio.get_running_loop()
    began = loop.time()
    replies: list[Reply] = await told_each(proxy.port, [sent] * count)
    took_s = loop.time() - began
    answered = sum(reply.status == 200 for reply in replies)
    refused = [reply for reply in replies if reply.status != 200]
    assert {(reply.status, reply.code) for reply in refused} == {(429, "recording_limit_exceeded")}
    assert all(int(reply.fields["retry-after"]) >= 1 for reply in refused)
    assert answered <= 100 + 20 * (took_s + 1), f"{answered} in {took_s:.1f} s"
    assert (await page(proxy, task, "bob"))[0] == 404, "another one may ask"
    return count


async def _waiting(proxy: Proxy, upstream: FakeUpstream) -> str:
    """More wait for a task than may."""
    go = asyncio.Event()
    upstream.queue([Wait(go), *OK])
    _, fields, _ = await ask(proxy, user="cat", prefer="respond-async")
    calls = [asyncio.create_task(page(proxy, f"{fields['location']}?wait=30s", "cat")) for _ in range(80)]
    async with asyncio.timeout(20):
        while sum(call.done() for call in calls) < 16:
            await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
    go.set()
    statuses = sorted([status for status, _, _ in await asyncio.gather(*calls)])
    assert statuses == [200] * 64 + [429] * 16
    return "64 of 80 may wait"
