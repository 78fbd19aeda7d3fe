"""The admin port: probes and metrics for whoever may reach it; anything else beyond loopback only with the token.

The rule a reader could break: nothing here changes state, and nothing here shows a secret.
"""

import contextlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from proxy import descriptors
from proxy.downstream.arrival import HttpArrival
from proxy.downstream.listener import Listener
from proxy.downstream.rules import Rejection
from proxy.downstream.sink import HttpSink
from proxy.policy.policyset import PolicySet
from proxy.telemetry.exposition import CONTENT_TYPE

Page = tuple[int, str, bytes]  # status, content type, body
_TEXT = "text/plain; charset=utf-8"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class Admin:
    """Serves the admin port. ready: whether calls are taken; render: the metrics. listener: its port and connections."""

    def __init__(
        self,
        *,
        ready: Callable[[], bool],
        render: Callable[[], Awaitable[bytes]],
        policies: Callable[[], PolicySet],
        token: str | None,
        wall_s: Callable[[], float],
    ) -> None:
        self._ready = ready
        self._render = render
        self._policies = policies
        self._token = token
        self.listener = Listener(answer=self._answer, reject=self._reject, wall_s=wall_s, most=descriptors.ADMIN)

    def __repr__(self) -> str:
        return f"<Admin {self.listener!r}>"

    async def _answer(self, arrival: HttpArrival, sink: HttpSink) -> None:
        status, kind, body = await self._page(arrival)
        with contextlib.suppress(ConnectionError):  # whoever asked has left
            sink.whole(body, status, [f"content-type: {kind}"])
            await sink.room()

    async def _reject(self, sink: HttpSink, rejection: Rejection) -> None:
        status, kind, body = _json(rejection.error.status, {"error": {"message": rejection.error.message}})
        sink.whole(body, status, [f"content-type: {kind}"])
        await sink.room()

    async def _page(self, arrival: HttpArrival) -> Page:
        path = arrival.head.target.partition("?")[0]
        if path not in OPEN_PATHS and not self._trusted(arrival):
            return _json(401, {"error": {"message": "Send the admin token as 'Authorization: Bearer TOKEN'."}})
        if arrival.head.method not in ("GET", "HEAD"):
            return _json(405, {"error": {"message": "Only GET is answered here."}})
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/readyz":
            return (200, _TEXT, b"ready\n") if self._ready() else (503, _TEXT, b"not ready\n")
        if path == "/metrics":
            return 200, CONTENT_TYPE, await self._render()
        if path == "/policy":
            return _json(200, _shown(self._policies()))
        return _json(404, {"error": {"message": "There is no such page."}})

    def _trusted(self, arrival: HttpArrival) -> bool:
        if arrival.loopback:
            return True
        sent = arrival.head.headers.get("authorization", "").removeprefix("Bearer ")
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


def _json(status: int, value: dict[str, Any]) -> Page:
    return status, "application/json", orjson.dumps(value)
