"""`make pages`: the same trials against a real Alertmanager, Debian's, beside the strict receivers.

    python -m tests.crashes.alertmanager ALERTMANAGER [TRIALS [SEED]]

Each trial's budget is raised in the end: an Alertmanager has a clock of its own, and no day of it turns while we run. A minute does, so
beside the trials `tollhouse serve` has a budget a minute crossed by one call, and waits for the turn of its window. It ends with 0
when there was exactly one page and one resolve for every crossing, and ends what it started.
"""

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.answering import answering
from tests.crashes.trials import Nursery, Trial, faults
from tests.crashes.vendors import CROSSED, RESOLVED, THRESHOLDS, Vendors
from tests.fakes import FakeUpstream
from tests.house import policy
from tests.whole.conversation import CHAT, OK
from tests.whole.process import Serving

_CONFIG = """
route: {{receiver: oncall, group_by: ["..."], group_wait: 0s, group_interval: 1s, repeat_interval: 24h}}
receivers: [{{name: oncall, webhook_configs: [{{url: "{url}/alertmanager", send_resolved: true}}]}}]
"""
_READY_S = 20
_HEARD_S = 60
_BEFORE_S = 2 * 3600  # every life's clock is behind Alertmanager's, to which the future is not resolved yet
_NURSERIES = 2
_TURNED_S = 60 + 90 + 30  # the rest of the minute, what Alertmanager has an alert for at least, and some patience
SERVED = "app/served"


@asynccontextmanager
async def alertmanager(binary: str, folder: Path, receiver: str) -> AsyncIterator[str]:
    """A real one on loopback. Its base URL."""
    config = folder / "alertmanager.yml"
    config.write_text(_CONFIG.format(url=receiver), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    command = [binary]
    share = Path(binary).parents[1] / "share"
    if share != Path("/usr/share"):
        # Unpacked rather than installed, and Debian's looks for its templates under /usr/share: it sees them there, and nobody else does.
        overlay = f"lowerdir={share.resolve()}:/usr/share"
        command = ["unshare", "-rm", "sh", "-c", f'mount -t overlay overlay -o {overlay} /usr/share && exec "$0" "$@"', binary]
    process = await asyncio.create_subprocess_exec(
        *(*command, f"--config.file={config}", f"--storage.path={folder / 'data'}", f"--web.listen-address={listen}"),
        *("--cluster.listen-address=", "--log.level=warn"),
        env={"PATH": os.environ["PATH"]},
    )
    async with answering(process, f"http://{listen}/-/ready", within_s=_READY_S):
        yield f"http://{listen}"


async def work(trials: Sequence[Trial], vendors: Vendors, address: str, *, zone: str) -> None:
    """Trials one after the other, in a nursery of their own."""
    sinks = [*vendors.sinks(), ("alertmanager", "alertmanager", address, None)]
    async with Nursery(zone=zone, page=[name for name, *_ in sinks]) as nursery:
        for done, trial in enumerate(trials):
            await trial.cross(nursery, vendors, sinks)
            # An alert that is resolved before it was told of is none: Tollhouse waits 90 s for that, and we until we have heard.
            async with asyncio.timeout(_HEARD_S):
                await vendors.heard([trial.user], CROSSED)
            await trial.end(nursery, vendors, sinks)
            if done % 50 == 49:
                print(f"{done + 1} of {len(trials)} trials", file=sys.stderr, flush=True)


async def serve(folder: Path, vendors: Vendors, address: str) -> None:
    """One call to the command as its operator runs it, over its budget of this minute; and then none."""
    rules = "- {name: spenders, budget: {usd: 0.001, per: minute, by: user, page: [oncall]}}"
    text = policy(rules, more=f"pages:\n  oncall: {{alertmanager: {{url: '{address}'}}}}")
    async with FakeUpstream(default=OK) as upstream, Serving(folder, text, upstream=upstream.url + "/v1") as proxy:
        async with proxy.client() as app:
            await app.chat.completions.create(**CHAT, extra_headers={"x-user": "served"})
        for word, within_s in ((CROSSED, _HEARD_S), (RESOLVED, _TURNED_S)):
            async with asyncio.timeout(within_s):
                await vendors.heard([SERVED], word)


async def run(binary: str, count: int, seed: int) -> int:
    began = time.monotonic()
    zone = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"  # where it is about noon
    with tempfile.TemporaryDirectory(prefix="tollhouse-pages-") as scratch:
        async with Vendors(seed=seed, fails=5) as vendors, alertmanager(binary, Path(scratch), vendors.url) as address:
            trials = [
                Trial(f"u{n}", Path(scratch) / str(n), seed=seed * 1_000_003 + n, now_s=time.time() - _BEFORE_S, raised=True)
                for n in range(count)
            ]
            users = [trial.user for trial in trials]
            async with asyncio.TaskGroup() as tasks:
                for worker in range(_NURSERIES):
                    tasks.create_task(work(trials[worker::_NURSERIES], vendors, address, zone=zone))
                tasks.create_task(serve(Path(scratch), vendors, address))
            async with asyncio.timeout(_HEARD_S):
                await vendors.heard(users, RESOLVED)
            await asyncio.sleep(3)  # time for a page too many
        found = faults(vendors, users, ("pagerduty", "webhook", "slack", "alertmanager")) + faults(
            vendors, [SERVED], ("alertmanager",)
        )
    served = [
        vendors.pages["alertmanager"].pop((SERVED, threshold, word)) for threshold in THRESHOLDS for word in (CROSSED, RESOLVED)
    ]
    print(f"tollhouse serve, a budget a minute, at 50, 80 and 100 %: pages and resolves in Alertmanager {served}")
    expected = count * len(THRESHOLDS) * 2
    kills = sum((trial.kills for trial in trials), start=Counter[str]())
    print(
        f"{count} trials, {sum(trial.lives for trial in trials)} processes, killed {kills['crossing']} times before everything was paged "
        f"and {kills['resolving']} times before everything was resolved; {time.monotonic() - began:.0f} s"
    )
    for receiver in ("alertmanager", "pagerduty", "webhook", "slack"):
        words = Counter[str]()
        for (_, _, word), times in vendors.pages[receiver].items():
            words[word] += times
        told = sum(words.values())
        print(
            f"  {receiver}: {words[CROSSED]} pages and {words[RESOLVED]} resolves of {expected // 2} crossings, "
            f"{told - expected} too many; {vendors.requests[receiver]} requests"
        )
    print(*(found[:20] or ["exactly one page and one resolve for every crossing (Slack cannot tell repeats)"]), sep="\n")
    return 1 if found else 0


def main() -> int:
    binary, count, seed = (*sys.argv[1:], "100", "1")[:3] if len(sys.argv) == 2 else (*sys.argv[1:], "1")[:3]
    return asyncio.run(run(binary, int(count), int(seed)))


if __name__ == "__main__":
    sys.exit(main())
