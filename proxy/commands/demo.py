"""`tollhouse demo`: a guided tour of real calls, through a proxy of its own to the pretend upstream.

Nothing is staged: what is printed is what came back. The rule a reader could break: the tour takes nothing from the environment and
leaves nothing behind, so it shows the same on every machine.
"""

import argparse
import asyncio
import os
import tempfile
import textwrap
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import uvloop
from aiohttp import web

from policies import KINDS
from proxy import __version__
from proxy.app import App
from proxy.clock import SystemClock
from proxy.policy.keys import hash_of, new_key
from proxy.settings import read_settings
from proxy.telemetry.faults import install
from proxy.telemetry.logs import Log

# Small numbers, so that a dozen calls meet every rule: the tour spends 0.0004 USD before its budget step, and 0.0007 with it.
_POLICY = """\
version: 1
keys:
  - {{id: shop, hash: "{hash}", user: {{header: x-user-id}}}}
pages:
  oncall: {{webhook: {{url: "{pages}", secret: "${{env:PAGE_SECRET}}"}}}}
policies:
  - name: everyone
    max_tokens: {{cap: 40, when_over: clamp}}
    rate_limit: {{requests: 3, per: minute, by: user}}
    budget:     {{usd: 0.001, per: day, alarm_at: [50, 100], page: [oncall], when_spent: alarm}}
"""
_PAUSE_S = 1.3  # long enough to read on, short enough for the whole tour to take a dozen seconds
_PATIENCE_S = 10.0  # for a page that should come at once
_COLUMNS = 100
_METRICS = ("tollhouse_calls_total", "tollhouse_refusals_total", "tollhouse_clamps_total", "tollhouse_tokens_total") + (
    "tollhouse_cost_usd_total",
    "tollhouse_budget_spent_ratio",
    "tollhouse_pages_total",
)
_LOGGED = ("request_id", "key", "user", "model_asked", "model_served", "outcome", "input_tokens", "output_tokens") + (
    "usage_source",
    "cost_nanousd",
    "price_version",
    "policy_version",
    "clamped",
    "admit_ms",
    "first_byte_ms",
    "total_ms",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="do not pause between the steps")


def run(arguments: argparse.Namespace) -> int:
    try:
        uvloop.run(_tour(pause_s=0.0 if arguments.quick else _PAUSE_S))
    except KeyboardInterrupt:
        return 130  # as a shell counts it: 128 and the number of the signal
    return 0


async def _tour(*, pause_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="tollhouse-demo-") as folder:
        async with _house(Path(folder)) as house:
            guide = _Guide(house, pause_s=pause_s)
            for step in (guide.welcome, guide.answer, guide.stream, guide.clamp, guide.burst, guide.budget, guide.metrics):
                await step()
                await asyncio.sleep(pause_s)
        guide.log(house.log_file.read_bytes())


class _Receiver:
    """Whoever is on call: takes pages over HTTP."""

    def __init__(self) -> None:
        self.pages: asyncio.Queue[tuple[Mapping[str, str], dict[str, Any]]] = asyncio.Queue()
        self._runner = web.ServerRunner(web.Server(self._take))

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.BaseRequest) -> web.Response:
        self.pages.put_nowait((request.headers, orjson.loads(await request.read())))
        return web.Response(status=204)


@dataclass(frozen=True, slots=True)
class _House:
    """What the tour shows: a running proxy, the key that opens it, the client that calls it, and who is paged."""

    url: str
    admin_url: str
    policy: str
    key: str = field(repr=False)
    client: aiohttp.ClientSession
    receiver: _Receiver
    log_file: Path


@asynccontextmanager
async def _house(folder: Path) -> AsyncIterator[_House]:
    """A proxy with everything around it. When this ends, it has ended, and its log is whole."""
    key = new_key(os.urandom)
    async with _Receiver() as receiver, aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as client:
        policy = _POLICY.format(hash=hash_of(key), pages=receiver.url)
        (folder / "policy.yaml").write_text(policy)
        settings = read_settings(
            {
                "PAGE_SECRET": "whsec_" + b64encode(os.urandom(32)).decode(),
                "TOLLHOUSE_POLICY": str(folder / "policy.yaml"),
                "TOLLHOUSE_STATE_DIR": str(folder / "state"),
                "TOLLHOUSE_LISTEN": "127.0.0.1:0",
                "TOLLHOUSE_ADMIN_LISTEN": "127.0.0.1:0",
            },
            {},
        )
        with (folder / "log").open("wb") as file:
            log = Log(file.fileno(), clock=SystemClock())
            undo = install(log)
            try:
                app = await App.start(settings, kinds=KINDS, log=log, pretend=True)
                data, admin = ("http://{}:{}".format(*address) for address in (app.data_address, app.admin_address))
                try:
                    yield _House(data, admin, policy, key, client, receiver, folder / "log")
                finally:
                    await app.drain(pressed=_pressed())
            finally:
                undo()
                log.close()


def _pressed() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


class _Guide:
    """Makes the calls and tells what they show."""

    def __init__(self, house: _House, *, pause_s: float) -> None:
        self._house = house
        self._pause_s = pause_s
        self._steps = 0

    async def welcome(self) -> None:
        _say(f"Tollhouse {__version__}: a tour of real calls. A pretend upstream answers them; no model is asked, nothing is spent.")
        print()
        _say(f"The proxy listens on {self._house.url}, with this policy file:")
        print("\n" + textwrap.indent(self._house.policy, "    "))

    async def answer(self) -> None:
        self._title("An answer", "An app sets OPENAI_BASE_URL and changes nothing else. Each answer says what it was and what it cost.")
        async with self._ask({"max_tokens": 25}, user="ada") as answer:
            self._came(answer, "x-request-id", "tollhouse-tokens", "tollhouse-cost-usd", "x-ratelimit-remaining-requests")
            self._text((await answer.json())["choices"][0]["message"]["content"])

    async def stream(self) -> None:
        self._title("A stream", "Events pass as they come. Their tokens are counted too; the app sees nothing that it did not ask for.")
        async with self._ask({"max_tokens": 40, "stream": True}, user="ada") as answer:
            self._came(answer, "content-type", "x-request-id")
            print("    ", end="")
            column = 0
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                piece = orjson.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                if column + len(piece) > _COLUMNS - 8:
                    print("\n    ", end="")
                    column, piece = 0, piece.lstrip()
                print(piece, end="", flush=True)
                column += len(piece)
            print()

    async def clamp(self) -> None:
        self._title("A clamp", "The policy caps answers at 40 tokens. A call that asks for more is lowered to it, and is told so.")
        async with self._ask({"max_tokens": 8000}, user="ada") as answer:
            said = await answer.json()
            self._came(answer, "tollhouse-clamped", "tollhouse-tokens", "tollhouse-cost-usd")
            self._text(f'finish_reason: {said["choices"][0]["finish_reason"]}')

    async def burst(self) -> None:
        self._title("A burst", "Each user has three calls a minute. Ben sends four at once; the refusal says who, what and when.")
        for _ in range(3):
            async with self._ask({"max_tokens": 25}, user="ben") as answer:
                print(f"  ← {answer.status}  {answer.headers['x-ratelimit-remaining-requests']} left")
        async with self._ask({"max_tokens": 25}, user="ben") as answer:
            self._came(answer, "retry-after", "x-ratelimit-reset-requests", "ratelimit")
            error = (await answer.json())["error"]
            self._text(f"{error['code']}: {error['message']}")

    async def budget(self) -> None:
        self._title("A budget", "A dearer model takes the day past half of its 0.001 USD. Who is on call hears of it, once a day.")
        async with self._ask({"model": "gpt-4.1", "max_tokens": 40}, user="cleo") as answer:
            self._came(answer, "tollhouse-tokens", "tollhouse-cost-usd")
        async with asyncio.timeout(_PATIENCE_S):
            headers, page = await self._house.receiver.pages.get()
        print("  ⚑ a page came, signed:")
        self._fields({name: headers[name] for name in ("webhook-id", "webhook-signature")})
        for sentence in ("summary", "effect", "remedy"):
            self._text(page["data"][sentence])

    async def metrics(self) -> None:
        self._title("The metrics", "For Prometheus, on the admin port. These are a few; none has a prompt, a user or a key in it.")
        async with self._house.client.get(f"{self._house.admin_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        print(f"  → GET {self._house.admin_url}/metrics\n")
        for line in lines:
            if line.startswith(_METRICS) and not line.endswith(" 0"):
                print(f"    {line}")

    def log(self, lines: bytes) -> None:
        """The last call's line. lines: the whole log."""
        calls = [line for line in map(orjson.loads, lines.splitlines()) if line["event"] == "call.finished"]
        self._title("The log", f"One line of JSON for each call, {len(calls)} of them so far. The last one, by field:")
        self._fields({name: str(calls[-1][name]) for name in _LOGGED if name in calls[-1]})
        print()
        _say("That was the tour; it has put everything away. From here: `tollhouse serve` runs it, `tollhouse keys new ID` makes a key,")
        _say("`tollhouse check FILE` reads a policy file, and policies/examples/ has files to start from.")

    def _title(self, name: str, about: str) -> None:
        self._steps += 1
        print(f"\n── {self._steps}. {name} ".ljust(_COLUMNS, "─"))
        _say(about)
        print()

    def _ask(self, fields: Mapping[str, Any], *, user: str) -> Any:
        """One chat call, printed as it goes out: an `async with` over its answer."""
        body = {"model": "gpt-4.1-mini", **fields, "messages": [{"role": "user", "content": "What is a tollhouse?"}]}
        print(f"  → POST /v1/chat/completions   x-user-id: {user}")
        shown = orjson.dumps(body).decode()
        print(f"    {shown}")
        return self._house.client.post(f"{self._house.url}/v1/chat/completions", json=body, headers={"x-user-id": user})

    def _came(self, answer: aiohttp.ClientResponse, *headers: str) -> None:
        print(f"  ← {answer.status} {answer.reason}")
        self._fields({name: answer.headers[name] for name in headers})

    def _fields(self, fields: Mapping[str, str]) -> None:
        width = max(map(len, fields))
        for name, value in fields.items():
            print(f"    {name.ljust(width)}  {value}")

    def _text(self, text: str) -> None:
        print(textwrap.fill(text, _COLUMNS, initial_indent="    ", subsequent_indent="    "))


def _say(text: str) -> None:
    print(textwrap.fill(text, _COLUMNS))
