"""The command itself: what it can do, and what it says to somebody who asks for something else."""

import pytest

from proxy import __version__
from proxy.__main__ import main
from proxy.settings import SETTINGS
from proxy.verbs import VERBS


def said(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, *capsys.readouterr()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("--version", capsys=capsys) == (0, f"tollhouse {__version__}\n", "")


def test_help_names_every_verb_and_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said("--help", capsys=capsys)
    assert code == 0
    words = " ".join(out.split())
    assert all(f"{verb} {does}" in words for verb, does in VERBS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_tells_how_it_is_used(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(verb, "--help", capsys=capsys)
    assert code == 0
    assert out.startswith(f"usage: tollhouse {verb} ")
    assert VERBS[verb][1:] in " ".join(out.split())


def test_serve_explains_every_flag_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said("serve", "--help", capsys=capsys)
    words = " ".join(out.split())
    for setting in SETTINGS:
        assert (f"[{setting.variable}]" in words) is (setting.flag is not None)
        if setting.flag is not None:
            assert f"{setting.flag} VALUE" in words
            assert f"(default: {setting.default})" in words or setting.default is None
    assert "--pretend" in words


@pytest.mark.parametrize("arguments", [(), ("srve",), ("--nonsense",), ("serve", "--nonsense"), ("serve", "file.yaml"), ("check",)])
def test_anything_else_ends_with_2_and_a_line_of_usage(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = said(*arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert error.startswith("usage: tollhouse")
    assert "error: " in error.splitlines()[-1]


def test_an_unknown_verb_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, error = said("srve", capsys=capsys)
    assert all(verb in error for verb in VERBS)
