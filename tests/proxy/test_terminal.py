"""Tables: aligned and within their width whatever the names hold, and plain where no more can be shown."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.terminal import Column, Screen, count, percent, table, usd, usd_places, width_of

WIDE = Screen(100, "utf-8")
ASCII = Screen(100, "ascii")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web", "web"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\nb\tc\rd\x00\x7f\x9b", "a\\nb\\tc\\rd\\x00\\x7f\\x9b"),
        ("over\u202eride", "over\\u202eride"),
        ("zero\u200bwidth\u2028line", "zero\\u200bwidth\\u2028line"),
        ("Zoë 東京", "Zoë 東京"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_could_obey_is_escaped(text: str, shown: str) -> None:
    assert WIDE.plain(text) == shown


@given(st.text(), st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "no-such-encoding"]))
def test_a_plain_text_is_printable_and_can_be_encoded(text: str, encoding: str) -> None:
    shown = Screen(100, encoding).plain(text)
    assert shown.isprintable()
    shown.encode("ascii" if encoding == "no-such-encoding" else encoding)


@pytest.mark.parametrize(
    ("share", "blocks", "ascii"),
    [(0, "", ""), (1, "██████████", "##########"), (0.5, "█████", "#####"), (0.0001, "▏", "#"), (0.5125, "█████▏", "######")],
)
def test_a_bar_is_as_long_as_its_share_and_what_is_not_nothing_is_seen(share: float, blocks: str, ascii: str) -> None:
    assert WIDE.bar(share, 10) == blocks
    assert ASCII.bar(share, 10) == ascii


NAMES = ["web", "a-name-that-is-much-longer-than-any-other", "東京タワーの下で"]


def columns(names: list[str] = NAMES) -> list[Column]:
    return [Column("day", ["2026-11-01"] * 3), Column("key", names, name=True), Column("cost", ["1", "22", "333"], number=True)]


def test_columns_are_aligned_also_where_characters_are_wide() -> None:
    assert table(columns(), WIDE) == [
        "day         key                                        cost",
        "2026-11-01  web                                           1",
        "2026-11-01  a-name-that-is-much-longer-than-any-other    22",
        "2026-11-01  東京タワーの下で                            333",
    ]


@pytest.mark.parametrize("screen", [WIDE, ASCII])
@pytest.mark.parametrize("width", [200, 100, 80, 64, 50, 40, 34])
def test_a_table_fits_and_only_names_are_shortened(screen: Screen, width: int) -> None:
    lines = table(columns(), Screen(width, screen.encoding), bars=[1, 0.5])
    assert all(width_of(line) <= width for line in lines)
    assert all("2026-11-01" in line for line in lines[1:])
    assert "333" in lines[3]


def test_names_have_their_room_before_bars_have_it() -> None:
    room = 2 + 10 + 2 + 41 + 4
    assert "a-name-that-is-much-longer-than-any-other" in table(columns(), Screen(room + 10, "utf-8"), bars=[1, 0.5, 0.1])[2]
    assert "a-name-that-is-much-longe…" in table(columns(), Screen(52, "utf-8"), bars=[1, 0.5, 0.1])[2]
    assert "a-name-that-i~" in table(columns(), Screen(40, "ascii"), bars=[1])[2]
    narrow = table(columns(), Screen(30, "utf-8"), bars=[1, 1, 1])
    assert not any("█" in line for line in narrow)
    assert "a-name-that…" in narrow[2]


def test_a_line_beyond_the_bars_has_none() -> None:
    lines = table(columns(), WIDE, bars=[1, 0.5])
    assert [line.count("█") for line in lines] == [0, 39, 19, 0]


@pytest.mark.parametrize(
    ("nanousd", "places", "shown"),
    [
        (0, 9, "0.000000000"),
        (1, 9, "0.000000001"),
        (1_234_567_890_123_456_789, 9, "1,234,567,890.123456789"),
        (499, 6, "0.000000"),
        (500, 6, "0.000001"),
        (-1_500_000_000, 2, "-1.50"),
        (-1, 6, "0.000000"),
    ],
)
def test_dollars_are_exact_or_rounded_half_up(nanousd: int, places: int, shown: str) -> None:
    assert usd(nanousd, places=places) == shown


def test_no_amount_is_shown_as_nothing() -> None:
    assert usd_places([0, 1000, -5_000_000]) == 6
    assert usd_places([0, 999]) == 9


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (1, 3, "33.3 %"),
        (1, 10**9, "<0.1 %"),
        (10**9 - 1, 10**9, ">99.9 %"),
        (10**18, 3 * 10**18, "33.3 %"),
    ],
)
def test_a_share_is_all_or_nothing_only_where_it_is(part: int, whole: int, shown: str) -> None:
    assert percent(part, whole) == shown


def test_counts_are_exact_to_ten_million() -> None:
    assert (count(9_999_999), count(10_000_000), count(5_002_296_654)) == ("9,999,999", "10.0M", "5,002.2M")


def test_a_reader_that_has_had_enough_ends_it_quietly() -> None:
    program = "from proxy.terminal import write\nfor _ in range(9): write('line\\n' * 100_000)\n"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    assert child.stderr is not None
    with child, child.stdout, child.stderr:
        assert child.stdout.readline() == b"line\n"
        child.stdout.close()
        assert (child.stderr.read(), child.wait(30)) == (b"", 0)
