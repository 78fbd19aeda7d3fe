"""The text of a file as nodes: nothing that could surprise gets through, and every mistake has its place."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.document import MOST_BYTES, MOST_MISTAKES, Enough, Mistakes, Pairs, Scalar, parse, written


def parsed(text: str | bytes) -> tuple[object, list[str]]:
    mistakes = Mistakes("f")
    node = parse(text.encode() if isinstance(text, str) else text, mistakes)
    return node, [str(mistake) for mistake in mistakes.in_order()]


def test_scalars_keep_their_text_and_their_place() -> None:
    node, mistakes = parsed('a: 012\n"b":   "no"\n')
    assert mistakes == []
    assert isinstance(node, Pairs)
    texts = [
        (key.text, value.text, value.plain, value.place.line, value.place.column)
        for key, value in node.pairs
        if isinstance(value, Scalar)
    ]
    assert texts == [("a", "012", True, 1, 4), ("b", "no", False, 2, 8)]


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    node, mistakes = parsed(b"\xef\xbb\xbfversion: 1\n")
    assert mistakes == []
    assert isinstance(node, Pairs)
    assert node.pairs[0][0].text == "version"


def test_columns_count_characters_not_bytes() -> None:
    _, mistakes = parsed("a: {ünïcödé: *x}\n")
    assert mistakes == ['f:1:14: a["ünïcödé"]: the alias *x is not supported; write the value out']


def test_a_file_of_more_than_a_megabyte_is_not_read() -> None:
    _, mistakes = parsed(b"#" * (MOST_BYTES + 1))
    assert mistakes == ["f:1:1: the file has 1000001 bytes; at most 1000000 are read"]


@pytest.mark.parametrize(
    ("trail", "text"),
    [
        ((), ""),
        (("policies", 1, "budget", "usd"), "policies[1].budget.usd"),
        (("prices", "models", "gemma-*"), 'prices.models["gemma-*"]'),
        (("alias", "gpt-4.1"), 'alias["gpt-4.1"]'),
    ],
)
def test_a_trail_is_written_as_people_write_it(trail: tuple[str | int, ...], text: str) -> None:
    assert written(trail) == text


def test_after_two_hundred_mistakes_nobody_reads_on() -> None:
    mistakes = Mistakes("f")
    with pytest.raises(Enough):
        parse(b"".join(b"- *x\n" for _ in range(10_000)), mistakes)
    assert len(mistakes.found) == MOST_MISTAKES + 1
    assert "more than 200 mistakes" in mistakes.found[-1].message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 900_000,
        "{" * 900_000,
        "- " * 450_000,
        "? " * 450_000,
        "a: " * 300_000,
        "a:\n" + " b:\n" * 200_000,
        "&a [" * 200_000,
        "a: &a [x,x]\n" + "".join(f"b{n}: [*a,*a]\n" for n in range(50_000)),
        "a: |\n" + "  x\n" * 200_000,
        "!!" * 400_000,
        "'" + "\\" * 900_000,
        "%YAML 1.1\n" * 90_000,
        "--- \n" * 150_000,
        "\u2028" * 300_000,
    ],
    ids=range(14),
)
def test_a_bomb_is_answered_with_few_mistakes_and_no_more_memory_than_its_text(text: str) -> None:
    """Each of these takes a fraction of a second; one that was followed would not come back."""
    mistakes = Mistakes("f")
    with suppress(Enough):
        parse(text.encode(), mistakes)
    assert len(mistakes.found) <= MOST_MISTAKES + 1


@given(st.binary(max_size=200))
def test_any_bytes_give_a_node_or_mistakes(data: bytes) -> None:
    node, mistakes = parsed(data)
    assert node is not None or mistakes


WORDS = (
    "a",
    "b",
    ":",
    "-",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&x",
    "*x",
    "!!str",
    "!t",
    "'",
    '"',
    "|",
    ">",
    "?",
    "#",
    "...",
    "<<",
    "~",
    "\\",
    "@",
    "`",
)
SPACES = (" ", "  ", "\n", "\n  ", ": ", "- ", "? ", "---\n", "|\n", "%YAML 1.1\n", "\t", "\x85", "\ufeff")
FRAGMENTS = st.lists(st.sampled_from((*WORDS, *SPACES)), max_size=40).map("".join)


@given(FRAGMENTS)
def test_any_pieces_of_yaml_give_a_node_or_mistakes(text: str) -> None:
    node, mistakes = parsed(text)
    assert node is not None or mistakes
