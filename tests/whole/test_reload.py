"""A policy file that changes under a running process: taken whole or not at all, and never in the middle of a call."""

import asyncio
import re
from pathlib import Path

import openai
import pytest

from tests.fakes import FakeUpstream, Wait, sse_answer
from tests.house import policy
from tests.whole.conversation import CHAT, OK, STREAM
from tests.whole.process import Serving

HEAD, FIRST, *REST = sse_answer(STREAM)


def capped(cap: int) -> str:
    return policy(f"- {{name: everyone, max_tokens: {{cap: {cap}}}}}")


async def test_a_broken_file_changes_nothing_and_is_told_and_a_mended_one_comes_into_force(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        async with Serving(tmp_path, capped(100), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            before = await app.chat.completions.with_raw_response.create(**CHAT)
            broken = capped(100).replace("cap: 100", "cap: none") + "nonsense: 1\n"
            proxy.file.write_text(broken)
            [rejected] = await proxy.logged("policy.rejected")
            still = await app.chat.completions.with_raw_response.create(**CHAT)
            _, metrics = await proxy.admin("/metrics")
            proxy.file.write_text(capped(200))
            activated = (await proxy.logged("policy.activated", 2))[-1]
            after = await app.chat.completions.with_raw_response.create(**CHAT)
            _, metrics_after = await proxy.admin("/metrics")
    clamps = [answer.headers["tollhouse-clamped"] for answer in (before, still, after)]
    assert clamps == [f"max_completion_tokens=none->{cap}" for cap in (100, 100, 200)]
    old, kept, new = (answer.headers["tollhouse-policy"] for answer in (before, still, after))
    assert old == kept == rejected["policy_version"] == activated["previous_version"]
    assert new == activated["policy_version"] != old
    line = broken[: broken.index("cap: none")].count("\n") + 1
    assert rejected["mistakes"] == 2
    assert rejected["mistake_lines"][0].startswith(f"{proxy.file}:{line}:")
    assert 'tollhouse_policy_loads_total{result="rejected"} 1' in metrics
    assert f'tollhouse_policy_info{{version="{old}"}} 1' in metrics
    assert 'tollhouse_policy_loads_total{result="activated"} 2' in metrics_after
    assert f'tollhouse_policy_info{{version="{new}"}} 1' in metrics_after


async def test_a_call_keeps_the_rules_it_began_with(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream(default=OK) as upstream:
        upstream.queue([HEAD, FIRST, Wait(go), *REST])
        async with Serving(tmp_path, capped(100), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            running = await app.chat.completions.with_raw_response.create(**CHAT, stream=True)
            proxy.file.write_text(capped(200))
            activated = (await proxy.logged("policy.activated", 2))[-1]
            await app.chat.completions.create(**CHAT)
            go.set()
            async for _ in running.parse():
                pass
            short, long = await proxy.logged("call.finished", 2)
    assert (short["clamped"], short["policy_version"]) == ("max_completion_tokens=none->200", activated["policy_version"])
    assert (long["clamped"], long["policy_version"]) == ("max_completion_tokens=none->100", activated["previous_version"])


def mount(folder: Path, version: str, **files: str) -> None:
    """What a kubelet does: a new folder, and the `..data` link renamed over the old one."""
    real = folder / f"..{version}"
    real.mkdir(parents=True)
    for name, text in files.items():
        (real / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..data_tmp").symlink_to(real.name)
    (folder / "..data_tmp").rename(folder / "..data")


async def test_a_mounted_config_map_and_a_mounted_secret_are_followed(tmp_path: Path) -> None:
    """A rotated secret is used for the next call; the version names the rules, and those are the same."""
    rules, secrets = tmp_path / "rules", tmp_path / "secrets"
    by_file = capped(100).replace("sk-upstreamcanary0123456789", f'"${{file:{secrets}/key}}"')
    mount(secrets, "1", key="sk-before\n")
    mount(rules, "1", policy=by_file)
    async with FakeUpstream(default=OK) as upstream:
        async with Serving(tmp_path, rules / "policy", upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            await app.chat.completions.create(**CHAT)
            mount(secrets, "2", key="sk-rotated\n")
            same = (await proxy.logged("policy.activated", 2))[-1]
            await app.chat.completions.create(**CHAT)
            mount(rules, "2", policy=by_file.replace("cap: 100", "cap: 200"))
            other = (await proxy.logged("policy.activated", 3))[-1]
            await app.chat.completions.create(**CHAT)
    assert [request.header("authorization") for request in upstream.requests] == [
        "Bearer sk-before",
        "Bearer sk-rotated",
        "Bearer sk-rotated",
    ]
    assert same["policy_version"] == same["previous_version"] == other["previous_version"] != other["policy_version"]
    assert [request.json()["max_completion_tokens"] for request in upstream.requests] == [100, 100, 200]  # type: ignore[index]


async def test_a_key_that_is_taken_out_opens_nothing_any_more_and_a_limit_is_kept_over_a_reload(tmp_path: Path) -> None:
    rules = "- {name: hourly, rate_limit: {requests: 2, per: hour, by: key}}"
    async with FakeUpstream(default=OK) as upstream:
        async with Serving(tmp_path, policy(rules), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            await app.chat.completions.create(**CHAT)
            await app.chat.completions.create(**CHAT)
            proxy.file.write_text(policy(rules + "\n- {name: more, concurrency: {calls: 9}}"))
            await proxy.logged("policy.activated", 2)
            with pytest.raises(openai.RateLimitError):
                await app.chat.completions.create(**CHAT)
            proxy.file.write_text(policy(rules, key="another-key"))
            await proxy.logged("policy.activated", 3)
            with pytest.raises(openai.AuthenticationError):
                await app.chat.completions.create(**CHAT)


BUDGET = "- {name: purse, budget: {usd: 0.01, per: month, by: user}}"
SPENT = re.compile(r'^tollhouse_budget_spent_ratio\{policy="purse"\} (\S+)$', re.MULTILINE)


async def shown(proxy: Serving) -> float:
    [found] = SPENT.findall((await proxy.admin("/metrics"))[1])
    return float(found)


async def until_shown(proxy: Serving, ratio: float) -> None:
    async with asyncio.timeout(10):
        while await shown(proxy) != pytest.approx(ratio):
            await asyncio.sleep(0.02)


async def test_what_is_spent_of_a_budget_is_shown_after_a_reload_and_a_restart_before_any_call(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream:
        where = upstream.url + "/v1"
        async with Serving(tmp_path, policy(BUDGET), upstream=where) as proxy, proxy.client() as app:
            for user in ("ada", "ada", "bob"):
                await app.chat.completions.create(**CHAT, extra_headers={"x-user": user})
            await proxy.logged("call.finished", 3)
            spent = await shown(proxy)
            proxy.file.write_text(policy(BUDGET.replace("0.01", "0.02")))
            await proxy.logged("policy.activated", 2)
            await until_shown(proxy, spent / 2)
        async with Serving(tmp_path, policy(BUDGET), upstream=where) as proxy:
            await until_shown(proxy, spent)
    assert spent > 0
