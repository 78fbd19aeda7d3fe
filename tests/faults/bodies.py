"""Faults of an upstream's body: rows A7 to A14, A21 and A24."""

import asyncio
import gzip
import json
import random
import time
import zlib
from collections import Counter
from typing import Any

import orjson

from proxy.wire.meter import MOST_EVENT_BYTES, MOST_WHOLE_BYTES
from tests.fakes import Abort, Close, FakeUpstream, Send, Step, UntilClosed, Wait, json_answer, sse_answer
from tests.faults.caller import Caller, Said
from tests.faults.cuts import CUTS
from tests.faults.guard import ANSWER, MIB
from tests.faults.rig import CHAT, EVENTS, PATH, PATIENT, STREAM, Rig
from tests.faults.row import row
from tests.faults.sdks import lived_through
from tests.faults.severed import Severing, sever
from tests.faults.streams import spelled
from tests.house import error_of
from tests.whole.conversation import chunk

_STREAMED = orjson.dumps({**CHAT, "stream": True, "stream_options": {"include_usage": True}})
_WHOLE = orjson.dumps(CHAT)
_IN_NANOUSD, _OUT_NANOUSD = 400, 1600  # a token of gpt-4.1-mini
_LATE_S = 0.5  # how much later than a deadline its answer may come


def _last_error(said: Said) -> dict[str, Any]:
    """What the last event of a stream says went wrong; what came before must be whole events, and no end of a stream among them."""
    assert said.whole, "the framing of the answer broke"
    assert b"[DONE]" not in said.body
    last = said.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    last = b"\n".join(line for line in last.split(b"\n") if not line.startswith(b":"))
    assert last.startswith(b"data: "), last[:100]
    return dict(json.loads(last[6:])["error"])


def _json_cut(size: int, framing: str) -> bytes:
    body = orjson.dumps({"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER + "x" * size}}]})
    line = {"chunked": "transfer-encoding: chunked", "length": f"content-length: {len(body)}", "close": "connection: close"}[
        framing
    ]
    body = body[:-10]
    framed = b"%x\r\n%b\r\n" % (len(body), body) if framing == "chunked" else body
    return f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{line}\r\n\r\n".encode() + framed


@row(
    "A7",
    "a JSON answer cut short",
    "502 while nothing was sent, else a broken connection; billed as held, for nobody saw all of it",
)
async def json_cut_short(rig: Rig) -> str:
    seen: Counter[str] = Counter()
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=PATIENT, growth=8 * MIB) as proxy:
        await proxy.begin_counting(upstream)
        for size in (0, 1000, 3 * MOST_WHOLE_BYTES):
            for framing in ("chunked", "length", "close"):
                if size > MOST_WHOLE_BYTES and framing == "close":
                    continue  # whose end is its connection's: there is nothing by which anybody could tell
                for end in (Close(), Abort()):
                    upstream.queue([Send(_json_cut(size, framing)), end])
                    async with Caller(proxy.port) as caller:
                        said = await caller.post(PATH, _WHOLE)
                    if size < MOST_WHOLE_BYTES or said.status != 200:  # a reset may overtake what was sent before it
                        assert (said.status, error_of(said.body)["code"]) == (502, "upstream_broken"), (size, framing, end)
                        assert ANSWER.encode() not in said.body
                        seen["502"] += 1
                    else:
                        assert not said.whole, (size, framing, end)
                        seen["broken connection"] += 1
        lines = (await proxy.call_lines(1 + sum(seen.values())))[1:]
        assert {line["outcome"] for line in lines} == {"upstream_broken"}
        assert {(line["usage_source"], line["output_tokens"]) for line in lines} == {("estimated", CHAT["max_tokens"])}
        assert all(line["input_tokens"] > 0 for line in lines)
    return ", ".join(f"{count} × {what}" for what, count in seen.items())


@row(
    "A8",
    "a stream cut after 0, 1 and many events: between events, within one, by a reset; chunked, with a length, to the end",
    "the whole events that came, byte for byte; then an error on which every official SDK raises, and no `[DONE]`",
)
async def cut(rig: Rig) -> str:
    told = await lived_through(rig, CUTS)
    async with Severing() as upstream, rig.proxy(upstream.url, timeouts=PATIENT, alone=True) as proxy:
        await sever(proxy.port, seconds=5, most=30, first=10**9)
        await proxy.call_lines(30)
        await proxy.begin()
        first = 0 if rig.short else int(time.time()) * 1000  # other cuts in every long run; a failure names its number
        seen = await sever(proxy.port, seconds=rig.times(short=1, long=45), most=rig.times(short=200, long=1_000_000), first=first)
        upstream.hang_up()
    severed = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items()))
    return f"{told}; {sum(seen.values())} streams cut at random places, none unreported ({severed})"


@row(
    "A9",
    "a clean end without `[DONE]` or a terminal event; an error within the stream, in the words of OpenAI, vLLM and llama.cpp",
    "as A8",
)
async def ended_early(rig: Rig) -> str:
    return await lived_through(rig, ("clean", "in band"))


@row(
    "A10",
    "silence in the middle of an answer",
    "a comment every so often, where asked for; ended at the idle or first-token deadline: an error event, or 504 while nothing was sent",
)
async def stalled(rig: Rig) -> str:
    head, *events = STREAM[:3]
    stalls: dict[str, tuple[list[Step], bytes, str]] = {
        "behind the head": ([head], _STREAMED, "first_token"),
        "behind an event": ([head, *events], _STREAMED, "idle"),
        "within an event": ([head, events[0], Send(b'9\r\ndata: {"c\r\n')], _STREAMED, "idle"),
        "within a chunk": ([head, events[0], Send(b'ff\r\ndata: {"c')], _STREAMED, "idle"),
        "within JSON": (json_answer(200, {"x": "y" * 100}, splits=[50])[:2], _WHOLE, "idle"),
    }
    took = []
    timeouts = "connect: 1s, first_byte: 1s, first_token: 2500ms, idle: 2500ms, total: 10s, write_stall: 1s"
    beats = "- {name: beats, heartbeat: {every: 1s}}"
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=timeouts, rules=beats) as proxy:
        await proxy.begin_counting(upstream)
        for steps, _, _ in stalls.values():
            upstream.queue([*steps, UntilClosed()])

        async def call(asked: bytes) -> Said:
            async with Caller(proxy.port) as caller:
                return await caller.post(PATH, asked)

        calls = []
        for number, (_, asked, _) in enumerate(stalls.values(), 2):
            calls.append(asyncio.create_task(call(asked)))
            await upstream.arrived(number)  # each gets its own script
        for (name, (_, asked, deadline)), said in zip(stalls.items(), await asyncio.gather(*calls), strict=True):
            error = _last_error(said) if asked is _STREAMED else error_of(said.body)
            assert error["code"] == "upstream_timeout", name
            assert f"deadline: {deadline}" in error["message"], name
            assert said.status == (200 if asked is _STREAMED else 504), name
            comments = [line for line in said.body.split(b"\n") if line.startswith(b":")]
            assert len(comments) in ((1, 2) if asked is _STREAMED else (0,)), (name, comments)
        lines = (await proxy.call_lines(1 + len(stalls)))[1:]
        for line in lines:
            assert line["outcome"] == "timed_out"
            assert line["cost_nanousd"] > 0
            assert 2450 <= line["total_ms"] <= 2600 + _LATE_S * 1000, line["total_ms"]
            took.append(line["total_ms"])
        for request in upstream.requests[1:]:
            await asyncio.wait_for(request.closed_early.wait(), 10)
    return (
        f"{len(took)} silences ended {min(took):.0f} to {max(took):.0f} ms after they began (2.5 s), with comments in each stream"
    )


@row(
    "A11",
    "one line of 1 B to 64 MB",
    f"passed on up to {MOST_EVENT_BYTES >> 20} MiB, above it an error event; memory at most three times that",
)
async def long_lines(rig: Rig) -> str:
    sizes = [1, 100, 4095, 65_536, MIB, MOST_EVENT_BYTES - MIB // 4, MOST_EVENT_BYTES + MIB // 2, 64 * MIB]
    peaks = []
    async with (
        FakeUpstream() as upstream,
        rig.proxy(upstream, timeouts=PATIENT, growth=3 * MOST_EVENT_BYTES + 3 * MIB) as proxy,
        Caller(proxy.port) as caller,
    ):
        await proxy.begin_counting(upstream)
        for size in sizes:
            image = b'data: {"choices":[{"delta":{"images":["' + b"x" * size + b'"]}}]}\n\n'
            upstream.queue(sse_answer([EVENTS[0], image, *EVENTS[2:]]))
            proxy.guard.forget_peak()
            said = await caller.post(PATH, _STREAMED)
            peaks.append(proxy.guard.peak())
            if size <= MOST_EVENT_BYTES:
                assert said.body == b"".join([EVENTS[0], image, *EVENTS[2:]]), size
            else:
                assert _last_error(said)["code"] == "upstream_broken", size
                assert said.body.startswith(EVENTS[0])
                assert len(said.body) < 1000
        lines = await proxy.call_lines(1 + len(sizes))
        assert [line["outcome"] for line in lines[1:]] == ["completed"] * 6 + ["upstream_broken"] * 2
        assert all(line["cost_nanousd"] > 0 for line in lines[1:])
    assert max(peaks) <= 3 * MOST_EVENT_BYTES + 3 * MIB, f"{max(peaks) / MIB:.1f} MiB at most: {[p >> 20 for p in peaks]}"
    return f"at most {max(peaks) / MIB:.1f} MiB more memory while they came"


@row(
    "A12",
    "events split at every byte; LF, CR, CRLF, BOM, comments, ids; characters cut in two",
    "byte for byte what was sent, and the same usage",
    tests=("tests/proxy/wire/test_sse.py", "tests/proxy/wire/test_meter.py"),
)
async def split(rig: Rig) -> str:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    cases: list[tuple[bytes, list[bytes]]] = []
    for body in spelled().values():
        wire = head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:60], body[60:400], body[400:]))
        cases += [(body, [wire[:at], wire[at:] + b"0\r\n\r\n"]) for at in range(1, len(wire))]  # where the kernel would split it
        cases += [
            (body, [head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:at], body[at:])) + b"0\r\n\r\n"])
            for at in range(1, len(body), 3)
        ]  # and where its chunks would
        cases.append((body, [head, *(b"1\r\n%b\r\n" % body[at : at + 1] for at in range(len(body))), b"0\r\n\r\n"]))
    if rig.short:
        cases = cases[::101]
    parts: dict[str, list[bytes]] = {}
    loop = asyncio.get_running_loop()

    def steps(pieces: list[bytes]) -> list[Step]:
        played: list[Step] = []
        for piece in pieces:
            read = asyncio.Event()
            loop.call_later(0.001, read.set)  # time in which the proxy may read the piece by itself; nothing depends on it
            played += [Send(piece), Wait(read)] if len(pieces) == 2 else [Send(piece)]
        return played

    numbers = iter(range(len(cases)))
    async with FakeUpstream(default=lambda request: steps(parts.pop(request.header("x-request-id") or ""))) as upstream:
        async with rig.proxy(upstream, timeouts=PATIENT) as proxy:

            async def work() -> None:
                async with Caller(proxy.port) as caller:
                    for number in numbers:
                        body, pieces = cases[number]
                        parts[f"split-{number}"] = pieces
                        said = await caller.post(PATH, _STREAMED, f"x-request-id: split-{number}")
                        assert (said.status, said.body, said.whole) == (200, body, True), number

            await asyncio.gather(*(work() for _ in range(8)))
            lines = await proxy.call_lines(len(cases))
            told = {(line["input_tokens"], line["output_tokens"], line["usage_source"], line["outcome"]) for line in lines}
            assert told == {(10, 2, "reported", "completed")}, told
    return f"{len(cases)} splits, each byte-identical, with the usage it said"


# What upstreams say of usage that makes no sense, or says nothing.
_NONSENSE: list[Any] = [
    *(None, {}, [], "", "12", 12, True, [10, 2], {"total_tokens": 12}, {"prompt_tokens": 10}, {"completion_tokens": 2}),
    *({"prompt_tokens": bad, "completion_tokens": 2} for bad in (-1, 1.5, "10", True, 1e30, None, [], {}, 1 << 62, -(1 << 62))),
    *({"prompt_tokens": 10, "completion_tokens": bad} for bad in (-1, 1.5, "2", False, 1e30, [2], {}, 1 << 62)),
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -5, "audio_tokens": "x"}},
    {"prompt_tokens": 10, "completion_tokens": 2, "completion_tokens_details": [1], "prompt_tokens_details": "none"},
    {"input_tokens": 10, "output_tokens": 2},
    {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 99}},
]


@row(
    "A13",
    "usage that is missing, null, twice, in the middle, zero, negative, a fraction, a text, absurd",
    "counted, or the last that makes sense; never negative, never free, never a crash; its source in the log",
)
async def odd_usage(rig: Rig) -> str:
    chance = random.Random(13)
    figures = [-1, 0, 1, 2, 10, 1.5, "7", None, True, 1e30, 1 << 63, [], {}, "NaN"]
    names = ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "prompt_tokens_details"]
    made = [{n: chance.choice(figures) for n in chance.sample(names, 3)} for _ in range(rig.times(short=20, long=2000))]
    blocks = [*_NONSENSE, *made]
    said = "The toll is four, for everyone, always."
    sources: Counter[str] = Counter()
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=PATIENT) as proxy, Caller(proxy.port) as caller:
        await proxy.begin_counting(upstream)
        for block in blocks:
            whole = {"id": "1", "model": "m", "choices": [{"index": 0, "message": {"content": said}}], "usage": block}
            upstream.queue(json_answer(200, whole))
            assert (await caller.post(PATH, _WHOLE)).body == orjson.dumps(whole)
            for events in (
                [chunk(said), chunk(None, usage=block)],
                [chunk("The"), chunk(None, usage=block), chunk(said, usage=block)],
            ):
                events = [*events, b"data: [DONE]\n\n"]
                upstream.queue(sse_answer(events))
                assert (await caller.post(PATH, _STREAMED)).body == b"".join(events), block
        # Twice: the last counts, and what makes no sense does not undo what did.
        first, second = (
            chunk(None, usage={"prompt_tokens": 3, "completion_tokens": 3}),
            chunk(None, usage={"prompt_tokens": 10, "completion_tokens": 9}),
        )
        for events in ([chunk(said), first, second], [chunk(said), second, chunk(None, usage={"prompt_tokens": -1})]):
            upstream.queue(sse_answer([*events, b"data: [DONE]\n\n"]))
            await caller.post(PATH, _STREAMED)
        lines = await proxy.call_lines(1 + 3 * len(blocks) + 2)
        for line in lines:
            assert line["outcome"] == "completed"
            assert line["input_tokens"] >= 0 <= line["output_tokens"]
            assert line["cost_nanousd"] > 0, line
            sources[line["usage_source"]] += 1
        assert [(line["input_tokens"], line["output_tokens"], line["usage_source"]) for line in lines[-2:]] == [
            (10, 9, "reported")
        ] * 2
        assert all(line["usage_source"] == "counted" for line in lines[1 : 1 + 3 * 7]), "no object is no usage"
    return f"{sum(sources.values())} answers: {dict(sources)}"


@row(
    "A14", "usage ten times more, or less, than the text", "billed as the upstream says, and `tollhouse_usage_mismatch_total` rises"
)
async def mismatched_usage(rig: Rig) -> str:
    text = "The toll is four. " * 200
    cases = [("Hi", 5000), (text, 1)]
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=PATIENT) as proxy, Caller(proxy.port) as caller:
        for number, (said, output) in enumerate(cases):
            usage = {"prompt_tokens": 10, "completion_tokens": output, "total_tokens": 10 + output}
            for steps, asked in (
                (json_answer(200, {"choices": [{"index": 0, "message": {"content": said}}], "usage": usage}), _WHOLE),
                (sse_answer([chunk(said), chunk(None, usage=usage), b"data: [DONE]\n\n"]), _STREAMED),
            ):
                upstream.queue(steps)
                assert (await caller.post(PATH, asked)).status == 200
            lines = await proxy.call_lines(2 * (number + 1))
            for line in lines[-2:]:
                assert (line["output_tokens"], line["usage_source"]) == (output, "reported")
                assert line["cost_nanousd"] == 10 * _IN_NANOUSD + output * _OUT_NANOUSD
        _, metrics = await proxy.admin("/metrics")
        [rose] = [
            line for line in metrics.splitlines() if line.startswith("tollhouse_usage_mismatch_total") and not line.endswith(" 0")
        ]
        assert rose.endswith(" 4"), rose
    return f"4 answers billed as said; {rose}"


@row(
    "A21",
    "answers compressed though nobody asked: gzip, br, zstd, a bomb of 1:1000, a wrong label",
    "passed on as they came, never unpacked; billed as held; less than 16 MB more memory",
)
async def compressed(rig: Rig) -> str:
    plain = orjson.dumps(
        {"choices": [{"index": 0, "message": {"content": ANSWER}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    )
    stream = b"".join(EVENTS)
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packed.compress(bytes(64 * MIB)) + packed.flush()
    cases: list[tuple[str, str, bytes]] = [
        ("gzip", "application/json", gzip.compress(plain)),
        ("gzip", "text/event-stream", gzip.compress(stream)),
        ("deflate", "application/json", zlib.compress(plain)),
        ("br", "application/json", b"\x0b\x02\x80hello\x03"),
        ("zstd", "application/json", b"\x28\xb5\x2f\xfd\x04\x58" + plain),
        ("gzip, br", "application/json", gzip.compress(plain)),
        ("gzip", "application/json", bomb),
        ("gzip", "text/event-stream", bomb),
        ("gzip", "application/json", plain),
        ("br", "text/event-stream", stream),
    ]
    peaks = []
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=PATIENT) as proxy, Caller(proxy.port) as caller:
        await proxy.begin_counting(upstream)
        for coding, content_type, body in cases:
            head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n"
            upstream.queue([Send(head.encode()), Send(body)])
            proxy.guard.forget_peak()
            said = await caller.post(PATH, _STREAMED if "event" in content_type else _WHOLE)
            peaks.append(proxy.guard.peak())
            assert (said.status, said.head.get("content-encoding"), said.whole) == (200, coding, True)
            assert said.body == body, "byte for byte"
        lines = (await proxy.call_lines(1 + len(cases)))[1:]
        assert {line["usage_source"] for line in lines} == {"estimated"}
        assert all(line["output_tokens"] == CHAT["max_tokens"] and line["cost_nanousd"] > 0 for line in lines)
        # A bomb as an explanation is not unpacked to be read.
        upstream.queue([Send(b"HTTP/1.1 429 No\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)), Send(bomb)])
        said = await caller.post(PATH, _WHOLE)
        assert (said.status, error_of(said.body)["message"]) == (429, "The upstream answered 429.")
        asked = upstream.requests[1].header("accept-encoding")
        assert asked == "identity"
    assert max(peaks) < 16 * 10**6
    return f"{len(cases)} answers passed as they came; a bomb of {len(bomb) >> 10} KiB for 64 MiB; at most {max(peaks) / MIB:.1f} MiB more"


@row(
    "A24",
    "answers without end: events, comments, output behind `[DONE]`, JSON",
    "ended by the deadline of the whole call, with an error event or 504; billed",
)
async def endless(rig: Rig) -> str:
    head = STREAM[0]
    ends: dict[str, tuple[list[bytes], bytes]] = {
        "events": ([chunk(f"{ANSWER} ")], _STREAMED),
        "comments": ([chunk(ANSWER), b": still here\n\n"], _STREAMED),
        "half an event": ([chunk(ANSWER), b"data: ", b"x"], _STREAMED),
        "JSON": ([b'{"x": "', b" "], _WHOLE),
    }
    told: list[float] = []
    timeouts = "connect: 1s, first_byte: 1s, first_token: 1s, idle: 1s, total: 1500ms, write_stall: 1s"
    async with FakeUpstream() as upstream, rig.proxy(upstream, timeouts=timeouts, growth=8 * MIB) as proxy:
        await proxy.begin_counting(upstream)

        async def call(asked: bytes) -> Said:
            async with Caller(proxy.port) as caller:
                return await caller.post(PATH, asked)

        calls = []
        for number, (pieces, asked) in enumerate(ends.values(), 2):
            *before, forever = pieces
            upstream.queue(_forever(head if asked is _STREAMED else _JSON_HEAD, before, forever))
            calls.append(asyncio.create_task(call(asked)))
            await upstream.arrived(number)  # each gets its own script
        upstream.queue([*STREAM[:-1], *_forever(None, [], b": behind the end\n\n")])
        said = await call(_STREAMED)
        assert said.body.startswith(b"".join(EVENTS))
        assert b"error" not in said.body, "what was whole stays whole"
        for (name, (_, asked)), said in zip(ends.items(), await asyncio.gather(*calls), strict=True):
            error = _last_error(said) if asked is _STREAMED else error_of(said.body)
            assert (error["code"], said.status) == ("upstream_timeout", 200 if asked is _STREAMED else 504), name
            assert "deadline: total" in error["message"], name
        for request in upstream.requests[1:]:
            await asyncio.wait_for(request.closed_early.wait(), 10)
        _, *lines = await proxy.call_lines(2 + len(ends))
        [whole] = [line for line in lines if line["outcome"] == "completed"]
        assert whole["usage_source"] == "reported"
        for line in lines:
            assert line["cost_nanousd"] > 0
            if line is not whole:
                assert line["outcome"] == "timed_out"
                assert 1450 <= line["total_ms"] <= 1600 + _LATE_S * 1000, line["total_ms"]
                told.append(line["total_ms"])
    return (
        f"{len(told)} ended {min(told):.0f} to {max(told):.0f} ms after they began, with a deadline of 1.5 s for all of them; "
        f"what followed an end, after {whole['total_ms']:.0f} ms"
    )


_JSON_HEAD = Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")


def _forever(head: Step | None, before: list[bytes], forever: bytes) -> Any:
    """A script that goes on at a moderate pace for longer than any deadline here."""
    steps: list[Step] = [] if head is None else [head]
    steps += [Send(b"%x\r\n%b\r\n" % (len(piece), piece)) for piece in before]
    for number in range(400):
        pause = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01 * number, pause.set)
        steps += [Send(b"%x\r\n%b\r\n" % (len(forever), forever)), Wait(pause)]
    return steps
