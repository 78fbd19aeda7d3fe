"""Row C5: less memory than is asked for.

The rule a reader could break: what is compared with the limit is the most that there was, as the system counted it, and not what there was
when somebody looked.
"""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson

from tests.fakes import FakeUpstream, Wait
from tests.faults.guard import MIB
from tests.faults.malformed import PATH, post, request
from tests.faults.raw import Line, Reply, line, told
from tests.faults.rig import CHAT, OK, PATIENT, STREAM, Proxy, Rig
from tests.faults.row import row

_LIMIT = 128 * MIB
_RULES = "- {name: sized, request_size: {max: 100MB}}"
_GROUPS = Path("/sys/fs/cgroup")


@row(
    "C5",
    "a memory limit of 128 MiB, many streams, and a burst of large bodies",
    "503 `overloaded` with `retry-after` before the limit is passed, 413 for what there never is room for; streams go on to their end; "
    "afterwards calls pass again",
)
async def short_of_memory(rig: Rig) -> str:
    seen = [await _burst(rig, env={"TOLLHOUSE_MEMORY_LIMIT": "128MiB"})]
    if not rig.short:
        with _group() as group:
            if group is None:
                seen.append("no cgroup can be made here")
            else:
                within = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
                seen.append(f"cgroup: {await _burst(rig, within=within)}, {_killed(group)} killed")
                assert _killed(group) == 0
    return "; ".join(seen)


async def _burst(rig: Rig, *, env: dict[str, str] | None = None, within: tuple[str, ...] = ()) -> str:
    streams, calls, size = rig.times(short=40, long=200), rig.times(short=60, long=400), MIB
    go = asyncio.Event()
    head, first, *rest = STREAM
    large = post(PATH, orjson.dumps({**CHAT, "messages": [{"role": "user", "content": "x" * size}]}))
    async with FakeUpstream(default=OK) as upstream:
        # Alone: a bystander's calls would be refused too.
        async with rig.proxy(
            upstream, alone=True, rules=_RULES, timeouts=PATIENT, env=env, within=within, growth=_LIMIT, limit_usd=5000.0
        ) as proxy:
            proxy.guard.forget_peak()
            running: list[Line] = []
            try:
                for _ in range(streams):
                    upstream.queue([head, first, Wait(go), *rest])
                    running.append(Line(*await asyncio.open_connection("127.0.0.1", proxy.port)))
                    await running[-1].send(post(PATH, orjson.dumps({**CHAT, "stream": True})))
                    await running[-1].more()
                    assert running[-1].got.startswith(b"HTTP/1.1 200 OK"), f"it did not begin: {running[-1].got[:500]!r}"
                told_of = Counter(_judged(reply) for reply in await _at_once(proxy, [large] * calls))
                peak = proxy.guard.unshared_peak()
                assert (await proxy.admin("/readyz"))[0] == 200
                assert set(told_of) == {200, 503}, told_of
                assert peak < _LIMIT, f"{peak / MIB:.0f} MiB at most"
                never = await told(proxy.port, request(b"content-length: 90000000", body=b""))
                assert never is not None
                assert (never.status, never.code) == (413, "request_too_large")
                assert b"no memory" in never.body
                go.set()
                for caller in running:
                    reply = await caller.reply()
                    assert reply is not None
                    assert reply.body.endswith(b"data: [DONE]\n\n"), "a stream that ran was not ended whole"
            finally:
                for caller in running:
                    caller.writer.transport.abort()
            async with asyncio.timeout(20):
                while (again := await _at_once(proxy, [large]))[0].status != 200:
                    assert _judged(again[0]) == 503
                    await asyncio.sleep(0.1)
            await proxy.logged("overload.ended")
            assert not proxy.lines("fault.caught")
    return (
        f"{calls} bodies of {size // MIB} MiB at once beside {streams} streams: {told_of[200]} times 200, {told_of[503]} times 503; "
        f"{peak / MIB:.0f} of 128 MiB at most; each stream whole"
    )


def _judged(reply: Reply) -> int:
    if reply.status != 200:
        assert (reply.status, reply.code) == (503, "overloaded"), reply
        assert int(reply.fields["retry-after"]) >= 1
        assert 1000 <= int(reply.fields["retry-after-ms"]) <= 20_000
    return reply.status


async def _at_once(proxy: Proxy, requests: list[bytes]) -> list[Reply]:
    """The answers to requests that are all sent at the same time, each over a connection of its own. Who is refused sends no more."""

    async def one(data: bytes) -> Reply:
        async with line(proxy.port) as caller:
            sending = asyncio.create_task(caller.send(data))
            try:
                reply = await caller.reply()
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            assert reply is not None, "it was closed without a word"
            return reply

    return await asyncio.gather(*(one(data) for data in requests))


@contextlib.contextmanager
def _group() -> Iterator[Path | None]:
    """A control group with the limit, of either version, or None where none can be made."""
    second = (_GROUPS / "cgroup.controllers").exists()
    group = _GROUPS / ("" if second else "memory") / f"tollhouse-faults-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        (group / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(_LIMIT))
    except OSError:
        group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def _killed(group: Path) -> int:
    """How often the system killed for want of memory."""
    for name in ("memory.events", "memory.oom_control"):
        if (group / name).exists():
            fields = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(fields.get("oom_kill", 0))
    return 0
