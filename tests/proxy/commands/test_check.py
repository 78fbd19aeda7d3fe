"""`tollhouse check`: every mistake with its place, warnings that fail nothing, and a form that machines read."""

import json
from pathlib import Path

import pytest

from proxy.__main__ import main
from tests.proxy.policy.files import BROKEN, ENV, HEAD, ROOT

RIGHT = HEAD + "policies:\n  - {name: everyone, concurrency: {calls: 4}}\n"
WARNED = HEAD + "policies: []\n"
WRONG = HEAD + "policies:\n  - {name: everyone, concurrency: {calls: none}}\n  - {nam: other, max_tokens: {cap: 5}}\n"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_right_file_passes_with_its_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "right.yaml", RIGHT)
    assert main(["check", file]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: ok, version ")


def test_every_mistake_is_told_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "wrong.yaml", WRONG)
    assert main(["check", file]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f'{file}:5:43: policies[0].concurrency.calls: expected a whole number ≥ 1, got "none"',
        f'{file}:6:5: policies[1]: missing key "name"',
        f"{file}:6:6: policies[1].nam: unknown key; did you mean name?",
    ]


def test_a_warning_is_told_and_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "warned.yaml", WARNED)
    assert main(["check", file]) == 0
    warning, verdict = capsys.readouterr().out.splitlines()
    assert warning == f"{file}:1:1: there are no policies: every call with a valid key passes, without a limit (lint)"
    assert verdict.startswith(f"{file}: ok, version ")


def test_several_files_fail_when_one_does_and_each_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [written(tmp_path, f"{name}.yaml", text) for name, text in (("a", WRONG), ("b", RIGHT), ("c", WARNED))]
    assert main(["check", *files, str(tmp_path / "d.yaml"), str(tmp_path)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{tmp_path}").split(":")[0] for line in told] == [
        *["/a.yaml"] * 3,
        "/b.yaml",
        *["/c.yaml"] * 2,
        "/d.yaml",
        "",
    ]
    assert told[-2:] == [
        f"{tmp_path}/d.yaml: cannot be read: No such file or directory",
        f"{tmp_path}: cannot be read: Is a directory",
    ]


def test_a_machine_reads_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, warned, wrong = (written(tmp_path, name, text) for name, text in (("r", RIGHT), ("l", WARNED), ("w", WRONG)))
    assert main(["check", "--format", "json", right, warned, wrong]) == 1
    first, second, third = json.loads(capsys.readouterr().out)["files"]
    assert (first["file"], first["mistakes"], first["lints"], len(first["version"])) == (right, [], [], 12)
    assert (second["mistakes"], len(second["lints"])) == ([], 1)
    assert (third["version"], len(third["mistakes"]), third["lints"]) == (None, 3, [])


@pytest.mark.parametrize("example", sorted((ROOT / "policies" / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_passes_without_a_warning(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(example)]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_the_default_passes_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(ROOT / "policies" / "default.yaml")]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_what_is_checked_is_what_the_reader_says_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file with a mistake of each sort, in the words of `tests/broken/`."""
    assert main(["check", str(BROKEN / "everything-at-once.yaml")]) == 1
    told = capsys.readouterr().out.replace(f"{BROKEN}/", "")
    assert told == (BROKEN / "everything-at-once.txt").read_text("utf-8")
