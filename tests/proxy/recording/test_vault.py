"""Recordings on the disk: sealed, found again after a restart, gone with their time or their key."""

import asyncio
import base64
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.chance import Chance
from proxy.errors import StateUnavailable
from proxy.recording.recording import Head, Recording
from proxy.recording.seal import NONCE_BYTES, Seal
from proxy.recording.vault import Vault
from proxy.settings import SettingsError, read_settings
from tests.fakes import FakeUpstream, UntilClosed, json_answer, sse_answer
from tests.house import CHAT
from tests.proxy.recording.records import FACTS, STREAM, event, recording
from tests.proxy.recording.test_recorder import PATH, SEEN, STREAMED, asking, get, holding, house, task
from tests.whole.conversation import ANSWER
from tests.whole.conversation import STREAM as EVENTS
from tests.whole.process import environment

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
NOW_S = 1_800_000_000.0


def ended(number: int = 1, **fields: object) -> Recording:
    made = recording(number, **fields)
    made.begin(Head(200, (*STREAM.lines, "x: \udcff"), None))
    for n in range(1, 4):
        made.add(event(n))
    made.finish()
    made.end("completed", FACTS)
    made.expires_s = NOW_S + 600
    return made


async def opened(folder: Path, key: bytes = KEY, now_s: float = NOW_S) -> tuple[Vault, list[Recording]]:
    return await Vault.open(folder, key, Chance(), now_s)


async def test_what_ended_is_found_again_and_read(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    made = ended(claim="k", owner=("app", "\udcffada"))
    vault.begun(made)
    vault.ended(made)
    await vault.close()
    vault, [found] = await opened(tmp_path)
    told = ("id", "owner", "terms", "request_id", "path", "surface", "claim", "fingerprint", "task", "began_s", "expires_s")
    assert all(getattr(found, name) == getattr(made, name) for name in told)
    assert (found.state, found.facts, found.stream, found.on_disk) == ("completed", FACTS, True, True)
    assert await vault.load(found)
    assert (found.head, found.all_pieces(), found.first) == (made.head, made.all_pieces(), 1)
    await vault.close()


async def test_what_ran_was_interrupted_and_its_key_is_free(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    vault.begun(recording(claim="k", task=True))
    await vault.close()
    for _ in range(2):
        vault, [found] = await opened(tmp_path)
        assert (found.state, found.claim, found.over) == ("interrupted", None, True)
        assert found.expires_s == NOW_S + found.terms.kept_s
        await vault.close()


async def test_who_waits_for_the_disk_does_not_wait_for_what_others_change_meanwhile(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    vault.begun(recording(claim="k", task=True))
    waiting = asyncio.create_task(vault.written())

    async def busy() -> None:
        number = 0
        while not waiting.done():
            number += 1
            vault.forget(f"task_{number}")
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        await busy()
    assert vault._writing is not None, "others' changes are still to be written"
    await vault.close()
    vault, [found] = await opened(tmp_path)
    assert found.state == "interrupted"
    await vault.close()


def modes(folder: Path) -> set[int]:
    """What others than the owner may do with its files."""
    return {file.stat().st_mode & 0o077 for file in folder.iterdir()}


async def test_nothing_of_it_can_be_read_on_the_disk(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    made = ended(0x7E1D5A90C3B2F48866D1A97730E5BB21, claim="canary-key", owner=("app", "canary-user"), path="/canary-path")
    made._pieces = [b"canary-content"]
    vault.begun(made)
    await vault.written()
    vault.ended(made)
    await vault.written()
    for text in (b"canary", made.id.encode(), bytes.fromhex(made.id[5:])):
        assert holding(tmp_path, text) == []
    assert modes(tmp_path) == {0}
    await vault.close()


async def test_what_was_forgotten_is_overwritten(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    made = ended()
    made._pieces = [b"y" * 100_000]
    vault.ended(made)
    await vault.written()
    row = await asyncio.get_running_loop().run_in_executor(vault._thread, vault._rows.content, vault._seal.tag(made.id))
    assert row is not None
    assert holding(tmp_path, row[5000:5200])
    vault.forget(made.id)
    await vault.written()
    assert holding(tmp_path, row[5000:5200]) == []
    await vault.close()


async def test_what_is_over_its_time_is_not_found(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    vault.ended(ended())
    await vault.close()
    vault, found = await opened(tmp_path, now_s=NOW_S + 600)
    assert (found, vault.unreadable) == ([], 0)
    await vault.close()
    vault, found = await opened(tmp_path)
    assert found == []
    await vault.close()


async def test_under_another_key_it_is_gone(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    vault.ended(ended())
    await vault.close()
    vault, found = await opened(tmp_path, OTHER)
    assert (found, vault.unreadable) == ([], 1)
    await vault.close()
    vault, found = await opened(tmp_path)
    assert found == []
    await vault.close()


async def test_a_disk_that_fails_costs_no_call(tmp_path: Path) -> None:
    vault, _ = await opened(tmp_path)
    failed: list[StateUnavailable] = []
    vault.failed = failed.append
    await asyncio.get_running_loop().run_in_executor(vault._thread, vault._rows.close)
    vault.begun(recording())
    await vault.written()
    assert len(failed) == 1
    vault._thread.shutdown()


def test_a_seal_opens_its_own_in_its_place_and_nothing_else() -> None:
    seal = Seal(KEY)
    tag, nonce = seal.tag("task_1"), b"n" * NONCE_BYTES
    sealed = seal.close(b"said", tag=tag, part="facts", nonce=nonce)
    assert seal.open(sealed, tag=tag, part="facts") == b"said"
    assert seal.open(sealed, tag=tag, part="content") is None
    assert seal.open(sealed, tag=seal.tag("task_2"), part="facts") is None
    assert Seal(OTHER).open(sealed, tag=tag, part="facts") is None
    assert seal.open(sealed[:-1] + b"x", tag=tag, part="facts") is None
    for size in range(20):
        assert seal.open(sealed[:size], tag=tag, part="facts") is None


ENV = {"TOLLHOUSE_RECORD_KEY": base64.b64encode(KEY).decode()}


async def test_a_task_that_was_done_is_read_after_a_restart_and_one_that_ran_says_interrupted(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        upstream.queue(sse_answer(EVENTS))
        upstream.queue([*sse_answer(EVENTS)[:2], UntilClosed()])
        async with house(upstream, tmp_path, env=ENV) as proxy:
            _, headers, body = await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="done"))
            done = headers["tollhouse-task"]
            asked = asking(prefer="respond-async", idempotency_key="ran")
            status, headers, _ = await proxy.post(PATH, STREAMED, headers=asked)
            ran = headers["tollhouse-task"]
            assert status == 202
            await upstream.arrived(2)
        upstream.queue(json_answer(200, ANSWER))
        async with house(upstream, tmp_path, env=ENV) as proxy:
            [line] = await proxy.logged("recordings.found")
            replay = await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="done"))
            said = await task(proxy, done)
            _, _, result = await get(proxy, f"/tasks/{done}/result")
            _, _, rest = await get(proxy, f"/tasks/{done}/events?after=2")
            interrupted = await task(proxy, ran)
            bobs, _, _ = await get(proxy, f"/tasks/{done}", "bob")
            again, headers, _ = await proxy.post(PATH, STREAMED, headers=asking(idempotency_key="ran"))
    assert (line["kept"], line["interrupted"], line["unreadable"]) == (2, 1, 0)
    assert body == b"".join(SEEN) == replay[2] == result
    assert replay[1]["idempotent-replayed"] == "true"
    assert (said["status"], said["cost_usd"], bobs) == ("completed", "0.0000068", 404)
    assert rest.startswith(f"id: {done}.3\n".encode())
    assert interrupted["status"] == "interrupted"
    assert (again, "idempotent-replayed" in headers) == (200, False)
    assert len(upstream.requests) == 3


async def test_after_another_key_what_was_recorded_is_gone_and_the_log_says_so_once(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, ANSWER)) as upstream:
        async with house(upstream, tmp_path, env=ENV) as proxy:
            _, headers, _ = await proxy.post(PATH, CHAT, headers=asking(idempotency_key="k"))
        other = {"TOLLHOUSE_RECORD_KEY": base64.b64encode(OTHER).decode()}
        for _ in range(2):  # the log file goes on, so that the second start has said nothing
            async with house(upstream, tmp_path, env=other) as proxy:
                assert (await get(proxy, f"/tasks/{headers['tollhouse-task']}"))[0] == 404
                assert [line["unreadable"] for line in await proxy.logged("recordings.found")] == [1]


@pytest.mark.parametrize("key", ["short", base64.b64encode(b"x" * 31).decode(), "ü"])
def test_a_key_that_is_none_is_a_mistake_of_the_settings(key: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({"TOLLHOUSE_RECORD_KEY": key}, {})
    assert error.value.mistakes == ["TOLLHOUSE_RECORD_KEY: expected the base64 of 32 random bytes (`openssl rand -base64 32`)"]


def test_no_setting_shows_the_key() -> None:
    assert "AAEC" not in repr(read_settings(ENV, {}))
    assert repr(KEY)[2:20] not in repr(read_settings(ENV, {}))


def test_without_the_package_that_seals_the_process_says_what_to_do(tmp_path: Path) -> None:
    """As where Tollhouse was installed without its extra: the import fails before anything is served."""
    blocked = "import sys; sys.modules['cryptography'] = None; from proxy.__main__ import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", blocked, "serve", "--pretend"],
        env=environment(tmp_path, {**ENV, "TOLLHOUSE_LISTEN": "127.0.0.1:0", "TOLLHOUSE_ADMIN_LISTEN": "127.0.0.1:0"}),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "tollhouse: TOLLHOUSE_RECORD_KEY: the package `cryptography` is missing: pip install 'tollhouse[record]', or leave the key out\n"
    )


def test_in_memory_nothing_is_sealed_and_the_package_is_not_needed(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['cryptography'] = None; import proxy.recording.desk; print('in memory')"
    ended = subprocess.run(
        [sys.executable, "-c", blocked], env=environment(tmp_path), capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("in memory\n", "")
