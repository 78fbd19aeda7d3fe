"""What an upstream's refusal says about coming back: whether the call was looked at, whether to come again, and when.

Pure. The rule a reader could break: a call that may have been worked on may be on somebody's bill, so it is not made a second time.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

# The upstream says that it did nothing: too many calls (RFC 6585, 4), no service now (RFC 9110, 15.6.4), overloaded (529, no standard).
NOT_PROCESSED = frozenset((429, 503, 529))
# What a gateway or a crash leaves open: the model may have worked, and the vendor may bill it.
UNCERTAIN = frozenset((500, 502, 504))
# Methods that change nothing and are not paid for, so that a second time does no harm. Source: RFC 9110, 9.2.1.
_SAFE = frozenset(("GET", "HEAD"))
# Codes and types that waiting does not mend. Source: facts on the OpenAI API, section 7.
HOPELESS = frozenset(("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "billing_not_active"))
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]{1,4})?")


def unprocessed(status: int, method: str) -> bool:
    """Whether a call refused with this status can be made once more, there or elsewhere, without being paid for twice."""
    return status in NOT_PROCESSED or (status in UNCERTAIN and method in _SAFE)


def worth_repeating(headers: Mapping[str, str], *, code: str, type: str) -> bool:
    """Whether the same upstream could take the same call a little later. code, type: of its error."""
    return headers.get("x-should-retry") != "false" and code not in HOPELESS and type not in HOPELESS


def wait_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds until the upstream wants to be asked again, ≥ 0; None where it does not say, or nothing that can be read.

    The milliseconds come first, as in the SDKs, which read both as numbers with a fraction.
    """
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    return seconds if seconds is not None else retry_after_s(text, now_s=now_s)


def retry_after_s(text: str | None, *, now_s: float) -> float | None:
    """Seconds to wait, ≥ 0; None where there is no Retry-After that can be read. Source: RFC 9110, 10.2.3."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError, IndexError):  # what garbage makes it raise
        return None
    return max(0.0, (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp() - now_s)


def _number(text: str | None) -> float | None:
    if text is None or _NUMBER.fullmatch(text) is None:
        return None
    return float(text)
