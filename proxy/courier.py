"""Carries one page to one address over HTTP. Everything that is aiohttp's about a page ends in this file.

It follows no redirect, keeps no cookie and no connection, asks no proxy of the environment, and reads nothing of an answer but its
head. The rule a reader could break: a name must not lead to this host or to the cloud's metadata service, whatever DNS says; only a
policy file that spells out such an address, or `localhost`, gets there.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import AddressFamily

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from proxy import __version__
from proxy.clock import Clock
from proxy.lane import Unreachable
from proxy.wire.comeback import retry_after_s

# The whole attempt. Standard Webhooks asks senders to allow 15 to 30 s.
TIMEOUT_S = 15.0

# Metadata services outside of the link-local ranges: AWS over IPv6, Alibaba Cloud, Azure.
_METADATA = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
_NO_HOST = IPv4Network("0.0.0.0/8")  # "this network": some systems take it for themselves
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRefused(OSError):
    """A name leads to nothing but addresses that no page may reach by name."""


class Courier:
    """Posts pages. Holds nothing until the first."""

    def __init__(self, clock: Clock, *, timeout_s: float = TIMEOUT_S, resolver: AbstractResolver | None = None) -> None:
        """clock: for a Retry-After that is a date. resolver: the system's unless given."""
        self._clock = clock
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Courier {'idle' if self._session is None else 'open'}>"

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None]:
        """Status and Retry-After in seconds. Errors: Unreachable. Cancelling it closes the connection; the page may have arrived."""
        session = self._session or self._start()
        try:
            response = await session.post(url, headers=headers, data=body, allow_redirects=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable from error
        response.close()  # unread, be it a gigabyte
        return response.status, retry_after_s(response.headers.get("Retry-After"), now_s=self._clock.wall_s())

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _start(self) -> aiohttp.ClientSession:
        # Pages are rare: a connection kept for the next would be a dead one.
        connector = aiohttp.TCPConnector(
            force_close=True, use_dns_cache=False, resolver=Guard(self._resolver or aiohttp.ThreadedResolver())
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            headers={"user-agent": f"tollhouse/{__version__}"},
            auto_decompress=False,
            trust_env=False,
        )
        return self._session


class Guard(AbstractResolver):
    """A resolver without the addresses that no page may reach by name.

    The connection is made to what comes out here, so a second answer of DNS changes nothing. An address that is spelled out in a URL
    is never resolved. Private networks are allowed: an Alertmanager usually lives there.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if host.rstrip(".").lower() == "localhost":
            allowed = [result for result in found if ip_address(result["host"]).is_loopback]
        else:
            allowed = [result for result in found if not off_limits(ip_address(result["host"]))]
        if found and not allowed:
            raise AddressRefused(host)
        return allowed

    async def close(self) -> None:
        await self._resolver.close()


def off_limits(address: IPv4Address | IPv6Address) -> bool:
    """Loopback, link-local, metadata, and what is no address of a host at all; also as an IPv6 address that leads to such a one."""
    if isinstance(address, IPv6Address) and (inner := _inner(address)) is not None:
        return off_limits(inner)
    local = address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
    return local or address in _METADATA or address in _NO_HOST


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: mapped, by NAT64 (RFC 6052) or by 6to4 (RFC 3056)."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
