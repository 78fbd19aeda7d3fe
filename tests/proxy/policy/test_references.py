"""`${env:NAME}` and `${file:PATH}`: what is filled in, and what nobody gets to see."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from proxy.policy.references import References
from proxy.policy.scalar import Wrong


def references(folder: Path, **env: str) -> References:
    return References(env, folder=folder)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("${env:KEY}", "k3y"),
        ("https://${env:HOST}/v1", "https://example.com/v1"),
        ("${env:HOST}:${env:KEY}", "example.com:k3y"),
        ("${env:NESTED}", "${env:KEY}"),
        ("plain", "plain"),
        ("a $ and a {brace}", "a $ and a {brace}"),
    ],
)
def test_the_environment_is_filled_in_once(tmp_path: Path, text: str, resolved: str) -> None:
    assert references(tmp_path, KEY="k3y", HOST="example.com", NESTED="${env:KEY}").resolve(text) == resolved


def test_a_file_is_read_without_the_newline_at_its_end_and_remembered(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k3y\r\n")
    both = references(tmp_path)
    assert both.resolve("${file:key}") == "k3y"
    assert both.resolve(f"${{file:{tmp_path}/key}}") == "k3y"
    assert both.files == {tmp_path / "key": sha256(b"k3y\r\n").digest()}


def test_a_file_that_could_not_be_read_is_remembered_too(tmp_path: Path) -> None:
    missing = references(tmp_path)
    with pytest.raises(Wrong):
        missing.resolve("${file:later}")
    assert missing.files == {tmp_path / "later": None}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Wrong, match="not a regular file"):
        references(tmp_path).resolve("${file:pipe}")


def test_a_file_that_is_no_secret_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 65_537)
    with pytest.raises(Wrong, match="larger than 64 KiB"):
        references(tmp_path).resolve("${file:large}")


def test_a_name_that_is_missing_is_told_its_nearest_relative(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="OPENAI_KEY is not set; did you mean OPENAI_API_KEY"):
        references(tmp_path, OPENAI_API_KEY="c4n4ry").resolve("${env:OPENAI_KEY}")
