"""The admin port: probes and metrics for everyone, the rest on loopback or with the token, and no secret for anybody."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest

from proxy.admin import Admin
from tests.fakes import raw_exchange
from tests.proxy.policy.files import compiled

POLICY = """version: 1
upstreams: {main: {base_url: "http://canary.test/v1", api_key: canary-credential}}
keys:
  - {id: web, hash: "sha256:8f5615fb69090581a0a3b6af707f920bee37f76fb536b1d0a1a39cddb8ce3c16"}
pages: {hook: {webhook: {url: "https://canary.test/hook", secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}}
policies:
  - {name: daily, budget: {usd: 1, per: day, page: [hook]}, max_tokens: {cap: 5}}
  - {name: later, mode: shadow, concurrency: {calls: 1}}
"""
SECRETS = ("canary", "8f5615fb", "MfKQ9r8G")


def own_address() -> str | None:
    """An address of this machine that is not loopback. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


@asynccontextmanager
async def admin(host: str = "127.0.0.1", *, ready: bool = True, token: str | None = None) -> AsyncIterator[int]:
    """An admin port. Gives its number."""

    async def render() -> bytes:
        return b"tollhouse_calls_total 0\n"

    policies = compiled(POLICY)
    served = Admin(ready=lambda: ready, render=render, policies=lambda: policies, token=token, wall_s=time.time)
    try:
        yield (await served.listener.listen(host, 0))[1]
    finally:
        await served.listener.close()


async def ask(url: str, *, method: str = "GET", token: str | None = None) -> tuple[int, str, str]:
    """Status, content type and text of a page."""
    headers = {"authorization": token} if token is not None else {}
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status, answer.headers["content-type"], await answer.text()


@pytest.mark.parametrize(
    ("ready", "path", "status", "text"),
    [
        (True, "/healthz", 200, "ok\n"),
        (False, "/healthz", 200, "ok\n"),
        (True, "/readyz", 200, "ready\n"),
        (False, "/readyz", 503, "not ready\n"),
        (True, "/readyz?verbose", 200, "ready\n"),
    ],
)
async def test_probes_tell_whether_it_lives_and_whether_it_takes_calls(ready: bool, path: str, status: int, text: str) -> None:
    async with admin(ready=ready) as port:
        assert await ask(f"http://127.0.0.1:{port}{path}") == (status, "text/plain; charset=utf-8", text)


async def test_metrics_come_in_the_text_format_of_prometheus() -> None:
    async with admin() as port:
        status, kind, text = await ask(f"http://127.0.0.1:{port}/metrics")
    assert (status, text) == (200, "tollhouse_calls_total 0\n")
    assert kind.startswith("text/plain; version=")


async def test_the_policy_page_names_everything_and_shows_no_secret() -> None:
    async with admin() as port:
        status, kind, text = await ask(f"http://127.0.0.1:{port}/policy")
    shown = orjson.loads(text)
    assert (status, kind) == (200, "application/json")
    assert (shown["upstreams"], shown["keys"], shown["pages"]) == (["main"], ["web"], ["hook"])
    assert shown["policies"] == [
        {"name": "daily", "mode": "enforce", "clauses": ["budget", "max_tokens"]},
        {"name": "later", "mode": "shadow", "clauses": ["concurrency"]},
    ]
    assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/nowhere", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405), ("DELETE", "/policy", 405)],
)
async def test_anything_else_is_no_page(method: str, path: str, status: int) -> None:
    async with admin() as port:
        seen, kind, text = await ask(f"http://127.0.0.1:{port}{path}", method=method)
    assert (seen, kind) == (status, "application/json")
    assert orjson.loads(text)["error"]["message"]


OUTSIDE = own_address()
BEARER = "Bearer right-token"


@pytest.mark.skipif(OUTSIDE is None, reason="this machine has no address but loopback")
@pytest.mark.parametrize(
    ("path", "token", "sent", "status"),
    [
        ("/healthz", None, None, 200),
        ("/readyz", None, None, 200),
        ("/metrics", None, None, 200),
        ("/policy", None, None, 401),
        ("/policy", None, "Bearer ", 401),
        ("/policy", "right-token", None, 401),
        ("/policy", "right-token", "Bearer wrong-token", 401),
        ("/policy", "right-token", "Bearer \u00fc", 401),
        ("/policy", "right-token", "Bearer \udcff", 401),
        ("/policy", "right-token", BEARER, 200),
        ("/nowhere", None, None, 401),
        ("/nowhere", "right-token", BEARER, 404),
    ],
)
async def test_beyond_loopback_only_probes_and_metrics_are_open(
    path: str, token: str | None, sent: str | None, status: int
) -> None:
    line = f"authorization: {sent}\r\n" if sent is not None else ""
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{line}\r\n".encode("utf-8", "surrogateescape")
    async with admin("0.0.0.0", token=token) as port:
        answer = await raw_exchange(OUTSIDE or "", port, request)
    assert int(answer.split()[1]) == status


async def test_a_port_that_is_taken_is_an_error_of_the_system() -> None:
    async with admin() as port:
        other = Admin(
            ready=lambda: True, render=lambda: pytest.fail("asked"), policies=lambda: compiled(POLICY), token=None, wall_s=time.time
        )
        with pytest.raises(OSError, match="in use"):
            await other.listener.listen("127.0.0.1", port)
        await other.listener.close()
