"""What a machine can see of the Dockerfile without building it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def stages() -> dict[str, list[str]]:
    """Name of a stage → its instructions, each on a line, without comments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in filter(None, (" ".join(line.split()) for line in text.splitlines())):
        if line.startswith("FROM "):
            found[line.rpartition(" AS ")[2]] = instructions = []
        elif found:
            instructions.append(line)
    return found


def test_the_targets_are_alike_but_for_their_base() -> None:
    found = stages()
    assert list(found) == ["build", "small", "slim"], "the last one is what `docker build .` makes"
    assert found["small"] == found["slim"]


@pytest.mark.parametrize("target", ["slim", "small"])
def test_an_image_runs_as_a_number_and_without_a_shell(target: str) -> None:
    """Kubernetes can see that a number is not root, and a name it cannot; a shell is missing in one of the two."""
    instructions = stages()[target]
    users = [line.split()[1] for line in instructions if line.startswith("USER ")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    running = [line for line in instructions if line.startswith(("RUN ", "ENTRYPOINT ", "CMD ", "HEALTHCHECK "))]
    assert len(running) == 4
    assert all(re.search(r'\["[^\]]+"\]$', line) for line in running), running


def test_dependencies_are_installed_by_their_hashes_and_as_wheels_alone() -> None:
    [install] = [line for line in stages()["build"] if "pip install" in line]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert DOCKERFILE.count("pip install") == 1


def test_only_what_the_image_is_made_of_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in ignored if line and not line.startswith("#")]
    let_in = {line.removeprefix("!") for line in patterns if line.startswith("!")} - {".ci"}
    copied = {Path(line.split()[1]).as_posix() for line in stages()["build"] if line.startswith("COPY ")}
    assert patterns[0] == "*"
    assert let_in == copied


def test_the_bases_have_the_python_that_the_bill_of_materials_is_for() -> None:
    [said] = re.findall(r'"python_version": "([\d.]+)"', (ROOT / ".ci" / "sbom.py").read_text("utf-8"))
    [slim] = re.findall(r"^ARG SLIM=python:([\d.]+)-slim$", DOCKERFILE, re.MULTILINE)
    assert slim == said
    assert said >= tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"].removeprefix(">=")
