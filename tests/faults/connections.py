"""More connections than are good, and what those do that stay: rows B26 and B27."""

import asyncio
import os
import re
import resource
from pathlib import Path

from tests.fakes import FakeUpstream, UntilClosed, Wait
from tests.faults.guard import APP_KEY, MIB
from tests.faults.malformed import BODY, CANARY, OPENING, PATH, SOUND, post, request
from tests.faults.raw import Line, Reply, line, told
from tests.faults.rig import OK, PATIENT, STREAM, Proxy, Rig
from tests.faults.row import row
from tests.proxy.realtime.talks import COST_NANOUSD, answering
from tests.sockets import FakeSockets, RawSocket

_DESCRIPTORS = 256
_MOST = 80  # connections of clients with so many descriptors, as the README says
_STREAMED = post(PATH, b'{"stream":true,' + BODY[1:])


@row(
    "B26",
    "more connections than there are descriptors: idle ones, half heads, and calls",
    "at most 80 with 256 descriptors: idle ones make room, and where all are in use one more gets 503 with `retry-after`; "
    "what runs goes on, the admin port answers, nothing spins, all is well once some go",
)
async def crowded(rig: Rig) -> str:
    count = rig.times(short=600, long=10_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(count, (hard if hard != resource.RLIM_INFINITY else count * 4) - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 200)), hard))
    go = asyncio.Event()
    try:
        async with (
            FakeUpstream(default=OK) as upstream,
            rig.proxy(upstream, alone=True, timeouts=PATIENT, descriptors=_DESCRIPTORS, growth=8 * MIB) as proxy,
        ):
            head, first, *rest = STREAM
            upstream.queue([head, first, Wait(go), *rest])
            async with line(proxy.port) as running:
                await running.send(_STREAMED)
                await upstream.arrived()
                crowd = await _crowd(proxy.port, count)
                try:
                    spun = await _spun(proxy)
                    assert len(os.listdir(f"/proc/{proxy.pid}/fd")) < _DESCRIPTORS - 32, "none are left for upstreams"
                    assert await _open(proxy) <= _MOST
                    assert (await proxy.admin("/readyz"))[0] == 200
                    served = await _served(proxy.port)
                    turned = await _told(crowd)
                finally:
                    for caller in crowd:
                        caller.writer.transport.abort()
                full = await _full(proxy, upstream)
                go.set()
                streamed = await running.reply()
                assert streamed is not None
                assert streamed.body.endswith(b"data: [DONE]\n\n"), "what ran did not go on"
            assert (await _served(proxy.port)).status == served.status == 200
            assert not proxy.lines("fault.caught")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        f"{len(crowd):,} connections at a limit of {_DESCRIPTORS} descriptors, {turned} of them told 503; {spun * 100:.0f} % of a core; "
        f"with all in use, {full} of {full} told 503"
    )


async def _crowd(port: int, count: int) -> list[Line]:
    """Half of them say nothing, half begin a head."""
    found: list[Line] = []
    for _ in range(0, count, 50):
        made = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(50)), return_exceptions=True)
        found += [Line(*both) for both in made if not isinstance(both, BaseException)]
    for caller in found[::2]:
        await caller.send(SOUND["length"][:40])
    return found


async def _spun(proxy: Proxy) -> float:
    """The share of a processor that it uses with nothing to do."""
    used_s = _cpu_s(proxy)
    await asyncio.sleep(1.0)  # how much is used while nothing is asked is the fact that is waited for
    spun = _cpu_s(proxy) - used_s
    assert spun < 0.5, f"it used {spun:.2f} s of a second with nothing to do"
    return spun


def _cpu_s(proxy: Proxy) -> float:
    """Seconds of a processor that it has used."""
    fields = Path(f"/proc/{proxy.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def _open(proxy: Proxy) -> int:
    """Connections of clients, as it counts them."""
    _, text = await proxy.admin("/metrics")
    [count] = re.findall(r'^tollhouse_connections\{port="data"\} (\d+)', text, re.MULTILINE)
    return int(count)


async def _told(crowd: list[Line]) -> int:
    """How many were told 503. None of them was told anything else."""
    turned = 0
    for caller in crowd:
        while not caller.ended and await caller.more(within_s=0.001):
            pass
        if caller.got:
            reply = await caller.reply()
            assert reply is not None
            _polite(reply)
            turned += 1
    return turned


def _polite(reply: Reply) -> None:
    assert (reply.status, reply.code) == (503, "overloaded"), reply
    assert int(reply.fields["retry-after"]) >= 1
    assert reply.fields["connection"] == "close"


async def _served(port: int) -> Reply:
    """A call of a client that comes back, as SDKs do."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with line(port) as caller:
                    await caller.send(SOUND["length"])
                    reply = await caller.reply(within_s=2)
            except OSError:
                reply = None
            if reply is not None and reply.status != 503:
                return reply
            await asyncio.sleep(0.05)


async def _full(proxy: Proxy, upstream: FakeUpstream) -> int:
    """As many calls as there may be, and some more, which are told 503. How many those were."""
    more = 5
    async with asyncio.timeout(20):
        while await _open(proxy) > 1:
            await asyncio.sleep(0.02)
    began = len(upstream.requests)
    callers: list[Line] = []
    try:
        for number in range(_MOST - 1):
            upstream.queue([*STREAM[:2], UntilClosed()])
            callers.append(Line(*await asyncio.open_connection("127.0.0.1", proxy.port)))
            await callers[-1].send(_STREAMED)
            await upstream.arrived(began + number + 1)
        for _ in range(more):
            reply = await told(proxy.port, b"")
            assert reply is not None, "one too many was closed without a word"
            _polite(reply)
        assert (await proxy.admin("/readyz"))[0] == 200
        assert not any(caller.ended for caller in callers)
    finally:
        for caller in callers:
            caller.writer.transport.abort()
    return more


_SLOTS = 20
_SOCKET_RULES = f"""
- {{name: slots, match: {{paths: [/v1/realtime]}}, concurrency: {{calls: {_SLOTS}, by: user}}}}
- {{name: sized, match: {{paths: [/v1/realtime]}}, request_size: {{max: 64KiB}}}}
- {{name: purse, match: {{models: [gpt-realtime]}}, budget: {{usd: 0.02, per: month, by: user, when_spent: reject}}}}
"""
# Frames of a client, and with which code the session ends.
_FRAMES = (
    ("not masked", b"\x81\x02{}", 1002),
    ("not masked, and cut short", b"\x81\x7d" + CANARY, 1002),
    ("a reserved bit", b"\xc1\x82\0\0\0\0{}", 1002),
    ("a continuation of nothing", b"\x80\x82\0\0\0\0{}", 1002),
    ("no opcode", b"\x83\x82\0\0\0\0{}", 1002),
    ("a ping that is too long", b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126, 1002),
    ("larger than the policy lets pass", b"\x81\xff" + (65_537).to_bytes(8, "big") + b"\0\0\0\0", 1009),
    ("2^40 bytes", b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0" + CANARY, 1009),
    ("2^64 bytes", b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0", 1009),
    ("in pieces that come to too much", b"\x01\x81\0\0\0\0{" + (b"\0\xfe\x80\x00\0\0\0\0" + b" " * 32_768) * 3, 1009),
    ("not UTF-8", b"\x81\x82\0\0\0\0\xff\xfe", 1007),
)
_ELSEWHERE = (PATH, b"/v1/models", b"/v1/files", b"/v1/realtime/calls")


@row(
    "B27",
    "WebSockets: a flood, oversized and unmasked frames, turns beyond a budget, upgrades elsewhere",
    "as many sessions as `concurrency` lets, 429 for more; 1009 and 1002; a turn that the budget does not fit is refused by an "
    "event and reaches nobody; elsewhere no connection is upgraded",
)
async def websockets(rig: Rig) -> str:
    async with FakeSockets(answering()) as upstream:
        async with rig.proxy(upstream.url, rules=_SOCKET_RULES, timeouts=PATIENT, growth=16 * MIB) as proxy:
            await _elsewhere(proxy)
            assert not upstream.links
            await _early(proxy, upstream)
            try:
                await _ended_by(proxy, upstream)
                await proxy.begin()  # the first session loaded what it takes
                turns = await _metered(proxy, upstream)
                count = rig.times(short=100, long=2000)
                statuses = await _flooded(proxy, count)
            finally:
                while RawSocket.opened:
                    RawSocket.opened.pop().leave()
            assert not proxy.lines("fault.caught")
            lag_s = await proxy.lag_s()
    return (
        f"{len(_FRAMES)} frames ended their sessions; {turns} turns let through and the next refused; of {count} openings "
        f"{statuses.count(101)} let in; {2 * len(_ELSEWHERE)} refused elsewhere; the loop late by {lag_s * 1e3:g} ms at most"
    )


async def _elsewhere(proxy: Proxy) -> None:
    """Paths that take no session, and openings that are none."""
    for target in _ELSEWHERE:
        for method in (b"GET", b"POST"):
            reply = await told(proxy.port, request(*OPENING, line=b"%b %b HTTP/1.1" % (method, target), body=b"\x81\x05hello"))
            assert reply is not None
            assert reply.status in (400, 403, 405), reply
            assert b"hello" not in reply.body
    target = b"GET /v1/realtime?model=gpt-realtime HTTP/1.1"
    for sent in (
        request(*OPENING[:3], line=target, body=b""),
        request(*OPENING[:2], OPENING[3], line=target, body=b""),
        request(*OPENING, line=target.replace(b"GET", b"POST"), body=b""),
    ):
        reply = await told(proxy.port, sent)
        assert reply is not None
        assert reply.status in (400, 403, 405), reply


async def _early(proxy: Proxy, upstream: FakeSockets) -> None:
    """What comes before the upgrade is agreed to is nobody's, be it a frame or a call."""
    for number, body in enumerate((SOUND["length"], b"\x81\x82\0\0\0\0{}"), 1):
        reply = await told(proxy.port, request(*OPENING, line=b"GET /v1/realtime?model=gpt-realtime HTTP/1.1", body=body))
        assert reply is not None
        assert (reply.status, reply.code) == (400, "bad_request"), reply
        link = await upstream.linked(number)
        async with asyncio.timeout(20):
            await link.ended.wait()
        assert not link.raw


async def _session(proxy: Proxy, user: str) -> RawSocket:
    return await RawSocket.open(proxy.port, key=APP_KEY, headers={"x-user": user})


async def _ended_by(proxy: Proxy, upstream: FakeSockets) -> None:
    for name, frame, code in _FRAMES:
        known = len(upstream.links)
        client = await _session(proxy, "frames")
        assert client.status == 101
        link = await upstream.linked(known + 1)
        client.writer.write(frame)
        ending = await client.ending()
        assert ending.code == code, f"{name}: {ending}"
        assert CANARY.decode() not in ending.reason
        async with asyncio.timeout(20):
            await link.ended.wait()
        assert not any(CANARY in message or b"hello" in message for message in link.raw)
        client.leave()


async def _metered(proxy: Proxy, upstream: FakeSockets) -> int:
    """One turn after another until the budget does not fit the next. How many were answered."""
    known = len(upstream.links)
    client = await _session(proxy, "spender")
    link = await upstream.linked(known + 1)
    answered = 0
    while True:
        client.say({"type": "response.create", "event_id": f"mine-{answered}", "response": {"max_output_tokens": 50}})
        while (said := await client.told())["type"] not in ("error", "response.done"):
            pass
        if said["type"] == "error":
            break
        answered += 1
        assert answered * COST_NANOUSD <= 20_000_000, "more than the budget was let through"
    assert (said["error"]["code"], said["error"]["event_id"]) == ("budget_exceeded", f"mine-{answered}")
    assert sum(event["type"] == "response.create" for event in link.got) == answered, "what was refused reached the upstream"
    before = len(link.raw)
    client.say({"type": "input_audio_buffer.clear"})  # the session goes on
    await link.received(before + 1)
    assert link.got[-1] == {"type": "input_audio_buffer.clear"}
    client.leave()
    return answered


async def _flooded(proxy: Proxy, count: int) -> list[int]:
    """Sessions that are opened and kept, one after another. The status of each."""
    statuses: list[int] = []
    for _ in range(0, count, 50):
        opened = await asyncio.gather(*(_session(proxy, "flood") for _ in range(50)))
        statuses += [client.status for client in opened]
        for client in opened:
            if client.status != 101:
                client.leave()
    assert statuses.count(101) == _SLOTS
    assert set(statuses) == {101, 429}
    return statuses
