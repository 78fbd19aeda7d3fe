"""Processes that page are killed between crossing, queueing, sending and noting; nobody is paged twice, and nobody not at all."""

import os
from collections import Counter
from pathlib import Path

from tests.crashes.trials import faults, run
from tests.crashes.vendors import CROSSED, RESOLVED, THRESHOLDS
from tests.pages import DAY

# More on request: `TOLLHOUSE_TRIALS=1000`. Another seed kills at other steps.
TRIALS = int(os.environ.get("TOLLHOUSE_TRIALS", "12"))
SEED = int(os.environ.get("TOLLHOUSE_SEED", "1"))


async def test_every_crossing_is_one_page_and_one_resolve_whenever_the_process_is_killed(tmp_path: Path) -> None:
    vendors, trials = await run(TRIALS, tmp_path, seed=SEED, now_s=DAY[0] + 3600.0)
    users = [trial.user for trial in trials]
    assert faults(vendors, users, ("pagerduty", "webhook", "slack")) == []
    expected = {(user, threshold, word): 1 for user in users for threshold in THRESHOLDS for word in (CROSSED, RESOLVED)}
    assert vendors.pages["pagerduty"] == vendors.pages["webhook"] == expected
    assert sum(trial.kills["crossing"] for trial in trials) >= TRIALS / 2
    assert sum(trial.kills["resolving"] for trial in trials) >= TRIALS / 2
    kills = sum((trial.kills for trial in trials), start=Counter[str]())
    repeats = sum(vendors.pages["slack"].values()) - len(expected)
    lives = sum(trial.lives for trial in trials)
    print(f"{TRIALS} trials, {lives} lives, {dict(kills)} kills, {dict(vendors.requests)} requests, {repeats} repeats to Slack")
