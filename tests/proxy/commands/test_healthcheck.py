"""`tollhouse healthcheck`: exit code 0 only from a proxy that answers, and in time for a probe."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.__main__ import main
from tests.house import House, policy


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    async with House(policy(), "http://127.0.0.1:9/v1", tmp_path) as house:
        monkeypatch.setenv("TOLLHOUSE_ADMIN_LISTEN", house.admin_url.removeprefix("http://"))
        yield house


async def asked(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["healthcheck", *arguments])


@pytest.mark.parametrize(
    ("ready", "arguments", "code", "said"),
    [
        (True, (), 0, "ok\n"),
        (False, (), 0, "ok\n"),
        (True, ("--ready",), 0, "ready\n"),
        (False, ("--ready",), 1, "not ready\n"),
    ],
)
async def test_it_says_what_the_probe_says(
    ready: bool, arguments: tuple[str, ...], code: int, said: str, house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.app.pipeline.draining = not ready
    assert await asked(*arguments) == code
    assert capsys.readouterr().out == said


async def test_a_port_that_is_open_to_all_is_asked_on_loopback(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLHOUSE_ADMIN_LISTEN", f"0.0.0.0:{house.app.admin_address[1]}")
    assert await asked() == 0


async def test_a_proxy_that_is_gone_is_not_healthy(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    await house.app.admin.listener.close()
    assert await asked() == 1
    address = house.admin_url.removeprefix("http://")
    assert capsys.readouterr().err == f"no answer on {address} (ConnectionRefusedError)\n"


async def test_what_is_no_http_is_not_healthy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 no http\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("TOLLHOUSE_ADMIN_LISTEN", f"127.0.0.1:{port}")
        assert await asked() == 1
    assert capsys.readouterr().err.startswith(f"no answer on 127.0.0.1:{port} (")


async def test_settings_that_are_wrong_are_told_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLLHOUSE_ADMIN_LISTEN", "nowhere")
    assert await asked() == 1
    assert capsys.readouterr().err == "TOLLHOUSE_ADMIN_LISTEN: expected HOST:PORT, such as 127.0.0.1:8080\n"
