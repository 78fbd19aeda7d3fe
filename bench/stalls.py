"""The longest time for which Tollhouse's event loop was held, while it does what could hold it: a full scrape, a reload, a 1 MB prompt.

A Tollhouse of its own, under `bench.watched`, with a policy file of many keys, models and policies. Calls fill its metrics to their
bounds first. Streams run meanwhile, and like every answer they are compared.
"""

import asyncio
import hashlib
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import wire
from bench.lineup import Lineup
from bench.listeners import Listeners
from bench.load import Load
from bench.report import Report
from bench.subject import Failed, Subject, free_port

# As many as fill the families that grow with them: calls by model and key, cost by both, tokens by model, first tokens by model.
_KEYS, _MODELS, _POLICIES = 4, 300, 198
_STREAMED_MODELS = 40
_LEAST_SERIES = 3500
_BACKGROUND = wire.Stream(130, 0.02)  # 2.6 s, about as long as the phases take on a machine at rest
_BACKGROUND_STREAMS = 20
_LARGE_BYTES = 1_000_000
_PATIENCE_S = 15.0


async def round_of_stalls(lineup: Lineup, *, folder: Path, report: Report) -> None:
    policy, stalls, admin_port = folder / "many.yaml", folder / "stalls.jsonl", free_port()
    policy.write_text(_policy(cap=1024))
    stalls.unlink(missing_ok=True)
    with lineup.watched(policy, admin_port=admin_port, stalls=stalls) as subject:
        await subject.first_200(wire.request(subject.port, prompt_bytes=100, capped=True, model=_model(0), key=_key(0)))
        await _fill(subject, report)
        background = asyncio.create_task(_listen(subject, report))
        await asyncio.sleep(0.3)

        async def scrape() -> None:
            for _ in range(4):
                report.series = await _scrape(admin_port)

        async def reload() -> None:
            before = await _version(subject)
            policy.write_text(_policy(cap=1000))
            async with asyncio.timeout(_PATIENCE_S):
                while await _version(subject) == before:  # noqa: ASYNC110 - another process's doing
                    await asyncio.sleep(0.1)

        async def large() -> None:
            requests = _large(subject.port)
            async with Load(subject.port, requests, expected=wire.REPLY, clients=1) as load:
                await load.volley(6)
                report.compared(load.calls, load.body_bytes)

        await _phase(subject, stalls, lambda: asyncio.sleep(0))  # what came before, which is not looked at
        phases = {"none": lambda: asyncio.sleep(0.5), "scrape": scrape, "reload": reload, "large": large}
        seen = {name: await _phase(subject, stalls, work) for name, work in phases.items()}
        await background
    for kind in ("cpu", "wall"):
        by_phase = {f"stall_{name}_{kind}_ms": longest[f"{kind}_ms"] for name, longest in seen.items()}
        report.add(subject.name, {f"stall_{kind}_ms": max(by_phase.values()), **by_phase})
    if report.series < _LEAST_SERIES:
        raise Failed(f"the scrape had {report.series} series, fewer than the {_LEAST_SERIES} that fill the metrics")


async def _phase(subject: Subject, stalls: Path, work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """Do the work. Returns the longest stall in it, milliseconds."""
    await work()
    before = _lines(stalls)
    subject.signal(signal.SIGUSR1)
    async with asyncio.timeout(_PATIENCE_S):
        while len(lines := _lines(stalls)) == len(before):  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.01)
    longest: dict[str, float] = json.loads(lines[-1])
    return longest


def _lines(path: Path) -> list[str]:
    """The whole ones."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def _fill(subject: Subject, report: Report) -> None:
    plain = [
        wire.request(subject.port, prompt_bytes=100, capped=False, model=_model(m), key=_key(k))
        for m in range(_MODELS)
        for k in range(_KEYS)
    ]
    one = wire.Stream(1, 0.001)
    streamed = [
        wire.request(subject.port, prompt_bytes=100, capped=True, stream=one, model=_model(m), key=_key(0))
        for m in range(_STREAMED_MODELS)
    ]
    for requests, expected, clients in ((plain, wire.REPLY, 16), (streamed, one.expected, 8)):
        async with Load(subject.port, requests, expected=expected, clients=clients) as load:
            await load.volley(-(-len(requests) // clients))
            report.compared(load.calls, load.body_bytes)


async def _listen(subject: Subject, report: Report) -> None:
    requests = tuple(
        wire.request(subject.port, prompt_bytes=1000, capped=True, stream=_BACKGROUND, model=_model(m), key=_key(m % _KEYS))
        for m in range(_BACKGROUND_STREAMS)
    )
    async with Listeners(subject.port, requests, expected=_BACKGROUND.expected, streams=_BACKGROUND_STREAMS) as listeners:
        await listeners.begin(apart_s=0.005)
        await listeners.end(patience_s=60)
        (whole,) = listeners.check()
        report.compared(_BACKGROUND_STREAMS, whole)


def _large(port: int) -> list[bytes]:
    return [wire.request(port, prompt_bytes=_LARGE_BYTES, capped=capped, model=_model(0), key=_key(0)) for capped in (True, False)]


async def _scrape(port: int) -> int:
    """How many series it showed."""
    text = await _ask(port, b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n", whole=True)
    head, _, body = text.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise Failed(f"/metrics answered {head[:200]!r}")
    return sum(bool(line) and not line.startswith(b"#") for line in body.splitlines())


async def _version(subject: Subject) -> bytes:
    """The policy version that an answer names."""
    request = wire.request(subject.port, prompt_bytes=100, capped=True, model=_model(0), key=_key(0))
    head = (await _ask(subject.port, request, whole=False)).partition(b"\r\n\r\n")[0].lower()
    return head.partition(b"\r\ntollhouse-policy:")[2].partition(b"\r\n")[0].strip()


async def _ask(port: int, request: bytes, *, whole: bool) -> bytes:
    """A call on a connection of its own. whole: the answer ends with the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(_PATIENCE_S):
            return await (reader.read() if whole else reader.readuntil(b"\r\n\r\n"))
    finally:
        writer.transport.abort()


def _key(number: int) -> str:
    return f"sk-bench-{number:024d}"


def _model(number: int) -> str:
    return f"model-{number:03d}"


def _policy(*, cap: int) -> str:
    """A large policy file. All but the first of its policies are for a key that never calls."""
    keys = [f"  - {{id: key-{k}, hash: 'sha256:{hashlib.sha256(_key(k).encode()).hexdigest()}'}}" for k in range(_KEYS)]
    tags = ", ".join(f"team-{n:03d}" for n in range(_POLICIES))
    keys.append(f"  - {{id: silent, hash: 'sha256:{hashlib.sha256(b'silent').hexdigest()}', tags: [{tags}]}}")
    models = [f"    {_model(m)}: {{input: 0.1, output: 0.2}}" for m in range(_MODELS)]
    teams = [
        f"  - {{name: team-{n:03d}, match: {{tags: [team-{n:03d}]}}, max_tokens: {{cap: 900}}, budget: {{usd: 10, per: day}}}}"
        for n in range(_POLICIES)
    ]
    everyone = (
        f"  - {{name: everyone, max_tokens: {{cap: {cap}}}, rate_limit: {{requests: 10000000, per: minute}}, "
        "concurrency: {calls: 100000}, request_size: {max: 16MiB}, budget: {usd: 1000000, per: day}}"
    )
    return "\n".join(["version: 1", "keys:", *keys, "prices:", "  models:", *models, "policies:", everyone, *teams, ""])
