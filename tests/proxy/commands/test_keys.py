"""`tollhouse keys new`: a key that works with the line that is printed beside it."""

import re

import pytest

from proxy.__main__ import main
from proxy.errors import NotAdmitted
from tests.house import hash_of
from tests.proxy.policy.files import compiled


def printed(id: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The key and the line."""
    assert main(["keys", "new", id]) == 0
    text = capsys.readouterr().out
    [key] = re.findall(r"^  (th-\S+)$", text, re.M)
    [line] = re.findall(r"^  - (\{.*\})$", text, re.M)
    return key, line


@pytest.mark.parametrize("id", ["web", "nightly-2.batch_job", "off", "null", "0x1F", "true", "12", "1_000", "a" * 64])
def test_the_line_lets_the_key_in_under_its_name(id: str, capsys: pytest.CaptureFixture[str]) -> None:
    key, line = printed(id, capsys)
    policies = compiled(f"version: 1\nkeys:\n  - {line}\n")
    caller = policies.identify(presented=key, header=lambda _: None, loopback=False, now_s=0.0)
    assert (caller.key, hash_of(key) in line) == (id, True)
    with pytest.raises(NotAdmitted):
        policies.identify(presented=key[:-1], header=lambda _: None, loopback=True, now_s=0.0)


def test_no_two_keys_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {printed("web", capsys)[0] for _ in range(20)}
    assert len(keys) == 20
    assert all(len(key) == len("th-") + 43 for key in keys), "32 random bytes"


@pytest.mark.parametrize("id", ["", "two words", "a/b", "naïve", ".hidden", "a" * 65, "a]b", "a\nb"])
def test_an_id_that_the_file_would_refuse_gets_no_key(id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", id]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("tollhouse keys new: expected a name of letters, digits, `.`, `_` and `-`, at most 64, got ")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["new"], ["old", "web"], ["new", "web", "more"]])
def test_anything_else_is_told_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["keys", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: tollhouse keys ")
