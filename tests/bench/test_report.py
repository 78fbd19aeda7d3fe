"""Ratios, goals and the table, on rounds that are made up."""

import pytest

from bench.figures import FIGURES, Figure, Goal
from bench.report import Report, percentiles

NAMES = ("nginx", "bare relay", "Tollhouse")
CALL = next(figure for figure in FIGURES if figure.key == "call_1k_32_us")
EVENT = next(figure for figure in FIGURES if figure.key == "event_100_us")
RATE = next(figure for figure in FIGURES if figure.key == "calls_1k_32_s")


def report(key: str, *rounds: tuple[float, ...], names: tuple[str, ...] = NAMES) -> Report:
    """rounds: a value of each subject."""
    made = Report(names, "nginx", "bare relay", "Tollhouse")
    for values in rounds:
        for name, value in zip(names, values, strict=True):
            made.add(name, {key: value})
    return made


def test_a_ratio_is_taken_within_a_round() -> None:
    made = report(CALL.key, (10, 100, 50), (10, 400, 100), (10, 200, 150))
    assert made.ratios(CALL.key, "bare relay") == [0.5, 0.25, 0.75]
    assert made.ratios(CALL.key, "nginx") == [5, 10, 15]


def test_there_is_no_ratio_to_what_added_nothing_in_some_round() -> None:
    assert report(CALL.key, (10, 100, 50), (-1, 100, 50)).ratios(CALL.key, "nginx") == []


def test_the_ratio_of_the_best_takes_each_ones_best_round() -> None:
    assert report(CALL.key, (10, 100, 90), (10, 120, 60)).best_ratio(CALL) == 0.6
    assert report(RATE.key, (10, 100, 90), (10, 120, 60)).best_ratio(RATE) == 0.75


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (45, "≤ 0.65 × bare relay: met; aim ≤ 0.45: met"),
        (65, "≤ 0.65 × bare relay: met; aim ≤ 0.45: not yet"),
        (66, "≤ 0.65 × bare relay: **missed**; aim ≤ 0.45: not yet"),
    ],
)
def test_a_goal_says_whether_it_is_met(mine: float, said: str) -> None:
    assert report(CALL.key, (10, 100, mine)).verdict(CALL, CALL.goals[0]) == said


def test_a_goal_without_its_measure_is_not_called_met() -> None:
    made = report(EVENT.key, (60, 45), names=("bare relay", "Tollhouse"))
    assert [made.verdict(EVENT, goal) for goal in EVENT.goals] == [
        "≤ 0.9 × bare relay: met; aim ≤ 0.75: met",
        "≤ 1.6 × nginx: not measured; aim ≤ 1.3",
    ]
    assert made.score().startswith("Goals: 1 of 1 met, 1 of 1 as well as aimed for; ")
    assert made.score().endswith(" not measured.")


def test_the_score_counts_medians() -> None:
    made = report(CALL.key, (10, 100, 200), (10, 100, 50), (10, 100, 60))
    assert made.score().startswith("Goals: 1 of 1 met, 0 of 1 as well as aimed for; ")


def test_a_second_relay_has_no_goals() -> None:
    made = report(CALL.key, (10, 100, 50))
    made.judged = False
    assert made.score() == ""
    assert "met" not in made.table()


def test_every_row_of_the_table_has_a_cell_for_every_head() -> None:
    made = report(CALL.key, (10, 100, 50), (12, 100, 70))
    made.add("Tollhouse", {"stall_cpu_ms": 2.5})
    for names in (NAMES, NAMES[1:]):
        made.names = names
        rows = made.table().splitlines()
        assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_a_row_shows_median_and_spread() -> None:
    made = report(CALL.key, (10, 100, 50), (12, 100, 70), (11, 100, 60))
    row = next(line for line in made.table().splitlines() if line.startswith(f"| {CALL.title}"))
    assert row.startswith(f"| {CALL.title} | 11 (10–12) | 100 | 60 (50–70) | 0.60 (0.50–0.70) | 0.50 |")


def test_rows_that_were_not_measured_are_named_and_not_shown() -> None:
    made = report(CALL.key, (10, 100, 50))
    assert EVENT.title in made.left_out()
    assert CALL.title not in made.left_out()
    assert EVENT.title not in made.table()
    assert set(made.json()) == {CALL.key}


def test_the_json_keeps_every_round() -> None:
    row = report(CALL.key, (10, 100, 50), (12, 100, 70)).json()[CALL.key]
    assert row["nginx"] == {"median": 11, "rounds": [10, 12]}
    assert row["ratios"]["bare relay"] == [0.5, 0.7]
    assert row["goals"] == [{"of": "bare relay", "must": 0.65, "aim": 0.45, "reached": pytest.approx(0.6)}]


def test_percentiles_are_microseconds() -> None:
    assert percentiles([n * 1000 for n in range(1, 101)]) == (51, 100)
    assert percentiles([]) == (0, 0)


def test_keys_are_given_once_and_an_aim_is_more_than_a_must() -> None:
    assert len({figure.key for figure in FIGURES}) == len({figure.title + figure.key for figure in FIGURES})
    goals = [goal for figure in FIGURES for goal in figure.goals]
    assert all(goal.aim <= goal.must for goal in goals)
    assert all(not figure.goals or not figure.more_is_better for figure in FIGURES), "a goal is an upper bound"


def test_figures_are_values() -> None:
    assert Figure("a", "A", 0, "Calls", (Goal(2, 1),)) == Figure("a", "A", 0, "Calls", (Goal(2, 1),))
