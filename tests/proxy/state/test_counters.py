"""A bucket counts as the arithmetic of limits does, whatever happens to it."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.contract import Charge, Limit, Rate, Unit
from proxy.state.arithmetic import NS, pace, remaining, rescale, reset_ns, retry_after_ns, take
from proxy.state.counters import Bucket

RATES = st.builds(
    Rate,
    amount=st.sampled_from([1, 7, 10, 60, 10**7]),
    per_s=st.sampled_from([1, 60, 86_400]),
    burst=st.sampled_from([1, 5, 10**6]),
)
HOLD = st.tuples(st.just("hold"), st.integers(0, 12))
SETTLE = st.tuples(st.just("settle"), st.integers(0, 20))
WAIT = st.tuples(st.just("wait"), st.sampled_from([1, 999, NS // 7, NS, 61 * NS, 100_000 * NS]))
RELOAD = st.tuples(st.just("reload"), RATES)


@dataclass
class Reference:
    """A bucket of the pure functions alone."""

    rate: Rate
    tat: int = 0
    held: list[int] = field(default_factory=list)

    def hold(self, now_ns: int, amount: int) -> float | None:
        wait_ns = retry_after_ns(pace(self.rate), self.tat, now_ns, amount)
        self.tat = take(pace(self.rate), self.tat, now_ns, amount)
        self.held.append(amount)
        return None if wait_ns is None else wait_ns / NS

    def reload(self, now_ns: int, rate: Rate) -> None:
        if pace(rate) != pace(self.rate):
            self.tat = rescale(self.tat, now_ns, old=pace(self.rate), new=pace(rate))
        self.rate = rate


def limit_of(rate: Rate) -> Limit:
    return Limit("everyone", "rate_limit", Unit.REQUESTS, rate, error="rate_limit_exceeded")


@settings(max_examples=500, deadline=None)
@given(RATES, st.lists(st.one_of(HOLD, SETTLE, WAIT, RELOAD), max_size=30))
def test_a_bucket_agrees_with_the_arithmetic(rate: Rate, steps: list[tuple[str, int | Rate]]) -> None:
    now_ns, began = 10**15 + 1, Charge(limit_of(rate), "user=ada", 1)
    bucket, reference = Bucket(began.limit), Reference(rate)
    for step, value in steps:
        if isinstance(value, Rate):
            bucket.refit(limit_of(value), now_ns)
            reference.reload(now_ns, value)
        elif step == "wait":
            now_ns += value
        elif step == "hold":
            assert bucket.hold(Charge(limit_of(reference.rate), "user=ada", value), now_ns, 0.0) == reference.hold(now_ns, value)
        elif reference.held:
            amount = reference.held.pop()
            bucket.settle(amount, value, now_ns)
            reference.tat = take(pace(reference.rate), reference.tat, now_ns, value - amount) if value != amount else reference.tat
        assert bucket.limit is not None
        for charge, shown in ((began, rate), (Charge(bucket.limit, "user=ada", 1), reference.rate)):
            tat = reference.tat
            if pace(shown) != pace(reference.rate):
                tat = rescale(tat, now_ns, old=pace(reference.rate), new=pace(shown))
            balance = bucket.balance(charge, now_ns, 0.0)
            assert balance.remaining == remaining(pace(shown), tat, now_ns)
            assert balance.reset_s == reset_ns(pace(shown), tat, now_ns) / NS
            assert balance.held == sum(reference.held)
        assert bucket.at_rest(now_ns, 0.0) == (not reference.held and not reset_ns(pace(reference.rate), reference.tat, now_ns))
