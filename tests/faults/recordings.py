"""Recorded calls, and what can be tried with their keys, ids and places: rows B16, B17, B23 and B24.

The rule a reader could break: each row also tries what it tries where no policy records, or as somebody else.
"""

import asyncio
import re
import secrets
from collections import Counter

import orjson

from tests.fakes import FakeUpstream, UntilClosed, Wait
from tests.faults.guard import APP_KEY, MIB
from tests.faults.malformed import PATH, get, post
from tests.faults.raw import Reply, told, told_each
from tests.faults.rig import CHAT, EVENTS, OK, PATIENT, STREAM, Proxy, Rig
from tests.faults.row import row

_TOTAL = MIB
_RULES = f"- {{name: recorded, record: {{for: 10m, max_bytes: 256KiB, max_total: {_TOTAL >> 10}KiB, running: 16}}}}"
_BODY = orjson.dumps(CHAT)
_STREAMED = orjson.dumps({**CHAT, "stream": True})
_ID = re.compile(rb"^id: (\S+)$", re.MULTILINE)
# Of a process that loads what records with the first call that wants it.
_LOADED = 16 * MIB


async def _told(proxy: Proxy, data: bytes) -> Reply:
    reply = await told(proxy.port, data)
    assert reply is not None
    return reply


def _keyed(key: bytes, *, body: bytes = _BODY, user: bytes = b"ada", more: tuple[bytes, ...] = ()) -> bytes:
    return post(PATH, body, b"idempotency-key: " + key, b"x-user: " + user, *more)


@row(
    "B16",
    "Idempotency-Key: in flight, done, with another body, from another user, 1 MB long, with a line break, where nothing is recorded",
    "joined, replayed, 422, a call of its own, 431, 400, passed over; one call upstream and on the bill for each key",
    tests=("tests/whole/test_recorded.py",),
)
async def idempotency_keys(rig: Rig) -> str:
    at_once = rig.times(short=8, long=60)
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        async with rig.proxy(upstream, rules=_RULES, timeouts=PATIENT, growth=_LOADED) as proxy:
            upstream.queue([Wait(go), *OK])
            asked = [asyncio.create_task(_told(proxy, _keyed(b"k"))) for _ in range(at_once)]
            await upstream.arrived()
            await proxy.logged("recording.read", at_once - 1)
            other = await _told(proxy, _keyed(b"k", body=orjson.dumps({**CHAT, "max_tokens": 9})))
            assert (other.status, other.code) == (422, "idempotency_key_reused"), "while it runs"
            go.set()
            answers = [*await asyncio.gather(*asked), await _told(proxy, _keyed(b"k")), await _told(proxy, _keyed(b'"k"'))]
            assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
            assert sum("idempotent-replayed" in answer.fields for answer in answers) >= 2
            other = await _told(proxy, _keyed(b"k", body=orjson.dumps({**CHAT, "max_tokens": 9})))
            assert (other.status, other.code) == (422, "idempotency_key_reused"), "when it has ended"
            assert len(upstream.requests) == 1
            bob = await _told(proxy, _keyed(b"k", user=b"bob"))
            assert (bob.status, len(upstream.requests)) == (200, 2), "another user's key is another key"
            assert all(sent.header("idempotency-key") is None for sent in upstream.requests)
            for broken, status, code in (
                (b"a\r\nidempotency-key: b", 400, "bad_request"),
                (b"a" * MIB, 431, "head_too_large"),
                (b"a" * 4000, 400, "invalid_idempotency_key"),
                (b"", 400, "invalid_idempotency_key"),
                (b"\xc3\xa9", 400, "invalid_idempotency_key"),
                (b"a\rb", 400, "bad_request"),
                (b"a\0b", 400, "bad_request"),
            ):
                reply = await _told(proxy, _keyed(broken))
                assert (reply.status, reply.code) == (status, code), (broken[:20], reply)
            assert len(upstream.requests) == 2
            assert sum(line["cost_nanousd"] > 0 for line in await proxy.call_lines(at_once + 5)) == 2
        async with rig.proxy(upstream) as proxy:  # under a policy that records nothing
            for _ in range(2):
                assert "idempotent-replayed" not in (await _told(proxy, _keyed(b"k"))).fields
            assert len(upstream.requests) == 4
            assert upstream.requests[-1].header("idempotency-key") is None
    return f"{at_once + 2} calls with one key are one call; 7 keys that are none refused; where nothing is recorded each is a call"


@row(
    "B17",
    "filling the store of idempotency keys and tasks",
    "what ended is forgotten, the longest unread first, within `max_total`; what runs never; 429 beyond `running`; no more memory",
)
async def key_flood(rig: Rig) -> str:
    count, running = rig.times(short=1000, long=50_000), 16
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        async with rig.proxy(upstream, rules=_RULES, timeouts=PATIENT, growth=_LOADED, limit_usd=5000.0) as proxy:
            upstream.queue([Wait(go), *OK])
            first = asyncio.create_task(_told(proxy, _keyed(b"runs")))
            await upstream.arrived()
            replies = await told_each(proxy.port, [_keyed(b"warm-%d" % n) for n in range(500)])
            before, disk = proxy.guard.rss(), proxy.disk()
            replies += await told_each(proxy.port, [_keyed(b"key-%d" % n) for n in range(count)])
            assert {reply.status for reply in replies} == {200}
            _, metrics = await proxy.admin("/metrics")
            [held] = re.findall(r"^tollhouse_recorded_bytes (\S+)$", metrics, re.MULTILINE)
            assert float(held) <= _TOTAL, f"{held} bytes of recordings"
            grown = proxy.guard.rss() - before
            assert grown < 4 * _TOTAL, f"{grown / MIB:.1f} MiB more"
            assert proxy.disk() - disk < 4 * MIB + count * 400, "beside the lines of the journal something is written"
            again = asyncio.create_task(_told(proxy, _keyed(b"runs")))
            await proxy.logged("recording.read")
            tasks = []
            for _ in range(running - 1):
                upstream.queue([UntilClosed()])
                tasks.append(await _task(proxy, b"ada"))
            over = await _told(proxy, post(PATH, _BODY, b"prefer: respond-async", b"x-user: ada"))
            assert (over.status, over.code) == (429, "recording_limit_exceeded")
            go.set()
            assert (await first).body == (await again).body, "what ran was forgotten"
            for place in tasks:
                await _of_task(proxy, place, method=b"DELETE")
    return f"{count:,} keys: {float(held) / MIB:.2f} of {_TOTAL / MIB:.0f} MiB of recordings, {grown / MIB:.1f} MiB more memory"


async def _task(proxy: Proxy, user: bytes) -> bytes:
    """A call that is not waited for: where it is."""
    reply = await _told(proxy, post(PATH, _BODY, b"prefer: respond-async", b"x-user: " + user))
    assert reply.status == 202, reply
    return reply.fields["location"].encode()


async def _of_task(proxy: Proxy, place: bytes, *fields: bytes, method: bytes = b"GET", user: bytes = b"ada") -> Reply:
    """What a page of tasks says, once it says anything but to ask less often."""
    async with asyncio.timeout(20):
        while (reply := await _told(proxy, get(place, b"x-user: " + user, *fields, method=method))).status == 429:
            await asyncio.sleep(0.05)
    return reply


def _resumed(last: bytes, *, user: bytes = b"ada") -> bytes:
    return post(PATH, _STREAMED, b"last-event-id: " + last, b"prefer: event-ids", b"x-user: " + user)


@row(
    "B23",
    "resuming with a Last-Event-ID that is wrong, beyond the end or somebody else's, and by two at once",
    "400, 404 or 409, and 400 where nothing is recorded; nobody else's is told from none; who may gets each event once; billed once",
)
async def resuming(rig: Rig) -> str:
    count, readers = rig.times(short=50, long=1000), rig.times(short=4, long=40)
    go = asyncio.Event()
    head, first, *rest = STREAM
    async with FakeUpstream(default=OK) as upstream:
        async with rig.proxy(upstream, rules=_RULES, timeouts=PATIENT, growth=_LOADED) as proxy:
            upstream.queue([head, first, Wait(go), *rest])
            asked = asyncio.create_task(_told(proxy, _keyed(b"k", body=_STREAMED, more=(b"prefer: event-ids",))))
            await upstream.arrived()
            go.set()
            whole = (await asked).body
            ids = _ID.findall(whole)
            assert len(ids) == len(EVENTS) - 1, "each but the usage, which it did not ask for"
            for number, id in enumerate(ids[:-1]):
                behind = whole[whole.index(b"id: " + ids[number + 1]) :]
                replies = await asyncio.gather(*(_told(proxy, _resumed(id)) for _ in range(readers)))
                assert {(reply.status, reply.body) for reply in replies} == {(200, behind)}, f"behind event {number + 1}"
            recording, _, _ = ids[0].rpartition(b".")
            for wrong in (b"1", b"a.b", b"-1", b"9" * 4000, b"../x", b"a", recording, recording + b".-1", recording + b".1x"):
                reply = await _told(proxy, _resumed(wrong))
                assert (reply.status, reply.code) == (400, "invalid_event_id"), (wrong[:40], reply)
            beyond = await _told(proxy, _resumed(recording + b".999999"))
            assert (beyond.status, beyond.code) == (409, "event_not_reached")
            foreign = await _told(proxy, _resumed(ids[0], user=b"bob"))
            none = await _told(proxy, _resumed(_like(recording) + b".1"))
            assert (foreign.status, foreign.body) == (none.status, none.body), "that it is somebody else's shows"
            assert (none.status, none.code) == (404, "task_not_found")
            guesses = [_resumed(_like(recording) + b".1") for _ in range(count)]
            assert {(reply.status, reply.body) for reply in await told_each(proxy.port, guesses)} == {(404, none.body)}
            assert len(upstream.requests) == 1
            lines = await proxy.call_lines(1 + readers * (len(ids) - 1))
            assert sum(line["cost_nanousd"] > 0 for line in lines) == 1
        async with rig.proxy(upstream) as proxy:  # under a policy that records nothing
            reply = await _told(proxy, _resumed(ids[0]))
            assert (reply.status, reply.code) == (400, "not_recorded")
            assert len(upstream.requests) == 1
    return (
        f"{readers} at once behind each of {len(ids) - 1} events; {count + 12} other ids refused; one call upstream and on the bill"
    )


def _like(id: bytes) -> bytes:
    """Another id of the same form."""
    prefix, _, random = id.rpartition(b"_")
    return (prefix + b"_" if prefix else b"") + secrets.token_hex(len(random))[: len(random)].encode()


@row(
    "B24",
    "ids of tasks guessed, polled by the thousand, asked for by others, in odd places",
    "128 random bits; one 404 for what is not there and what is another's; 429 for who asks too often; 404 where nothing is recorded",
)
async def tasks(rig: Rig) -> str:
    count = rig.times(short=200, long=10_000)
    async with FakeUpstream(default=OK) as upstream:
        async with rig.proxy(upstream, rules=_RULES, timeouts=PATIENT, growth=_LOADED) as proxy:
            upstream.queue([UntilClosed()])
            place = await _task(proxy, b"ada")
            id = place.removeprefix(b"/tasks/")
            assert len(id.rpartition(b"_")[2]) >= 22, id
            unknown = await _of_task(proxy, b"/tasks/" + _like(id))
            assert (unknown.status, unknown.code) == (404, "task_not_found")
            for odd in (b"/..", b"/x", b"x", b"%2fresult", b"/result/", b"/events/..", b";a"):
                reply = await _of_task(proxy, place + odd)
                assert reply.status in (400, 404), (odd, reply)
            for method in (b"GET", b"DELETE"):
                reply = await _of_task(proxy, place, method=method, user=b"bob")
                assert (reply.status, reply.body) == (404, unknown.body), "that it is somebody else's shows"
            polled = Counter(reply.status for reply in await told_each(proxy.port, [get(place, b"x-user: ada")] * count))
            assert set(polled) == {200, 429}, polled
            guessed = Counter(
                (reply.status, reply.code)
                for reply in await told_each(proxy.port, [get(b"/tasks/" + _like(id), b"x-user: eve") for _ in range(count)])
            )
            assert set(guessed) == {(404, "task_not_found"), (429, "recording_limit_exceeded")}, guessed
            keyless = get(place, b"x-user: ada").replace(b"authorization: Bearer " + APP_KEY.encode() + b"\r\n", b"")
            assert (await _told(proxy, keyless)).code == "missing_api_key"
            running = await _of_task(proxy, place)
            assert orjson.loads(running.body)["status"] == "running"
            cancelled = await _of_task(proxy, place, method=b"DELETE")
            assert orjson.loads(cancelled.body)["status"] == "cancelled"
            async with asyncio.timeout(10):
                await upstream.requests[0].closed_early.wait()
            assert len(upstream.requests) == 1
        async with rig.proxy(upstream) as proxy:  # under a policy that records nothing
            replies = await told_each(
                proxy.port, [get(b"/tasks/task_1", method=method) for method in (b"GET", b"DELETE")] + [get(place)]
            )
            assert {(reply.status, reply.code) for reply in replies} == {(404, "task_not_found")}
            reply = await _told(proxy, post(PATH, _BODY, b"prefer: respond-async, wait=1"))
            assert reply.status == 200
            assert "location" not in reply.fields
    return f"{count} guesses not told from what is another's; of {count} polls at once {polled[429]} times 429"
