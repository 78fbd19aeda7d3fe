"""Pages of a process that serves: what they say, and when they are over."""

from pathlib import Path
from typing import Any

import openai
import orjson

from tests.fakes import FakeUpstream, json_answer
from tests.house import policy
from tests.whole.conversation import CHAT, OK
from tests.whole.process import Serving

TOOK = json_answer(200, {})


def purse(usd: str, receiver: FakeUpstream) -> str:
    """A budget for everyone that pages at a half. A call costs 0.001604 dollars."""
    more = f"pages:\n  team: {{webhook: {{url: '{receiver.url}/pages'}}}}"
    return policy(f"- {{name: purse, budget: {{usd: {usd}, per: month, alarm_at: [50], page: [team]}}}}", more=more)


async def call(app: openai.AsyncOpenAI, user: str) -> None:
    await app.chat.completions.create(**CHAT, extra_headers={"x-user": user})


def pages(receiver: FakeUpstream) -> list[tuple[str, dict[str, Any]]]:
    events = [orjson.loads(request.body) for request in receiver.requests]
    return [(event["type"], event["data"]) for event in events]


async def test_a_page_names_who_spent_and_is_over_when_the_budget_is_raised_until_it_is_crossed_again(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=TOOK) as receiver:
        async with Serving(tmp_path, purse("0.008", receiver), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            for user in ("ada", "ben", "ada"):
                await call(app, user)
            [crossed] = await proxy.logged("budget.crossed")
            await proxy.logged("page.delivered")
            proxy.file.write_text(purse("0.012", receiver))
            [resolved] = await proxy.logged("budget.resolved")
            await proxy.logged("page.delivered", 2)
            await call(app, "ben")
            await proxy.logged("budget.crossed", 2)
            await proxy.logged("page.delivered", 3)
    assert crossed["top_models"] == ["gpt-4.1-mini 0.004812"]
    assert crossed["top_users"] == ["app/ada 0.003208", "app/ben 0.001604"]
    assert (resolved["page"], resolved["limit_nanousd"]) == (crossed["page"], 12_000_000)
    (first, facts), (second, over), (third, again) = pages(receiver)
    assert (first, second, third) == ("budget.threshold_crossed", "budget.threshold_resolved", "budget.threshold_crossed")
    assert facts["top_users"][0] == {"name": "app/ada", "spent_usd": "0.003208", "share_percent": 67}
    assert facts["remedy"].startswith("Ask whether what app/ada spends on gpt-4.1-mini is meant.")
    assert (over["id"], over["reason"], over["limit_usd"]) == (facts["id"], "budget_raised", "0.012")
    assert (again["spent_usd"], again["limit_usd"]) == ("0.006416", "0.012")
    assert len({request.header("webhook-id") for request in receiver.requests}) == 3


async def test_a_budget_that_a_reload_lowers_below_what_is_spent_pages_without_another_call(tmp_path: Path) -> None:
    """And after a restart, a page says since when it has counted who spends."""
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=TOOK) as receiver:
        async with Serving(tmp_path, purse("0.02", receiver), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            await call(app, "ada")
            await proxy.logged("call.finished")
        async with Serving(tmp_path, purse("0.02", receiver), upstream=upstream.url + "/v1") as proxy, proxy.client() as app:
            await call(app, "ben")
            await proxy.logged("call.finished")
            proxy.file.write_text(purse("0.004", receiver))
            await proxy.logged("page.delivered")
    [(_, facts)] = pages(receiver)
    assert facts["spent_usd"] == "0.003208"
    assert [top["name"] for top in facts["top_users"]] == ["app/ben"]
    assert facts["top_counted_since"] is not None
