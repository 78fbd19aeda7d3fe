"""A release has one version, wherever it is said."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def release(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / ".ci" / "release.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def version() -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "proxy", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    return shown.stdout.split()[1]


def test_every_place_says_the_version_of_the_project() -> None:
    """The package, the images' label, the chart and what it runs, and the changelog."""
    done = release()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{version()}, everywhere\n"


def test_a_tag_gives_the_notes_of_its_version() -> None:
    done = release(f"v{version()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "### " in done.stdout
    assert "\n## " not in done.stdout


@pytest.mark.parametrize("tag", ["v99.0.0", "0.1.0", ""])
def test_another_tag_is_no_release(tag: str) -> None:
    done = release(tag)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"the tag {tag}: pyproject.toml says " in done.stderr
