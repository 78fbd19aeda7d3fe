import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.accounts import MOST_KINDS, MOST_NAME_CHARS, Accounts
from proxy.call import Kind, Principal, Usage
from proxy.errors import NotAdmitted, Refusal, UpstreamError
from proxy.policy.contract import Balance, Charge, Limit, Quota, Unit
from proxy.policy.policyset import PolicySet
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from proxy.trip import Trip
from tests.clock import FakeClock
from tests.ended import CALL, ENDED, MS, START_NS


class Prices:
    version = "2026-11"


class Set:
    """As much of a PolicySet as is told of."""

    version = "v7"
    prices = Prices()


def trip(error: Any = None, **call: Any) -> Trip:
    """A call that ended."""
    ended = Trip(replace(CALL, **call), ENDED.traceparent, cast(PolicySet, Set()), lambda: 0, START_NS)
    ended.ended_ns = START_NS + MS
    ended.usage, ended.usage_source, ended.status = Usage(3, 4), "reported", 200
    if error is not None:
        ended.failed(error)
    return ended


class Books:
    """Accounts, and what they told."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        self.log = Log(self._fd, clock=FakeClock(wall_s=1.0), gather_s=0)
        self.metrics = Metrics(version="1", clock=FakeClock(wall_s=1.0))
        self.changed: list[Balance] = []
        self.accounts = Accounts(log=self.log, metrics=self.metrics, changed=lambda: self.changed, loop=loop)
        self.activate("gpt-4.1")

    def activate(self, *models: str) -> None:
        self.metrics.policy_activated(version="v7", models=models, keys=("web",), clauses=())

    def lines(self) -> list[dict[str, Any]]:
        self.log.close(within_s=20)
        return [orjson.loads(line) for line in self._path.read_bytes().splitlines()]

    async def calls(self) -> dict[str, float]:
        """Calls by the model they count on."""
        families = text_string_to_metric_families((await self.metrics.render()).decode())
        return {s.labels["model"]: s.value for family in families for s in family.samples if s.name == "tollhouse_calls_total"}

    async def budgets(self) -> dict[str, float]:
        """Spent shares by policy."""
        families = text_string_to_metric_families((await self.metrics.render()).decode())
        shown = (s for family in families for s in family.samples if s.name == "tollhouse_budget_spent_ratio")
        return {s.labels["policy"]: s.value for s in shown}

    def close(self) -> None:
        self.log.close(within_s=20)
        os.close(self._fd)


@pytest.fixture
async def books(tmp_path: Path) -> Any:
    made = Books(tmp_path / "log", asyncio.get_running_loop())
    yield made
    made.close()


async def test_calls_that_ended_are_told_of_together_one_line_each(books: Books) -> None:
    for n in range(3):
        books.accounts.finished(trip(id=f"req_{n}"))
    assert await books.calls() == {}
    books.accounts.tell()
    assert await books.calls() == {"gpt-4.1": 3}
    assert [(line["request_id"], line["input_tokens"]) for line in books.lines()] == [("req_0", 3), ("req_1", 3), ("req_2", 3)]


async def test_a_call_is_told_of_though_nobody_asks(books: Books) -> None:
    books.accounts.finished(trip())
    async with asyncio.timeout(10):
        while not await books.calls():
            await asyncio.sleep(0.001)


async def test_a_call_that_cannot_be_told_of_hides_no_other(books: Books) -> None:
    broken = trip(id="req_broken")
    broken.usage = cast(Usage, None)
    for one in (trip(id="req_1"), broken, trip(id="req_2")):
        books.accounts.finished(one)
    books.accounts.tell()
    lines = books.lines()
    assert [line["request_id"] for line in lines if line["event"] == "call.finished"] == ["req_1", "req_2"]
    assert [line["request_id"] for line in lines if line["event"] == "fault.caught"] == ["req_broken"]


async def test_a_budget_is_shown_where_a_call_settled_on_it_and_where_one_was_refused_by_it(books: Books) -> None:
    def budget(policy: str, spent: int) -> Balance:
        limit = Limit(policy, "budget", Unit.NANOUSD, Quota(100, "day", "UTC"), error="budget_exceeded")
        return Balance(Charge(limit, "everyone", 1), remaining=0, reset_s=0.0, spent=spent, window=(0, 86_400))

    books.changed = [budget("a", 30), budget("b", 20)]
    refused = trip(Refusal("budget_exceeded", "", policy="c", clause="budget"))
    refused.balances = (budget("c", 90),)
    books.accounts.finished(refused)
    books.accounts.tell()
    assert await books.budgets() == {"a": 0.3, "b": 0.2, "c": 0.9}


async def test_every_field_of_a_kind_is_its_own_and_any_other_value_another_kind(books: Books) -> None:
    """What is remembered of one kind must never be said of a call of another."""
    refusal = Refusal("budget_exceeded", "", policy="everyone", clause="budget")
    broken = UpstreamError("upstream_broken", "")
    late = UpstreamError("upstream_broken", "", deadline="idle")
    several = [trip(), trip(refusal), trip(broken), trip(late), trip(model="other"), trip(model_asked="other"), trip(stream=False)]
    several += [trip(principal=Principal(key="web2", user="ada")), trip(surface=replace(CALL.surface, name="embeddings"))]
    for name, value in {"upstream": "gpu", "status": 502, "usage_source": "counted"}.items():
        several.append(trip())
        setattr(several[-1], name, value)
    kinds = [Kind(*one.kind()) for one in several]
    assert len(set(kinds)) == len(kinds)
    first = kinds[0]
    assert first == Kind(
        key="web",
        surface="chat",
        model_asked="gpt-4",
        model="gpt-4.1",
        model_served=None,
        upstream=None,
        stream=True,
        status=200,
        ending="completed",
        error=None,
        deadline=None,
        refused_by=None,
        clamps=(),
        usage_source="reported",
        usage_nonsense=False,
        price_version=None,
        policy_version="v7",
    )
    assert (kinds[1].error, kinds[1].refused_by, kinds[1].ending) == ("budget_exceeded", ("everyone", "budget"), "refused")
    for _ in range(2):
        for one in several:
            books.accounts.finished(one)
        books.accounts.tell()
    said = [line for line in books.lines() if line["event"] == "call.finished"]
    for kind, line in zip(kinds * 2, said, strict=True):
        names = ("key", "surface", "model_asked", "upstream", "stream", "status", "error", "deadline", "usage_source")
        assert [line.get(name) for name in names] == [getattr(kind, name) for name in names]


async def test_users_and_paths_make_no_kinds(books: Books) -> None:
    for n in range(50):
        books.accounts.finished(trip(id=f"req_{n}", path=f"/v1/responses/{n}", principal=Principal(key="web", user=f"u{n}")))
    books.accounts.tell()
    assert len(books.accounts._kinds) == 1
    assert [(line["user"], line["path"]) for line in books.lines()] == [(f"u{n}", f"/v1/responses/{n}") for n in range(50)]


async def test_whatever_names_clients_make_up_few_and_short_ones_are_remembered(books: Books) -> None:
    for n in range(3 * MOST_KINDS):
        books.accounts.finished(trip(model_asked=f"m{n}"))
    books.accounts.tell()
    assert 0 < len(books.accounts._kinds) <= MOST_KINDS
    before = len(books.accounts._kinds)
    for _ in range(2):
        books.accounts.finished(trip(model_asked="m" * (MOST_NAME_CHARS + 1)))
    books.accounts.tell()
    assert len(books.accounts._kinds) == before
    assert await books.calls() == {"gpt-4.1": 3 * MOST_KINDS + 2}


async def test_a_model_counts_by_the_names_of_the_policy_file_in_force(books: Books) -> None:
    for models in (("gpt-4.1",), (), ("gpt-*",)):
        books.activate(*models)
        books.accounts.finished(trip())
        books.accounts.tell()
    assert await books.calls() == {"gpt-4.1": 1, "other": 1, "gpt-*": 1}


async def test_lines_of_strangers_who_were_refused_are_few_and_the_others_are_counted(tmp_path: Path) -> None:
    books = Books(tmp_path / "log", asyncio.get_running_loop())
    stranger: dict[str, Any] = {"principal": Principal("", "")}
    for second in range(12):
        for _ in range(1000):
            refused = trip(NotAdmitted("invalid_api_key", "No."), **stranger)
            refused.ended_ns += second * 10**9
            books.accounts.finished(refused)
        books.accounts.tell()
    for _ in range(300):
        books.accounts.finished(trip(Refusal("rate_limit_exceeded", "No.", policy="p", clause="rate_limit")))
    books.accounts.tell()
    thinned = books.metrics.log_thinned.value
    lines = books.lines()
    written = [line for line in lines if line["event"] == "call.finished" and line["error"] == "invalid_api_key"]
    assert len(written) == 100 + 11 * 10
    assert thinned == 12_000 - len(written)
    assert len([line for line in lines if line.get("error") == "rate_limit_exceeded"]) == 300, (
        "whose key is known has a line for each"
    )
    [said] = [line for line in lines if line["event"] == "log.thinned"]
    assert 9000 < said["left_out"] < thinned
    assert (await books.metrics.render()).decode().count('tollhouse_errors_total{code="invalid_api_key"} 12000') == 1
