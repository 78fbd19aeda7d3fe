"""Names to addresses, without holding up the loop, and remembered for a while.

The rule a reader could break: a look-up belongs to everyone who waits for it. One who leaves does not end it for the others.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any

# (family, what `connect` of such a socket takes)
Address = tuple[int, Any]
Lookup = Callable[[str, int], Awaitable[tuple[Address, ...]]]

KEEP_S = 30.0  # the operating system does not tell a record's TTL; model vendors use a minute or less
FAILED_S = 1.0  # a name that does not resolve is not asked for again by every call of a burst
STALE_S = 600.0  # when asking again fails, an address that worked ten minutes ago is better than none


class Resolver:
    """Remembers one name: an upstream has one. lookup: as `system_lookup`. now: seconds, monotonic.

    Promise of `addresses`: at least one, in the order of preference. Errors: OSError. May be cancelled.
    """

    def __init__(self, host: str, port: int, *, lookup: Lookup, now: Callable[[], float]) -> None:
        self._host = host
        self._port = port
        self._lookup = lookup
        self._now = now
        self._known: tuple[Address, ...] = _literal(host, port)
        self._fixed = bool(self._known)
        self._asked_at = float("-inf")
        self._found_at = float("-inf")
        self._failure: OSError | None = None
        self._asking: asyncio.Future[tuple[Address, ...]] | None = None
        self._answered: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Resolver addresses={len(self._known)} asking={self._asking is not None}>"

    async def addresses(self) -> tuple[Address, ...]:
        if self._fixed:
            return self._known
        if self._now() - self._asked_at >= (KEEP_S if self._failure is None else FAILED_S):
            if self._answered is None:
                self._answered = asyncio.get_running_loop().create_future()
                self._asking = asyncio.ensure_future(self._lookup(self._host, self._port))
                self._asking.add_done_callback(self._told)
            await asyncio.shield(self._answered)
        if self._failure is not None and self._now() - self._found_at >= STALE_S:
            raise OSError("name not resolved") from self._failure
        return self._known

    def _told(self, asking: asyncio.Future[tuple[Address, ...]]) -> None:
        """A look-up is over: keep what it found, or why it found nothing, and let those go on who wait."""
        answered, self._answered, self._asking = self._answered, None, None
        self._asked_at = self._now()
        error = OSError("the look-up was ended") if asking.cancelled() else asking.exception()
        if error is not None:
            self._failure = error if isinstance(error, OSError) else OSError(type(error).__name__)
        elif found := asking.result():
            self._known, self._found_at, self._failure = found, self._asked_at, None
        else:
            self._failure = OSError("no address")
        if answered is not None and not answered.done():
            answered.set_result(None)

    async def close(self) -> None:
        """End a look-up that runs. Who waits for it is told that the name did not resolve."""
        if (asking := self._asking) is not None:
            asking.cancel()
            await asyncio.wait([asking])


async def system_lookup(host: str, port: int) -> tuple[Address, ...]:
    """What the operating system says, asked in a thread. Errors: OSError, UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple((family, address) for family, _, _, _, address in found)


def _literal(host: str, port: int) -> tuple[Address, ...]:
    """The address that a host already is, or nothing when it is a name."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return ()
    return ((socket.AF_INET, (host, port)),) if version == 4 else ((socket.AF_INET6, (host, port, 0, 0)),)
