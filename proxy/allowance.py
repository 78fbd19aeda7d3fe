"""What a client is told of its limits: OpenAI's x-ratelimit fields, the draft RateLimit fields, and the words of a refusal.

Source: facts on the OpenAI API, section 8 (Go-style durations), and draft-ietf-httpapi-ratelimit-headers.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil

from proxy.policy.contract import Balance, Quota, Rate, Unit
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
        if unit is Unit.REQUESTS:
            requests = balance if requests is None else _tighter(requests, balance)
        elif unit is Unit.TOKENS:
            tokens = balance if tokens is None else _tighter(tokens, balance)
    lines = [] if requests is None else _lines("requests", requests)
    if tokens is not None:
        lines += _lines("tokens", tokens)
    if requests is not None:
        limit = requests.charge.limit
        rule = limit.rule
        if type(rule) is Rate:
            more_s = min(requests.reset_s, rule.per_s / rule.amount)  # until one more call may pass, as `retry-after` says it
            lines.append(f'ratelimit-policy: "{limit.policy}";q={rule.amount};w={rule.per_s}')
            lines.append(f'ratelimit: "{limit.policy}";r={requests.remaining};t={ceil(more_s)}')
    return lines


def _tighter(one: Balance, other: Balance) -> Balance:
    return other if (other.remaining, -other.reset_s) < (one.remaining, -one.reset_s) else one


def _lines(word: str, balance: Balance) -> list[str]:
    return [
        f"x-ratelimit-limit-{word}: {balance.charge.limit.amount}",
        f"x-ratelimit-remaining-{word}: {balance.remaining}",
        f"x-ratelimit-reset-{word}: {go_duration(balance.reset_s)}",
    ]


def go_duration(seconds: float) -> str:
    """`6m0s`, `1.5s`, `120ms`: how OpenAI writes a reset. seconds: ≥ 0, rounded up to a millisecond."""
    millis = -(-round(seconds * 1_000_000) // 1000)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    minutes, rest = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    left = f"{rest // 1000}.{rest % 1000:03d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{left}"
    return f"{minutes}m{left}" if minutes else left


def usd(nanousd: int) -> str:
    """Dollars as exact decimal text, without trailing zeros."""
    whole, part = divmod(nanousd, 1_000_000_000)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".") if part else str(whole)


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
