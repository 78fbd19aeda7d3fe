"""Windows of streams: paced ones with what an event costs and how long a first token takes, and streams that run flat out.

The rule a reader could break: a window counts only if every event that was due in it came in it. One that fell behind is measured
again, and a machine that cannot keep up at all ends the run, for CPU time over events that came late would mean nothing.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import wire
from bench.lineup import Lineup, hello
from bench.listeners import Listeners
from bench.load import Load
from bench.plan import FLAT_OUT_STREAMS, Plan, Show
from bench.report import Report, percentiles
from bench.subject import Failed, Subject

_TRIES = 4
_SLACK = 0.1  # of the events due, and at least one of each stream: both ends of a window cut through their pace
_PROBE = wire.Stream(1, 0.001)
_PROBE_GAP_S = 0.003
_PATIENCE_S = 30.0
_PROMPT_BYTES = 1000


class Behind(Failed):
    """The machine did not carry the window."""


@dataclass(frozen=True, slots=True)
class _Seen:
    event_us: float
    rss_mib: float
    first_ns: list[int]


async def round_of_streams(subjects: Sequence[Subject], mock: Subject, *, plan: Plan, report: Report) -> None:
    """Every show but the crowd, then the streams that run flat out."""
    for show in plan.shows:
        at = show.streams
        base_p50, base_p99 = percentiles((await _window(mock, replace(show, window_s=0.1), report)).first_ns)
        for subject in subjects:
            seen = await _window(subject, show, report)
            p50, p99 = percentiles(seen.first_ns)
            report.add(subject.name, {f"event_{at}_us": seen.event_us, f"first_p50_{at}_us": p50, f"first_p99_{at}_us": p99})
            report.add(subject.name, {f"first_added_p50_{at}_us": p50 - base_p50, f"first_added_p99_{at}_us": p99 - base_p99})
    for subject in subjects:
        await _flat_out(subject, plan.flat_out_events, report)


async def round_of_crowds(lineup: Lineup, show: Show, *, report: Report) -> None:
    """The largest show, on processes that have just started: memory freed by earlier rounds would hide what a stream takes."""
    for name in lineup.names:
        with lineup.start(name) as subject:
            await subject.first_200(hello(subject))
            calls = wire.calls(subject.port, prompt_bytes=_PROMPT_BYTES)
            async with Load(subject.port, calls, expected=wire.REPLY, clients=8) as load:
                await load.volley(25)  # so that what a process takes once is not taken for the streams'
                report.compared(load.calls, load.body_bytes)
            before = subject.rss_mib()
            seen = await _window(subject, show, report)
            each_kib = (seen.rss_mib - before) * 1024 / show.streams
            report.add(name, {f"event_{show.streams}_us": seen.event_us, "stream_rss_kib": each_kib})


async def _window(subject: Subject, show: Show, report: Report) -> _Seen:
    """Errors: Behind, when no try was carried."""
    for _ in range(_TRIES - 1):
        try:
            return await _try(subject, show, report)
        except Behind:
            report.behind += 1
    return await _try(subject, show, report)


async def _try(subject: Subject, show: Show, report: Report) -> _Seen:
    """One window in which all streams run, and the probes after it. Errors: Behind, BadReply."""
    stream = show.stream
    requests = wire.calls(subject.port, prompt_bytes=_PROMPT_BYTES, stream=stream)
    async with Listeners(subject.port, requests, expected=stream.expected, streams=show.streams) as listeners:
        await listeners.begin(apart_s=show.apart_s)
        await asyncio.sleep(show.settle_s)
        listeners.mark()
        cpu_s, begun = subject.cpu_s(), time.perf_counter()
        await asyncio.sleep(show.window_s)
        listeners.mark()
        cpu_s, took_s = subject.cpu_s() - cpu_s, time.perf_counter() - begun
        rss_mib = subject.rss_mib()
        first_ns = await _probe(subject, show.probe_s, report) if show.probe_s else []
        ended = listeners.ended
        await listeners.end(patience_s=_PATIENCE_S)
        before, after, whole = listeners.check()
    report.compared(show.streams, whole)
    events, due = (after - before) / len(wire.EVENT), show.streams * took_s / show.pace_s
    if ended:
        raise Behind(f"{subject.name}: {ended} of {show.streams} streams ended before the window did: the machine is too slow")
    if abs(events - due) > max(_SLACK * due, show.streams):
        raise Behind(f"{subject.name}: {events:.0f} events came where {due:.0f} were due: the machine is too slow")
    return _Seen(cpu_s / events * 1e6, rss_mib, first_ns)


async def _probe(subject: Subject, during_s: float, report: Report) -> list[int]:
    """First tokens: one more client asks for a short stream again and again, while the others run. Nanoseconds each."""
    requests = wire.calls(subject.port, prompt_bytes=_PROMPT_BYTES, stream=_PROBE)
    until = time.perf_counter() + during_s
    async with Load(subject.port, requests, expected=_PROBE.expected, clients=1) as load:
        while time.perf_counter() < until:
            await load.volley()
            await asyncio.sleep(_PROBE_GAP_S)
        report.compared(load.calls, load.body_bytes)
        return load.first_ns


async def _flat_out(subject: Subject, events: int, report: Report) -> None:
    """From the first request to the end of the last stream."""
    stream = wire.Stream(events, 0)
    requests = wire.calls(subject.port, prompt_bytes=_PROMPT_BYTES, stream=stream)
    async with Listeners(subject.port, requests, expected=stream.expected, streams=FLAT_OUT_STREAMS) as listeners:
        cpu_s, begun = subject.cpu_s(), time.perf_counter()
        await listeners.begin(apart_s=0)
        took_s = await listeners.end(patience_s=_PATIENCE_S) - begun
        cpu_s = subject.cpu_s() - cpu_s
        (whole,) = listeners.check()
    report.compared(FLAT_OUT_STREAMS, whole)
    total = events * FLAT_OUT_STREAMS
    report.add(subject.name, {"flat_out_events_s": total / took_s, "flat_out_event_us": cpu_s / total * 1e6})
    report.flat_out_busy(subject.name, cpu_s / took_s)
