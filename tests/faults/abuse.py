"""Abuse of names, and of what is told of calls: rows B12 and B19 to B22."""

import json
import re
from itertools import product

import orjson

from tests.fakes import FakeUpstream
from tests.faults.guard import MIB
from tests.faults.malformed import CANARY, PATH, post
from tests.faults.raw import told, told_each
from tests.faults.rig import CHAT, KEY, OK, Rig
from tests.faults.row import row
from tests.house import error_of

_NAMES = (
    "no-such-model", "GPT-4O", "Gpt-4.1-mini", "gpt-4.1-mini ", " gpt-4.1-mini", "gpt‑4.1‑mini", "gpt-4.1-mıni", "ɡpt-4.1-mini",
    "gpt-4.1-mini\u3164", "ft:gpt-4.1-mini:org::id", "ft:no-such-model", "gpt-4.1-mini/../gpt-5", "gpt-4.1-mini%00",
    "openai/gpt-4.1-mini",
    "models/gpt-4.1-mini", "*", "gpt-*", "gpt-4.1-mini;", "'; DROP TABLE", "${env:OPENAI_API_KEY}", "{{7*7}}",
    "../../etc/passwd", "a" * 256,
    "gpt-4.1-mini,gpt-5", "nan", "null", "0", "-", "🤖" * 10, "other",
)  # fmt: skip


_NO_NAMES = (
    "",
    "a" * 257,
    "a" * 10_240,
    "a\nb",
    "a\x00b",
    "a\x7fb",
    "a\u200bb",
    "\u202egpt-4.1-mini",
    "a\u2028b",
    "gpt-4.1-mini\u00a0",
)


@row(
    "B12",
    "models that are unknown, look like known ones, or are 10 KB long",
    "denied by default (403 `model_not_priced`), 400 where it is no name; nothing upstream; `other` in every metric",
)
async def odd_models(rig: Rig) -> str:
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        priced = 0
        for name in _NAMES:
            before = len(upstream.requests)
            status, _, body = await proxy.chat(model=name)
            if status == 200:  # a fine-tuned model has the price of its kind, and so has one that is named with its maker
                assert name.startswith(("ft:gpt-4.1-mini", "openai/")), name
                assert orjson.loads(upstream.requests[-1].body)["model"] == name
                priced += 1
                continue
            assert (status, error_of(body)["code"]) == (403, "model_not_priced"), f"{name!r}: {body!r}"
            assert len(upstream.requests) == before
        for name in _NO_NAMES:
            status, _, body = await proxy.chat(model=name)
            assert (status, error_of(body)["param"]) == (400, "model"), f"{name[:20]!r}: {body[:200]!r}"
        _, metrics = await proxy.admin("/metrics")
        shown = set(re.findall(r'model="([^"]*)"', metrics))
        assert not shown & {name for name in _NAMES if name != "other"}, shown & set(_NAMES)
        assert "other" in shown
    return f"{len(_NAMES) - priced} names denied, {len(_NO_NAMES)} are none; all of them are `other`"


_ODD_VALUES = (
    b"a\rb", b"a\nb", b"a\0b", b"\xf0\x9f\xa4\x96", b"a\x1bb", b"a\x7fb", b"\xff\xfe", b"a\tb", b"a b", b"", b'"a"',
    b"a" * 4096, b"<script>", b"a%0d%0ab",
    b"${jndi:ldap://x}", b"\xe2\x80\xae", b"a\xc2\x85b", b"a\xe2\x80\xa8b", b"',{}", b"00-0-0-0", b"a=b;c",
)  # fmt: skip


@row(
    "B19",
    "line breaks, NUL, emoji and 4 KB in request ids, traces, users and metadata",
    "what cannot stand in a head is 400; so is an odd user; an odd request id or trace is replaced; one log line a call, whole",
)
async def odd_values(rig: Rig) -> str:
    body = orjson.dumps(CHAT)
    calls = refused = 0
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        for field, value in product((b"x-request-id", b"traceparent", b"x-user", b"user-agent", b"x-stainless-lang"), _ODD_VALUES):
            before = len(upstream.requests)
            reply = await told(proxy.port, post(PATH, body, field + b": " + value))
            assert reply is not None, (field, value)
            no_head = any(bad in value for bad in (b"\r", b"\n", b"\0", b"\x1b", b"\x7f"))
            if no_head or (field == b"x-user" and not re.fullmatch(rb"[ -~]{0,128}", value)):
                assert (reply.status, reply.code) == (400, "bad_request"), (field, value, reply)
                assert len(upstream.requests) == before
                refused += not no_head
                continue
            calls += 1
            assert reply.status == 200, (field, value, reply)
            id = reply.fields["x-request-id"]
            assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", id), id
            assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", upstream.requests[-1].header("traceparent") or "")
            assert upstream.requests[-1].header("x-user") is None
        for metadata in ({"a\r\nb": "c\0d"}, {"🤖": "\u2028"}, {"a": "b" * 4096}):
            status, _, _ = await proxy.chat(metadata=metadata, user="a\nb\u202e")
            assert status == 200
            calls += 1
        lines = await proxy.call_lines(calls + refused)
        assert len(lines) == calls + refused, "a line for each call, and none for what is no request"
        assert all(len(line.get("user") or "") <= 4096 for line in lines)
    for told_of in proxy.stdout.splitlines():
        json.loads(told_of)
    return f"{calls} calls with odd values, a line of JSON each; {5 * len(_ODD_VALUES) + 3 - calls} others 400"


@row(
    "B20",
    "forced sampling, trace ids that collide, 64 KB of tracestate and baggage",
    "a sane trace is continued with a span of ours, any other begins anew; tracestate and baggage never go upstream; 64 KB of them is 431",
)
async def odd_traces(rig: Rig) -> str:
    trace = "0af7651916cd43dd8448eb211c80319c"
    sane = f"00-{trace}-b7ad6b7169203331-"
    wrong = (f"ff-{trace}-b7ad6b7169203331-01", sane + "0", sane + "zz", f"00-{'0' * 32}-b7ad6b7169203331-01",
    f"00-{trace.upper()}-b7ad6b7169203331-01",
             f"00-{trace}-{'0' * 16}-01", f"{sane}01-more", f"00-{trace}", "", "a" * 5000)  # fmt: skip
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        spans = set()
        for flags, kept in (("00", "00"), ("01", "01"), ("ff", "03"), ("03", "03"), ("01", "01"), ("01", "01")):
            headers = {**KEY, "traceparent": sane + flags, "tracestate": "vendor=secret", "baggage": "user=ada"}
            await proxy.post(PATH.decode(), orjson.dumps(CHAT), headers)
            sent = upstream.requests[-1]
            version, id, span, told_flags = (sent.header("traceparent") or "").split("-")
            assert (version, id, told_flags) == ("00", trace, kept)
            spans.add(span)
            assert sent.header("tracestate") is None
            assert sent.header("baggage") is None
        assert len(spans) == 6
        assert "b7ad6b7169203331" not in spans, "a span of ours each"
        for one in wrong:
            await proxy.post(PATH.decode(), orjson.dumps(CHAT), {**KEY, "traceparent": one})
            version, id, _, told_flags = (upstream.requests[-1].header("traceparent") or "").split("-")
            assert (version, told_flags) == ("00", "02")
            assert id not in (trace, "0" * 32)
        went = len(upstream.requests)
        for field in (b"tracestate: ", b"baggage: "):
            reply = await told(proxy.port, post(PATH, orjson.dumps(CHAT), field + b"a=b," * (16 << 10)))
            assert reply is not None
            assert (reply.status, reply.code) == (431, "head_too_large")
        assert len(upstream.requests) == went
        lines = await proxy.call_lines(6 + len(wrong))
        assert sum(line["trace_id"] == trace for line in lines) == 6
    return f"6 traces continued with 6 spans, {len(wrong)} begun anew"


@row(
    "B21",
    "a million distinct models, users, paths and methods",
    "at most 5,000 series and 1 MB of metrics; no memory for what was never let in",
)
async def label_bomb(rig: Rig) -> str:
    count = rig.times(short=1000, long=500_000)  # requests, each with two names that never came before
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, alone=True, growth=24 * MIB) as proxy:
        _, before = await proxy.admin("/metrics")
        for start in range(0, count, 1000):
            replies = await told_each(proxy.port, [_named(n) for n in range(start, start + 1000)], at_once=50)
            assert {reply.status for reply in replies} <= {400, 403, 404, 405}
            await proxy.call_lines(1000)
            proxy.forget()
        status, text = await proxy.admin("/metrics")
        assert status == 200
        series = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert len(series) <= 5000, f"{len(series)} series"
        assert len(text) < 1_000_000
        assert len(text) - len(before) < 100_000, "what clients make up becomes series"
        assert "made-up" not in text
        assert upstream.received_bytes == 0
    return f"{2 * count:,} names: {len(series):,} series, {len(text) / 1000:.0f} kB"


def _named(number: int) -> bytes:
    user = b"x-user: made-up-%d" % number
    if number % 2:
        return post(b"/v1/made-up-%d/a" % number, b"{}", user)
    return post(PATH, b'{"model":"made-up-%d","messages":[]}' % number, user)


@row(
    "B22",
    "a flood of errors in the log",
    "a short line a call, nothing on disk; a reader that is stuck loses lines, which are counted, and holds nobody up",
    tests=(
        "tests/proxy/telemetry/test_writer.py::test_a_stuck_reader_holds_nobody_up_and_learns_later_how_much_it_missed",
        "tests/proxy/telemetry/test_logs.py::test_lines_that_were_lost_are_counted_and_announced",
    ),
)
async def log_flood(rig: Rig) -> str:
    count = rig.times(short=1000, long=100_000)
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream, alone=True, growth=24 * MIB) as proxy:
        disk, size = proxy.disk(), 0
        asked = {"model": "m" * 256, "messages": [{"role": "user", "content": CANARY.decode() * 50}]}
        sent = post(PATH, orjson.dumps(asked), b"x-user: " + b"u" * 128, b"x-request-id: " + b"i" * 128)
        proxy.forget()
        for _ in range(0, count, 1000):
            await told_each(proxy.port, [sent] * 1000)
            lines = await proxy.call_lines(1000)
            assert len(lines) == 1000
            assert CANARY not in proxy.stdout
            size += len(proxy.stdout)
            proxy.forget()
        each = size / count
        assert each < 2048, f"{each:.0f} bytes a line"
        assert proxy.disk() - disk < 4 * MIB
        _, metrics = await proxy.admin("/metrics")
        [dropped] = re.findall(r"^tollhouse_log_dropped\w*(?:_total)? (\d+)", metrics, re.MULTILINE)
        assert int(dropped) == 0, "its reader was not stuck"
    return f"{count:,} refusals, {count:,} lines of {each:.0f} bytes; nothing on disk"
