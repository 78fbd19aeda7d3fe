"""A real Prometheus on loopback that scrapes one Tollhouse each second, with the chart's rules, and what it can be asked.

The rule a reader could break: it ends with the `async with` that it began in, whatever happens.
"""

import asyncio
import math
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.alerts.files import RULES, Query
from tests.answering import answering

JOB, INSTANCE = "tollhouse", "one"
READY_S = 30
SHOWN_S = 40  # what a chart shows
# As Grafana puts them in. A rate wants four scrapes.
VARIABLES = {"$__rate_interval": "15s", "$__range": "60s", "$instance": ".*", "$model": ".*", "$key": ".*"}
_CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: {job}
    static_configs: [{{targets: ["{target}"]}}]
    relabel_configs: [{{target_label: instance, replacement: {instance}}}]
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What a query brought. series: how many with a number in them; unnamed: how many lack a label that the legend shows."""

    query: Query
    series: int
    unnamed: int
    error: str = ""

    @property
    def well(self) -> bool:
        return self.series > 0 and not self.unnamed and not self.error


class Prometheus:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    def __repr__(self) -> str:
        return f"<Prometheus {self.url}>"

    async def get(self, path: str, **parameters: str) -> tuple[Any, str]:
        """(data, error) of a page of its API."""
        async with self._session.get(f"{self.url}/api/v1/{path}", params=parameters) as answer:
            said = await answer.json()
            return said.get("data"), said.get("error", "")

    async def shown(self, query: Query) -> Found:
        """What a panel would show."""
        expression = query.expression
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        now = time.time()
        if query.kind in ("table", "stat"):
            data, error = await self.get("query", query=expression, time=f"{now:.3f}")
        else:
            span = {"start": f"{now - SHOWN_S:.3f}", "end": f"{now:.3f}", "step": "2"}
            data, error = await self.get("query_range", query=expression, **span)
        full = [series["metric"] for series in (data or {}).get("result", ()) if _has_number(series)]
        labels = re.findall(r"\{\{(\w+)\}\}", query.legend)
        return Found(query, len(full), sum(any(not metric.get(label) for label in labels) for metric in full), error)

    async def broken_rules(self) -> list[str]:
        """Rules that cannot be evaluated, each with why."""
        data, _ = await self.get("rules")
        every = [rule for group in data["groups"] for rule in group["rules"]]
        assert every
        return [f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in every if rule["health"] != "ok"]

    async def standing(self) -> Mapping[str, str]:
        """Alerts that are pending or firing, by name."""
        data, _ = await self.get("alerts")
        return {alert["labels"]["alertname"]: alert["state"] for alert in data["alerts"]}


@asynccontextmanager
async def prometheus(binary: str, promtool: str, folder: Path, *, target: str, history: str) -> AsyncIterator[Prometheus]:
    """One that is ready. target: host:port; history: samples of before its start, as OpenMetrics."""
    data = folder / "data"
    past = folder / "history.om"
    past.write_text(history, "utf-8")
    backfill = ("tsdb", "create-blocks-from", "openmetrics", str(past), str(data))
    filling = await asyncio.create_subprocess_exec(promtool, *backfill, stdout=asyncio.subprocess.DEVNULL)
    assert await filling.wait() == 0, "no history could be written"
    config = folder / "prometheus.yml"
    rules = ", ".join(f'"{file}"' for file in RULES)
    config.write_text(_CONFIG.format(rules=rules, job=JOB, instance=INSTANCE, target=target), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        *(binary, f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address={listen}", "--log.level=error")
    )
    async with answering(process, f"http://{listen}/-/ready", within_s=READY_S), aiohttp.ClientSession() as session:
        yield Prometheus(f"http://{listen}", session)


def _has_number(series: Mapping[str, Any]) -> bool:
    values = series.get("values") or [series["value"]]
    return any(math.isfinite(float(value)) for _, value in values)
