"""One scalar: what YAML makes of it behind one's back, and how a wrong one is worded."""

import pytest

from proxy.policy.scalar import Kind, Raw, Wrong, did_you_mean, is_null, quote, yaml_reading

NAME = Kind("a name", str, {}, text=True)
NUMBER = Kind("a number", int, {})
SECRET = Kind("a secret number", int, {}, text=True, secret=True)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("no", "false"),
        ("Off", "false"),
        ("ON", "true"),
        ("yes", "true"),
        ("true", "a truth value"),
        ("012", "an octal number"),
        ("0x1F", "a number"),
        ("0b11", "a number"),
        ("1_000", "a number"),
        ("1:30", "a number in base 60"),
        ("12:30:45", "a number in base 60"),
        ("y", None),
        ("nO", None),
        ("0", None),
        ("10", None),
        ("1.5", None),
        ("llama3:8b", None),
        ("2027-01-01", None),
        ("gpt_4", None),
    ],
)
def test_what_yaml_reads_otherwise_is_known(text: str, reading: str | None) -> None:
    assert yaml_reading(text) == reading


@pytest.mark.parametrize("text", ["no", "on", "0777", "1:30"])
def test_in_quotes_yaml_s_readings_are_just_text(text: str) -> None:
    assert NAME.read(Raw(text)) == text
    with pytest.raises(Wrong, match=f'write "{text}" in quotes'):
        NAME.read(Raw(text, plain=True))


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (NUMBER, Raw("x"), 'expected a number, got "x"'),
        (NUMBER, Raw("x", plain=True), 'expected a number, got "x"'),
        (NUMBER, Raw("no", plain=True), "YAML reads `no` as false; expected a number"),
        (NUMBER, Raw("", plain=True), "has no value; expected a number"),
        (NUMBER, Raw(""), 'expected a number, got ""'),
        (NUMBER, Raw("c4n4ry", hidden=True), "expected a number, but what was filled in is none"),
        (SECRET, Raw("c4n4ry"), "expected a secret number"),
        (SECRET, Raw("0x_c4n4ry", plain=True), "expected a secret number"),
        (NAME, Raw("~", plain=True), "has no value; expected a name"),
    ],
)
def test_a_wrong_text_is_told_what_was_expected(kind: Kind, raw: Raw, message: str) -> None:
    with pytest.raises(Wrong) as wrong:
        kind.read(raw)
    assert wrong.value.message == message


@pytest.mark.parametrize(("text", "null"), [("", True), ("~", True), ("null", True), ("NULL", True), ("nil", False), ("0", False)])
def test_what_yaml_reads_as_nothing_is_known(text: str, null: bool) -> None:
    assert is_null(text) is null


def test_a_wrong_word_is_told_its_nearest_relative_or_all_there_are() -> None:
    assert did_you_mean("max_token", ["budget", "max_tokens"]) == "; did you mean max_tokens?"
    assert did_you_mean("UTC", ["utc"]) == "; did you mean utc?"
    assert did_you_mean("zzz", ["budget", "max_tokens"]) == "; known: budget, max_tokens"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", [f"word{n}" for n in range(50)]) == ""


def test_a_quotation_stays_short_and_on_one_line() -> None:
    assert quote("a\nb\x1b[31m") == '"a·b·[31m"'
    assert len(quote("x" * 1000)) <= 62
