"""`tollhouse demo`: a guided tour of real calls, through a proxy of its own to the pretend upstream.

Nothing is staged: what is printed is what came back. The rule a reader could break: the tour takes nothing from the environment and
leaves nothing behind, so it shows the same on every machine.
"""

import argparse
import asyncio
import json
import os
import sys
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

# Small numbers, so that a few calls meet every rule. What comes before the budget's step costs 0.000226 USD, less than half of the
# budget; that step costs more than half of it alone, so its page comes also when the day turns in between.
_POLICY = """\
version: 1
keys:
  - id: shop
    hash: "{hash}"
    user: {{header: x-user-id}}
pages:
  oncall: {{webhook: {{url: "{pages}", secret: "${{env:PAGE_SECRET}}"}}}}
policies:
  - name: everyone
    max_tokens: {{cap: 40, when_over: clamp}}
    rate_limit: {{requests: 3, per: minute, by: user}}
    budget:     {{usd: 0.0006, per: day, alarm_at: [50, 100], page: [oncall]}}
"""
_MESSAGES = [{"role": "user", "content": "What is a tollhouse?"}]
_PAUSE_S = 1.3  # long enough to follow, short enough for the whole tour to take a dozen seconds
_PATIENCE_S = 10.0  # for a page, which comes at once
_COLUMNS = 80
_METRICS = (
    "tollhouse_calls_total",
    "tollhouse_refusals_total",
    "tollhouse_clamps_total",
    "tollhouse_cost_usd_total",
    "tollhouse_budget_spent_ratio",
    "tollhouse_pages_total",
)
_FIELDS = (
    "request_id",
    "key",
    "user",
    "model_asked",
    "model_served",
    "outcome",
    "input_tokens",
    "output_tokens",
    "usage_source",
    "cost_nanousd",
    "price_version",
    "policy_version",
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
    except BrokenPipeError:  # whoever read along has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


async def _tour(*, pause_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="tollhouse-demo-") as folder:
        async with _house(Path(folder)) as house:
            guide = _Guide(house)
            for step in (guide.welcome, guide.answer, guide.stream, guide.clamp, guide.burst, guide.budget, guide.metrics):
                await step()
                await asyncio.sleep(pause_s)
        lines = house.log_file.read_bytes()
    guide.log(lines)
    guide.farewell()


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

    def __init__(self, house: _House) -> None:
        self._house = house
        self._steps = 0
        self._shown: Mapping[str, Any] = {}

    async def welcome(self) -> None:
        _say(
            f"Tollhouse {__version__}: a tour of real calls. A pretend upstream answers them: no model is asked and no money is spent."
        )
        print()
        _say(f"The proxy listens on {self._house.url}, with this policy file:")
        print("\n" + textwrap.indent(self._house.policy, "    "), end="")

    async def answer(self) -> None:
        self._title(
            "An answer", "An app sets OPENAI_BASE_URL and changes nothing else. Each answer says what it was and what it cost."
        )
        async with self._ask({"max_tokens": 25}, user="ada") as answer:
            self._came(answer, "x-request-id", "tollhouse-tokens", "tollhouse-cost-usd", "x-ratelimit-remaining-requests")
            _show((await answer.json())["choices"][0]["message"]["content"])

    async def stream(self) -> None:
        self._title(
            "A stream", "Events pass as they come. Their tokens are counted too, and the app gets no event it did not ask for."
        )
        async with self._ask({"max_tokens": 40, "stream": True}, user="ada") as answer:
            self._came(answer, "content-type", "x-request-id")
            column = _COLUMNS
            async for line in answer.content:
                for word in _words(line):
                    if column + len(word) > _COLUMNS - 8:
                        print("\n   ", end="")
                        column = 0
                    print(f" {word}", end="", flush=True)
                    column += len(word) + 1
            print()

    async def clamp(self) -> None:
        self._title(
            "A clamp", "The policy caps answers at 40 tokens. A call that asks for more is lowered to that, and is told so."
        )
        async with self._ask({"max_tokens": 8000}, user="ada") as answer:
            self._came(answer, "tollhouse-clamped", "tollhouse-tokens", "tollhouse-cost-usd")
            _show(f"finish_reason: {(await answer.json())['choices'][0]['finish_reason']}")

    async def burst(self) -> None:
        self._title(
            "A burst",
            "Each user has three calls a minute. Ben sends four at once; the refusal says which limit it was and when to return.",
        )
        for _ in range(3):
            async with self._ask({"max_tokens": 10}, user="ben") as answer:
                self._came(answer, "x-ratelimit-remaining-requests")
        async with self._ask({"max_tokens": 10}, user="ben") as answer:
            self._came(answer, "retry-after", "x-ratelimit-reset-requests", "ratelimit")
            error = (await answer.json())["error"]
            _show(f"{error['code']}: {error['message']}")

    async def budget(self) -> None:
        self._title("A budget", "A dearer model takes the day past half of its budget. Whoever is on call is told, once a day.")
        async with self._ask({"model": "gpt-4.1", "max_tokens": 40}, user="cleo") as answer:
            self._came(answer, "tollhouse-tokens", "tollhouse-cost-usd")
        async with asyncio.timeout(_PATIENCE_S):
            headers, page = await self._house.receiver.pages.get()
        print("\n  A page came to the receiver, signed:")
        _table({name: headers[name] for name in ("webhook-id", "webhook-signature")})
        for sentence in ("summary", "effect", "remedy"):
            _show(page["data"][sentence])

    async def metrics(self) -> None:
        self._title("The metrics", "For Prometheus, on the admin port. These are a few of them; none holds a prompt or a secret.")
        print(f"  → GET {self._house.admin_url}/metrics")
        async with self._house.client.get(f"{self._house.admin_url}/metrics") as answer:
            print(f"  ← {answer.status} {answer.reason}")
            for line in (await answer.text()).splitlines():
                if line.startswith(_METRICS) and not line.endswith(" 0"):
                    print(f"    {line}")

    def log(self, lines: bytes) -> None:
        """The last call's line. lines: the whole log."""
        calls = [line for line in map(orjson.loads, lines.splitlines()) if line["event"] == "call.finished"]
        self._title(
            "The log", f"One line of JSON for each call, {len(calls)} so far, and no content in any. The last one, by field:"
        )
        _table({name: str(calls[-1][name]) for name in _FIELDS})

    def farewell(self) -> None:
        print("\n" + "─" * _COLUMNS)
        print("That was the tour. Everything is put away. From here:\n")
        _table(
            {
                "tollhouse serve": "runs the proxy in front of your upstream",
                "tollhouse keys new ID": "makes a key, and its line for the policy file",
                "tollhouse check FILE": "tells every mistake of a policy file, with its place",
                "policies/examples/": "has policy files to start from",
            }
        )

    def _title(self, name: str, about: str) -> None:
        self._steps += 1
        print(f"\n── {self._steps}. {name} ".ljust(_COLUMNS + 1, "─"))
        _say(about)
        print()

    def _ask(self, fields: Mapping[str, Any], *, user: str) -> Any:
        """One chat call, printed as it goes out: an `async with` over its answer. A body that comes again is not shown again."""
        body = {"model": "gpt-4.1-mini", **fields}
        print(f"  → POST /v1/chat/completions   x-user-id: {user}")
        if body != self._shown:
            self._shown = body
            print(f'    {json.dumps(body)[:-1]},\n     "messages": {json.dumps(_MESSAGES)}}}')
        return self._house.client.post(
            f"{self._house.url}/v1/chat/completions", json={**body, "messages": _MESSAGES}, headers={"x-user-id": user}
        )

    def _came(self, answer: aiohttp.ClientResponse, *headers: str) -> None:
        print(f"  ← {answer.status} {answer.reason}")
        _table({name: answer.headers[name] for name in headers})


def _words(line: bytes) -> list[str]:
    """The words that one line of a stream of events brings."""
    if not line.startswith(b"data: {"):
        return []
    return (orjson.loads(line[6:])["choices"][0]["delta"].get("content") or "").split()


def _say(text: str) -> None:
    print(textwrap.fill(text, _COLUMNS))


def _show(text: str) -> None:
    print(textwrap.fill(text, _COLUMNS, initial_indent="    ", subsequent_indent="    "))


def _table(rows: Mapping[str, str]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"    {name.ljust(width)}  {value}")
