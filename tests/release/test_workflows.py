"""What the workflows may do, and to whom they listen. `make workflows` asks a tool that knows more; this needs nothing but Python."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github" / "workflows").glob("*.yml"))
# What others write, and what may stand in a script all the same: nothing. In `env` and `with` it is a value and no code.
_EXPRESSION = re.compile(r"\$\{\{")
_COMMIT = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")

everywhere = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(path.read_text("utf-8")))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_there_are_workflows_for_changes_and_for_releases() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "release"]


@everywhere
def test_a_workflow_may_do_nothing_and_each_job_what_it_names(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    assert all(isinstance(job.get("permissions"), dict) for job in workflow["jobs"].values())
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_a_change_can_write_nowhere() -> None:
    [path] = [path for path in WORKFLOWS if path.stem == "ci"]
    workflow = read(path)
    assert {scope: right for job in workflow["jobs"].values() for scope, right in job["permissions"].items()} == {
        "contents": "read"
    }
    assert "secrets." not in path.read_text("utf-8")
    assert "pull_request_target" not in workflow[True]  # YAML 1.1 reads `on` so


def test_of_a_release_one_job_writes_to_the_repository_and_none_that_builds() -> None:
    [path] = [path for path in WORKFLOWS if path.stem == "release"]
    jobs = read(path)["jobs"]
    writing = {name: {scope for scope, right in job["permissions"].items() if right == "write"} for name, job in jobs.items()}
    assert writing == {
        "check": set(),
        "image": {"packages", "id-token", "attestations"},
        "chart": {"packages", "id-token", "attestations"},
        "release": {"contents", "id-token", "attestations"},
    }
    assert read(path)[True] == {"push": {"tags": ["v*"]}}


def test_an_image_is_pushed_under_the_tag_that_the_chart_asks_for() -> None:
    """Which is the chart's appVersion: the version, without the v of the repository's tag."""
    [path] = [path for path in WORKFLOWS if path.stem == "release"]
    by_id = {step["id"]: step for step in read(path)["jobs"]["image"]["steps"] if "id" in step}
    ran = subprocess.run(
        ["bash", "-ec", by_id["name"]["run"]],
        env={
            "PATH": os.environ["PATH"],
            "GITHUB_OUTPUT": "/dev/stdout",
            "GITHUB_REF_NAME": "v1.2.3",
            "GITHUB_REPOSITORY_OWNER": "Me",
        },
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    tags = by_id["push"]["with"]["tags"].replace("${{ matrix.suffix }}", "")
    for name, value in (line.split("=", 1) for line in ran.stdout.splitlines()):
        tags = tags.replace(f"${{{{ steps.name.outputs.{name} }}}}", value)
    assert tags == "ghcr.io/me/tollhouse:1.2.3"


@everywhere
def test_an_action_is_named_by_its_commit(path: Path) -> None:
    """A tag can be moved by whoever gets hold of the repository; which version it is stands beside it."""
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert [one for one in used if not _COMMIT.fullmatch(one)] == []
    lines = [line for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert [line for line in lines if not re.search(r"@[0-9a-f]{40} # v\d", line)] == []


@everywhere
def test_a_checkout_keeps_no_credentials(path: Path) -> None:
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@everywhere
def test_no_script_is_made_of_what_others_write(path: Path) -> None:
    assert [step["run"] for step in steps(path) if _EXPRESSION.search(step.get("run", ""))] == []


@everywhere
def test_one_action_has_one_commit(path: Path) -> None:
    used = {step["uses"] for other in WORKFLOWS for step in steps(other) if "uses" in step}
    assert len(used) == len({one.partition("@")[0] for one in used})
