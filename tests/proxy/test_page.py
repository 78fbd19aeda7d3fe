"""What a page says, and how it waits in the outbox."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.page import MOST_ID_BYTES, Page, rfc3339
from proxy.policy.contract import Notice

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


def page(**changes: object) -> Page:
    return Page.of(NOTICE._replace(**changes), crossed_s=1_795_340_000.25)


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
        "summary": "Budget of policy 'everyone' crossed 80 %: user=web/ada spent 40.120000001 of 50 USD",
        "effect": "Calls still pass: this budget counts and never refuses. The window turns at 2026-11-23T00:00:00Z.",
        "remedy": "Find who spends: sum cost_nanousd by key, user and model over the call.finished log lines. "
        "Then lower their limits, or raise `usd` in the budget of policy 'everyone'.",
    }


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
