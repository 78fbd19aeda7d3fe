"""`tollhouse usage`: what a person, a script and a spreadsheet are told, over real SQLite files."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.clock import SystemClock
from proxy.state.sqlite import SqliteStore
from tests.books import DAY, NOV_1, example, fill, held, shown, state, used
from tests.clock import FakeClock

ROOT = Path(__file__).parents[3]
SPAN = ("--since", "2026-11-01", "--until", "2026-11-03")
ROWS = (
    used(key="web", model="gpt-4.1-mini", calls=1204, tokens=(812_344, 0, 120_331), cost=517_468_000),
    used(key="web", model="gpt-4.1", calls=31, tokens=(40_120, 8_000, 9_877), cost=147_296_000),
    used(key="web", model="gpt-4.1", calls=2, tokens=(1_000, 0, 500), cost=6_000_000, source="counted"),
    used(NOV_1 + DAY, key="nightly", user="nightly", model="gpt-4.1-mini", calls=88, cost=41_000_000, source="estimated"),
)
HOLDS = (held(1, charges=[("nanousd", 12_345_678)]), held(2, key="nightly", user="nightly", charges=[("nanousd", 1)]))


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TOLLHOUSE_STATE_DIR", str(tmp_path))


def told(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["usage", *SPAN, *arguments]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    return out


def test_a_table_with_bars_and_where_the_figures_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *ROWS, holds=HOLDS)
    assert told(capsys=capsys).splitlines() == [
        "Usage from 2026-11-01 00:00 to 2026-11-03 00:00 UTC, by key, model",
        "",
        "key      model         calls    input   output  cost USD     held USD  reported",
        "web      gpt-4.1-mini  1,204  812,344  120,331  0.517468  0.012345678     100 %  ███████████████████",
        "web      gpt-4.1          33   41,120   10,377  0.153296            0    96.1 %  █████▋",
        "nightly  gpt-4.1-mini     88      100       50  0.041000  0.000000001       0 %  █▌",
        "total                  1,325  853,564  130,758  0.711764  0.012345679    93.4 %",
        "",
        "Of the cost: 93.4 % reported, 0.8 % counted, 5.8 % estimated, 0 % recovered.",
        "Open now: 2 holds, at most 0.012345679 USD that are not in the cost yet.",
    ]


def test_without_holds_there_is_no_column_of_zeros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *ROWS)
    out = told(capsys=capsys)
    assert "held" not in out.splitlines()[2]
    assert out.endswith("\nOpen now: no holds.\n")


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("user", [["ada"], ["nightly"]]),
        ("day,key", [["2026-11-01", "web"], ["2026-11-02", "nightly"]]),
        ("source", [["reported"], ["estimated"], ["counted"]]),
        ("hour", [["2026-11-01 00:00"], ["2026-11-02 00:00"]]),
        ("surface", [["chat"]]),
    ],
)
def test_groups_are_by_what_is_asked_dearest_first(
    by: str, names: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state(tmp_path, *ROWS)
    found = json.loads(told("--by", by, "--json", capsys=capsys))
    assert [[row[word] for word in by.split(",")] for row in found["rows"]] == names
    table = told("--by", by, capsys=capsys).splitlines()
    assert [line.split()[: len(" ".join(name).split())] for line, name in zip(table[3:], names, strict=False)] == [
        " ".join(name).split() for name in names
    ]


def test_json_is_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *ROWS, holds=HOLDS)
    found = json.loads(told("--json", "--by", "key", capsys=capsys))
    assert (found["since"], found["until"]) == ("2026-11-01T00:00Z", "2026-11-03T00:00Z")
    total: dict[str, Any] = found["total"]
    assert {name: total[name] for name in ("calls", "input_tokens", "output_tokens", "cost_nanousd", "held_nanousd")} == {
        "calls": 1325,
        "input_tokens": 853_564,
        "output_tokens": 130_758,
        "cost_nanousd": 711_764_000,
        "held_nanousd": 12_345_679,
    }
    assert total["cost_nanousd_by_source"] == {
        "reported": 664_764_000,
        "counted": 6_000_000,
        "estimated": 41_000_000,
        "recovered": 0,
    }
    assert [(row["key"], row["cost_nanousd"], row["cached_tokens"], row["holds"]) for row in found["rows"]] == [
        ("web", 670_764_000, 8_000, 1),
        ("nightly", 41_000_000, 0, 1),
    ]


def test_csv_has_a_line_a_group_with_integers_and_nine_decimals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *ROWS, used(model="dear", cost=1_234_000_000_001), holds=HOLDS)
    dear, *rest = csv.DictReader(io.StringIO(told("--csv", "--by", "model", capsys=capsys)))
    assert (dear["model"], dear["cost_nanousd"], dear["cost_usd"]) == ("dear", "1234000000001", "1234.000000001")
    assert [row["model"] for row in rest] == ["gpt-4.1-mini", "gpt-4.1"]
    assert (rest[1]["reported_nanousd"], rest[1]["counted_nanousd"], rest[1]["input_tokens"]) == ("147296000", "6000000", "41120")
    assert (rest[0]["holds"], rest[0]["held_nanousd"], rest[0]["held_usd"]) == ("2", "12345679", "0.012345679")


EVIL = ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(1)", " =1", "\t=1", "＝1", 'a,b"c\nd', "\x1b]0;owned\x07", "\u202efdp.exe"]


def test_what_clients_name_themselves_moves_no_cursor_and_is_no_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *(used(user=user) for user in EVIL))
    rows = list(csv.DictReader(io.StringIO(told("--csv", "--by", "user", capsys=capsys))))
    cells = {row["user"] for row in rows}
    assert len(cells) == len(EVIL)
    assert all(cell.isprintable() and cell.lstrip()[0] not in "=+-@＝" for cell in cells)
    assert {'\'=HYPERLINK("http://x")', "'-1", 'a,b"c\\nd', "\\x1b]0;owned\\x07", "\\t=1"} < cells
    assert all(len(row) == len(rows[0]) and None not in row for row in rows)
    for arguments in ((), ("--json",)):
        assert told(*arguments, "--by", "user", capsys=capsys).replace("\n", "").isprintable()


@pytest.mark.parametrize("columns", ["72", "80", "120", "200"])
def test_lines_fit_the_terminal(
    columns: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state(tmp_path, *ROWS, used(key="k" * 64, model="a-model-with-a-name-that-hardly-ends-" * 4))
    monkeypatch.setenv("COLUMNS", columns)
    table = told(capsys=capsys).splitlines()[2:7]
    assert max(map(len, table)) <= int(columns)
    assert any("█" in line for line in table) is (int(columns) >= 80)


def test_a_pipe_is_100_columns_wide_and_what_can_do_nothing_but_ascii_gets_that(tmp_path: Path) -> None:
    state(tmp_path, *ROWS, used(user="Zoë 東京"))
    run = subprocess.run(
        [sys.executable, "-m", "proxy", "usage", *SPAN, "--by", "user", "--state-dir", str(tmp_path)],
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONIOENCODING": "ascii"},
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    out = run.stdout.decode("ascii")
    assert "Zo\\xeb \\u6771\\u4eac" in out
    assert max(line.count("#") for line in out.splitlines()) > 20
    assert max(map(len, out.splitlines())) == 100
    assert run.stderr == b""


def test_many_groups_are_told_of_without_being_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *(used(user=f"user-{at}", cost=1000 + at) for at in range(50)))
    lines = told("--by", "user", capsys=capsys).splitlines()
    assert "10 more groups are in the total; --top 0 shows all." in lines
    assert sum(line.startswith("user-") for line in lines) == 40
    assert sum(line.startswith("user-") for line in told("--by", "user", "--top", "0", capsys=capsys).splitlines()) == 50
    assert len(json.loads(told("--by", "user", "--json", capsys=capsys))["rows"]) == 50


def test_what_cost_nothing_is_measured_by_its_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, used(key="a", calls=10, cost=0), used(key="b", calls=5, cost=0, source="counted"))
    lines = told("--by", "key", capsys=capsys).splitlines()
    assert lines[3].count("█") == 2 * lines[4].count("█") > 0
    assert "Of the calls, which cost nothing: 66.7 % reported, 33.3 % counted, 0 % estimated, 0 % recovered." in lines


def test_no_usage_is_one_sentence_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path)
    assert told(capsys=capsys) == (
        "No usage from 2026-11-01 00:00 to 2026-11-03 00:00 UTC: send a call through the proxy, "
        "or look further back with --since 30d.\n"
    )
    assert json.loads(told("--json", capsys=capsys))["rows"] == []
    assert told("--csv", capsys=capsys).count("\n") == 1


def test_no_state_is_a_mistake_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--state-dir", str(tmp_path / "none")]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error == (
        f"tollhouse usage: there is no state in {tmp_path}/none: name the folder of a server with --state-dir, or start one\n"
    )


async def test_it_may_be_asked_beside_a_running_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = await SqliteStore.open(tmp_path, FakeClock(wall_s=NOV_1))
    try:
        fill(tmp_path, ROWS, holds=HOLDS)
        assert json.loads(told("--json", capsys=capsys))["total"]["calls"] == 1325
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("--by", "key,modle"), "argument --by: expected a list of hour, day, key, user, model, surface, source, each once"),
        (("--by", "key,key"), "argument --by: expected a list of"),
        (("--by", ""), "argument --by: expected a list of"),
        (("--since", "yesterday"), "argument --since: expected 24h, 7d, or a date such as 2026-11-01, got 'yesterday'"),
        (("--json", "--csv"), "not allowed with argument"),
    ],
)
def test_wrong_words_are_told_the_right_ones(arguments: tuple[str, ...], mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["usage", *arguments])
    assert end.value.code == 2
    assert mistake in capsys.readouterr().err


def test_a_span_that_ends_before_it_begins_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path)
    assert main(["usage", "--since", "2026-11-02", "--until", "2026-11-01"]) == 2
    assert capsys.readouterr().err == "tollhouse usage: --until comes before --since\n"


@pytest.mark.parametrize(
    ("since", "until", "calls"),
    [
        ("2026-11-01", "2026-11-02", 1237),
        ("2026-11-02T00:00Z", "2026-11-03", 88),
        ("2026-11-02T02:00+02:00", "2026-11-02T01:00", 88),
        ("999999d", "2026-11-01T01:00", 1237),
        ("1960-01-01", "2026-11-01T00:01", 1237),
        ("2026-11-01T00:59", "2026-11-02", 1237),
    ],
)
def test_spans(since: str, until: str, calls: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *ROWS)
    assert main(["usage", "--since", since, "--until", until, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["calls"] == calls


def test_a_span_is_told_as_the_whole_hours_that_it_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path, *ROWS)
    assert main(["usage", "--since", "2026-11-01T00:59", "--until", "2026-11-01T01:01"]) == 0
    assert capsys.readouterr().out.startswith("Usage from 2026-11-01 00:00 to 2026-11-01 02:00 UTC")


def test_without_a_span_it_is_the_last_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now_s = int(SystemClock().wall_s())
    state(tmp_path, used(now_s - now_s % 3600, calls=3), used(now_s - now_s % 3600 - 2 * DAY, calls=5))
    assert main(["usage", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["calls"] == 3
    assert main(["usage", "--json", "--since", "7d"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["calls"] == 8


def test_the_readme_shows_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example(tmp_path)
    command = "tollhouse usage --since 2026-11-01 --until 2026-11-08"
    assert main(command.split()[1:]) == 0
    assert capsys.readouterr().out.splitlines() == shown((ROOT / "README.md").read_text("utf-8"), command)
