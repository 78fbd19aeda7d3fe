"""What must hold of an image, scene by scene: each is played against every target.

The rule a reader could break: the same is asked of both targets; what only one of them can do is no scene.
"""

import asyncio
import base64
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from packaging.utils import canonicalize_name

from tests.fakes import FakeUpstream, Step, Wait, json_answer, sse_answer
from tests.house import CHAT, hash_of
from tests.image.container import STATE, Container
from tests.image.engine import ROOT, Engine

KEY = "an-app's-key"
UPSTREAM_KEY = "sk-upstream0123456789"
POLICIES, SECRETS = "/etc/tollhouse", "/run/secrets/tollhouse"

ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "model": "gpt-4.1-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9},
}


class Stage:
    """What a scene is played with: an image, a pretend upstream, and a policy in a folder as Kubernetes mounts a ConfigMap."""

    def __init__(self, engine: Engine, image: str, upstream: FakeUpstream, folder: Path) -> None:
        self.engine = engine
        self.image = image
        self.upstream = upstream
        self._policies, self._secrets, self.closed = folder / "policies", folder / "secrets", folder / "closed"
        self._swaps = 0
        for made in (self._policies, self._secrets, self.closed):
            made.mkdir()
            made.chmod(0o755)
        (self._secrets / "openai").write_text(UPSTREAM_KEY)
        self.swap(cap=100)

    def swap(self, *, cap: int, broken: bool = False) -> None:
        """Another policy, in one step: Kubernetes writes a folder beside the old one, and turns the link `..data` to it."""
        self._swaps += 1
        version = self._policies / f"..{self._swaps}"
        version.mkdir()
        version.chmod(0o755)
        (version / "policy.yaml").write_text(
            f"""version: 1
upstreams:
  main: {{base_url: "{self.upstream.url}/v1", api_key: "${{file:{SECRETS}/openai}}"}}
keys:
  - {{id: app, hash: "{hash_of(KEY)}"}}
policies:
  - name: everyone
    {"max_tokenz" if broken else "max_tokens"}: {{cap: {cap}, when_over: clamp}}
    budget: {{usd: 50, per: day, alarm_at: [100]}}
""",
            "utf-8",
        )
        turned = self._policies / "..data_tmp"
        turned.symlink_to(version.name)
        turned.rename(self._policies / "..data")
        if not (self._policies / "policy.yaml").is_symlink():
            (self._policies / "policy.yaml").symlink_to("..data/policy.yaml")

    def container(
        self, *arguments: str, env: dict[str, str] | None = None, mounts: dict[Path, str] | None = None, hard: bool = True
    ) -> Container:
        policy = {"TOLLHOUSE_POLICY": f"{POLICIES}/policy.yaml", **(env or {})}
        mounted = {self._policies: POLICIES, self._secrets: SECRETS, **(mounts or {})}
        return Container(self.engine, self.image, *arguments, mounts=mounted, env=policy, hard=hard)


async def call(proxy: Container, **more: Any) -> tuple[int, Any, bytes]:
    """A chat call. Returns status, headers and body."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{proxy.url}/v1/chat/completions", json={**CHAT, **more}, headers={"authorization": f"Bearer {KEY}"}
        ) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def page(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def starts_and_is_hardened(stage: Stage) -> str:
    """As its own user, with nothing that it could rise by and nothing that installs."""
    async with stage.container() as proxy:
        ready = await proxy.said("server.ready")
        whole_s = time.monotonic() - proxy.began_s
        own_s = datetime.fromisoformat(ready["ts"]).timestamp() - await proxy.started()
        status = (await proxy.execute("python3", "-c", "print(open('/proc/1/status').read())")).stdout
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert facts["Uid"].split() == ["65532"] * 4, facts["Uid"]
        assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == int(facts["CapBnd"], 16) == 0, facts
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2"), facts
        rss = int(facts["VmRSS"].split()[0]) / 1024
        for gone in ("pip", "ensurepip", "setuptools"):
            assert (await proxy.execute("python3", "-c", f"import {gone}")).returncode != 0, f"{gone} is in the image"
        written = await proxy.execute("python3", "-c", "open('/opt/tollhouse/proxy/x', 'w')")
        assert "Read-only file system" in written.stderr, written
        return f"ready {own_s:.2f} s after its process began, {whole_s:.2f} s after the engine was asked; {rss:.0f} MiB resident"


async def has_one_version(stage: Stage) -> str:
    label = stage.engine.inspect(stage.image)["Config"]["Labels"]["org.opencontainers.image.version"]
    async with stage.container() as proxy:
        await proxy.said("server.ready")
        said = (await proxy.execute("tollhouse", "--version")).stdout.strip()
        _, metrics = await page(f"{proxy.admin_url}/metrics")
    assert said == f"tollhouse {label}", (said, label)
    assert f'tollhouse_build_info{{version="{label}"}} 1' in metrics
    return label


async def holds_what_its_bill_says(stage: Stage) -> str:
    """The bill of materials is of the lock; this is what was installed."""
    made = await asyncio.to_thread(subprocess.run, [sys.executable, ROOT / ".ci" / "sbom.py"], capture_output=True, check=True)
    billed = {(part["name"], part["version"]) for part in orjson.loads(made.stdout)["components"]}
    listing = (
        "from importlib.metadata import distributions as d; print(*(f'{p.name}=={p.version}' for p in d(path=['/opt/tollhouse'])))"
    )
    async with stage.container() as proxy:
        await proxy.said("server.ready")
        listed = (await proxy.execute("python3", "-c", listing)).stdout.split()
    installed = {(canonicalize_name(name), version) for name, _, version in (one.partition("==") for one in listed)}
    assert installed == billed, installed ^ billed
    return f"{len(billed)} packages"


async def lets_a_call_through(stage: Stage) -> str:
    async with stage.container() as proxy:
        await proxy.said("server.ready")
        stage.upstream.queue(json_answer(200, ANSWER))
        status, headers, body = await call(proxy)
        assert (status, orjson.loads(body)) == (200, ANSWER)
        assert stage.upstream.requests[-1].header("authorization") == f"Bearer {UPSTREAM_KEY}"
        line = await proxy.said("call.finished")
        return f"{headers['tollhouse-tokens']}, ${headers['tollhouse-cost-usd']}, {line['total_ms']} ms"


async def reloads_its_policy(stage: Stage) -> str:
    """A ConfigMap's swap is seen, the next call is under it, and a broken one changes nothing."""
    async with stage.container() as proxy:
        await proxy.said("server.ready")
        stage.swap(cap=50)
        began = time.monotonic()
        activated = await proxy.said("policy.activated", 2)
        took_s = time.monotonic() - began
        stage.upstream.queue(json_answer(200, ANSWER))
        _, headers, _ = await call(proxy, max_tokens=80)
        assert headers["tollhouse-clamped"] == "max_tokens=80->50", dict(headers)
        assert headers["tollhouse-policy"] == activated["policy_version"]
        stage.swap(cap=10, broken=True)
        rejected = await proxy.said("policy.rejected")
        stage.upstream.queue(json_answer(200, ANSWER))
        _, headers, _ = await call(proxy, max_tokens=80)
        assert headers["tollhouse-clamped"] == "max_tokens=80->50", dict(headers)
        stage.swap(cap=100)
        assert "max_tokenz" in str(rejected["mistake_lines"])
        return f"in force {took_s:.1f} s after the swap"


async def is_healthy_as_its_image_asks(stage: Stage) -> str:
    async with stage.container() as proxy:
        await proxy.said("server.ready")
        began = time.monotonic()
        if stage.engine.program == "podman":  # as the image's HEALTHCHECK says; its timer takes systemd
            checked = stage.engine.attempt("healthcheck", "run", proxy.name)
            assert checked.returncode == 0, checked
        asked = await proxy.execute("tollhouse", "healthcheck", "--ready")
        assert asked.returncode == 0, asked
        return f"{(time.monotonic() - began):.2f} s for both probes"


async def drains(stage: Stage) -> str:
    """A stream that runs when SIGTERM comes ends whole, and the process with 0."""
    event = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
    go_on = asyncio.Event()
    events = [event, event, b"data: [DONE]\n\n"]
    steps: Sequence[Step] = sse_answer(events)
    async with stage.container() as proxy:
        await proxy.said("server.ready")
        stage.upstream.queue([*steps[:2], Wait(go_on), *steps[2:]])
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{proxy.url}/v1/chat/completions", json={**CHAT, "stream": True}, headers={"authorization": f"Bearer {KEY}"}
            ) as answer,
        ):
            first = await answer.content.readuntil(b"\n\n")
            await proxy.terminate()
            await proxy.said("server.draining")
            assert (await page(f"{proxy.admin_url}/readyz"))[0] == 503
            assert (await page(f"{proxy.admin_url}/healthz"))[0] == 200
            go_on.set()
            rest = await answer.read()
        assert first + rest == b"".join(events), rest
        began = time.monotonic()
        assert await proxy.ended() == 0
        assert (await proxy.said("call.finished"))["outcome"] == "completed"
        await proxy.said("server.stopped")
        return f"exit 0, {time.monotonic() - began:.2f} s after the stream's end"


async def ends_when_told_to_before_it_serves(stage: Stage) -> str:
    """Process 1 hears no signal that it has no handler for: it has one long before the program is loaded."""
    early = 0
    for _ in range(10):
        async with stage.container() as proxy:
            await proxy.listens()
            early += not proxy.lines
            await proxy.terminate()
            code = await proxy.ended()
            assert code in (0, 143), code
    assert early > 0
    return f"10 times, {early} of them before it said anything"


async def writes_nothing_but_its_state(stage: Stage) -> str:
    """On a root that can be written to: whatever it writes is then a difference from the image."""
    async with stage.container(hard=False) as proxy:
        await proxy.said("server.ready")
        stage.upstream.queue(json_answer(200, ANSWER))
        await call(proxy)
        await proxy.said("call.finished")
        await proxy.execute("tollhouse", "usage")
        await page(f"{proxy.admin_url}/metrics")
        listed = await proxy.execute("python3", "-c", f"import os; print(*sorted(os.listdir('{STATE}')))")
        changed = [path for path in await proxy.changed() if not path.startswith((STATE, "/etc/tollhouse", SECRETS))]
        assert changed == [], changed
        return listed.stdout.strip()


async def has_what_seals_recordings(stage: Stage) -> str:
    key = base64.b64encode(os.urandom(32)).decode()
    async with stage.container(env={"TOLLHOUSE_RECORD_KEY": key}) as proxy:
        await proxy.said("server.ready")
        return "TOLLHOUSE_RECORD_KEY is taken"


async def says_what_is_wrong(stage: Stage) -> str:
    """Typical mistakes end in one line of words and 2, not in a stack."""
    bare, state = {"TOLLHOUSE_POLICY": ""}, {stage.closed: STATE}
    for container, words in (
        (stage.container(env=bare), "no upstream"),
        (
            stage.container(env={"TOLLHOUSE_POLICY": "/etc/tollhouse/absent.yaml"}),
            "/etc/tollhouse/absent.yaml:1:1: the file cannot be read",
        ),
        (stage.container(mounts=state), f"cannot write to {STATE}: Read-only file system"),
        (stage.container(env={"TOLLHOUSE_STATE_DIR": "/nowhere"}), "cannot write to /nowhere: Read-only file system"),
        (stage.container("serve", "--listen", "0.0.0.0"), "--listen: expected HOST:PORT"),
    ):
        async with container as proxy:
            assert await proxy.ended() == 2, proxy.words
            [said] = proxy.words
            assert words in said, said
    return said


async def is_published_on_purpose(stage: Stage) -> str:
    """`-p` alone reaches nobody, since it listens on the container's loopback; and who comes from outside needs a key."""
    async with Container(stage.engine, stage.image, "serve", "--pretend", publish=True) as proxy:
        await proxy.said("server.ready")
        try:
            raise AssertionError(await call(proxy))
        except aiohttp.ClientError as error:
            refused = type(error).__name__
    anywhere = {"TOLLHOUSE_LISTEN": "0.0.0.0:8080"}
    async with Container(stage.engine, stage.image, "serve", "--pretend", env=anywhere, publish=True) as proxy:
        await proxy.said("server.ready")
        status, _, body = await call(proxy)
        code = orjson.loads(body)["error"]["code"]
        assert (status, code) == (401, "invalid_api_key"), body
    return f"without TOLLHOUSE_LISTEN: {refused}; with it, by the policy without keys: {status} {code}"


SCENES: Sequence[Callable[[Stage], Awaitable[str]]] = (
    starts_and_is_hardened,
    has_one_version,
    holds_what_its_bill_says,
    lets_a_call_through,
    reloads_its_policy,
    is_healthy_as_its_image_asks,
    drains,
    ends_when_told_to_before_it_serves,
    writes_nothing_but_its_state,
    has_what_seals_recordings,
    says_what_is_wrong,
    is_published_on_purpose,
)
