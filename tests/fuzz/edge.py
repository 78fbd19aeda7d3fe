"""The data port, from the bytes of a client to what an upstream is sent: the real connection, edge and pipeline, without sockets.

An input is what a client sends on one connection; where it is cut into reads follows from its own checksum. What must hold: nothing is
raised, nothing waits for ever, each request is answered once, with no 5xx; what is refused reaches no upstream; and what reaches one
is one request, which a strict reader finds at the same place of the input, with the same target and the same body but for a lowered cap.
"""

import asyncio
import random
import re
import traceback
from typing import Any
from zlib import crc32

import orjson

from policies import KINDS
from proxy.admission import Admission
from proxy.chance import Chance
from proxy.deadlines import Sweep
from proxy.dispatch import Dispatch
from proxy.downstream.listener import Listener
from proxy.downstream.rules import Rejection
from proxy.edge import Edge
from proxy.errors import UpstreamError
from proxy.guesses import Guesses
from proxy.health import Health
from proxy.memory import Memory
from proxy.overload import Overload
from proxy.pipeline import Pipeline
from proxy.policy.compile import compile_text
from proxy.records import Records
from proxy.settlement import Settlement
from proxy.spenders import Spenders
from proxy.state.memory import MemoryStore
from proxy.telemetry.metrics import Metrics
from proxy.tokens import Count
from proxy.trip import Trip
from proxy.upstream.heads import Heads
from proxy.wire.failure import public_body
from proxy.wire.surfaces import ROOT, SOCKETS, SURFACES
from tests.clock import FakeClock
from tests.faults.guard import APP_KEY
from tests.faults.malformed import OPENING, REQUESTS, SOUND, request
from tests.fuzz.strict import Read, read_all
from tests.fuzz.turns import TurnLoop
from tests.house import UPSTREAM_KEY, hash_of

CAP = 100
POLICY = f"""version: 1
upstreams:
  main: {{base_url: "http://model/v1", api_key: {UPSTREAM_KEY}, retries: {{attempts: 1}}, breaker: {{failures: 0}}}}
keys:
  - {{id: app, hash: "{hash_of(APP_KEY)}", user: {{header: x-user}}}}
unmetered: ["/v1/files*"]
prices: {{unknown: {{input: 1, output: 1}}}}
policies:
  - {{name: all, max_tokens: {{cap: {CAP}}}, budget: {{usd: 1000000000, per: month, when_spent: reject}}}}
"""
_MOST_CONNECTIONS = 1 << 20
_REFILL_S = 60.0
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "input_tokens": 1, "output_tokens": 1}
_ANSWER = orjson.dumps({"model": "m", "choices": [], "usage": _USAGE})
_STREAM = b"data: " + _ANSWER + b'\n\ndata: {"type":"response.completed","response":' + _ANSWER + b"}\n\ndata: [DONE]\n\n"
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z' -]*\r\n((?:[a-z-]+: [^\r\n]*\r\n)+)\r\n")
_LENGTH = re.compile(rb"(?:^|\r\n)content-length: (\d+)\r\n")
_CAPS = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
_EDITED = {*_CAPS, "stream_options", "max_tool_calls"}


# A server that streams what nobody can ask it to stream is broken, and told of as such.
_NEVER_STREAM = frozenset(surface.path for surface in SURFACES if surface.metered and not surface.has_output)


class _Answer:
    """A whole answer that is at hand."""

    status = 200

    def __init__(self, content_type: str, body: bytes) -> None:
        self.headers = {"content-type": content_type, "content-length": str(len(body))}
        self._body = body

    def _taken(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def read(self) -> bytes:
        return self._taken()

    def at_hand(self) -> bytes:
        return self._taken()

    def received(self) -> bytes:
        return self._taken()

    async def pump(self, take: Any, take_chunk: Any = None) -> bool:
        body = self._taken()
        return bool(body) and not take(body)

    async def more(self) -> None: ...

    def close(self) -> None: ...


class _Recorder:
    """An `Upstream` that notes what it is sent, as bytes on the wire. sent: each request, None in place of one that broke off."""

    name = "main"

    def __init__(self) -> None:
        self._heads = Heads("http://model/v1")
        self.sent: list[tuple[bytes, bytes] | None] = []

    def send(self, ask: Any, own: Any, body: Any) -> _Answer | None:
        if not isinstance(body, tuple):
            return None
        sent = b"".join(body)
        self.sent.append((self._heads.head(ask, own, len(sent)), sent))
        return self._answer(ask, sent)

    async def open(self, ask: Any, own: Any, body: Any, *, connect_timeout_s: float, progress: Any = None) -> _Answer:
        place = len(self.sent)
        self.sent.append(None)
        sent = b"".join([chunk async for chunk in body])
        self.sent[place] = self._heads.head(ask, own, len(sent)), sent
        return self._answer(ask, sent)

    async def link(self, ask: Any, own: Any, make: Any, *, connect_timeout_s: float) -> Any:
        """Sessions begin in tests of their own: here it is only seen who gets so far."""
        assert (ask.method, ask.target.partition("?")[0]) in (("GET", "/realtime"), ("GET", "/responses"))
        raise UpstreamError("upstream_unreachable", "It takes no sessions.", sent=False)

    def _answer(self, ask: Any, sent: bytes) -> _Answer:
        if ask.method == "HEAD":
            return _Answer("application/json", b"")
        streams = b'"stream":true' in sent and ROOT + ask.target.partition("?")[0] not in _NEVER_STREAM
        return _Answer("text/event-stream", _STREAM) if streams else _Answer("application/json", _ANSWER)


class _Counter:
    """Counts by bytes, at once."""

    async def count(self, texts: Any, *, model: str) -> Count:
        return Count(sum(map(len, texts)), exact=True)


class _Pipe:
    """A client's transport. out: what was written; paused: nothing is to be read now."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.closing = self.paused = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.out += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Port:
    """A data port, made once and used for every input. It remembers nothing from one input to the next."""

    def __init__(self) -> None:
        self.loop = TurnLoop()
        self.loop.enter()
        clock = FakeClock()
        policies = compile_text(POLICY.encode(), file="policy.yaml", kinds=KINDS, env={})
        self.store = MemoryStore(clock)
        self.upstream = _Recorder()
        counter: Any = _Counter()
        me: Any = self
        metrics = Metrics(version="1", clock=clock)
        health = Health("main", clock=clock, log=me, metrics=metrics, pages=me)
        overload = Overload(
            memory=Memory([]),
            max_calls=1 << 20,
            now=self.loop.time,
            random=Chance(),
            log=me,
            shed=metrics.shed,
            gauge=metrics.overloaded,
        )
        self._clock = clock
        self.admission = Admission(
            store=self.store,
            tokenizer=counter,
            clock=clock,
            observer=me,
            guesses=Guesses(clock, counted=lambda code: None),
            overload=overload,
            body_s=9.0,
            pseudonym="th",
        )
        self.pipeline = Pipeline(
            policies=lambda: policies,
            admission=self.admission,
            dispatch=Dispatch(
                upstream=lambda name, config: self.upstream,  # type: ignore[arg-type,return-value]
                health=lambda name, config: health,
                pseudonym="th",
                clock=clock,
                random=Chance(),
                body_s=9.0,
            ),
            settlement=Settlement(tokenizer=counter, notify=lambda notices: None, spenders=Spenders(clock)),
            sweep=Sweep(self.loop),
            clock=clock,
            random=Chance(),
            observer=me,
            overload=overload,
            recorder=Records(clock=clock, random=Chance(), log=me, metrics=metrics, announce=self.notify).desk,
        )
        self.rejections: list[Rejection] = []
        self.edge = Edge(self.pipeline, rejected=self.rejections.append, most_connections=_MOST_CONNECTIONS)
        self.listener = self.edge.listener
        self.faults: list[str] = []
        self.trips: list[tuple[Trip, int]] = []  # with how much was sent upstream by its end

    # ── as the observer of its calls ─────────────────────────────────────────────────────────────────────────────────

    def finished(self, trip: Trip) -> None:
        self.trips.append((trip, len(self.upstream.sent)))

    def would_refuse(self, policy: str, clause: str) -> None: ...

    def fault(self, error: BaseException, request_id: str) -> None:
        self.faults.append("".join(traceback.format_exception(error)))

    # ── as its log and its pages, which nobody reads ─────────────────────────────────────────────────────────────────

    def event(self, name: str, /, **fields: Any) -> None: ...

    def notify(self, outages: Any, /) -> None: ...

    def outage_over(self) -> None: ...

    # ── one input ────────────────────────────────────────────────────────────────────────────────────────────────────

    def play(self, data: bytes) -> str:
        """Send this as a client would, and judge what came of it. Returns what it was in a word. Errors: AssertionError."""
        self.trips.clear()
        self.rejections.clear()
        self.upstream.sent.clear()
        self.admission._entries.clear()
        self._clock.advance(_REFILL_S)  # what was guessed in one input is forgotten in the next
        self.listener = Listener(answer=self.listener.answer, reject=self.listener.reject, wall_s=lambda: 1.8e9)
        loop, pipe = self.loop, _Pipe()
        connection = self.listener.connect(loop)
        connection.connection_made(pipe)  # type: ignore[arg-type]
        for piece in (pieces := cut(data)):
            if pipe.closing:
                break
            connection.data_received(piece)
            if pipe.paused or len(piece) & 1:
                loop.turn()
                assert not pipe.paused or pipe.closing or connection.waiting_for == "answer", "it reads no more, for good"
        loop.turn()
        out = bytes(pipe.out)
        pipe.closing = True
        connection.connection_lost(None)
        loop.turn()
        return self._judge(b"".join(pieces), out)

    def _judge(self, data: bytes, out: bytes) -> str:
        assert not self.faults, self.faults
        assert not self.loop.faults, self.loop.faults
        assert self.pipeline.inflight == 0
        assert "connections=0" in repr(self.listener)
        assert all(held == 0 for _, _, _, held, _ in self.store.quotas()), "something is held for ever"
        strict: list[Read] | None = None
        at = sent_before = 0
        for number, (trip, sent) in enumerate(self.trips):
            asked, sent_before = self.upstream.sent[sent_before:sent], sent
            while out.startswith(b"HTTP/1.1 100 Continue\r\n\r\n", at):
                at += 25
            if at == len(out) and trip.ending == "client_gone":
                assert not any(asked), "it was sent on, and its answer was not"
                continue
            match = _HEAD.match(out, at)
            assert match is not None, out[at:][:200]
            status = int(match[1])
            assert status < 500 or (status == 502 and trip.call.surface in SOCKETS.values()), (status, trip.error)
            assert status == trip.status
            assert UPSTREAM_KEY.encode() not in match[2]
            at = _behind(out, match, bodiless=trip.call.method == "HEAD")
            if status != 200:
                assert not any(asked), "it was refused, and was sent on"
                assert not asked or not trip.call.surface.metered, "it was refused, and its upstream was asked"
                continue
            assert len(asked) == 1
            assert asked[0] is not None
            if strict is None:
                strict = read_all(data)
            assert number < len(strict), "it was sent on, and is no request to a strict reader"
            _compare(strict[number], *asked[0], metered=trip.call.surface.metered)
        if at < len(out):
            match = _HEAD.match(out, at)
            assert match is not None
            [(_, error)] = self.rejections
            assert (int(match[1]), out[match.end() :]) == (error.status, public_body(error)), (
                "an answer to nothing, or in other words"
            )
            assert b"connection: close\r\n" in match[2], "what comes behind it may be read as a request"
            return "malformed"
        assert not self.rejections or not self.trips or self.trips[-1][0].ending == "client_gone", "it was rejected without a word"
        if not self.trips:
            return "nothing"
        return "forwarded" if any(self.upstream.sent) else "refused"


def _behind(out: bytes, match: "re.Match[bytes]", *, bodiless: bool) -> int:
    """Where an answer ends."""
    at = match.end()
    length = _LENGTH.search(match[2])
    if length is not None:
        end = at if bodiless else at + int(length[1])
        assert end <= len(out)
        return end
    if bodiless:
        return at
    assert b"transfer-encoding: chunked\r\n" in match[2] or b"connection: close\r\n" in match[2]
    if b"transfer-encoding: chunked\r\n" not in match[2]:
        return len(out)
    end = out.index(b"\r\n0\r\n\r\n", at)
    return end + 7


def _compare(asked: Read, head: bytes, body: bytes, *, metered: bool) -> None:
    """What was sent on is what was asked."""
    [seen] = read_all(head + body)
    assert seen.body == body
    assert seen.of(b"authorization") == [b"Bearer " + UPSTREAM_KEY.encode()]
    assert len(seen.of(b"content-type")) <= 1
    assert (seen.method, seen.target) == (asked.method, asked.target.removesuffix(b"?"))
    if asked.method in (b"GET", b"HEAD", b"DELETE"):
        assert not body, "what such a request comes with is nobody's"
        return
    assert asked.body is not None, "it was sent on before it was whole"
    if not metered:
        assert body == asked.body
    elif body != asked.body:
        said, meant = orjson.loads(body), orjson.loads(asked.body)
        changed = {name for name in {*said, *meant} if said.get(name, ...) != meant.get(name, ...)}
        assert changed <= _EDITED, changed
        assert all(said[name] <= CAP for name in changed & _CAPS)


def cut(data: bytes) -> list[bytes]:
    """An input as it is read: whole, in pieces, byte by byte, or again and again as an app sends the same request."""
    mark = crc32(data)
    how, mark = mark & 31, mark >> 5
    if how == 0 and len(data) <= 400:
        return [data[at : at + 1] for at in range(len(data))]
    if how <= 3:
        return [data] * 4
    if how <= 16 and len(data) > 1:
        chance = random.Random(mark)
        cuts = sorted({chance.randrange(1, len(data)) for _ in range(chance.randrange(1, 5))})
        return [data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)]
    return [data]


_port: Port | None = None


def one(data: bytes) -> None:
    """The target."""
    global _port
    if _port is None or asyncio._get_running_loop() is not _port.loop:
        _port = Port()
    _port.play(data)


_FORM = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--b--\r\n'
)
_FORMED = request(b"content-length: %d" % len(_FORM), line=b"POST /v1/audio/transcriptions HTTP/1.1", body=_FORM)
SEEDS = (
    _FORMED.replace(b"application/json", b"multipart/form-data; boundary=b"),
    _FORMED.replace(b"application/json", b'multipart/form-data; boundary="b"'),
    request(*OPENING, line=b"GET /v1/realtime?model=gpt-realtime HTTP/1.1", body=b""),
    request(*OPENING, line=b"GET /v1/responses HTTP/1.1", body=b""),
    *SOUND.values(),
    *REQUESTS.values(),
)
