"""What is not built yet, and must stay harmless until it is: rows B23 and B24."""

import orjson

from tests.fakes import FakeUpstream
from tests.faults.malformed import PATH, get
from tests.faults.raw import Reply, told, told_each
from tests.faults.rig import CHAT, KEY, OK, Rig
from tests.faults.row import row


@row(
    "B23",
    "resuming with a Last-Event-ID that is wrong, old or somebody else's",
    "not built yet: it is passed over and stays here, nothing is resumed, a POST is a new call, and billed",
)
async def resuming(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        ids = ("1", "task.5", "-1", "9" * 4000, "../x", "")
        for last in ids:
            status, headers, _ = await proxy.post(
                PATH.decode(), orjson.dumps(CHAT), {**KEY, "last-event-id": last, "prefer": "event-ids"}
            )
            assert status == 200
            assert upstream.requests[-1].header("last-event-id") is None
            assert upstream.requests[-1].header("prefer") is None
            assert "preference-applied" not in headers
        assert len(upstream.requests) == len(ids)
        assert sum(line["cost_nanousd"] > 0 for line in await proxy.call_lines(len(ids))) == len(ids)
        reply = await told(proxy.port, get(PATH, b"last-event-id: 1"))
        assert reply is not None
        assert reply.status == 405
    return f"{len(ids)} ids passed over, {len(ids)} calls billed"


@row(
    "B24",
    "ids of tasks guessed, polled by the thousand, asked for after a restart",
    "not built yet: a path below /tasks is 404 for every id and method, and `Prefer: respond-async` is passed over",
)
async def tasks(rig: Rig) -> str:
    count = rig.times(short=300, long=10_000)
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        replies: list[Reply] = []
        for path in (b"/tasks", b"/tasks/task_1", b"/tasks/task_1/result", b"/tasks/task_1/events", b"/tasks/..%2fv1"):
            replies += await told_each(
                proxy.port, [get(path, b"last-event-id: 1", method=method) for method in (b"GET", b"DELETE", b"PUT")]
            )
        replies += await told_each(proxy.port, [get(b"/tasks/task_%d" % n) for n in range(count)])
        assert {(reply.status, reply.code) for reply in replies} == {(404, "not_found")}
        assert len({reply.body for reply in replies}) <= 2
        assert upstream.received_bytes == 0
        status, headers, _ = await proxy.post(PATH.decode(), orjson.dumps(CHAT), {**KEY, "prefer": "respond-async, wait=1"})
        assert status == 200
        assert "location" not in headers
    return f"{len(replies):,} times 404"
