"""What a head asks of recordings: keys in one form, preferences by the letter of their RFC, and ids of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidCall
from proxy.wire.wish import MOST_KEY_CHARS, MOST_WAIT_S, event_id, idempotency_key, preferences, wait_s

ID = "task_" + "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (" bare with spaces ", "bare with spaces"),
        (r'"a \"quoted\" \\ word"', r'a "quoted" \ word'),
        ("x" * MOST_KEY_CHARS, "x" * MOST_KEY_CHARS),
        ('"' + "x" * MOST_KEY_CHARS + '"', "x" * MOST_KEY_CHARS),
    ],
)
def test_a_key_has_one_form_in_quotes_or_bare(sent: str, key: str) -> None:
    assert idempotency_key(sent) == key


@pytest.mark.parametrize(
    "sent",
    [
        "",
        '""',
        " ",
        "x" * (MOST_KEY_CHARS + 1),
        "a\tb",
        "é",
        "a\x00",
        '"open',
        '"a"b"',
        r'"a\b"',
        "\udcff",
        "a\r\nx: y",
        "x" * 1_000_000,
    ],
)
def test_a_key_that_is_none_is_refused(sent: str) -> None:
    with pytest.raises(InvalidCall) as error:
        idempotency_key(sent)
    assert error.value.code == "invalid_idempotency_key"


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ("respond-async", {"respond-async": ""}),
        ("Respond-Async, wait=10", {"respond-async": "", "wait": "10"}),
        ('foo; bar="a, b", respond-async', {"foo": "", "respond-async": ""}),
        ('return="minimal",wait = "5" , wait=9', {"return": "minimal", "wait": "5"}),
        ("", {}),
        (",,=,;", {}),
        ('"', {}),
    ],
)
def test_preferences_are_hints(sent: str, found: dict[str, str]) -> None:
    assert preferences(sent) == found


@given(st.text(max_size=60))
def test_no_preference_is_an_error(sent: str) -> None:
    preferences(sent)


def test_an_event_is_named_by_its_recording_and_number() -> None:
    assert event_id(f"{ID}.17") == (ID, 17)


@pytest.mark.parametrize(
    "sent", ["", "17", ID, f"{ID}.", f"{ID}.-1", f"{ID}.1x", f"{ID.upper()}.1", f"{ID}.{'9' * 13}", "task_1.1"]
)
def test_what_is_no_id_of_an_event_is_refused(sent: str) -> None:
    with pytest.raises(InvalidCall) as error:
        event_id(sent)
    assert error.value.code == "invalid_event_id"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("30", 30.0), ("500ms", 0.5), ("1m", 60.0), ("0", 0.0), ("9999", MOST_WAIT_S)]
)
def test_a_wait_is_bounded(text: str, seconds: float) -> None:
    assert wait_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1h", "1e3", "٣", "99999999"])
def test_what_is_no_time_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        wait_s(text)
