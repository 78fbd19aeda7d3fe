"""Where the run is shown."""

import pytest

from bench.report import Report
from bench.showcase import inserted, lines_below


def test_only_what_stands_between_the_marks_changes() -> None:
    readme = "before\n<!-- bench -->\nold\n<!-- end of bench -->\nafter\n"
    once = inserted(readme, "new")
    assert once == "before\n<!-- bench -->\n\nnew\n\n<!-- end of bench -->\nafter\n"
    assert inserted(once, "new") == once


def test_a_readme_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="has no"):
        inserted("before\nafter\n", "new")


def test_the_lines_name_what_was_left_out_and_what_was_repeated() -> None:
    made = Report(("bare relay", "Tollhouse"), "nginx", "bare relay", "Tollhouse")
    made.add("Tollhouse", {"rss_idle_mib": 50})
    made.behind = 2
    lines = "\n".join(lines_below(made, rounds=3, stall_rounds=1, machine="a machine"))
    assert "Left out of this run" in lines
    assert "Without nginx" in lines
    assert "measured again because the machine fell behind: 2" in lines
    assert "a machine" in lines
