"""The words of the policy file, one kind at a time: what is taken, and what the rest is told."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy import values
from proxy.policy.reading import kind_of
from proxy.policy.scalar import Kind, Raw, Wrong


def kind(hint: Any) -> Kind:
    found = kind_of(hint)
    assert found is not None
    return found


KINDS = {name: found for name, hint in vars(values).items() if (found := kind_of(hint)) is not None}


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (values.Duration, "100ms", 0.1),
        (values.Duration, "1.5s", 1.5),
        (values.Duration, "2m", 120.0),
        (values.Duration, "1h", 3600.0),
        (values.Size, "1B", 1),
        (values.Size, "4MB", 4_000_000),
        (values.Size, "512KiB", 524_288),
        (values.Size, "1GiB", 2**30),
        (values.Usd, "50", 50_000_000_000),
        (values.Usd, "0.25", 250_000_000),
        (values.Usd, "0.000000001", 1),
        (values.Usd, "1000000000", 10**18),
        (values.UsdPrice, "0", 0),
        (values.UsdPrice, "0.075", 75_000_000),
        (values.Count, "1", 1),
        (values.Count, "1000000000000", 10**12),
        (values.Percent, "80", 80),
        (values.Percent, "80%", 80),
        (values.Percent, "1000", 1000),
        (values.Flag, "true", True),
        (values.Flag, "false", False),
        (values.Name, "team-a.web_2", "team-a.web_2"),
        (values.Name, "4", "4"),
        (values.Model, "openai/gpt-4.1", "openai/gpt-4.1"),
        (values.Model, "llama3:8b", "llama3:8b"),
        (values.Glob, "gpt-4.?-*", "gpt-4.?-*"),
        (values.PathGlob, "/v1/files*", "/v1/files*"),
        (values.BaseUrl, "https://api.openai.com/v1/", "https://api.openai.com/v1"),
        (values.BaseUrl, "http://[::1]:8000", "http://[::1]:8000"),
        (values.Url, "https://example.com/hook?team=1", "https://example.com/hook?team=1"),
        (values.Header, "X-User-Id", "x-user-id"),
        (values.Day, "2027-01-31", date(2027, 1, 31)),
        (values.Zone, "Europe/Berlin", "Europe/Berlin"),
        (values.KeyHash, "sha256:" + "0a" * 32, b"\x0a" * 32),
        (values.Version, "1", 1),
    ],
)
def test_a_right_value_is_taken(hint: Any, text: str, value: object) -> None:
    assert kind(hint).read(Raw(text, plain=True)) == value
    assert kind(hint).read(Raw(text)) == value, "quotes change nothing"
    assert kind(hint).read(Raw(text, hidden=True)) == value, "nor does being filled in"


def complaint(name: str, raw: Raw) -> str:
    """What a kind says of a text; nothing where it takes it."""
    try:
        KINDS[name].read(raw)
    except Wrong as wrong:
        return wrong.message
    return ""


@pytest.mark.parametrize("name", sorted(KINDS))
@given(text=st.text(max_size=40) | st.from_regex(r"[-+0-9.:_eExX%$a-zA-Z/]{0,40}", fullmatch=True), plain=st.booleans())
def test_any_text_is_a_value_or_wrong(name: str, text: str, plain: bool) -> None:
    assert "\n" not in complaint(name, Raw(text, plain=plain))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_was_filled_in_is_never_quoted(name: str) -> None:
    for canary in ("c4n4ry!", "c4n4ry with spaces", "http://c4n4ry@host", "c4n4ry://", "whsec_c4n4ry", "-c4n4ry é"):
        assert "c4n4ry" not in complaint(name, Raw(canary, hidden=True))


@pytest.mark.parametrize("name", sorted(name for name, found in KINDS.items() if found.secret))
def test_a_secret_is_never_quoted_even_from_the_file_itself(name: str) -> None:
    for number in ("0123456701234567", "1_000_000"):
        assert number not in complaint(name, Raw(number, plain=True))
    for canary in ("c4n4ry with spaces", "http://c4n4ry:c4n4ry@host/", "c4n4ry://", "whsec_c4n4ry", "sha256:c4n4ry", "\x00c4n4ry"):
        assert "c4n4ry" not in complaint(name, Raw(canary))


@given(st.integers(0, 10**18))
def test_money_is_exact_to_the_nanodollar(nanousd: int) -> None:
    text = f"{nanousd // 10**9}.{nanousd % 10**9:09}"
    if nanousd:
        assert kind(values.Usd).read(Raw(text, plain=True)) == nanousd
