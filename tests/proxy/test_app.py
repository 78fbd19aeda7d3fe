"""Assembling: what a start tells, and that one which fails leaves nothing behind."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from policies import KINDS
from proxy.app import App
from proxy.clock import SystemClock
from proxy.errors import StateUnavailable
from proxy.policy.document import PolicyFileError
from proxy.settings import SettingsError, read_settings
from proxy.telemetry.logs import Log
from tests.fakes import FakeUpstream, Wait, json_answer
from tests.house import CHAT, House, policy

WITHOUT_UPSTREAM = "version: 1\nkeys:\n  - {id: app, anonymous: true}\npolicies: []\n"


@contextmanager
def logging(folder: Path) -> Iterator[tuple[Log, Path]]:
    """A log, and the file that it goes to."""
    path = folder / "log"
    with path.open("wb") as file:
        log = Log(file.fileno(), clock=SystemClock(), gather_s=0.0)
        yield log, path
        log.close()


def settings_for(folder: Path, **changes: str) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "TOLLHOUSE_STATE_DIR": str(folder / "state"),
        "TOLLHOUSE_LISTEN": "127.0.0.1:0",
        "TOLLHOUSE_ADMIN_LISTEN": "127.0.0.1:0",
        **{f"TOLLHOUSE_{name.upper()}": value for name, value in changes.items()},
    }


@asynccontextmanager
async def started(folder: Path, *, pretend: bool = False, **changes: str) -> AsyncIterator[tuple[App, Path]]:
    """An app, and where it logs. Drained at the end."""
    with logging(folder) as (log, path):
        app = await App.start(read_settings(settings_for(folder, **changes), {}), kinds=KINDS, log=log, pretend=pretend)
        pressed = asyncio.Event()
        pressed.set()
        try:
            yield app, path
        finally:
            await app.drain(pressed)


def events(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


QUIET = "127.31.7.9"  # loopback that nobody else listens on, so that a port which was free there stays free


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((QUIET, 0))
        return int(probe.getsockname()[1])


async def test_a_start_tells_where_it_listens_and_which_rules_are_in_force_and_a_stop_tells_that_it_is_over(tmp_path: Path) -> None:
    async with started(tmp_path, pretend=True) as (app, path):
        version = app.shelf.current.version
    told = events(path)
    assert [line["event"] for line in told] == [
        "pretend.serving",
        "policy.activated",
        "server.ready",
        "server.draining",
        "server.stopped",
    ]
    assert (told[1]["file"], told[1]["policy_version"], told[2]["policy_version"]) == ("default.yaml", version, version)
    assert told[2]["listen"] == "{}:{}".format(*app.data_address)
    assert told[2]["admin_listen"] == "{}:{}".format(*app.admin_address)


async def test_the_default_rules_in_front_of_the_pretend_upstream_answer_a_call(tmp_path: Path) -> None:
    async with started(tmp_path, pretend=True) as (app, _), aiohttp.ClientSession() as session:
        async with session.post("http://{}:{}/v1/chat/completions".format(*app.data_address), json=CHAT) as answer:
            assert answer.status == 200
            assert answer.headers["x-pretend"] == "true"
            assert answer.headers["tollhouse-clamped"] == "max_completion_tokens=none->1024"
            assert "pretend upstream" in await answer.text()
        assert repr(app).startswith(f"<App {app.data_address} <Pipeline inflight=0 draining=False> <Shelf ")


async def test_what_looks_unintended_in_the_file_is_logged_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(WITHOUT_UPSTREAM)
    async with started(tmp_path, pretend=True, policy=str(tmp_path / "policy.yaml")) as (_, path):
        pass
    [linted] = [line for line in events(path) if line["event"] == "policy.linted"]
    assert "there are no policies" in linted["lint_lines"][0]


def taken() -> socket.socket:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    return holder


async def test_a_start_that_fails_leaves_no_port_open_no_task_running_and_its_state_unlocked(tmp_path: Path) -> None:
    with taken() as holder:
        free, busy = free_port(), holder.getsockname()[1]
        with pytest.raises(SettingsError) as error:
            async with started(tmp_path, pretend=True, listen=f"{QUIET}:{free}", admin_listen=f"127.0.0.1:{busy}"):
                pass
    assert error.value.mistakes == [f"--admin-listen: cannot listen on 127.0.0.1:{busy}: Address already in use"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with started(tmp_path, pretend=True, listen=f"{QUIET}:{free}") as (app, _):
        assert app.data_address == (QUIET, free)


async def test_a_second_process_may_not_use_the_same_state(tmp_path: Path) -> None:
    async with started(tmp_path, pretend=True):
        with pytest.raises(StateUnavailable) as error:
            async with started(tmp_path, pretend=True):
                pass
    assert error.value.detail == f"another process uses {tmp_path}/state: give each its own TOLLHOUSE_STATE_DIR"


async def test_a_broken_file_is_not_started_with(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 2\n")
    with pytest.raises(PolicyFileError) as error:
        async with started(tmp_path, pretend=True, policy=str(tmp_path / "policy.yaml")):
            pass
    assert len(error.value.mistakes) == 2
    assert not (tmp_path / "state").exists()


async def test_the_pretend_upstream_does_not_hide_behind_rules_that_name_another(tmp_path: Path) -> None:
    """Or a person who believes that no model is asked would pay for one."""
    (tmp_path / "policy.yaml").write_text(WITHOUT_UPSTREAM + 'upstreams: {real: {base_url: "https://api.openai.com/v1"}}\n')
    with pytest.raises(SettingsError, match="--pretend: the policy file names upstreams of its own"):
        async with started(tmp_path, pretend=True, policy=str(tmp_path / "policy.yaml")):
            pass


async def test_the_upstream_of_the_settings_gets_the_key_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(WITHOUT_UPSTREAM)
    async with FakeUpstream(default=json_answer(200, {"object": "list", "data": []})) as upstream:
        env = {"TOLLHOUSE_UPSTREAM": upstream.url + "/api/v1", "OPENAI_API_KEY": "sk-given"}
        async with House(WITHOUT_UPSTREAM, "", tmp_path, env=env) as house:
            status, _, _ = await house.request("GET", "/v1/models")
    assert status == 200
    assert upstream.requests[0].target == "/api/v1/models"
    assert upstream.requests[0].header("authorization") == "Bearer sk-given"


async def test_what_runs_is_counted_while_it_runs(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with FakeUpstream() as upstream:
        upstream.queue([Wait(go), *json_answer(200, {"object": "list", "data": []})])
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            call = asyncio.create_task(house.request("GET", "/v1/models", headers={"authorization": "Bearer app-key"}))
            await upstream.arrived()
            during = await house.metrics()
            go.set()
            await call
            await house.logged("call.finished")
            after = await house.metrics()
    assert "tollhouse_inflight_calls 1\n" in during
    assert "tollhouse_inflight_calls 0\n" in after
    assert "tollhouse_state_failures_total 0\n" in after
    assert "tollhouse_log_dropped_total 0\n" in after
