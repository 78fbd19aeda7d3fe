"""`tollhouse reconcile`: what agrees, what does not, and by how much, over real files on both sides."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.state.sqlite import SqliteStore
from tests.books import DAY, NOV_1, example, fill, shown, state, used
from tests.clock import FakeClock

ROOT = Path(__file__).parents[3]
BOOKS = (
    used(model="gpt-4.1-mini", cost=517_468_000),
    used(NOV_1 + 3600, model="gpt-4.1", cost=150_000_000),
    used(NOV_1 + 3600, model="gpt-4.1", cost=50_000_000, source="estimated"),
    used(NOV_1 + DAY, model="gpt-4.1", cost=1_000_000),
    used(NOV_1 + DAY, model="llama", cost=2_000_000),
    used(NOV_1 + DAY, model="free", cost=0),
    used(NOV_1 - 3600, model="before", cost=9_000_000),
    used(NOV_1 + 2 * DAY, model="after", cost=9_000_000),
)


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TOLLHOUSE_STATE_DIR", str(tmp_path / "state"))
    return state(tmp_path / "state", *BOOKS)


def export(folder: Path, *costs: tuple[int, str, float], has_more: bool = False) -> str:
    """costs: day, line item, US dollars."""
    buckets: list[dict[str, Any]] = [
        {
            "object": "bucket",
            "start_time": NOV_1 + day * DAY,
            "end_time": NOV_1 + (day + 1) * DAY,
            "results": [
                {"object": "organization.costs.result", "amount": {"value": value, "currency": "usd"}, "line_item": item}
                for of, item, value in costs
                if of == day
            ],
        }
        for day in range(2)
    ]
    (folder / "costs.json").write_text(json.dumps({"object": "page", "data": buckets, "has_more": has_more}))
    return str(folder / "costs.json")


AGREEING = (
    (0, "gpt-4.1-mini-2025-04-14, input", 0.4),
    (0, "gpt-4.1-mini-2025-04-14, output", 0.117468),
    (0, "gpt-4.1-2025-04-14, output", 0.2),
    (1, "gpt-4.1-2025-04-14, output", 0.001),
    (1, "llama", 0.002),
)


def test_what_agrees_is_said_in_a_line_and_with_totals(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconcile", export(tmp_path, *AGREEING)]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert out.splitlines() == [
        "Our books against the export, 2026-11-01 00:00 to 2026-11-03 00:00 UTC, by UTC day and model",
        "",
        "day    model  ours USD  theirs USD  difference  of theirs",
        "total         0.720468    0.720468    0.000000      0.0 %  6.9 % not reported",
        "",
        "5 lines agree within 1 %: all of them.",
    ]


def test_what_differs_is_told_line_by_line(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = export(
        tmp_path,
        (0, "gpt-4.1-mini, input", 0.53),
        (0, "gpt-4.1, output", 0.1),
        (1, "gpt-4.1, output", 0.001005),
        (1, "web search tool calls", 0.01),
    )
    assert main(["reconcile", file]) == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "day         model                  ours USD  theirs USD  difference  of theirs",
        "2026-11-01  gpt-4.1                0.200000    0.100000   +0.100000   +100.0 %  25.0 % not reported",
        "2026-11-01  gpt-4.1-mini           0.517468    0.530000   -0.012532     -2.4 %",
        "2026-11-02  llama                  0.002000           –   +0.002000          –  only ours",
        "2026-11-02  web search tool calls         –    0.010000   -0.010000   -100.0 %  only theirs",
        "total                              0.720468    0.641005   +0.079463    +12.4 %  6.9 % not reported",
        "",
        "4 lines differ by more than 1 %, of 6.",
    ]


@pytest.mark.parametrize(("tolerance", "code"), [("2%", 1), ("2.5%", 0), ("3", 0), ("0", 1)])
def test_the_tolerance_decides(tolerance: str, code: int, books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = export(tmp_path, (0, "gpt-4.1-mini", 0.53), *AGREEING[2:])
    assert main(["reconcile", "--tolerance", tolerance, file]) == code


def test_usage_is_compared_by_tokens_and_calls(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        {
            "object": "organization.usage.completions.result",
            "model": "gpt-4.1-mini-2025-04-14",
            "input_tokens": 100,
            "output_tokens": 70,
            "input_cached_tokens": 0,
            "num_model_requests": 1,
        },
    ]
    file = tmp_path / "usage.json"
    file.write_text(json.dumps({"data": [{"start_time": NOV_1, "end_time": NOV_1 + 3600, "results": results}]}))
    assert main(["reconcile", str(file)]) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["2026-11-01", "gpt-4.1-mini", "output", "tokens", "50", "70", "-20", "-28.6", "%"] in rows
    assert ["total", "calls", "1", "1", "0", "0.0", "%"] in rows
    assert sum(row[:1] == ["2026-11-01"] for row in rows) == 1


def test_a_machine_reads_one_object(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = export(tmp_path, (0, "gpt-4.1-mini", 0.53), *AGREEING[2:], has_more=True)
    assert main(["reconcile", "--json", file]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in ("since", "until", "whole", "tolerance_percent", "agrees")} == {
        "since": "2026-11-01T00:00Z",
        "until": "2026-11-03T00:00Z",
        "whole": False,
        "tolerance_percent": 1.0,
        "agrees": False,
    }
    assert [row for row in found["rows"] if row["differs"]] == [
        {
            "day": "2026-11-01",
            "model": "gpt-4.1-mini",
            "measure": "cost_nanousd",
            "ours": 517_468_000,
            "theirs": 530_000_000,
            "difference": -12_532_000,
            "differs": True,
        }
    ]
    assert [(row["model"], row["ours"], row["theirs"]) for row in found["rows"] if row["model"] == "free"] == [("free", 0, None)]
    assert found["totals"][0]["difference"] == -12_532_000


def test_an_export_that_goes_on_elsewhere_is_told_of(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconcile", export(tmp_path, *AGREEING, has_more=True)]) == 0
    assert "The export says that more pages follow: only what it covers is compared.\n" in capsys.readouterr().out


def test_an_export_without_models_is_compared_by_day(books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "costs.csv"
    file.write_text("date,cost\n2026-11-01,0.717468\n2026-11-02,0.003\n")
    assert main(["reconcile", str(file)]) == 0
    out = capsys.readouterr().out
    assert "by UTC day: the export does not tell models apart" in out
    assert "2 lines agree within 1 %: all of them." in out


def test_names_from_clients_and_providers_move_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path / "state", used(model="\x1b[2J\u202e"))
    file = export(tmp_path, (0, "\x1b]0;owned\x07", 1.0))
    for more in ([], ["--json"]):
        assert main(["reconcile", file, "--state-dir", str(tmp_path / "state"), *more]) == 1
        assert capsys.readouterr().out.replace("\n", "").isprintable()


async def test_it_may_be_asked_beside_a_running_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = await SqliteStore.open(tmp_path / "state", FakeClock(wall_s=NOV_1))
    try:
        fill(tmp_path / "state", BOOKS)
        assert main(["reconcile", export(tmp_path, *AGREEING), "--state-dir", str(tmp_path / "state")]) == 0
    finally:
        await store.close()


def test_a_file_that_cannot_be_used_ends_with_2_and_its_place(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "costs.csv"
    file.write_text("date,model,cost\n2026-11-01,gpt-4.1,0.2\n2026-11-01,gpt-4.1,lots\nsoon,gpt-4.1,1\n")
    assert main(["reconcile", str(file)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.splitlines() == [
        f'{file}:3: expected US dollars, got "lots"',
        f'{file}:4: expected a date such as 2026-11-01, got "soon"',
    ]


def test_a_file_that_is_not_there_and_a_state_that_is_not_there(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconcile", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/none.json: cannot be read: No such file or directory\n"
    assert main(["reconcile", export(tmp_path, *AGREEING), "--state-dir", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"tollhouse reconcile: there is no state in {tmp_path}/none: ")


@pytest.mark.parametrize("tolerance", ["-1", "many", "1e3", "1000000", ""])
def test_a_tolerance_is_percent(tolerance: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["reconcile", "x", f"--tolerance={tolerance}"])
    assert end.value.code == 2
    assert "expected percent, such as 1% or 0.5%" in capsys.readouterr().err


def test_the_readme_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    export(
        tmp_path,
        (0, "gpt-4.1-mini-2025-04-14, input", 3.6818204),
        (0, "gpt-4.1-mini-2025-04-14, output", 2.0974112),
        (0, "gpt-4.1-2025-04-14, input", 3.76468),
        (0, "gpt-4.1-2025-04-14, output", 3.216936),
        (1, "gpt-4.1-2025-04-14, input", 0.08862),
        (1, "gpt-4.1-2025-04-14, output", 0.06144),
        (1, "gpt-4.1-mini-2025-04-14, input", 1.2403824),
        (1, "gpt-4.1-mini-2025-04-14, output", 0.1894448),
        (1, "text-embedding-3-small, input", 0.08834004),
        (1, "web search tool calls", 0.25),
    )
    command = "tollhouse reconcile costs.json"
    monkeypatch.chdir(tmp_path)
    assert main([*command.split()[1:], "--state-dir", str(example(tmp_path / "state"))]) == 1
    assert capsys.readouterr().out.splitlines() == shown((ROOT / "README.md").read_text("utf-8"), command)
