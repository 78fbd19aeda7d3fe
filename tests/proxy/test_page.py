"""What a page says, and how it waits in the outbox."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.page import MOST_ID_BYTES, Page, rfc3339
from proxy.policy.contract import Notice
from proxy.spenders import Top

NOTICE = Notice(
    policy="everyone",
    subject="user=web/ada",
    threshold=80,
    spent_nanousd=40_120_000_001,
    limit_nanousd=50_000_000_000,
    window=(1_795_305_600, 1_795_392_000),
    to=("oncall",),
    refuses=False,
)
ANY_TEXT = st.text(st.characters(categories=None), max_size=600)  # with controls and lone surrogates, as headers can hold them


CROSSED_S = 1_795_340_000.25
TOP = Top((("gpt-4.1", 30 * 10**9), ("o3", 10_120_000_001)), (("web/ada", 40_120_000_001),), 40_120_000_001, None, 0)


def page(**changes: object) -> Page:
    return Page.of(NOTICE._replace(**changes), crossed_s=CROSSED_S, top=TOP)


def test_a_page_names_policy_who_threshold_amounts_window_effect_and_remedy() -> None:
    assert page().facts() == {
        "id": "tollhouse/budget/everyone/user=web/ada/1795305600/80",
        "policy": "everyone",
        "subject": "user=web/ada",
        "threshold_percent": 80,
        "spent_usd": "40.120000001",
        "limit_usd": "50",
        "window": {"start": "2026-11-22T00:00:00Z", "end": "2026-11-23T00:00:00Z"},
        "refuses_when_spent": False,
        "refuses_now": False,
        "spent_by": "2026-11-22T11:55:00Z",
        "top_models": [
            {"name": "gpt-4.1", "spent_usd": "30", "share_percent": 75},
            {"name": "o3", "spent_usd": "10.120000001", "share_percent": 25},
        ],
        "top_users": [{"name": "web/ada", "spent_usd": "40.120000001", "share_percent": 100}],
        "top_counted_since": None,
        "top_error_usd": "0",
        "summary": "Budget of policy 'everyone' crossed 80 %: user=web/ada spent 40.120000001 of 50 USD",
        "effect": "Calls still pass: this budget counts and never refuses. The window turns at 2026-11-23T00:00:00Z.",
        "forecast": "At this rate the budget is spent by 11:55 (UTC).",
        "remedy": "Ask whether what web/ada spends on gpt-4.1 is meant. If so, raise `usd` in the budget of policy 'everyone'; "
        "if not, lower the limits of that key, or of that model.",
    }


def test_where_nobody_counted_who_spends_the_remedy_is_to_find_out() -> None:
    unknown = Page.of(NOTICE, crossed_s=CROSSED_S)
    assert unknown.remedy() == (
        "Find who spends: sum cost_nanousd by key, user and model over the call.finished log lines. "
        "Then lower their limits, or raise `usd` in the budget of policy 'everyone'."
    )
    assert unknown.spenders("users", unknown.users) == ""
    assert "Who spent is not known: nothing has been counted since the last start." in unknown.lines()


def test_amounts_that_are_not_of_the_whole_window_or_not_exact_say_so() -> None:
    top = Top((("gpt-4.1", 5 * 10**9),), (("web", 4 * 10**9),), 10 * 10**9, CROSSED_S - 3600, 10**8)
    counted = Page.of(NOTICE, crossed_s=CROSSED_S, top=top)
    assert counted.spenders("users", counted.users) == (
        "Top users, counted since 08:33 (UTC), each up to 0.1 USD more: web 4 USD (40 %)."
    )
    assert counted.facts()["top_counted_since"] == "2026-11-22T08:33:20Z"


# ---- the forecast ----

START, END = NOTICE.window
HOUR = 3600


@pytest.mark.parametrize(
    ("spent_usd", "crossed_s", "zone", "says"),
    [
        (25, START + 8 * HOUR, "UTC", "At this rate the budget is spent by 16:01 (UTC)."),
        (25, START + 8 * HOUR, "Europe/Berlin", "At this rate the budget is spent by 17:01 (Europe/Berlin)."),
        (40, START + 19 * HOUR, "Europe/Berlin", "At this rate the budget is spent by 2026-11-23 00:46 (Europe/Berlin)."),
        (25, START + 12 * HOUR, "UTC", "At this rate the budget lasts until the window turns."),
        (25, END - 1, "UTC", "At this rate the budget lasts until the window turns."),
        (50, START + 8 * HOUR, "UTC", "The budget is spent."),
        (25, START + 299, "UTC", "It is too early in the window to say when the budget will be spent."),
        (25, START + 300, "UTC", "At this rate the budget is spent by 00:11 (UTC)."),
        (25, START - 60, "UTC", "It is too early in the window to say when the budget will be spent."),
    ],
)
def test_a_page_says_when_the_budget_is_spent_at_the_rate_of_the_window_so_far(
    spent_usd: int, crossed_s: float, zone: str, says: str
) -> None:
    crossed = Page.of(NOTICE._replace(spent_nanousd=spent_usd * 10**9, zone=zone), crossed_s=crossed_s)
    assert crossed.forecast == says


@given(spent=st.integers(0, 10**11), seen_s=st.floats(0, 86_400))
def test_a_forecast_is_within_the_window_and_never_too_early(spent: int, seen_s: float) -> None:
    crossed = Page.of(NOTICE._replace(spent_nanousd=spent), crossed_s=START + seen_s)
    by_s = crossed.spent_by_s
    if by_s is not None:
        assert crossed.crossed_s < by_s < END
        assert spent * (by_s - START) >= NOTICE.limit_nanousd * (int(seen_s) - 1)


# ---- resolved ----


def test_a_page_is_resolved_when_its_window_turns_or_when_its_sink_has_surely_told_of_it() -> None:
    assert page().resolving(taken_s=CROSSED_S, lasts_s=90).resolved_s == END
    assert page().resolving(taken_s=END - 10, lasts_s=90).resolved_s == END + 80
    lifted = page().resolving(taken_s=CROSSED_S, lasts_s=90).lifted(raised_nanousd=10**11, now_s=CROSSED_S + 10)
    assert lifted.resolved_s == CROSSED_S + 90


@pytest.mark.parametrize(
    ("resolve", "reason", "limit_usd"),
    [
        (page().resolving(taken_s=CROSSED_S, lasts_s=0), "window_turned", "50"),
        (
            page().resolving(taken_s=CROSSED_S, lasts_s=0).lifted(raised_nanousd=100 * 10**9, now_s=CROSSED_S),
            "budget_raised",
            "100",
        ),
    ],
)
def test_a_resolve_says_which_page_is_over_and_why_and_waits_like_a_page(resolve: Page, reason: str, limit_usd: str) -> None:
    assert Page.read(resolve.write()) == resolve
    assert resolve.type == "budget.threshold_resolved"
    assert resolve.facts() == {
        "id": page().id,
        "policy": "everyone",
        "subject": "user=web/ada",
        "threshold_percent": 80,
        "limit_usd": limit_usd,
        "window": {"start": "2026-11-22T00:00:00Z", "end": "2026-11-23T00:00:00Z"},
        "crossed": "2026-11-22T09:33:20Z",
        "reason": reason,
        "summary": resolve.headline(),
        "effect": resolve.effect,
    }


def test_a_page_that_an_older_version_left_in_the_outbox_is_read() -> None:
    older = json.loads(page().write())
    for name in ("zone", "models", "users", "counted_nanousd", "counted_since_s", "error_nanousd"):
        del older[name]
    for name in ("resolved_s", "resolvable_s", "raised_nanousd"):
        del older[name]
    assert Page.read(json.dumps(older).encode()) == Page.of(NOTICE, crossed_s=CROSSED_S)


@pytest.mark.parametrize(
    ("refuses", "spent_nanousd", "says"),
    [
        (False, 60_000_000_000, "Calls still pass: this budget counts and never refuses."),
        (True, 49_999_999_999, "Calls still pass; they are refused once it is spent."),
        (True, 50_000_000_000, "Calls it applies to are refused until the window turns at 2026-11-23T00:00:00Z."),
    ],
)
def test_a_page_says_whether_calls_are_refused_now(refuses: bool, spent_nanousd: int, says: str) -> None:
    assert page(refuses=refuses, spent_nanousd=spent_nanousd).effect.startswith(says)


@given(subject=ANY_TEXT, spent=st.integers(min_value=0, max_value=10**30))
def test_what_is_written_to_the_outbox_is_what_is_read(subject: str, spent: int) -> None:
    written = page(subject=subject, spent_nanousd=spent)
    assert Page.read(written.write()) == written


@given(subject=ANY_TEXT)
def test_no_subject_can_break_a_line_hide_text_or_outgrow_an_id(subject: str) -> None:
    tidied = page(subject=subject)
    assert tidied.subject.isprintable()
    assert len(tidied.subject) <= 200
    assert tidied.id.isprintable()
    assert len(tidied.id.encode()) <= MOST_ID_BYTES
    assert tidied == page(subject=subject)


@pytest.mark.parametrize("pair", [("a" * 300, "a" * 301), ("ada\n", "ada\r"), ("\udc80", "\udc81"), ("é" * 200, "é" * 199 + "e")])
def test_budgets_whose_subjects_look_alike_after_tidying_stay_apart(pair: tuple[str, str]) -> None:
    first, second = (page(subject=subject) for subject in pair)
    assert first.id != second.id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"3",
        b"{}",
        b'{"type": "budget.resolved"}',
        json.dumps({**json.loads(page().write()), "window": 7}).encode(),
        json.dumps({**json.loads(page().write()), "surprise": 1}).encode(),
    ],
)
def test_a_stored_body_of_another_form_is_not_a_page(body: bytes) -> None:
    with pytest.raises(ValueError):
        Page.read(body)


def test_times_are_rfc_3339_in_utc_with_whole_seconds() -> None:
    assert rfc3339(1_795_340_000.99) == "2026-11-22T09:33:20Z"
