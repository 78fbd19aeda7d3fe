"""`make alerts-test`: the chart's rules, alerts and dashboard against the real thing.

    python -m tests.alerts.run PROMETHEUS PROMTOOL

promtool checks the rules, plays the alerts' cases and judges the metrics; then a real Prometheus scrapes a serving process under mixed
calls for most of a minute, and is asked every query of the dashboard. It ends with 0 when all of them have data. The rule a reader could
break: what is asked is what stands in the chart's files, with a dashboard's variables put in and nothing else.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from proxy.telemetry.declared import DECLARED
from tests.alerts.files import CASES, RULES, queries
from tests.alerts.prometheus import INSTANCE, JOB, Found, Prometheus, prometheus
from tests.alerts.traffic import calls, scene

TRAFFIC_S = 50.0
_VARIABLES = ("instance", "model", "key")


def checked(promtool: str) -> list[str]:
    """Rules and cases, by promtool. Returns what is wrong."""
    commands = [("check", "rules", *map(str, RULES)), ("test", "rules", str(CASES))]
    wrong = []
    for command in commands:
        done = subprocess.run([promtool, *command], capture_output=True, encoding="utf-8", check=False)
        print(f"promtool {' '.join(command[:2])}: {'passed' if not done.returncode else 'failed'}")
        if done.returncode:
            wrong.append(f"promtool {' '.join(command[:2])}:\n{done.stdout}{done.stderr}")
    return wrong


def judged(promtool: str, metrics: str) -> list[str]:
    """The real text of /metrics, by promtool and by the Python client's parser. Returns what is wrong."""
    done = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True, encoding="utf-8", check=False)
    wrong = [f"promtool check metrics: {line}" for line in done.stderr.splitlines()]
    print(f"promtool check metrics: {'failed' if done.returncode or wrong else 'passed'}")
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    series = {(sample.name, *sorted(sample.labels.items())) for sample in samples}
    if len(series) != len(samples):
        wrong.append("a series stands twice in /metrics")
    names = {sample.name for sample in samples}
    wrong += [f"no series of {name}: the calls lack something" for name in DECLARED if not names & {name, name + "_count"}]
    print(f"/metrics: {len(series)} series; {len(DECLARED)} metrics are declared, and all are there" if not wrong else "")
    return wrong


def history() -> str:
    """A budget as it stood from two hours ago until just now: what a forecast looks back at."""
    now = int(time.time())
    label = f'{{instance="{INSTANCE}",job="{JOB}",policy="everyone"}}'
    samples = [f"tollhouse_budget_spent_ratio{label} 0.0001 {now - 7200 + 60 * n}" for n in range(118)]
    return "\n".join(("# TYPE tollhouse_budget_spent_ratio gauge", *samples, "# EOF", ""))


def table(found: list[Found]) -> str:
    wide = max(len(one.query.panel) for one in found)
    lines = [f"{'panel':{wide}}  query  series  legend"]
    for one in found:
        well = "ok" if one.well else "FAILED"
        lines.append(f"{one.query.panel:{wide}}  {well:6} {one.series:6}  {one.query.legend} {one.error}".rstrip())
    return "\n".join(lines)


async def variables(asked: Prometheus) -> list[str]:
    """The dashboard's variables. Returns those without a value."""
    metrics = {"instance": "tollhouse_build_info", "model": "tollhouse_calls_total", "key": "tollhouse_calls_total"}
    values = {name: (await asked.get(f"label/{name}/values", **{"match[]": metrics[name]}))[0] for name in _VARIABLES}
    print(*(f"variable {name}: {', '.join(found)}" for name, found in values.items()), sep="\n")
    return [f"variable {name} has no value" for name, found in values.items() if not found]


async def scraped(binary: str, promtool: str) -> list[str]:
    """Have a real Prometheus scrape, and ask it. Returns what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with scene(folder) as played:
            target = played.proxy.admin_url.removeprefix("http://")
            async with prometheus(binary, promtool, folder, target=target, history=history()) as asked:
                stop = asyncio.Event()
                calling = asyncio.create_task(calls(played, stop))
                await asyncio.wait([calling], timeout=TRAFFIC_S)
                found = [await asked.shown(query) for query in queries()]
                wrong = [f"{one.query.panel}: {one.query.expression}" for one in found if not one.well]
                wrong += await variables(asked)
                wrong += await asked.broken_rules()
                standing = await asked.standing()
                stop.set()
                rounds = await calling
            status, metrics = await played.proxy.admin("/metrics")
            assert status == 200
            wrong += judged(promtool, metrics)
    print(f"{rounds} rounds of calls in {TRAFFIC_S:.0f} s; alerts: {', '.join(f'{n} {s}' for n, s in standing.items()) or 'none'}")
    print(table(found))
    print(f"{sum(one.well for one in found)} of {len(found)} queries have data", flush=True)
    return wrong


def main() -> int:
    binary, promtool = sys.argv[1:]
    wrong = checked(promtool) or asyncio.run(scraped(binary, promtool))
    print(*(wrong or ["all well"]), sep="\n", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
