"""Who spent most of a budget: exact while there are few, bounded and honest when there are many."""

import dis
import random
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Call, Principal
from proxy.policy.contract import Charge, Limit, Notice, Quota, Unit
from proxy.spenders import KEPT, MOST_BUDGETS, MOST_NAMES, Spenders
from tests.clock import FakeClock
from tests.pages import DAY
from tests.policies.calls import a_call

NOW_S = float(DAY[0] + 3600)


@dataclass(eq=False)
class Books:
    """What is spent of one budget in one window."""

    window: tuple[int, int] = DAY
    spent: int = 0


def charge(subject: str = "everyone", *, traced: bool = True) -> Charge:
    limit = Limit("everyone", "budget", Unit.NANOUSD, Quota(10**12, "day", "UTC"), error="budget_exceeded", traced=traced)
    return Charge(limit, subject, 1)


def call(user: str = "ada", model: str | None = "gpt-4.1", *, key: str = "web", tags: tuple[str, ...] = ()) -> Call:
    return a_call(model=model, principal=Principal(key, user, tags))


def notice(spent: int, *, subject: str = "everyone", window: tuple[int, int] = DAY) -> Notice:
    return Notice("everyone", subject, 80, spent, 10**12, window, ("oncall",), False)


class House:
    def __init__(self) -> None:
        self.clock = FakeClock(wall_s=NOW_S)
        self.spenders = Spenders(self.clock)
        self.books = Books()
        self.charge = charge()

    def spend(self, amount: int, who: Call) -> None:
        self.books.spent += amount
        self.spenders.add([(self.charge, self.books)], who, amount)

    def top(self) -> Any:
        top = self.spenders.top(notice(self.books.spent))
        assert top is not None
        return top


@pytest.fixture
def house() -> House:
    return House()


def test_the_three_largest_users_and_models_are_named_the_largest_first(house: House) -> None:
    for user, model, amount in [("ada", "a", 5), ("bob", "b", 7), ("cyd", "a", 1), ("dan", "c", 2), ("ada", "d", 4)]:
        house.spend(amount, call(user, model))
    assert house.top() == (
        (("b", 7), ("a", 6), ("d", 4)),
        (("web/ada", 9), ("web/bob", 7), ("web/dan", 2)),
        19,
        None,
        0,
    )


def test_a_key_without_users_is_named_alone_and_a_call_without_a_model_too(house: House) -> None:
    house.spend(5, call("nightly", None, key="nightly"))
    assert (house.top().users, house.top().models) == ((("nightly", 5),), (("no model", 5),))


def test_a_user_is_one_also_when_a_reload_gave_his_key_other_tags(house: House) -> None:
    house.spend(5, call(tags=("a",)))
    house.spend(5, call(tags=("b",)))
    assert house.top().users == (("web/ada", 10),)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(1, 100)), min_size=1, max_size=30))
def test_every_nanodollar_is_counted_once_for_its_user_and_once_for_its_model(spends: list[tuple[str, str, int]]) -> None:
    house = House()
    for user, model, amount in spends:
        house.spend(amount, call(user, model))
    users, models = (Counter[str](), Counter[str]())
    for user, model, amount in spends:
        users[f"web/{user}"] += amount
        models[model] += amount
    assert (dict(house.top().users), dict(house.top().models)) == (users, models)


def test_budgets_subjects_and_windows_are_told_apart() -> None:
    spenders = Spenders(FakeClock(wall_s=NOW_S))
    tomorrow = (DAY[1], DAY[1] + 86_400)
    for subject, window, user in [("key=a", DAY, "ada"), ("key=b", DAY, "bob"), ("key=a", tomorrow, "cyd")]:
        spenders.add([(charge(subject), Books(window, spent=3))], call(user), 3)
    for subject, window, user in [("key=a", DAY, "ada"), ("key=b", DAY, "bob"), ("key=a", tomorrow, "cyd")]:
        top = spenders.top(notice(3, subject=subject, window=window))
        assert top is not None
        assert top.users == ((f"web/{user}", 3),)
    assert spenders.top(notice(3, subject="key=c")) is None


def test_a_budget_that_pages_nobody_is_not_traced(house: House) -> None:
    house.charge = charge(traced=False)
    house.spend(5, call())
    assert repr(house.spenders) == "<Spenders of 0 budgets>"


def test_after_a_restart_it_says_from_when_on_it_counted(house: House) -> None:
    house.books.spent = 100
    house.spend(5, call())
    assert house.top() == ((("gpt-4.1", 5),), (("web/ada", 5),), 5, NOW_S, 0)


def names(many: int, *, rest: int) -> Iterable[tuple[str, int]]:
    """One large spender in the middle of many small ones, shuffled the same way each time."""
    spends = [(f"user-{number}", 1) for number in range(many)] + [("ada", 10)] * rest
    random.Random(7).shuffle(spends)
    return spends


def test_memory_is_bounded_and_the_amounts_of_the_largest_are_off_by_no_more_than_it_says(house: House) -> None:
    true = Counter[str]()
    for user, amount in names(20_000, rest=1000):
        house.spend(amount, call(user))
        true[f"web/{user}"] += amount
    (largest, *_), error = house.top().users, house.top().error_nanousd
    assert largest[0] == "web/ada"
    assert 0 < error <= house.books.spent / (KEPT + 1)
    for who, amount in house.top().users:
        assert amount <= true[who] <= amount + error
    assert house.top().models == (("gpt-4.1", house.books.spent),)
    (tally,) = house.spenders._tallies.values()
    assert len(tally.users) <= MOST_NAMES


def test_the_oldest_budget_is_forgotten_first_and_counts_anew_when_it_comes_again(house: House) -> None:
    house.spend(5, call())
    for number in range(MOST_BUDGETS):
        house.spenders.add([(charge(f"user=web/{number}"), Books(spent=1))], call(), 1)
    assert repr(house.spenders) == f"<Spenders of {MOST_BUDGETS} budgets>"
    assert house.spenders.top(notice(5)) is None
    house.spend(7, call())
    assert (house.top().users, house.top().since_s) == ((("web/ada", 7),), NOW_S)


def test_a_call_of_a_known_user_and_model_costs_less_than_60_bytecodes(house: House) -> None:
    """And one whose budget is not traced less than 30. Both with the call of `add`."""
    house.spend(5, call())
    assert bytecodes(lambda quotas, who: house.spenders.add(quotas, who, 5), [(house.charge, house.books)], call()) < 60
    assert bytecodes(lambda quotas, who: house.spenders.add(quotas, who, 5), [(charge(traced=False), house.books)], call()) < 30


def bytecodes(run: Any, *arguments: Any) -> int:
    """How many the interpreter executes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            code = frame.f_code.co_code
            count += dis.opname[code[frame.f_lasti]] not in ("CACHE", "RESUME")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(*arguments)
    finally:
        sys.settrace(before)
    return count
