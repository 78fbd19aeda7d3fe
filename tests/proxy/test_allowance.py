"""What a client is told of its limits is true of all of them, and says when to come back."""

import re
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.allowance import allowance_lines, denial_message, go_duration, usd
from proxy.policy.contract import Balance, Charge, Limit, Quota, Rate, Slots, Unit
from proxy.state.contract import Denial

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


def allowance_headers(balances: Sequence[Balance]) -> dict[str, str]:
    lines = [line.partition(": ") for line in allowance_lines(balances)]
    assert len({name for name, _, _ in lines}) == len(lines), "no field stands twice"
    return {name: value for name, _, value in lines}


MINUTE = Rate(amount=10, per_s=60, burst=20)


def limit(unit: Unit, rule: Rate | Slots | Quota, *, policy: str = "everyone") -> Limit:
    return Limit(policy=policy, clause="c", unit=unit, rule=rule, error="rate_limit_exceeded")


def balance(
    held: Limit,
    *,
    remaining: int,
    reset_s: float = 30.0,
    enforced: bool = True,
    amount: int = 1,
    window: tuple[int, int] | None = None,
) -> Balance:
    charge = Charge(held, "user=ada", amount, enforced=enforced)
    return Balance(charge=charge, remaining=remaining, reset_s=reset_s, window=window)


def denial(
    held: Limit, *, amount: int = 1, remaining: int = 0, retry_after_s: float | None, window: tuple[int, int] | None = None
) -> Denial:
    at = balance(held, remaining=remaining, amount=amount, window=window)
    return Denial(charge=at.charge, balance=at, retry_after_s=retry_after_s)


# ---- durations and money ----


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.017, "17ms"),
        (0.12, "120ms"),
        (0.057, "57ms"),
        (0.999, "999ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.1, "1.1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (59.7, "59.7s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (172.8, "2m52.8s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (3661.25, "1h1m1.25s"),
        (86_400, "24h0m0s"),
        (2_678_400, "744h0m0s"),
    ],
)
def test_a_reset_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


GO = re.compile(r"(?:(?:(\d+)h)?(\d+)m)?(\d+(?:\.\d{1,3})?)s|(\d+)ms")


@PATIENT
@given(st.floats(0, 1e8) | st.integers(0, 10**8))
def test_a_reset_never_tells_a_client_to_come_back_too_early(seconds: float) -> None:
    found = GO.fullmatch(go_duration(seconds))
    assert found is not None
    hours, minutes, rest, millis = (float(part or 0) for part in found.groups())
    told = hours * 3600 + minutes * 60 + rest + millis / 1000
    assert -1e-6 <= told - seconds <= 0.001 + 1e-6


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_000_000_000, "1"),
        (10_000_000_000, "10"),
        (1_500_000_000, "1.5"),
        (1_396_000, "0.001396"),
        (123_456_789_012_345_678, "123456789.012345678"),
    ],
)
def test_dollars_are_exact_and_short(nanousd: int, text: str) -> None:
    assert usd(nanousd) == text


@PATIENT
@given(st.integers(0, 10**20))
def test_dollars_lose_and_add_nothing(nanousd: int) -> None:
    text = usd(nanousd)
    assert Fraction(text) * 10**9 == nanousd
    assert "." not in text or text[-1] not in "0."


# ---- headers ----


def test_a_rate_is_told_in_both_forms() -> None:
    assert allowance_headers([balance(limit(Unit.REQUESTS, MINUTE), remaining=7, reset_s=77.25)]) == {
        "x-ratelimit-limit-requests": "20",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "1m17.25s",
        "ratelimit-policy": '"everyone";q=10;w=60',
        "ratelimit": '"everyone";r=7;t=6',
    }


@pytest.mark.parametrize(("reset_s", "told"), [(0, 0), (0.1, 1), (5.5, 6), (6, 6), (6.5, 6), (120, 6)])
def test_the_draft_form_tells_when_one_more_call_may_pass(reset_s: float, told: int) -> None:
    headers = allowance_headers([balance(limit(Unit.REQUESTS, MINUTE), remaining=1, reset_s=reset_s)])
    assert headers["ratelimit"] == f'"everyone";r=1;t={told}'


def test_tokens_are_told_in_openais_form_only_for_the_draft_knows_no_such_unit() -> None:
    held = limit(Unit.TOKENS, Rate(amount=40_000, per_s=60, burst=40_000))
    assert allowance_headers([balance(held, remaining=39_000, reset_s=1.5)]) == {
        "x-ratelimit-limit-tokens": "40000",
        "x-ratelimit-remaining-tokens": "39000",
        "x-ratelimit-reset-tokens": "1.5s",
    }


def test_slots_and_money_say_nothing_in_advance() -> None:
    held = [limit(Unit.SLOTS, Slots(4)), limit(Unit.NANOUSD, Quota(5, "day", "UTC"))]
    assert allowance_headers([balance(one, remaining=1) for one in held]) == {}
    assert allowance_headers([]) == {}


@pytest.mark.parametrize(
    ("balances", "policy", "remaining"),
    [
        pytest.param([("a", 10, 9, 6), ("b", 10_000, 50, 600)], "a", 9, id="the one with the least left"),
        pytest.param([("a", 10, 9, 6), ("b", 10_000, 5, 600)], "b", 5, id="whatever its size"),
        pytest.param([("a", 10, 3, 6), ("b", 10, 3, 60)], "b", 3, id="of two alike the one that takes longer"),
        pytest.param([("a", 10, 0, 6), ("b", 10, 0, 1)], "a", 0, id="also when nothing is left"),
    ],
)
def test_the_tightest_limit_speaks_in_whatever_order_they_stand(
    balances: list[tuple[str, int, int, float]], policy: str, remaining: int
) -> None:
    made = [
        balance(limit(Unit.REQUESTS, Rate(amount=burst, per_s=60, burst=burst), policy=name), remaining=left, reset_s=reset_s)
        for name, burst, left, reset_s in balances
    ]
    for order in (made, made[::-1]):
        headers = allowance_headers(order)
        assert headers["x-ratelimit-remaining-requests"] == str(remaining)
        assert headers["ratelimit-policy"].startswith(f'"{policy}";')
        assert headers["ratelimit"].startswith(f'"{policy}";r={remaining};')


def test_a_limit_that_does_not_refuse_is_not_told() -> None:
    held = limit(Unit.REQUESTS, MINUTE)
    assert allowance_headers([balance(held, remaining=0, enforced=False)]) == {}
    both = [balance(held, remaining=0, enforced=False), balance(held, remaining=7)]
    assert allowance_headers(both)["x-ratelimit-remaining-requests"] == "7"


def test_requests_and_tokens_are_told_beside_each_other() -> None:
    headers = allowance_headers(
        [balance(limit(Unit.TOKENS, MINUTE), remaining=1), balance(limit(Unit.REQUESTS, MINUTE), remaining=2)]
    )
    assert (headers["x-ratelimit-remaining-tokens"], headers["x-ratelimit-remaining-requests"]) == ("1", "2")


# ---- refusals ----

REQUESTS = limit(Unit.REQUESTS, MINUTE)
TOKENS = limit(Unit.TOKENS, Rate(amount=40_000, per_s=60, burst=10_000))
BUDGET = limit(Unit.NANOUSD, Quota(5_000_000_000, "day", "UTC"), policy="batch")


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (denial(REQUESTS, retry_after_s=5.2), "Policy 'everyone' allows 10 requests per minute. Try again in 6 s."),
        (denial(REQUESTS, retry_after_s=0.01), "Policy 'everyone' allows 10 requests per minute. Try again in 1 s."),
        (
            denial(limit(Unit.REQUESTS, Rate(amount=1, per_s=3600, burst=1)), retry_after_s=3600),
            "Policy 'everyone' allows 1 request per hour. Try again in 3600 s.",
        ),
        (
            denial(limit(Unit.REQUESTS, Rate(amount=3, per_s=90, burst=3)), retry_after_s=2),
            "Policy 'everyone' allows 3 requests per 90 s. Try again in 2 s.",
        ),
        (
            denial(TOKENS, amount=9_000, retry_after_s=12),
            "Policy 'everyone' allows 40000 tokens per minute; this call may use up to 9000. Try again in 12 s.",
        ),
        (
            denial(TOKENS, amount=11_000, retry_after_s=None),
            "Policy 'everyone' allows 40000 tokens per minute and 10000 at once; this call may use up to 11000. "
            "Send a shorter input or a lower output cap.",
        ),
        (
            denial(limit(Unit.SLOTS, Slots(4)), retry_after_s=None),
            "Policy 'everyone' allows 4 calls at once; wait for one to finish.",
        ),
        (
            denial(limit(Unit.SLOTS, Slots(1)), retry_after_s=None),
            "Policy 'everyone' allows 1 call at once; wait for one to finish.",
        ),
        (
            denial(BUDGET, amount=1_604_000, remaining=1_396_000, retry_after_s=9000, window=(1_800_000_000, 1_800_057_600)),
            "The budget of policy 'batch' is 5 USD per day; 0.001396 USD are left, and this call may cost up to 0.001604 USD. "
            "The window turns at 2027-01-16T00:00:00Z.",
        ),
    ],
)
def test_a_refusal_names_the_policy_the_limit_and_when_to_come_back(refused: Denial, message: str) -> None:
    assert denial_message(refused) == message


@pytest.mark.parametrize("held", [REQUESTS, TOKENS, BUDGET, limit(Unit.SLOTS, Slots(4))])
def test_a_refusal_does_not_name_whom_it_counts(held: Limit) -> None:
    assert "ada" not in denial_message(denial(held, retry_after_s=1))
