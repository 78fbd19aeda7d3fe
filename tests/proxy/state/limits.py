"""Charges of each kind of limit, as policies would make them."""

from proxy.policy.contract import Charge, Limit, Quota, Rate, Slots, Unit

TEN_CALLS = Rate(amount=10, per_s=60, burst=10)
THOUSAND_TOKENS = Rate(amount=1000, per_s=60, burst=1000)
THOUSAND_A_DAY = Quota(amount=1000, period="day", zone="UTC")


def requests(amount: int = 1, *, rate: Rate = TEN_CALLS, subject: str = "user=ada", enforced: bool = True) -> Charge:
    limit = Limit("everyone", "rate_limit", Unit.REQUESTS, rate, "rate_limit_exceeded")
    return Charge(limit, subject, amount, enforced=enforced)


def tokens(amount: int, *, rate: Rate = THOUSAND_TOKENS, subject: str = "user=ada", enforced: bool = True) -> Charge:
    limit = Limit("everyone", "token_limit", Unit.TOKENS, rate, "token_limit_exceeded")
    return Charge(limit, subject, amount, enforced=enforced)


def slot(amount: int = 1, *, most: int = 4, subject: str = "user=ada", enforced: bool = True) -> Charge:
    limit = Limit("everyone", "concurrency", Unit.SLOTS, Slots(most), "concurrency_limit_exceeded")
    return Charge(limit, subject, amount, enforced=enforced)


def money(
    amount: int,
    *,
    quota: Quota = THOUSAND_A_DAY,
    subject: str = "everyone",
    enforced: bool = True,
    told_from: int | None = None,
) -> Charge:
    limit = Limit("everyone", "budget", Unit.NANOUSD, quota, "budget_exceeded", told_from)
    return Charge(limit, subject, amount, enforced=enforced)
