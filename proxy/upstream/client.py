"""The upstream client over aiohttp. Everything that is aiohttp's about it ends in this file.

It follows no redirect, keeps no cookie, decompresses nothing, reads no environment proxy, and never repeats a POST by itself. (aiohttp
repeats an idempotent method, once, where a kept connection turns out to be closed: RFC 9110, section 9.2.2.)
"""

import asyncio
import io
import ssl
from collections.abc import Mapping

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import ProxyError, UpstreamError
from proxy.upstream.contract import Ask

KEEPALIVE_S = 15.0
_READ_BUFFER_BYTES = 64 << 10
_LARGE_BYTES = 1 << 20  # aiohttp writes bytes in one piece, and warns of it from here; a file it writes in pieces
# Framing, Host and negotiation belong to the client; the rest is exactly what the Ask names.
_NOT_ADDED = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


class HttpAnswer:
    """A response of aiohttp as an Answer."""

    __slots__ = ("_headers", "_response")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._headers: dict[str, str] = {}
        for name, value in response.headers.items():
            lower = name.lower()
            self._headers[lower] = f"{self._headers[lower]}, {value}" if lower in self._headers else value

    def __repr__(self) -> str:
        return f"<HttpAnswer {self._response.status} at_eof={self._response.content.at_eof()}>"

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    async def read(self) -> bytes:
        content = self._response.content
        try:
            return await content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # RuntimeError: a malformed chunk closed the connection
            if came := content._read_nowait(
                -1
            ):  # aiohttp raises before it gives out what came before the fault; the next read raises
                return came
            raise UpstreamError("upstream_broken", "The upstream's answer broke off.", detail=type(error).__name__) from error

    def close(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class HttpUpstream:
    """One base URL and its connections."""

    def __init__(self, name: str, *, base_url: str) -> None:
        """base_url: scheme, host and path prefix, such as https://api.openai.com/v1, without a trailing slash."""
        self._name = name
        self._base = base_url
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    def __repr__(self) -> str:
        return f"<HttpUpstream {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    async def open(self, ask: Ask) -> HttpAnswer:
        session = self._session or self._start()
        try:
            response = await session.request(
                ask.method,
                self._url(ask.target),
                headers=CIMultiDict(ask.headers),
                data=io.BytesIO(ask.body) if isinstance(ask.body, bytes) and len(ask.body) > _LARGE_BYTES else ask.body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=ask.connect_timeout_s
                ),  # with the name's resolution, all addresses
                skip_auto_headers=_NOT_ADDED,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            slow = isinstance(error, asyncio.TimeoutError)
            raise UpstreamError(
                "upstream_timeout" if slow else "upstream_unreachable",
                "The upstream did not accept a connection in time (deadline: connect)." if slow else "The upstream is unreachable.",
                sent=False,
                detail=_cause(error),
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, ProxyError):
                raise error.__cause__ from None  # the body's own, such as one that grew too large
            raise UpstreamError(
                "upstream_broken", "The upstream's answer was malformed or broke off.", detail=_cause(error)
            ) from error
        return HttpAnswer(response)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _start(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=30)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER_BYTES,
        )
        return self._session

    def _url(self, target: str) -> URL:
        url = self._urls.get(target)
        if url is None:
            url = URL(self._base + target, encoded=True)
            if len(self._urls) < 64:
                self._urls[target] = url
        return url


def _cause(error: BaseException) -> str:
    """What kind of failure, for the log: type names only, since messages hold hosts."""
    inner = getattr(error, "os_error", None) or error.__cause__
    if isinstance(inner, ssl.SSLError):
        return f"{type(error).__name__}: {inner.reason}"
    return type(error).__name__ + (f": {type(inner).__name__}" if inner is not None else "")
