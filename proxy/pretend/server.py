"""The server of the pretend upstream: which path is answered by what, whole or as a paced stream."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import orjson
from aiohttp import web

from proxy.clock import Clock, SystemClock
from proxy.pretend import chat, lookups, responses
from proxy.pretend.fields import Fields, Wrong, flag, parse
from proxy.pretend.speech import Asked


class _Reading(Protocol):
    def __call__(self, fields: Fields, *, id: str, created: int) -> Asked: ...


@dataclass(frozen=True, slots=True)
class _Generating:
    """A surface that writes text: how its body is read, its whole answer, and its events."""

    asked: _Reading
    answer: Callable[[Asked], dict[str, Any]]
    events: Callable[[Asked], Iterator[bytes]]


_GENERATING: Mapping[str, _Generating] = {
    "/v1/chat/completions": _Generating(chat.chat_asked, chat.chat_answer, chat.chat_events),
    "/v1/completions": _Generating(chat.completions_asked, chat.completions_answer, chat.completions_events),
    "/v1/responses": _Generating(responses.asked, responses.answer, responses.events),
}


class Pretend:
    """pace_s: seconds between two events of a stream. clock: for `created`."""

    def __init__(self, *, pace_s: float = 0.02, clock: Clock | None = None) -> None:
        self._pace_s = pace_s
        self._clock = clock or SystemClock()
        self._numbers = count(1)
        self._runner: web.ServerRunner | None = None
        self._url: str | None = None

    def __repr__(self) -> str:
        return f"<Pretend {self._url or 'not started'} pace_s={self._pace_s}>"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and return the base URL with its `/v1`. port: 0 picks one. Errors: OSError."""
        server = web.Server(self._respond, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self._url = f"http://{host}:{self._runner.addresses[0][1]}/v1"
        return self._url

    async def stop(self) -> None:
        """Stop listening. A stream that still runs has a second to end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = self._url = None

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        id = f"pretend{next(self._numbers)}"
        headers = {"x-pretend": "true", "x-request-id": f"req_{id}"}
        try:
            answer = self._answer(request.method, request.path, await request.content.read(), id=id)
        except Wrong as wrong:
            return _json(wrong.body, status=wrong.status, headers=headers)
        if isinstance(answer, dict):
            return _json(answer, status=200, headers=headers)
        return await self._stream(request, answer, headers=headers)

    def _answer(self, method: str, path: str, body: bytes, *, id: str) -> dict[str, Any] | Iterator[bytes]:
        """The JSON of a whole answer, or the events of a stream. Errors: Wrong."""
        created = int(self._clock.wall_s())
        match method, path:
            case "GET", "/v1/models":
                return lookups.models(created=created)
            case "GET", _ if path.startswith("/v1/models/"):
                return lookups.model_card(path.removeprefix("/v1/models/"), created=created)
            case "POST", "/v1/embeddings":
                return lookups.embeddings(parse(body))
            case "POST", "/v1/moderations":
                return lookups.moderations(parse(body), id=id)
            case "POST", _ if path in _GENERATING:
                surface, fields = _GENERATING[path], parse(body)
                asked = surface.asked(fields, id=id, created=created)
                return surface.events(asked) if flag(fields, "stream") else surface.answer(asked)
        raise Wrong(404, f"Invalid URL ({method} {path})")

    async def _stream(self, request: web.BaseRequest, events: Iterator[bytes], *, headers: dict[str, str]) -> web.StreamResponse:
        kind = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        response = web.StreamResponse(headers={**kind, **headers})
        await response.prepare(request)
        for event in events:
            await response.write(event)
            await asyncio.sleep(self._pace_s)
        await response.write_eof()
        return response


def _json(payload: dict[str, Any], *, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps(payload), status=status, content_type="application/json", headers=headers)
