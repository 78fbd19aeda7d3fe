"""Faults of the disk and of what lies on it: rows C4 and C12.

The rule a reader could break: where no tmpfs can be mounted a limit on the size of files stands for a full disk; nothing else is skipped
without saying so in what the row returns.
"""

import asyncio
import contextlib
import json
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from proxy.state.database import Database
from tests.fakes import FakeUpstream
from tests.faults.host import balanced
from tests.faults.rig import OK, PATH, Rig
from tests.faults.row import row
from tests.house import error_of, policy
from tests.whole.conversation import CHAT
from tests.whole.process import Serving, ran

_HARD = """
- {name: capped, max_tokens: {cap: 1000}}
- {name: purse, budget: {usd: 50, per: month, by: user, when_spent: reject}}
- {name: another_with_a_long_name_that_is_written_for_each_user, budget: {usd: 50, per: day, by: user, when_spent: reject}}
- {name: a_third_with_a_long_name_that_is_written_for_each_user, budget: {usd: 50, per: hour, by: user, when_spent: reject}}
"""
_SOFT = _HARD.replace("when_spent: reject", "when_spent: alarm")
_HEADERS = {"authorization": "Bearer app-key", "content-type": "application/json"}
_BODY = json.dumps({**CHAT, "max_tokens": 1000}).encode()
_FREE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
_DISK_BYTES = 16 << 20
_FSIZE_BYTES = 1 << 20
_MOST_CALLS = 20_000
_AT_ONCE = 64


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of some MiB, or None where none can be mounted."""
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tollhouse-faults", str(place)], capture_output=True, check=False
    )
    try:
        yield place if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=True)


async def _ask(proxy: Serving, user: str = "") -> tuple[int, bytes]:
    status, _, body = await proxy.post(PATH, _BODY, {**_HEADERS, "x-user": user})
    return status, body


async def _failures(proxy: Serving) -> int:
    _, text = await proxy.admin("/metrics")
    [line] = [line for line in text.splitlines() if line.startswith("tollhouse_state_failures_total ")]
    return int(float(line.split()[1]))


async def _full(folder: Path, rules: str, *, refuses: bool) -> str:
    """A disk without room: what calls under such rules are told, and after there is room again."""
    with _small_disk(folder) as disk:
        state = (disk or folder) / "state"
        async with FakeUpstream(default=OK) as upstream:
            async with Serving(folder, policy(rules), "--state-dir", str(state), upstream=upstream.url + "/v1") as proxy:
                proxy.state = state
                assert (await _ask(proxy))[0] == 200
                fill = _fill(disk) if disk is not None else _limited(proxy)
                with fill:
                    told = await _until_it_fails(proxy, refuses=refuses)
                    assert (await proxy.logged("state.failed"))[0]["operation"] == "write"
                async with asyncio.timeout(20):
                    while (await _ask(proxy))[0] != 200:  # the store tries again once a second
                        await asyncio.sleep(0.1)
                proxy.terminate()
                assert await proxy.ended() == 0
            await balanced(proxy, folder)
    return f"{'tmpfs' if disk is not None else 'RLIMIT_FSIZE'}: {told}"


async def _full_to_the_end(folder: Path) -> str:
    """A disk that is full when the process is told to end: it says so in a line, and the next start has all of it."""
    logged = 0
    with _small_disk(folder) as disk:
        state = (disk or folder) / "state"
        async with FakeUpstream(default=OK) as upstream:
            proxy = Serving(folder, policy(_HARD), "--state-dir", str(state), upstream=upstream.url + "/v1")
            await proxy.__aenter__()
            with _fill(disk) if disk is not None else _limited(proxy):
                for _ in range(10):
                    assert (await _ask(proxy))[0] == 200
                proxy.terminate()
                assert await proxy.ended() == 1
            await proxy._session.close()
            assert proxy.stderr.startswith(b"tollhouse: "), proxy.stderr
            assert b"Traceback" not in proxy.stderr
            assert proxy.lines("state.failed")[-1]["operation"] == "close"
            logged = sum(line["cost_nanousd"] for line in proxy.lines("call.finished"))
            async with Serving(folder, policy(_HARD), "--state-dir", str(state), upstream=upstream.url + "/v1") as following:
                assert not following.lines("state.recovered"), "nothing was held"
            usage = await asyncio.to_thread(ran, folder, "usage", "--json", "--state-dir", str(state))
    total = json.loads(usage.stdout)["total"]
    assert (total["cost_nanousd"], total["held_nanousd"]) == (logged, 0)
    return "full at SIGTERM: exit 1, nothing lost"


@contextlib.contextmanager
def _fill(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield
    filler.unlink()


@contextlib.contextmanager
def _limited(proxy: Serving) -> Iterator[None]:
    before = resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (_FSIZE_BYTES, resource.RLIM_INFINITY))
    yield
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, before)


async def _until_it_fails(proxy: Serving, *, refuses: bool) -> str:
    """Calls of users with long names, which make a journal long soon, until the store says that it failed. What the last was told."""
    for number in range(0, _MOST_CALLS, _AT_ONCE):
        answers = await asyncio.gather(*(_ask(proxy, f"{n:0100}") for n in range(number, number + _AT_ONCE)))
        refused = [body for status, body in answers if status == 503]
        assert {status for status, _ in answers} <= {200, 503}
        if refused and refuses:
            assert {error_of(body)["code"] for body in refused} == {"state_unavailable"}
            assert await _failures(proxy) > 0
            return f"503 after {number + _AT_ONCE:,} more calls"
        assert not refused, "an alarm refused"
        if not refuses and await _failures(proxy) > 0:
            return f"counted in memory after {number + _AT_ONCE:,} more calls"
    raise AssertionError(f"{_MOST_CALLS} calls, and the disk never failed")


@contextlib.asynccontextmanager
async def _broken_syncs(pid: int) -> AsyncIterator[None]:
    """EIO from each fdatasync and fsync of a process."""
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO"),
        *("-p", str(pid)),
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            tracer.send_signal(signal.SIGINT)
        await tracer.wait()


async def _unsynced(folder: Path) -> str:
    """Syncs that fail are counted and tried again; calls go on, since the kernel has what was written."""
    if shutil.which("strace") is None:
        return "EIO not tried, no strace"
    async with FakeUpstream(default=OK) as upstream:
        async with Serving(folder, policy(_HARD), upstream=upstream.url + "/v1") as proxy:
            assert (await _ask(proxy))[0] == 200
            async with _broken_syncs(proxy.pid):
                try:
                    async with asyncio.timeout(15):
                        while not await _failures(proxy):
                            assert (await _ask(proxy))[0] == 200
                except TimeoutError:
                    return "EIO not tried, strace may not trace here"
            assert (await _ask(proxy))[0] == 200
            proxy.terminate()
            assert await proxy.ended() == 0
        await balanced(proxy, folder)
    return "EIO of a sync: counted, calls go on"


async def _unwritable(folder: Path) -> str:
    """A folder that may only be read: no start, and words that say so."""
    with _small_disk(folder) as disk:
        if disk is None:
            return "read-only not tried, no mount"
        await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(disk)], check=True)
        told = await asyncio.to_thread(ran, folder, "serve", *_FREE, "--pretend", "--state-dir", str(disk / "state"))
    assert told.returncode == 2, told
    assert f"cannot write to {disk / 'state'}: Read-only file system" in told.stderr, told.stderr
    assert "Traceback" not in told.stderr
    return "read-only: exit 2"


async def _rotten(folder: Path) -> str:
    """One bit of the journal of a process that died: found at the start, said, and the rest counts."""
    async with FakeUpstream(default=OK) as upstream:
        first = Serving(folder, policy(_HARD), upstream=upstream.url + "/v1")
        await first.__aenter__()
        for _ in range(20):
            assert (await _ask(first))[0] == 200
        await first.logged("call.finished", 20)
        await asyncio.sleep(0.1)  # until what ended is written down
        first.signal(signal.SIGKILL)
        await first.ended()
        await first._session.close()
        [journal] = first.state.glob("journal-*")
        lines = journal.read_bytes().rstrip(b"\0").splitlines(keepends=True)
        place = sum(map(len, lines[:-3])) + 12
        with journal.open("r+b") as file:
            file.seek(place)
            [byte] = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1]))
        async with Serving(folder, policy(_HARD), upstream=upstream.url + "/v1") as proxy:
            [recovered] = proxy.lines("state.recovered")
            assert (recovered["level"], recovered["journal_damaged"]) == ("error", 1)
            assert (await _ask(proxy))[0] == 200
    usage = ran(folder, "usage", "--json", "--state-dir", str(proxy.state))
    assert json.loads(usage.stdout)["total"]["cost_nanousd"] > 0
    return "a flipped bit of the journal: found, said, the rest counts"


@row(
    "C4",
    "disk full, EIO of syncs, a read-only file system, a flipped bit in the journal",
    "limits that refuse answer 503 `state_unavailable`, alarms count in memory; said and counted; good again when there is room",
    tests=("tests/proxy/state/test_recovery.py", "tests/proxy/state/test_sqlite.py"),
)
async def spoiled(rig: Rig) -> str:
    seen = []
    with tempfile.TemporaryDirectory() as name:
        for number, part in enumerate(
            (
                lambda folder: _full(folder, _HARD, refuses=True),
                lambda folder: _full(folder, _SOFT, refuses=False),
                _full_to_the_end,
                _unsynced,
                _unwritable,
                _rotten,
            )
        ):
            folder = Path(name) / str(number)
            folder.mkdir()
            seen.append(await part(folder))
    return "; ".join(seen)


@row(
    "C12",
    "a start with a bad policy, a missing secret, a ledger of another version or none at all",
    "refused with place and remedy, exit 2, nothing is changed; an older ledger is brought up to date with all that it holds",
    tests=("tests/proxy/commands/test_serve.py", "tests/proxy/state/test_past.py"),
)
async def misplaced(rig: Rig) -> str:
    tried = 0
    with tempfile.TemporaryDirectory() as name:
        for number, (text, state, expected) in enumerate(_STARTS[:: rig.times(short=3, long=1)]):
            folder = Path(name) / str(number)
            (folder / "state").mkdir(parents=True)
            file = folder / "policy.yaml"
            file.write_text(text, "utf-8")
            if state is not None:
                state(folder / "state")
            before = _files(folder / "state")
            told = await asyncio.to_thread(
                ran, folder, "serve", *_FREE, "--policy", str(file), "--state-dir", str(folder / "state")
            )
            assert told.returncode == 2, f"{expected}: exit {told.returncode}: {told.stdout[-300:]}"
            assert expected in told.stderr, f"{told.stderr!r} does not say {expected!r}"
            assert "Traceback" not in told.stderr
            assert "server.ready" not in told.stdout
            assert _files(folder / "state") == before, f"{expected}: the state was changed"
            tried += 1
    return f"{tried} starts refused"


def _files(folder: Path) -> dict[str, bytes]:
    """What the ledger's files hold; a lock that was taken and let go of is no part of it."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("state.sqlite3") and path.stat().st_size
    }


def _newer(state: Path) -> None:
    Database(state).close()
    with contextlib.closing(sqlite3.connect(state / "state.sqlite3")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA user_version = 99")


def _no_ledger(state: Path) -> None:
    (state / "state.sqlite3").write_bytes(b"this is no database, " * 400)


def _torn_ledger(state: Path) -> None:
    Database(state).close()
    file = state / "state.sqlite3"
    file.write_bytes(file.read_bytes()[:1000])


_UPSTREAM = "upstreams: {main: {base_url: http://127.0.0.1:9/v1}}\n"
_KEYS = "keys: [{id: app, anonymous: true}]\n"
_GOOD = f"version: 1\n{_UPSTREAM}{_KEYS}policies: []\n"
_STARTS = (
    (f"version: 1\n{_UPSTREAM}{_KEYS}policies:\n  - {{name: a, max_tokens: {{cap: 4096x}}}}\n", None, "policy.yaml:5:33: "),
    (f"version: 1\n{_UPSTREAM}{_KEYS}policies:\n  - {{name: a, max_tokenz: {{cap: 1}}}}\n", None, "did you mean"),
    (f"version: 1\n{_UPSTREAM}{_UPSTREAM}{_KEYS}policies: []\n", None, "policy.yaml:3:1: "),
    ("version: 1\n\tkeys: []\n", None, "policy.yaml:2:1: "),
    ("", None, "policy.yaml:1:1: "),
    (_GOOD.replace("9/v1", '9/v1, api_key: "${env:NOT_THERE}"'), None, "NOT_THERE"),
    (_GOOD.replace("9/v1", '9/v1, api_key: "${file:/not/there}"'), None, "/not/there"),
    (_GOOD.replace("version: 1", "version: 2"), None, "policy.yaml:1:10: "),
    (_GOOD, _newer, "has schema 99 and this version of tollhouse knows"),
    (_GOOD, _no_ledger, "file is not a database"),
    (_GOOD, _torn_ledger, "database disk image is malformed"),
)
