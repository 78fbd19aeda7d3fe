"""`tollhouse demo`: a tour that shows what it promises, takes nothing from the machine and leaves nothing on it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.whole.process import environment, ran

TITLES = ["An answer", "A stream", "A clamp", "A burst", "A budget", "The metrics", "The log"]


def test_the_tour_shows_each_thing_as_it_came_and_puts_everything_away(tmp_path: Path) -> None:
    misleading = {
        "TOLLHOUSE_LISTEN": "nowhere",
        "TOLLHOUSE_FOO": "x",
        "OPENAI_API_KEY": "sk-canary",
        "TOLLHOUSE_UPSTREAM": "canary",
    }
    tour = ran(tmp_path, "demo", "--quick", env=misleading)
    assert (tour.returncode, tour.stderr) == (0, "")
    assert re.findall(r"^── \d\. (.*?) ─+$", tour.stdout, re.M) == TITLES
    steps = dict(zip(TITLES, re.split(r"^── \d\. .*$", tour.stdout, flags=re.M)[1:], strict=True))

    assert "This is Tollhouse's pretend upstream" in steps["An answer"]
    assert re.search(r"tollhouse-cost-usd +0\.0000416\n", steps["An answer"])
    assert re.search(r"content-type +text/event-stream", steps["A stream"])
    assert steps["A stream"].rstrip().endswith("What is real is the")
    assert re.search(r"tollhouse-clamped +max_tokens=8000->40\n", steps["A clamp"])
    assert re.findall(r"← (\d+)", steps["A burst"]) == ["200", "200", "200", "429"]
    assert re.search(r"retry-after +(1[0-9]|20)\n", steps["A burst"])
    assert "Policy 'everyone' allows 3 requests per minute" in steps["A burst"]
    assert "Budget of policy 'everyone' crossed 50 %" in steps["A budget"]
    assert re.search(r"webhook-signature +v1,", steps["A budget"])
    assert 'tollhouse_refusals_total{policy="everyone",clause="rate_limit",mode="enforce"} 1\n' in steps["The metrics"]
    assert re.search(r"usage_source +reported\n", steps["The log"])
    assert re.search(r"cost_nanousd +328000\n", steps["The log"])

    assert max(len(line) for line in tour.stdout.splitlines() if "tollhouse_" not in line) <= 90, "it fits a terminal"
    assert "canary" not in tour.stdout
    assert list(tmp_path.iterdir()) == [], "not even a temporary folder"


def begun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A tour that has said its first line."""
    command = [sys.executable, "-m", "proxy", "demo", *arguments]
    env = environment(folder, {"PYTHONUNBUFFERED": "1"})
    tour = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert tour.stdout is not None
    assert tour.stdout.readline().startswith("Tollhouse ")
    return tour


def test_a_tour_that_is_interrupted_puts_everything_away_too(tmp_path: Path) -> None:
    with begun(tmp_path) as tour:
        tour.send_signal(signal.SIGINT)
        _, error = tour.communicate()
    assert (tour.returncode, error) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_a_tour_that_nobody_reads_to_its_end_says_nothing_more(tmp_path: Path) -> None:
    with begun(tmp_path, "--quick") as tour:
        assert tour.stdout is not None
        assert tour.stderr is not None
        tour.stdout.close()
        error = tour.stderr.read()
    assert (tour.returncode, error) == (1, "")
    assert list(tmp_path.iterdir()) == []
