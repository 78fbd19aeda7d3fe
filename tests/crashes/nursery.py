"""Lives one after the other, each in a process of its own: forked, so that a life costs milliseconds and not an interpreter's start.

    python -m tests.crashes.nursery      orders come in, one JSON a line; out goes how each life ended: its exit code, or minus the signal

The rule a reader could break: it is a program of one thread, or forking it would be no fair copy. It signals its own child only.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import proxy.courier  # noqa: F401 - loaded once, for all lives
from policies import KINDS
from proxy.policy.policyset import PolicySet
from proxy.policy.shelf import Shelf
from tests.crashes.life import LIMIT_USD, Orders, live

POLICY = """
version: 1
upstreams: {{up: {{base_url: http://127.0.0.1:9/v1}}}}
keys: [{{id: web, anonymous: true, user: {{header: x-user-id}}}}]
pages:
  pagerduty: {{pagerduty: {{routing_key: 0123456789abcdef0123456789ABCDEF}}}}
  slack: {{slack: {{url: http://127.0.0.1:9/}}}}
  webhook: {{webhook: {{url: http://127.0.0.1:9/}}}}
  alertmanager: {{alertmanager: {{url: http://127.0.0.1:9/}}}}
policies:
  - {{name: spenders, budget: {{usd: {usd}, per: day, by: user, timezone: {zone}, page: [{page}]}}}}
"""
BUDGETS = {"plain": LIMIT_USD, "raised": 100 * LIMIT_USD}


def main() -> None:
    zone, page = sys.argv[1:]
    loaded: dict[str, PolicySet] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, usd in BUDGETS.items():
            file = Path(folder) / f"{name}.yaml"
            file.write_text(POLICY.format(usd=usd, zone=zone, page=page), "utf-8")
            loaded[name] = Shelf(kinds=KINDS, env={}, upstream=None).load(file)
    for line in sys.stdin:
        orders = Orders(**json.loads(line))
        child = os.fork()
        if child == 0:
            _live(orders, loaded[orders.policies])
        if orders.kill_after_s is not None:
            time.sleep(orders.kill_after_s)
            os.kill(child, signal.SIGKILL)  # of one that has ended too, since nobody has waited for it yet
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _live(orders: Orders, policies: PolicySet) -> None:
    code = 70
    try:
        code = live(orders, policies)
    except BaseException:  # the last line of defence: a child must never go on in its parent's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
