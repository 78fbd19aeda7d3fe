"""Row C9: exceptions of any type out of any hook of a clause, which no file of policies can cause. So the proxy runs in this process, with
a clause of the row's own among the others.

The rule a reader could break: the clause is trapped for one user, so that what happens to another is seen beside it.
"""

import asyncio
import json
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ClassVar

from policies import KINDS
from proxy.call import Call
from proxy.policy.contract import Balance, Charge, Clause, Notice, Stage, option
from proxy.policy.values import Name
from tests.fakes import FakeUpstream
from tests.faults.rig import OK, Rig
from tests.faults.row import row
from tests.house import CHAT, House, error_of, policy
from tests.whole.process import ran

_TYPES: dict[str, type[Exception]] = {
    one.__name__: one
    for one in (
        AssertionError,
        AttributeError,
        ArithmeticError,
        BufferError,
        EOFError,
        ImportError,
        IndexError,
        KeyError,
        MemoryError,
        NameError,
        NotImplementedError,
        OSError,
        OverflowError,
        RecursionError,
        ReferenceError,
        RuntimeError,
        StopAsyncIteration,
        StopIteration,
        SystemError,
        TimeoutError,
        TypeError,
        UnicodeError,
        ValueError,
        ZeroDivisionError,
        Exception,
    )
}
_HOOKS = ("prepare", "check", "charges", "settled")
_TEXT = "PromptCanary7f3a in the text of an exception"


class Springs:
    """What the traps of this process do now: raise this in this hook."""

    hook = ""
    error = ""
    seeds = count()


def _spring(hook: str, user: str) -> None:
    if Springs.hook == hook and user == "trapped":
        raise _TYPES[Springs.error](_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap(Clause):
    """A clause that raises where it is told to. It goes by the user alone, as a clause may."""

    clause: ClassVar[str] = "trap"
    stage: ClassVar[Stage] = Stage.SPEND

    of: Name = option("whatever")

    def prepare(self, call: Call) -> None:
        _spring("prepare", call.principal.user)

    def check(self, call: Call) -> None:
        _spring("check", call.principal.user)

    def charges(self, call: Call) -> tuple[Charge, ...]:
        _spring("charges", call.principal.user)
        return ()


class TrappedBudget(next(kind for kind in KINDS if kind.clause == "budget")):  # type: ignore[misc]
    """A budget that raises as it hears of what was settled."""

    def settled(self, balance: Balance) -> tuple[Notice, ...]:
        _spring("settled", balance.charge.subject.rpartition("/")[2])
        return super().settled(balance)  # type: ignore[no-any-return]


_TRAPPED = (*(kind for kind in KINDS if kind.clause != "budget"), TrappedBudget, Trap)
_RULES = """
- {name: trap, trap: {of: x}}
- {name: slots, concurrency: {calls: 2, by: user}, rate_limit: {requests: 100000, per: minute, by: user}}
- {name: purse, budget: {usd: 0.01, per: month, by: user, when_spent: reject, alarm_at: [1]}}
"""


@row(
    "C9",
    "an exception of any type out of any hook of a clause",
    "500 `internal_error` with the request id and none of its text, one record, nothing held; other users are served meanwhile",
)
async def trapped(rig: Rig) -> str:
    tried = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            FakeUpstream(default=OK) as upstream,
            House(policy(_RULES), upstream.url + "/v1", folder, kinds=_TRAPPED) as house,
        ):
            Springs.seeds = count()
            while not house.lines("budget.crossed"):  # from where on its budget hears of what is settled
                await _ask(house, "trapped")
            for Springs.hook in _HOOKS:
                for Springs.error in _TYPES:
                    tried += 1
                    trapped, other = await asyncio.gather(_ask(house, "trapped"), _ask(house, "other"))
                    what = f"{Springs.error} in {Springs.hook}"
                    assert other[0] == 200, f"{what}: another user got {other[0]}"
                    assert trapped[0] == 500, f"{what}: {trapped[0]}"
                    error = error_of(trapped[2])
                    assert (error["code"], error["type"], error["param"]) == ("internal_error", "server_error", None), what
                    assert "Canary" not in trapped[2].decode(), what
                    assert trapped[1]["x-request-id"], what
                    faults = await house.logged("fault.caught", tried)
                    assert Springs.error in faults[-1]["exception"], what
                    assert faults[-1]["request_id"] == trapped[1]["x-request-id"], what
            Springs.hook = ""
            assert (await _ask(house, "trapped"))[0] == 200
            asked = next(Springs.seeds)
            lines = await house.logged("call.finished", asked)
            assert len(lines) == len({line["request_id"] for line in lines}) == asked, "I6"
            assert b"Canary" not in (folder / "log").read_bytes(), "I4"
            usage = await asyncio.to_thread(ran, folder, "usage", "--json", "--state-dir", str(folder / "state"))
            total = json.loads(usage.stdout)["total"]
            assert (total["cost_nanousd"], total["held_nanousd"]) == (sum(line["cost_nanousd"] for line in lines), 0), "I2"
    return f"{len(_TYPES)} types in each of {len(_HOOKS)} hooks"


async def _ask(house: House, user: str) -> tuple[int, dict[str, str], bytes]:
    """A call with a body of its own, for what a clause makes of one is remembered for its like."""
    fields = {**CHAT, "max_tokens": 50, "seed": next(Springs.seeds)}
    status, headers, body = await house.post("/v1/chat/completions", fields, headers={"x-user": user})
    return status, {name.lower(): value for name, value in headers.items()}, body
