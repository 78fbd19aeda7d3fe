"""The way through an HTTP proxy: CONNECT, then TLS to the upstream as if the proxy were not there.

Which proxy is said by the environment, which is passed in. The rule a reader could break: an upstream without TLS is never sent through
a proxy, which could read and change it. Source: RFC 9110, section 9.3.6.
"""

import asyncio
import base64
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

_MOST_BYTES = 16 << 10
_AGREED = re.compile(rb"HTTP/1\.[01] 2\d\d[ \r]")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A proxy that takes CONNECT. authorization: the value of Proxy-Authorization, None for none."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    async def open(self, sock: socket.socket, host: str, port: int) -> None:
        """Have the proxy connect us. sock: connected to the proxy. Errors: ConnectionError when it does not. May be cancelled."""
        loop = asyncio.get_running_loop()
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode("ascii"))
        got = b""
        while b"\r\n\r\n" not in got:
            more = await loop.sock_recv(sock, 4096)
            got += more
            if not more or len(got) > _MOST_BYTES:
                raise ConnectionRefusedError("the proxy did not answer CONNECT")
        # TLS speaks first from our side, so whatever comes behind the head is not from the upstream.
        if not _AGREED.match(got) or not got.endswith(b"\r\n\r\n"):
            raise ConnectionRefusedError("the proxy refused CONNECT")


@dataclass(frozen=True, slots=True)
class Proxies:
    """What an environment says. tunnel: HTTPS_PROXY, None for none; exempt: NO_PROXY, as it stands there."""

    tunnel: Tunnel | None = None
    exempt: str = ""

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Self:
        """Read HTTPS_PROXY and NO_PROXY; in lower case they win. Errors: ValueError for a proxy that is not http://."""
        proxy = env.get("https_proxy") or env.get("HTTPS_PROXY")
        if not proxy:
            return cls()
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host = None
        if not host or parts.scheme != "http":
            raise ValueError("HTTPS_PROXY: expected http://HOST:PORT")  # the text itself may hold a password
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
        return cls(Tunnel(host, port, authorization), env.get("no_proxy") or env.get("NO_PROXY") or "")

    def towards(self, base_url: str) -> Tunnel | None:
        """The way to an upstream, None for the direct one."""
        parts = urlsplit(base_url)
        return None if parts.scheme != "https" or _exempt(parts.hostname or "", self.exempt) else self.tunnel


def _exempt(host: str, listed: str) -> bool:
    """Whether NO_PROXY names a host: `*`, a name with all below it (a leading dot changes nothing), an address, or a network."""
    for word in re.split(r"[,\s]+", listed.lower()):
        name = word.rpartition(":")[0] if word.count(":") == 1 else word
        suffix = name.lstrip(".")
        if word == "*" or (suffix and (host == suffix or host.endswith(f".{suffix}"))):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False):
                return True
        except ValueError:
            continue
    return False
