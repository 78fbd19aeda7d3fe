"""`tollhouse serve`: what a person reads when it starts, and when it cannot: one line for each mistake, exit 2, and no stack."""

import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from proxy.commands.serve import greeting
from tests.fakes import FakeUpstream, json_answer
from tests.house import House, policy
from tests.proxy.policy.files import BROKEN, HEAD
from tests.whole.conversation import CHAT, OK
from tests.whole.process import Serving, environment, ran

FREE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")


def refused(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    """What is said to somebody who starts it so."""
    end = ran(folder, "serve", *arguments, env=env)
    assert end.returncode == 2, end
    assert "Traceback" not in end.stderr
    assert '"event":"server.ready"' not in end.stdout
    return end.stderr.splitlines()


@pytest.fixture
def busy() -> Iterator[str]:
    """An address that somebody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.mark.parametrize(("flag", "other"), [("--listen", "--admin-listen"), ("--admin-listen", "--listen")])
def test_a_port_that_is_taken(tmp_path: Path, busy: str, flag: str, other: str) -> None:
    told = refused(tmp_path, "--pretend", flag, busy, other, "127.0.0.1:0")
    assert told == [f"tollhouse: {flag}: cannot listen on {busy}: Address already in use"]


def test_a_policy_file_with_mistakes_is_told_all_of_them(tmp_path: Path) -> None:
    file = BROKEN / "money.yaml"
    told = refused(tmp_path, *FREE, "--policy", str(file))
    assert [line.removeprefix(f"{BROKEN}/") for line in told] == (BROKEN / "money.txt").read_text("utf-8").splitlines()


def test_a_policy_file_that_is_not_there(tmp_path: Path) -> None:
    told = refused(tmp_path, *FREE, "--policy", "nowhere.yaml")
    assert told == ["nowhere.yaml:1:1: the file cannot be read: No such file or directory"]


def test_no_upstream_at_all_is_told_three_ways_out(tmp_path: Path) -> None:
    [told] = refused(tmp_path, *FREE)
    assert told.startswith("tollhouse: no upstream: ")
    assert all(way in told for way in ("OPENAI_API_KEY", "--upstream", "--pretend"))


def test_a_file_of_ones_own_without_an_upstream(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(HEAD + "policies: []\n")
    [told] = refused(tmp_path, *FREE, "--policy", str(tmp_path / "policy.yaml"))
    assert told.startswith(f'{tmp_path}/policy.yaml:1:1: missing key "upstreams"')
    assert "TOLLHOUSE_UPSTREAM" in told


def test_a_pretend_upstream_behind_a_file_that_names_a_real_one(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(policy())
    [told] = refused(
        tmp_path, *FREE, "--pretend", "--policy", str(tmp_path / "policy.yaml"), env={"UPSTREAM": "http://127.0.0.1:9/v1"}
    )
    assert told.startswith("tollhouse: --pretend: the policy file names upstreams of its own")


def test_settings_that_are_wrong_are_told_all_at_once(tmp_path: Path) -> None:
    told = refused(tmp_path, "--listen", "here", env={"TOLLHOUSE_DRAIN_S": "long", "TOLLHOUSE_LISTN": "127.0.0.1:1"})
    assert told == [
        "tollhouse: --listen: expected HOST:PORT, such as 127.0.0.1:8080",
        "tollhouse: TOLLHOUSE_DRAIN_S: expected seconds, more than 0 and at most 86400",
        "tollhouse: TOLLHOUSE_LISTN: there is no such setting",
    ]


async def test_a_state_folder_that_another_process_uses(tmp_path: Path) -> None:
    async with Serving(tmp_path, HEAD + "policies: []\n", "--pretend") as first:
        told = refused(tmp_path, *FREE, "--pretend", "--state-dir", str(first.state))
    assert told == [f"tollhouse: another process uses {first.state}: give each its own TOLLHOUSE_STATE_DIR"]


def test_a_state_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    [told] = refused(tmp_path, *FREE, "--pretend", "--state-dir", str(tmp_path / "state"))
    assert told.startswith(f"tollhouse: {tmp_path}/state: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    [told] = refused(tmp_path, *FREE, "--pretend", "--state-dir", str(tmp_path / "state"))
    assert told.startswith(f"tollhouse: {tmp_path}/state: ")


async def test_a_disk_that_is_full_is_said_and_at_the_end_told_in_a_line(tmp_path: Path) -> None:
    """What ended is in the journal, for the next start."""
    text = policy("- {name: purse, max_tokens: {cap: 10}, budget: {usd: 5, per: month, when_spent: reject}}")
    async with FakeUpstream(default=OK) as upstream:
        full = Serving(tmp_path, text, upstream=upstream.url + "/v1")
        await full.__aenter__()
        resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        async with full.client() as app:
            await app.chat.completions.create(**CHAT)
        full.terminate()
        assert await full.ended() == 1
        await full._session.close()
        assert full.stderr.startswith(f"tollhouse: {full.state}: ".encode())
        assert full.stderr.count(b"\n") == 1
        assert [line["operation"] for line in full.lines("state.failed")][-1] == "close"
        async with Serving(tmp_path, text, upstream=upstream.url + "/v1") as following:
            assert not following.lines("state.recovered"), "nothing was held"


async def test_a_machine_reads_nothing_but_lines_of_json(tmp_path: Path) -> None:
    async with Serving(tmp_path, HEAD + "policies: []\n", "--pretend") as proxy:
        pass
    assert all(line.startswith(b'{"ts":') and line.endswith(b"}") for line in proxy.stdout.splitlines())


async def test_a_person_is_greeted_with_a_call_and_an_address_that_work_as_printed(tmp_path: Path) -> None:
    async with FakeUpstream(default=json_answer(200, {"choices": []})) as upstream:
        async with House(HEAD + 'upstreams: {gpu: {base_url: "${env:UPSTREAM}"}}\n', upstream.url + "/v1", tmp_path) as house:
            text = greeting(house.app.settings, house.app, pretend=False)
            _, url, _, header, _, body = shlex.split(text.partition("a call:")[2].partition("metrics:")[0].replace("\\\n", " "))
            name, _, value = header.partition(": ")
            status, _, _ = await house.request("POST", url.removeprefix(house.url), body=body.encode(), headers={name: value})
    assert status == 200
    assert upstream.requests[0].body == body.encode()
    assert f"export OPENAI_BASE_URL={house.url}/v1\n" in text
    assert f"curl {house.admin_url}/metrics\n" in text
    assert "in front of the upstream gpu\n" in text


def test_a_console_is_greeted_and_a_signal_ends_it_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proxy", "serve", *FREE, "--pretend", "--log-format", "console"]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        before = list(takewhile(lambda line: "metrics:" not in line, process.stdout))
        process.send_signal(signal.SIGINT)
        after = process.stdout.read()
    assert process.returncode == 0
    assert any("in front of a pretend upstream that comes with it (no model is asked)" in line for line in before)
    assert "server.stopped" in after
