"""`kill -9` at any moment under load: what was served is charged, nothing is admitted beyond a budget, and the next start is ready at once.

TOLLHOUSE_KILLS: how many times, 8 if it is not set.
"""

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import aiohttp
import orjson

from proxy.state.database import Database
from proxy.state.replay import Replay
from tests.fakes import FakeUpstream
from tests.house import policy
from tests.whole.conversation import CHAT, OK
from tests.whole.process import Serving

KILLS = int(os.environ.get("TOLLHOUSE_KILLS", "8"))
EACH_NANOUSD = 10 * 400 + 1000 * 1600  # what OK says that it used, at the shipped price of its model
LIMIT_NANOUSD = 100_000_000
CLIENTS = 12
KILLS_A_USER = 8  # then another user begins with a whole budget
RULES = f"""
- name: everyone
  max_tokens: {{cap: 1000}}
  budget: {{usd: {LIMIT_NANOUSD / 1e9}, per: month, by: user, when_spent: reject}}
"""


def recorded(state: Path) -> Counter[str]:
    """What the books say on the disk, spent and held, by subject: as whoever reads them beside a running process."""
    books: Counter[str] = Counter()
    replay = Replay()
    with closing(sqlite3.connect(f"file:{state / 'state.sqlite3'}?mode=ro", uri=True)) as connection:
        books.update(dict(connection.execute("SELECT subject, sum(spent) FROM spend GROUP BY subject")))
        [(since,)] = connection.execute("SELECT generation FROM journal")
        for (charges,) in connection.execute("SELECT charges FROM hold"):
            books.update({said[2]: said[-1] for said in orjson.loads(charges)})
    replay.read_all(state, since=since)
    assert replay.damaged == 0
    for key, amount in replay.totals.spent.items():
        books[key[2]] += amount
    for hold in replay.holds.values():
        books.update({key[2]: amount for key, amount in hold.amounts})
    return books


async def call_on(proxy: Serving, user: str) -> None:
    """One client that calls until the process is gone."""
    headers = {"authorization": "Bearer app-key", "x-user": user, "content-type": "application/json"}
    body = orjson.dumps({**CHAT, "user": user})
    try:
        while True:
            status, _, said = await proxy.post("/v1/chat/completions", body, headers)
            assert status in (200, 429), said
            if status == 429:
                await asyncio.sleep(0.005)
    except (aiohttp.ClientError, OSError):
        return


async def test_a_kill_at_any_moment_loses_no_spend_and_lets_nothing_past_a_budget(tmp_path: Path) -> None:
    chance, slowest_s, served = random.Random(4), 0.0, Counter[str]()
    async with FakeUpstream(default=OK) as upstream:
        for kill in range(KILLS):
            user = f"u{kill // KILLS_A_USER}"
            began = time.perf_counter()
            proxy = Serving(tmp_path, policy(RULES), upstream=upstream.url + "/v1")
            await proxy.__aenter__()
            slowest_s = max(slowest_s, time.perf_counter() - began)
            clients = [asyncio.create_task(call_on(proxy, user)) for _ in range(CLIENTS)]
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            proxy.signal(signal.SIGKILL)
            assert await proxy.ended() == -signal.SIGKILL
            await proxy._session.close()
            await asyncio.gather(*clients)
            books = recorded(proxy.state)
            served.update(f"user=app/{orjson.loads(one.body)['user']}" for one in upstream.requests)
            upstream.requests.clear()
            for subject, calls in served.items():
                assert calls * EACH_NANOUSD <= books[subject] <= LIMIT_NANOUSD, (kill, subject, calls, books)
        database = Database(tmp_path / "state")
        began = time.perf_counter()
        database.recover(time.time())
        slowest_recovery_s = time.perf_counter() - began
        database.close()
    assert slowest_recovery_s < 2
    reached = max(books.values()) / LIMIT_NANOUSD
    assert KILLS < KILLS_A_USER or reached > 0.9, "the budgets were never put to the test"
    print(f"{KILLS} kills, {sum(served.values())} calls served, budgets used up to {reached:.1%}, slowest start {slowest_s:.2f} s")
