"""What a client is told of its limits: OpenAI's x-ratelimit fields, the draft RateLimit fields, and the words of a refusal.

Source: facts on the OpenAI API, section 8 (Go-style durations), and draft-ietf-httpapi-ratelimit-headers.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil

from proxy.policy.contract import REQUESTS, TOKENS, Balance, Quota, Rate, Unit
from proxy.state.contract import Denial

_PER = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}


def allowance_lines(balances: Sequence[Balance]) -> list[str]:
    """Header lines for the tightest limit of requests and of tokens: the one with the least left, so that what they promise holds for all.

    Limits of money and slots say nothing in advance.
    """
    requests: Balance | None = None
    tokens: Balance | None = None
    for balance in balances:
        charge = balance.charge
        unit = charge.limit.unit
        if not charge.enforced:
            continue
        if unit is REQUESTS:
            requests = balance if requests is None else _tighter(requests, balance)
        elif unit is TOKENS:
            tokens = balance if tokens is None else _tighter(tokens, balance)
    lines: list[str] = []
    if requests is not None:
        limit, remaining, reset_s = requests.charge.limit, requests.remaining, requests.reset_s
        lines += (
            _limit_line("requests", limit.amount),
            f"x-ratelimit-remaining-requests: {remaining}",
            f"x-ratelimit-reset-requests: {go_duration(reset_s)}",
        )
        rule = limit.rule
        if type(rule) is Rate:
            one_s = rule.per_s / rule.amount
            more_s = reset_s if reset_s < one_s else one_s  # until one more call may pass, as `retry-after` says it
            lines += (
                _policy_line(limit.policy, rule.amount, rule.per_s),
                f'ratelimit: "{limit.policy}";r={remaining};t={ceil(more_s)}',
            )
    if tokens is not None:
        lines += (
            _limit_line("tokens", tokens.charge.limit.amount),
            f"x-ratelimit-remaining-tokens: {tokens.remaining}",
            f"x-ratelimit-reset-tokens: {go_duration(tokens.reset_s)}",
        )
    return lines


def _tighter(one: Balance, other: Balance) -> Balance:
    return other if (other.remaining, -other.reset_s) < (one.remaining, -one.reset_s) else one


@lru_cache(maxsize=1024)
def _limit_line(word: str, amount: int) -> str:
    return f"x-ratelimit-limit-{word}: {amount}"


@lru_cache(maxsize=1024)
def _policy_line(policy: str, amount: int, per_s: int) -> str:
    return f'ratelimit-policy: "{policy}";q={amount};w={per_s}'


def go_duration(seconds: float) -> str:
    """`6m0s`, `1.5s`, `120ms`: how OpenAI writes a reset. seconds: ≥ 0, rounded up to a millisecond."""
    millis = ceil(seconds * 1000 - 0.0005)  # half a microsecond is what a float adds, and no reason for one more
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    if millis < 60_000:
        return f"{millis / 1000:g}s"
    minutes, rest = divmod(millis, 60_000)
    if minutes < 60:
        return f"{minutes}m{rest / 1000:g}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest / 1000:g}s"


def usd(nanousd: int) -> str:
    """Dollars as exact decimal text, without trailing zeros. nanousd: ≥ 0."""
    whole, part = divmod(nanousd, 1_000_000_000)
    return f"{whole}.{str(part).zfill(9)}".rstrip("0") if part else str(whole)


def denial_message(denial: Denial) -> str:
    """One sentence that names the policy, the limit and when to come back."""
    limit = denial.charge.limit
    when = "" if denial.retry_after_s is None else f" Try again in {max(1, ceil(denial.retry_after_s))} s."
    if limit.unit is Unit.SLOTS:
        return f"Policy '{limit.policy}' allows {_many(limit.amount, 'call')} at once; wait for one to finish."
    if limit.unit is Unit.NANOUSD:
        return _budget_message(denial)
    rule = limit.rule
    per = f" per {_PER.get(rule.per_s, f'{rule.per_s} s')}" if isinstance(rule, Rate) else ""
    allowed = rule.amount if isinstance(rule, Rate) else limit.amount
    if limit.unit is Unit.REQUESTS:
        return f"Policy '{limit.policy}' allows {_many(allowed, 'request')}{per}.{when}"
    if denial.retry_after_s is None:
        return (
            f"Policy '{limit.policy}' allows {_many(allowed, 'token')}{per} and {limit.amount} at once; this call may use up to "
            f"{denial.charge.amount}. Send a shorter input or a lower output cap."
        )
    return f"Policy '{limit.policy}' allows {_many(allowed, 'token')}{per}; this call may use up to {denial.charge.amount}.{when}"


def _budget_message(denial: Denial) -> str:
    limit, balance = denial.charge.limit, denial.balance
    rule = limit.rule
    per = f" per {rule.period}" if isinstance(rule, Quota) else ""
    turns = f" The window turns at {_utc(balance.window[1])}." if balance.window is not None else ""
    left = f"{usd(balance.remaining)} USD are left, and this call may cost up to {usd(denial.charge.amount)} USD."
    return f"The budget of policy '{limit.policy}' is {usd(limit.amount)} USD{per}; {left}{turns}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _utc(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
