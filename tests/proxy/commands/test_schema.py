"""`tollhouse schema`: what is printed is what is shipped."""

import json
from pathlib import Path

import pytest

from proxy.__main__ import main
from proxy.reference import BEGIN, END
from tests.proxy.policy.files import ROOT


def test_the_schema_is_the_one_that_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    text = capsys.readouterr().out
    assert text == (ROOT / "policies" / "schema.json").read_text("utf-8"), "run `make schema`"
    assert json.loads(text)["title"]


def test_the_reference_is_the_one_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--markdown"]) == 0
    text = capsys.readouterr().out
    readme = (ROOT / "README.md").read_text("utf-8")
    assert text == BEGIN + readme.partition(BEGIN)[2].partition(END)[0] + END + "\n", "run `make schema`"


def test_the_reference_is_put_between_its_markers_and_nothing_else_changes(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n\n{BEGIN}\nstale\n{END}\n\nafter\n", "utf-8")
    for _ in range(2):  # the second time finds what the first one left
        assert main(["schema", "--readme", str(readme)]) == 0
        text = readme.read_text("utf-8")
        assert text.startswith(f"# Before\n\n{BEGIN}\n\n### Verbs\n")
        assert text.endswith(f"{END}\n\nafter\n")
        assert "stale" not in text


@pytest.mark.parametrize("text", ["no markers", f"only one {BEGIN}", f"{END} the wrong way round {BEGIN}"])
def test_a_file_without_its_markers_is_left_alone(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, "utf-8")
    assert main(["schema", "--readme", str(readme)]) == 2
    assert readme.read_text("utf-8") == text
    assert capsys.readouterr().err == f"tollhouse schema: {readme} has no place for the reference: it must hold {BEGIN} and {END}\n"
