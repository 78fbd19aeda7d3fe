"""What is installed, and what is said of it: the lock files and the bill of materials."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = {"requirements.lock": "record", "requirements-dev.lock": "dev"}  # file → the extra that it has


def entries(name: str) -> list[tuple[Requirement, int]]:
    """Each package of a lock file, and how many hashes it has."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / name).read_text("utf-8"))
    return [(Requirement(block.partition("\\")[0].strip()), block.count("--hash=sha256:")) for block in blocks]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_every_package_by_version_and_hash_and_no_address(lock: str) -> None:
    assert "://" not in (ROOT / lock).read_text("utf-8")
    wrong = [str(one) for one, hashes in entries(lock) if hashes == 0 or not re.fullmatch(r"==[^*]+", str(one.specifier))]
    assert wrong == []


@pytest.mark.parametrize(("lock", "extra"), LOCKS.items())
def test_a_lock_fits_what_the_project_asks_for(lock: str, extra: str) -> None:
    """Else: `make lock`."""
    locked = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one, _ in entries(lock)}
    asked = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra])]
    wrong = [str(one) for one in asked if not one.specifier.contains(locked.get(canonicalize_name(one.name), "0"))]
    assert wrong == []


def test_the_tests_run_with_what_the_image_has() -> None:
    tested = {one.name: one.specifier for one, _ in entries("requirements-dev.lock")}
    assert {one.name: one.specifier for one, _ in entries("requirements.lock")}.items() <= tested.items()


def made() -> bytes:
    return subprocess.run([sys.executable, ROOT / ".ci" / "sbom.py"], capture_output=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    return dict(json.loads(made()))


def test_a_bill_names_what_it_is_of_and_in_which_form(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"], about["licenses"]) == ("tollhouse", PROJECT["version"], [{"expression": "MIT"}])
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])


def test_a_bill_has_the_packages_of_the_lock_with_licences(bill: dict[str, Any]) -> None:
    listed = {f"{one.name}@{str(one.specifier).removeprefix('==')}" for one, _ in entries("requirements.lock")}
    parts = bill["components"]
    assert len(parts) == len({part["bom-ref"] for part in parts})
    assert {f"{part['name']}@{part['version']}" for part in parts} <= listed
    assert {part["purl"] for part in parts} == {f"pkg:pypi/{part['name']}@{part['version']}" for part in parts}
    assert all(part["licenses"] for part in parts)
    direct = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert direct <= {part["name"] for part in parts}


def test_whatever_is_needed_is_in_the_bill_and_everything_in_it_is_needed(bill: dict[str, Any]) -> None:
    refs = {part["bom-ref"] for part in bill["components"]}
    graph = {entry["ref"]: set(entry["dependsOn"]) for entry in bill["dependencies"]}
    root = bill["metadata"]["component"]["bom-ref"]
    assert graph.keys() == refs | {root}
    assert set().union(*graph.values()) == refs


def test_the_same_lock_gives_the_same_bytes() -> None:
    assert made() == made()
