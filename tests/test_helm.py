"""What of the Helm chart can be checked without Helm: its version, its default policy, and that values, schema and settings agree.

The rest is `make chart-test`, in tests/chart.
"""

import json
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies import KINDS
from proxy.policy.compile import compile_text
from proxy.policy.lints import lints
from proxy.settings import SETTINGS

ROOT = Path(__file__).parents[1]
HELM = ROOT / "helm"
CHART = HELM / "tollhouse"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))


def test_the_charts_have_the_programs_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    example = yaml.safe_load((HELM / "example-app" / "Chart.yaml").read_text("utf-8"))
    assert {chart["version"], chart["appVersion"], example["dependencies"][0]["version"]} == {version}


def test_the_default_policy_is_right() -> None:
    text = VALUES["policy"]["inline"].replace("${file:/run/secrets/tollhouse/openai}", "${env:KEY}")
    policies = compile_text(text.encode(), file="values.yaml", kinds=KINDS, env={"KEY": "sk-1"})
    assert [*lints(policies)] == []


def closed(schema: dict[str, Any], trail: str = "") -> Iterator[str]:
    """Objects of named values that would take any other name too."""
    if "properties" in schema and schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        yield trail
    for name, inner in schema.get("properties", {}).items():
        yield from closed(inner, f"{trail}.{name}")


def test_the_schema_takes_no_value_that_it_does_not_know() -> None:
    assert list(closed(SCHEMA)) == []


def unequal(values: dict[str, Any], schema: dict[str, Any], trail: str = "") -> Iterator[str]:
    """Values without an entry in the schema, and entries without a value."""
    if "properties" not in schema:
        return
    for name in values.keys() ^ schema["properties"].keys():
        yield f"{trail}.{name}"
    for name in values.keys() & schema["properties"].keys():
        if isinstance(values[name], dict):
            yield from unequal(values[name], schema["properties"][name], f"{trail}.{name}")


# `global` is Helm's; what stands empty takes either part of a selector, and requests may claim devices.
_ONLY_IN_THE_SCHEMA = {
    ".global",
    ".resources.claims",
    ".injector.resources.claims",
    ".injector.namespaceSelector.matchLabels",
    ".injector.namespaceSelector.matchExpressions",
    ".monitoring.podMonitor.selector.matchLabels",
    ".monitoring.podMonitor.selector.matchExpressions",
}


def test_every_value_has_a_default_and_a_schema() -> None:
    assert set(unequal(VALUES, SCHEMA)) == _ONLY_IN_THE_SCHEMA


def test_every_value_is_used() -> None:
    """Those at the top, and those right below."""
    templates = "".join(path.read_text("utf-8") for path in (CHART / "templates").iterdir())
    names = {*VALUES, *(name for key, part in VALUES.items() if isinstance(part, dict) and key != "resources" for name in part)}
    assert {name for name in names if not re.search(rf"\.{name}\b", templates)} == set()


def test_every_setting_of_the_program_has_its_value_and_no_other_is_set() -> None:
    text = (CHART / "templates" / "_container.tpl").read_text("utf-8")
    listed = re.search(r"range \$name, \$value := dict\n(.*?)\n}}", text, re.DOTALL)
    assert listed is not None
    named = {f"TOLLHOUSE_{name}" for name in re.findall(r'^  "([A-Z_]+)"', listed[1], re.MULTILINE)}
    named |= set(re.findall(r"name: (TOLLHOUSE_[A-Z_]+)", text))
    assert named == {setting.variable for setting in SETTINGS}


def test_defaults_of_settings_are_the_programs_own() -> None:
    own = {setting.variable: setting.default for setting in SETTINGS}
    settings = VALUES["settings"]
    assert (settings["logLevel"], settings["logFormat"]) == (own["TOLLHOUSE_LOG_LEVEL"], own["TOLLHOUSE_LOG_FORMAT"])
    assert [str(settings["headerSeconds"]), str(settings["bodySeconds"])] == [own["TOLLHOUSE_HEADER_S"], own["TOLLHOUSE_BODY_S"]]
    assert [own[f"TOLLHOUSE_{name}"] for name in ("LISTEN", "ADMIN_LISTEN")] == [
        f"127.0.0.1:{VALUES['ports'][name]}" for name in ("data", "admin")
    ]


def test_the_alert_on_what_is_down_names_the_port_that_both_monitors_scrape() -> None:
    """The operator makes its name the label `endpoint`."""
    monitors = (CHART / "templates" / "monitoring.yaml").read_text("utf-8")
    alerts = (CHART / "files" / "alerts.yaml").read_text("utf-8")
    assert re.findall(r"- {port: ([a-z-]+),", monitors) == re.findall(r'endpoint="([a-z-]+)"', alerts) * 2


def test_the_example_app_has_a_handler_for_sigterm() -> None:
    """As process 1 of its container it would not hear it otherwise. Without one, this would end by the signal, -15."""
    with socket.create_server(("127.0.0.1", 0)) as model:
        address = f"http://127.0.0.1:{model.getsockname()[1]}/v1"
        env = {"OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none", "MODEL": "m"}
        with subprocess.Popen([sys.executable, HELM / "example-app" / "files" / "app.py", "once"], env=env) as app:
            asked, _ = model.accept()
            app.terminate()
            assert app.wait(timeout=10) == 143
            asked.close()


@pytest.mark.parametrize("chart", ["tollhouse", "example-app"])
def test_a_schema_is_json(chart: str) -> None:
    assert json.loads((HELM / chart / "values.schema.json").read_text("utf-8"))["$schema"]
