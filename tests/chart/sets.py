"""The value sets of values.yaml, and what each renders to, once for each Helm and Kubernetes.

The rule a reader could break: a check that goes over `RENDERS` sees every set; one that names a set is about that set alone.
"""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.chart.charts import NEWEST, OLDEST, Charts, Document
from tests.chart.tools import HELMS, Helm

SETS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("values.yaml").read_text("utf-8"))

# Kubernetes: the ends, and where something changes: 1.28 has no native sidecars by default, 1.29 no `sleep` handler, 1.30 both.
KUBES = (OLDEST, "1.28.0", "1.29.0", "1.30.0", NEWEST)

# The example app has a CronJob, which takes native sidecars.
EXAMPLES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "example-app": ({}, ("1.29.0", "1.30.0", NEWEST)),
    "example-app-plain": ({"nightly": {"enabled": False}, "tollhouse": {"sidecar": {"native": False}}}, KUBES),
    "example-app-old": ({"nightly": {"enabled": False}}, (OLDEST, "1.28.0")),
}

Render = tuple[str, str]  # name of the set, Kubernetes

RENDERS: tuple[Render, ...] = (
    *((name, kube) for name in SETS for kube in KUBES),
    *((name, kube) for name, (_, kubes) in EXAMPLES.items() for kube in kubes),
)


@cache
def rendered(charts: Charts, render: Render, helm: Helm = HELMS[0]) -> list[Document]:
    name, kube = render
    chart, values = ("tollhouse", SETS[name]) if name in SETS else ("example-app", EXAMPLES[name][0])
    return charts.render(chart, values, helm=helm, kube=kube)
