"""The dashboard, the rules, the alerts and their cases as they stand in the chart, read and taken apart.

The rule a reader could break: nothing here knows what is right. Tests do.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "helm" / "tollhouse" / "files"
DASHBOARD = FOLDER / "dashboard.json"
RULES = (FOLDER / "recording.yaml", FOLDER / "alerts.yaml")
CASES = Path(__file__).with_name("alerts_test.yaml")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel. legend: as written, empty in a table."""

    panel: str
    kind: str
    expression: str
    legend: str


@cache
def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return made


def panels() -> Iterator[dict[str, Any]]:
    """Every panel, rows and what collapsed rows hold included."""
    for panel in dashboard()["panels"]:
        yield panel
        yield from panel.get("panels", ())


def charts() -> list[dict[str, Any]]:
    """Every panel that is no row."""
    return [panel for panel in panels() if panel["type"] != "row"]


def queries() -> list[Query]:
    return [Query(p["title"], p["type"], t["expr"], t["legendFormat"]) for p in charts() for t in p["targets"]]


@cache
def rules() -> tuple[dict[str, Any], ...]:
    """Every rule of both files, in order."""
    read = [yaml.safe_load(file.read_text("utf-8")) for file in RULES]
    return tuple(rule for document in read for group in document["groups"] for rule in group["rules"])


def recordings() -> dict[str, str]:
    """Expressions by name."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def cases() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(CASES.read_text("utf-8"))["tests"])
