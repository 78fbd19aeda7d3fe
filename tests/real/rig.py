"""What every scenario stands on: the model server, Tollhouse before it, the receiver of pages, and clients for each key.

The rule a reader could break: through Tollhouse speaks nothing but the official client, so that what passes here passes in an app.
"""

import hashlib
import json
import secrets
import signal
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from checks import Failed, expect, until
from children import LlamaServer, Tollhouse
from openai import APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from receiver import Receiver

Error = TypeVar("Error", bound=APIStatusError)

KEYS = ("app", "capped", "burst", "spender", "broke")
_SETTLED_S = 10  # the first call that must be counted loads an encoding
_CLIENT_S = 60
_MODEL_S = 60
_WATCH_S = 5


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made anew for each run. keys: by id; canary: stands in every prompt and in some answers."""

    keys: dict[str, str] = field(default_factory=lambda: {id: f"th-{secrets.token_urlsafe(32)}" for id in KEYS})
    wrong_key: str = field(default_factory=lambda: f"th-{secrets.token_urlsafe(32)}")
    upstream_key: str = field(default_factory=lambda: secrets.token_hex(16))
    signing: str = field(default_factory=lambda: "whsec_" + secrets.token_hex(24))  # hexadecimal digits are base64 too
    canary: str = field(default_factory=lambda: f"canary{secrets.token_hex(6)}")


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of the run. calls: log lines there were; sent: requests that had been sent."""

    calls: int
    sent: int


class Rig:
    """Everything that runs. tollhouse: the process that is up now; retired: those that have ended."""

    def __init__(self, llama: LlamaServer, receiver: Receiver, *, secrets: Secrets, policy: Path, state: Path) -> None:
        self.llama = llama
        self.receiver = receiver
        self.secrets = secrets
        self.state = state
        self.retired: list[Tollhouse] = []
        self.published: list[str] = []  # metrics and policy pages, as they were just before each process ended
        self.shown: list[str] = []  # the text of every refusal that a client was shown
        self._sent = 0
        # Where it is about noon: no budget's day turns while we run.
        self._zone = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
        self._policy = policy
        self._tollhouse: Tollhouse | None = None
        self._apps = DefaultAsyncHttpxClient(trust_env=False, timeout=_CLIENT_S, event_hooks={"request": [self._count]})
        self._watching = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WATCH_S))

    def __repr__(self) -> str:
        return f"<Rig {self._tollhouse} before {self.llama}, sent={self._sent}>"

    async def _count(self, request: Any) -> None:
        if self._tollhouse is not None and str(request.url).startswith(f"{self._tollhouse.data}/"):
            self._sent += 1

    @property
    def tollhouse(self) -> Tollhouse:
        assert self._tollhouse is not None, "it runs from open_gate to leave"
        return self._tollhouse

    async def open_gate(self) -> None:
        """Start Tollhouse; one that still runs is stopped first. Errors: Failed."""
        if self.up:
            await self._retire()
        env = {
            "REAL_UPSTREAM": f"http://{self.llama.address}/v1",
            "REAL_UPSTREAM_KEY": self.secrets.upstream_key,
            "REAL_RECEIVER": self.receiver.url,
            "REAL_RECEIVER_SECRET": self.secrets.signing,
            "REAL_ZONE": self._zone,
        }
        for id, key in self.secrets.keys.items():
            env[f"REAL_HASH_{id.upper()}"] = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
        name = f"tollhouse-{len(self.retired) + 1}"
        self._tollhouse = await Tollhouse.start(self._policy, state=self.state, env=env, name=name)

    @property
    def up(self) -> bool:
        return self._tollhouse is not None

    async def leave(self, *, within_s: float) -> None:
        """After SIGTERM: Tollhouse ends as it should. Errors: Failed."""
        try:
            await self.tollhouse.leave(within_s=within_s)
        finally:
            await self._retire()

    async def _retire(self) -> None:
        await self.tollhouse.child.stop()
        self.retired.append(self.tollhouse)
        self._tollhouse = None

    async def ready(self) -> bool:
        """What a kubelet would be told."""
        async with self._watching.get(f"{self.tollhouse.admin}/readyz") as answer:
            return answer.status == 200

    async def publish(self) -> str:
        """Its metrics, kept together with its policy page for the search for leaks."""
        pages = [await self._read(f"{self.tollhouse.admin}/{page}") for page in ("metrics", "policy")]
        self.published += pages
        return pages[0]

    async def _read(self, url: str, *, key: str | None = None) -> str:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        async with self._watching.get(url, headers=headers) as answer:
            expect(answer.status == 200, f"{url} answers {answer.status}")
            return await answer.text()

    async def close(self) -> None:
        await self._apps.aclose()
        await self._watching.close()
        if self._tollhouse is not None:
            await self._tollhouse.child.stop()

    # ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def client(self, key: str, *, max_retries: int = 0) -> AsyncOpenAI:
        """An app with the key of that id."""
        return self._client(f"{self.tollhouse.data}/v1", self.secrets.keys[key], max_retries)

    def stranger(self) -> AsyncOpenAI:
        """An app whose key nobody knows."""
        return self._client(f"{self.tollhouse.data}/v1", self.secrets.wrong_key, 0)

    def direct(self) -> AsyncOpenAI:
        """The same client without Tollhouse, for comparison."""
        return self._client(f"http://{self.llama.address}/v1", self.llama.key, 0)

    def _client(self, base_url: str, key: str, max_retries: int) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=base_url, api_key=key, max_retries=max_retries, timeout=_CLIENT_S, http_client=self._apps)

    def prompt(self, text: str) -> str:
        return f"{text} ({self.secrets.canary})"

    def messages(self, text: str) -> list[Any]:
        return [{"role": "user", "content": self.prompt(text)}]

    async def refused(self, call: Awaitable[object], error: type[Error], *, code: str | None = None) -> Error:
        """The error of the SDK that a call must end in; code: what it must say, None = any. Errors: Failed."""
        try:
            await call
        except APIStatusError as raised:
            self.shown.append(f"{raised.response.text} {dict(raised.response.headers)}")
            if not isinstance(raised, error):
                raise Failed(f"expected {error.__name__}, got {type(raised).__name__}: {raised.message}") from raised
            expect(code is None or raised.code == code, f"expected the code {code}, got {raised.code}: {raised.message}")
            expect(raised.request_id, "an error without x-request-id")
            return raised
        raise Failed(f"expected {error.__name__}, and the call passed")

    # ── what can be seen from outside ────────────────────────────────────────────────────────────────────────────────

    def calls(self) -> list[dict[str, Any]]:
        """The log lines of all calls so far, of every process."""
        return [line for tollhouse in self.processes() for line in tollhouse.events("call.finished")]

    def processes(self) -> list[Tollhouse]:
        """Every Tollhouse of this run, in the order in which they started."""
        return [*self.retired, self._tollhouse] if self._tollhouse is not None else list(self.retired)

    def mark(self) -> Mark:
        """Now, for `since`."""
        return Mark(calls=len(self.calls()), sent=self._sent)

    def sent_since(self, mark: Mark) -> int:
        """Requests to Tollhouse since then, those that the SDK repeated included."""
        return self._sent - mark.sent

    async def since(self, mark: Mark) -> list[dict[str, Any]]:
        """The log lines of all calls since then, once each has its one. Errors: Failed."""
        wanted = self.sent_since(mark)

        async def look() -> list[dict[str, Any]] | None:
            lines = self.calls()[mark.calls :]
            return lines if len(lines) >= wanted else None

        lines, _ = await until(f"{wanted} log lines call.finished", look, within_s=_SETTLED_S)
        expect(len(lines) == wanted, f"{len(lines)} log lines call.finished for {wanted} calls")
        return lines

    async def busy_slots(self) -> int:
        """How many of the model server's slots are at work, asked of it directly."""
        slots = json.loads(await self._read(f"http://{self.llama.address}/slots", key=self.llama.key))
        return sum(slot["is_processing"] for slot in slots)

    async def slots_free(self, *, within_s: float) -> float:
        """Wait for the model server to have nothing to do. Returns the seconds that took. Errors: Failed."""

        async def look() -> bool | None:
            return True if await self.busy_slots() == 0 else None

        return (await until("every slot of the model server free", look, within_s=within_s))[1]

    async def model_loaded(self) -> None:
        """Errors: Failed."""

        async def look() -> bool | None:
            code = self.llama.child.returncode
            expect(code != -signal.SIGILL, "the packaged model server needs CPU instructions that this machine lacks (SIGILL)")
            expect(code is None, f"the model server ended with {code} while it loaded the model")
            with suppress(aiohttp.ClientError):  # when it is ending, the next look says how
                async with self._watching.get(f"http://{self.llama.address}/health") as answer:
                    return answer.status == 200 or None
            return None

        await until("the model loaded", look, within_s=_MODEL_S)
