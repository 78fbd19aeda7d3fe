"""Row C7: inputs that weigh on the event loop, and how long it stood still.

The rule a reader could break: what is asserted is generous, since the machine may be busy with other things; what was seen is returned.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson

from tests.fakes import FakeUpstream, json_answer, sse_answer
from tests.faults.guard import MIB, PROMPT
from tests.faults.rig import CHAT, KEY, MOST_STALL_S, OK, PATH, Proxy, Rig
from tests.faults.row import row
from tests.whole.conversation import chunk

_PATIENT = "connect: 20s, first_byte: 20s, first_token: 20s, idle: 20s, total: 60s, write_stall: 20s"
_PROBE_S = 0.004
_ENGLISH = "the quick brown fox jumps over the lazy dog "
# The last one's text has to be counted: its bytes are more than what is left.
_RULES = """
- {name: tight, match: {models: ["gpt-4.1"]}, token_limit: {tokens: 400000, per: hour, by: user}}
- {name: sized, request_size: {max: 16MB}}
"""


class _Prober:
    """Asks the admin port again and again how it is; the longest that it took."""

    def __init__(self, proxy: Proxy) -> None:
        host, _, port = proxy.admin_url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self.longest_s = 0.0

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            while True:
                began = time.monotonic()
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                await asyncio.sleep(_PROBE_S)
        finally:
            writer.close()


def _chat(content: object, *, user: str = "u", **fields: object) -> bytes:
    return orjson.dumps({**CHAT, "messages": [{"role": "user", "content": content}], "user": user, **fields})


def _inputs(size: int) -> dict[str, tuple[bytes, int | None]]:
    """Bodies of about so many bytes, and the status that each gets; None: whichever."""
    words = _ENGLISH * (size // len(_ENGLISH))
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": {"type": "object"}}} for n in range(size // 90)]
    return {
        "prose": (_chat(words), 200),
        "prose that must be counted": (_chat(words, model="gpt-4.1"), None),
        "emoji": (_chat("🦊" * (size // 4)), 200),
        "one letter": (_chat("a" * size, model="gpt-4.1"), None),
        "escapes": (_chat("\x01" * (size // 6)), 200),
        "many messages": (orjson.dumps({**CHAT, "messages": [{"role": "user", "content": "x"}] * (size // 32)}), 200),
        "many parts": (_chat([{"type": "text", "text": "x"}] * (size // 28)), 200),
        "many tools": (_chat(PROMPT, tools=tools), 200),
        "deep": (b'{"model": "gpt-4.1-mini", "messages": ' + b"[" * (size // 2) + b"]" * (size // 2) + b"}", 400),
        "many fields": (orjson.dumps({**CHAT, **{f"x{n}": n for n in range(size // 14)}}), None),
        "the same field": (b'{"model": "gpt-4.1-mini", ' + b'"n": 1, ' * (size // 8) + b'"messages": []}', 400),
        "numbers": (_chat(PROMPT, logit_bias={str(n): 1 for n in range(size // 12)}), None),
    }


def _policies(proxy: Proxy) -> str:
    """A large file: the one in force, and 900 rules more."""
    more = "".join(f'  - {{name: r{n}, match: {{models: ["m{n}-*"]}}, max_tokens: {{cap: {n + 1}}}}}\n' for n in range(900))
    return proxy.file.read_text("utf-8") + more


@row(
    "C7",
    "inputs that weigh on the event loop: 1 MiB of anything, an event of MiB, a policy file of 900 rules, a first count",
    "never stands still for long, so others wait for one such input at the most; the metric shows how late it was; a loop that hung would "
    "fail `/healthz`",
    most_ratio=10.0,
)
async def weighed(rig: Rig) -> str:
    size = rig.times(short=MIB // 4, long=MIB)
    stalls: dict[str, float] = {}
    async with (
        FakeUpstream(default=OK) as upstream,
        rig.proxy(upstream, timeouts=_PATIENT, rules=_RULES, growth=160 * MIB, limit_usd=5000.0) as proxy,
    ):

        async def measured(what: str, work: Callable[[], Awaitable[None]]) -> None:
            prober = _Prober(proxy)
            probing = asyncio.create_task(prober.run())
            try:
                await work()
                await asyncio.sleep(4 * _PROBE_S)
            finally:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)
            stalls[what] = prober.longest_s

        async def nothing() -> None:
            await asyncio.sleep(0.5)

        async def large_event() -> None:
            upstream.queue(sse_answer([chunk("x " * size), chunk("", finish="stop"), b"data: [DONE]\n\n"]))
            status, _, said = await proxy.chat(stream=True)
            assert (status, b"[DONE]" in said) == (200, True), f"{status} {said[-300:]!r}"

        async def large_answer() -> None:
            upstream.queue(json_answer(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x " * size}}]}))
            assert (await proxy.chat())[0] == 200

        async def reload() -> None:
            proxy.file.write_text(_policies(proxy), "utf-8")
            while len(proxy.lines("policy.activated")) < 2:
                assert not proxy.lines("policy.rejected"), proxy.lines("policy.rejected")[0]["mistake_lines"][:3]
                await asyncio.sleep(0.05)

        async def first_count() -> None:
            upstream.queue(sse_answer([chunk("Hi"), chunk("", finish="stop"), b"data: [DONE]\n\n"]))
            assert (await proxy.chat(stream=True))[0] == 200

        await measured("nothing", nothing)
        await measured("a first count", first_count)
        for what, (body, expected) in _inputs(size).items():

            async def ask(what: str = what, body: bytes = body, expected: int | None = expected) -> None:
                status, _, said = await proxy.post(PATH, body, KEY)
                assert expected in (None, status), f"{what}: {status} {said[:300]!r}"
                assert status < 500, f"{what}: {status} {said[:300]!r}"

            await measured(what, ask)
        await measured("an event of MiB", large_event)
        await measured("an answer of MiB", large_answer)
        await measured("a large policy file", reload)
        lag_s = await proxy.lag_s()
    worst = max(stalls, key=lambda what: stalls[what])
    assert stalls[worst] <= MOST_STALL_S, f"{worst}: {stalls[worst] * 1e3:.0f} ms"
    longest = sorted(stalls.items(), key=lambda stall: -stall[1])[:4]
    return (
        f"{len(stalls)} inputs; a prober waited longest for {', '.join(f'{what} ({took * 1e3:.0f} ms)' for what, took in longest)}; "
        f"for nothing {stalls['nothing'] * 1e3:.0f} ms; the metric says at most {lag_s * 1e3:g} ms"
    )
