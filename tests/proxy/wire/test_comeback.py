"""When an upstream may be asked again, and when not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.comeback import retry_after_s, unprocessed, wait_s, worth_repeating

NOW_S = 1_795_340_060.0


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_call_that_was_refused_unread_may_be_made_again(status: int) -> None:
    assert unprocessed(status, "POST")


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_call_that_may_have_been_worked_on_is_made_again_only_if_that_changes_nothing(status: int) -> None:
    assert not unprocessed(status, "POST")
    assert unprocessed(status, "GET")


@pytest.mark.parametrize("status", [301, *range(400, 429), *range(430, 452), 501, 505, 599])
def test_no_other_refusal_is_answered_with_the_same_call(status: int) -> None:
    assert not unprocessed(status, "POST")
    assert not unprocessed(status, "GET")


@pytest.mark.parametrize(
    ("headers", "code", "type", "worth"),
    [
        ({}, "rate_limit_exceeded", "requests", True),
        ({"x-should-retry": "true"}, "upstream_error", "upstream_error", True),
        ({"x-should-retry": "false"}, "rate_limit_exceeded", "requests", False),
        ({}, "insufficient_quota", "insufficient_quota", False),
        ({}, "upstream_error", "insufficient_quota", False),
        ({"retry-after": "1", "x-should-retry": "true"}, "credit_balance_exhausted", "tokens", False),
    ],
)
def test_what_waiting_does_not_mend_is_not_repeated(headers: dict[str, str], code: str, type: str, worth: bool) -> None:
    assert worth_repeating(headers, code=code, type=type) is worth


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.4"}, 0.4),
        ({"retry-after": "1e9"}, 1e9),
        ({"retry-after": "1e9999"}, float("inf")),
        ({"retry-after": "Sun, 22 Nov 2026 09:35:20 GMT"}, 60.0),
        ({"retry-after-ms": "250", "retry-after": "60"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1, 2"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after-ms": ""}, None),
    ],
)
def test_an_upstream_says_when_to_come_in_many_ways(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_s(headers, now_s=NOW_S) == seconds


@given(ms=st.none() | st.text(max_size=30), after=st.text(max_size=60))
def test_no_garbage_in_a_hint_does_any_harm(ms: str | None, after: str) -> None:
    headers = {"retry-after": after} | ({} if ms is None else {"retry-after-ms": ms})
    seconds = wait_s(headers, now_s=NOW_S)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        ("9" * 400, float("inf")),
        ("Sun, 22 Nov 2026 09:35:20 GMT", 60.0),
        ("Sun, 22 Nov 2026 09:35:20 -0000", 60.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Sun, 99999999999999999999 Nov 2026 09:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, now_s=1_795_340_060.0) == seconds


@given(
    text=st.one_of(st.text(max_size=60), st.from_regex(r"\w{3}, \d{1,22} \w{3} \d{1,22} \d+:\d+:\d+ [+-]?\w{1,9}", fullmatch=True))
)
def test_no_garbage_in_retry_after_does_any_harm(text: str) -> None:
    seconds = retry_after_s(text, now_s=1_795_340_060.0)
    assert seconds is None or seconds >= 0
