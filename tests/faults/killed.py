"""Recorded calls of a process that is killed, and what the next one knows of them: with a key for the disk, and without.

The rule a reader could break: the process that is killed is not the one whose invariants are checked, so the books are looked at here.
"""

import asyncio
import base64
import json
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.fakes import FakeUpstream, UntilClosed
from tests.faults.guard import ANSWER, APP_KEY, PROMPT
from tests.faults.rig import CHAT, OK, PATH, Rig
from tests.house import error_of, policy
from tests.whole.process import Serving, ran

_RULES = "- {name: all, record: {}, budget: {usd: 5, per: month, when_spent: reject}}"
_SECRET = {"TOLLHOUSE_RECORD_KEY": base64.b64encode(bytes(range(32))).decode()}


async def restarted(rig: Rig) -> str:
    """Kill a process with calls that ended and calls that run, and ask the next one for all of them; a process that drains is next."""
    times = rig.times(short=1, long=4)
    for _ in range(times):
        for env in (_SECRET, {}):
            await _restarted(env)
    return f"{2 * times} times kill -9: as stated"


async def _restarted(env: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with FakeUpstream(default=OK) as upstream:
            first = Serving(folder, policy(_RULES, key=APP_KEY), upstream=upstream.url + "/v1", env=env)
            await first.__aenter__()
            _, _, answer = await _ask(first, "done", idempotency_key="done")
            _, fields, _ = await _ask(first, "task", prefer="respond-async, wait=20")
            ended = fields["tollhouse-task"]
            upstream.queue([UntilClosed()])
            upstream.queue([UntilClosed()])
            cut = asyncio.create_task(_ask(first, "runs", idempotency_key="runs"))
            await upstream.arrived(3)
            _, fields, _ = await _ask(first, "runs too", prefer="respond-async")  # and with it on the disk is what went before
            runs = fields["tollhouse-task"]
            await upstream.arrived(4)
            lines = await first.logged("call.finished", 2)
            first.signal(signal.SIGKILL)
            assert await first.ended() == -signal.SIGKILL
            await asyncio.gather(cut, return_exceptions=True)
            await first._session.close()
            _sealed(first.state, kept=bool(env))
            charged = sum(line["cost_nanousd"] for line in lines)

            async with Serving(folder, policy(_RULES, key=APP_KEY), upstream=upstream.url + "/v1", env=env) as proxy:
                assert proxy.lines("recordings.found") == [] if not env else proxy.lines("recordings.found")[0]["interrupted"] == 2
                asked = len(upstream.requests)
                status, fields, body = await _ask(proxy, "done", idempotency_key="done")
                assert (status, body) == (200, answer)
                assert ("idempotent-replayed" in fields, len(upstream.requests) - asked) == ((True, 0) if env else (False, 1))
                status, fields, _ = await _ask(proxy, "runs", idempotency_key="runs")
                assert (status, "idempotent-replayed" in fields) == (200, False), "a call that was interrupted frees its key"
                again = 1 if env else 2
                assert len(upstream.requests) - asked == again
                for id, state, code, user in (
                    (ended, "completed", None, "ada"),
                    (runs, "interrupted", "task_interrupted", "ada"),
                    (ended, None, "task_not_found", "bob"),
                ):
                    status, said = await _page(proxy, f"/tasks/{id}", user)
                    result, told = await _page(proxy, f"/tasks/{id}/result", user)
                    if not env or state is None:
                        assert (status, result) == (404, 404), (id, state)
                        continue
                    assert (status, orjson.loads(said)["status"]) == (200, state)
                    assert (told == answer) if code is None else (result, error_of(told)["code"]) == (410, code)
                now = await proxy.logged("call.finished", 2 + 6)
                charged += sum(line["cost_nanousd"] for line in now)
            usage = await asyncio.to_thread(ran, folder, "usage", "--json", "--state-dir", str(proxy.state))
            total = json.loads(usage.stdout)["total"]
            [recovered] = proxy.lines("state.recovered")
            assert total["held_nanousd"] == 0
            assert 2 <= recovered["holds"] <= 4, recovered  # what ended at the last moment may count as held, and costs no less
            least = charged + recovered["held_nanousd"]
            assert total["cost_nanousd"] == least if recovered["holds"] == 2 else charged <= total["cost_nanousd"] <= least
            assert sum(line["cost_nanousd"] > 0 for line in now) == again


def _sealed(state: Path, *, kept: bool) -> None:
    assert (state / "recordings.sqlite3").exists() == kept
    for path in state.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(word.encode() in data for word in (ANSWER, PROMPT, APP_KEY)), path.name


def _headers(user: str = "ada", **more: str) -> dict[str, str]:
    own = {"authorization": f"Bearer {APP_KEY}", "content-type": "application/json", "x-user": user}
    return {**own, **{name.replace("_", "-"): value for name, value in more.items()}}


async def _ask(proxy: Serving, name: str, **more: str) -> tuple[int, Mapping[str, str], bytes]:
    return await proxy.post(PATH, orjson.dumps({**CHAT, "metadata": {"name": name}}), _headers(**more))


async def _page(proxy: Serving, path: str, user: str) -> tuple[int, Any]:
    async with proxy._session.get(proxy.url + path, headers=_headers(user)) as answer:
        return answer.status, await answer.read()
