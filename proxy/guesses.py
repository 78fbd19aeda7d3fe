"""Who tries keys that are wrong: each source has so many, and then one a second; beyond them a key is not even looked at.

A guesser must not lock out an app beside it, which may well be behind the same address. So two kinds of keys are always looked at: those
that were right before, and those that nobody guesses, made by `tollhouse keys new` of 256 random bits. The rule a reader could break: a
wrong key gets one answer while its source has none left, whether it was looked at or not, or the answers would tell the kinds apart.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from proxy.clock import Clock
from proxy.errors import NotAdmitted
from proxy.policy.contract import Rate
from proxy.policy.keys import KeyRing
from proxy.state.arithmetic import NS, pace, retry_after_ns, take

RATE = Rate(amount=1, per_s=1, burst=20)
MOST_SOURCES = 1024  # the one that was wrong longest ago makes room
MOST_RIGHT = 4096
_UNGUESSABLE = re.compile(r"th-[A-Za-z0-9_-]{43}")
_PACE = pace(RATE)


class Guesses:
    """What is known of sources and keys. Digests only, as in the policy file; a bounded number of each.

    counted: told of each wrong key, with the code that it got.
    """

    __slots__ = ("_clock", "_counted", "_right", "_ring", "_sources")

    def __init__(self, clock: Clock, counted: Callable[[str], None]) -> None:
        self._clock = clock
        self._counted = counted
        self._sources: OrderedDict[str, int] = OrderedDict()  # the bucket of each, last wrong last
        self._right: dict[bytes, None] = {}
        self._ring: KeyRing | None = None

    def __repr__(self) -> str:
        return f"<Guesses sources={len(self._sources)} right={len(self._right)}>"

    def look(self, presented: str, ring: KeyRing, source: Callable[[], str]) -> None:
        """Before a key is looked at. source: the peer's address. Errors: NotAdmitted where it may not be."""
        if ring is not self._ring:
            self._ring = ring
            self._right = {digest: None for digest in self._right if ring.knows(digest)}
        if not self._sources or _UNGUESSABLE.fullmatch(presented) or digest_of(presented) in self._right:
            return
        self._refuse_if_empty(network_of(source()))

    def right(self, presented: str, ring: KeyRing) -> None:
        """A key was let in. Where the ring has no keys it was any word, and is not remembered."""
        digest = digest_of(presented)
        if ring.knows(digest):
            if len(self._right) >= MOST_RIGHT and digest not in self._right:
                del self._right[next(iter(self._right))]
            self._right[digest] = None

    def wrong(self, source: Callable[[], str]) -> None:
        """A key was looked at and is none of ours. Errors: NotAdmitted instead of the answer that it is wrong, where none is left."""
        name = network_of(source())
        self._refuse_if_empty(name)
        self._sources[name] = take(_PACE, self._sources.get(name, 0), self._clock.monotonic_ns(), 1)
        self._sources.move_to_end(name)
        if len(self._sources) > MOST_SOURCES:
            self._sources.popitem(last=False)
        self._counted("invalid_api_key")

    def _refuse_if_empty(self, name: str) -> None:
        tat = self._sources.get(name)
        if tat is None:
            return
        wait_ns = retry_after_ns(_PACE, tat, self._clock.monotonic_ns(), 1)
        if wait_ns:
            self._counted("too_many_wrong_keys")
            raise NotAdmitted(
                "too_many_wrong_keys",
                "Too many wrong keys came from this address; a key is looked at again later.",
                retry_after_s=wait_ns / NS,
            )


def digest_of(presented: str) -> bytes:
    """As in the ring. Bytes that are no UTF-8 arrive as surrogates."""
    return hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()


def network_of(address: str) -> str:
    """Whose bucket an address has: this machine is one source, and so are the addresses of an IPv6 network, of which one host has many."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""  # a socket in the file system, or a peer that has gone
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return network_of(str(parsed.ipv4_mapped))
        if not parsed.is_loopback:
            return str(IPv6Address(int(parsed) >> 64 << 64))
    return "loopback" if parsed.is_loopback else str(parsed)
