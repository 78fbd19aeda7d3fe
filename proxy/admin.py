"""The admin port: probes and metrics for whoever may reach it; anything else beyond loopback only with the token.

The rule a reader could break: nothing here changes state, and nothing here shows a secret.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from proxy.downstream.connection import is_loopback
from proxy.policy.policyset import PolicySet
from proxy.telemetry.exposition import CONTENT_TYPE

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class Admin:
    """Serves the admin port. ready: whether calls are taken; render: the metrics."""

    def __init__(
        self,
        *,
        ready: Callable[[], bool],
        render: Callable[[], Awaitable[bytes]],
        policies: Callable[[], PolicySet],
        token: str | None,
    ) -> None:
        self._ready = ready
        self._render = render
        self._policies = policies
        self._token = token
        self._server: asyncio.Server | None = None
        self._web: web.Server | None = None

    def __repr__(self) -> str:
        return f"<Admin listening={self._server is not None}>"

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept connections. Returns where. Errors: OSError when the address is taken."""
        self._web = web.Server(self._answer, access_log=None, keepalive_timeout=75.0)
        self._server = await asyncio.get_running_loop().create_server(self._web, host, port, reuse_address=True)
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._web is not None:
            await self._web.shutdown(0.2)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path not in OPEN_PATHS and not self._trusted(request):
            return _json(401, {"error": {"message": "Send the admin token as 'Authorization: Bearer TOKEN'."}})
        if request.method not in ("GET", "HEAD"):
            return _json(405, {"error": {"message": "Only GET is answered here."}})
        if path == "/healthz":
            return web.Response(text="ok\n")
        if path == "/readyz":
            ready = self._ready()
            return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n")
        if path == "/metrics":
            return web.Response(body=await self._render(), headers={"content-type": CONTENT_TYPE})
        if path == "/policy":
            return _json(200, _shown(self._policies()))
        return _json(404, {"error": {"message": "There is no such page."}})

    def _trusted(self, request: web.BaseRequest) -> bool:
        if is_loopback(request.transport):
            return True
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        # Bytes that are no UTF-8 arrive as surrogates.
        return self._token is not None and hmac.compare_digest(*(t.encode("utf-8", "surrogateescape") for t in (sent, self._token)))


def _shown(policies: PolicySet) -> dict[str, Any]:
    """What may be seen of a policy set: names, no credentials and no hashes."""
    return {
        "version": policies.version,
        "price_version": policies.prices.version,
        "upstreams": sorted(policies.upstreams),
        "keys": [key.id for key in policies.keys.keys],
        "pages": sorted(policies.pages),
        "policies": [
            {"name": p.name, "mode": "shadow" if p.shadow else "enforce", "clauses": [c.clause for c in p.clauses]}
            for p in policies.policies
        ],
    }


def _json(status: int, value: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")
