"""A TCP connection to the first of several addresses that takes one. Source: RFC 8305 (happy eyeballs), sections 4 and 5.

The rule a reader could break: attempts that lose are closed, also one that succeeds in the same turn of the loop as the winner.
"""

import asyncio
import socket
from collections.abc import Sequence
from itertools import zip_longest

from proxy.upstream.kernel import bound_buffers
from proxy.upstream.resolve import Address

# How long an attempt goes alone before the next address is tried beside it: the RFC's recommendation.
STAGGER_S = 0.25


async def connect(addresses: Sequence[Address], *, stagger_s: float = STAGGER_S) -> socket.socket:
    """A connected, non-blocking socket. Errors: OSError of the last attempt that failed. Cancelled, nothing is left open."""
    if len(addresses) == 1:
        return await _attempt(addresses[0])
    running: set[asyncio.Task[socket.socket]] = set()
    failure: OSError = OSError("no address")
    waiting = list(reversed(_interleaved(addresses)))
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_attempt(waiting.pop()), name="connect"))
            done, _ = await asyncio.wait(running, timeout=stagger_s if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                running.discard(attempt)
                error = attempt.exception()
                if error is None:
                    running |= done - {attempt}
                    return attempt.result()
                if not isinstance(error, OSError):
                    raise error
                failure = error
        raise failure
    finally:
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_discard)


async def _attempt(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        bound_buffers(sock)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _interleaved(addresses: Sequence[Address]) -> list[Address]:
    """The families by turns, the first address's family first; within a family the order stays."""
    first = [a for a in addresses if a[0] == addresses[0][0]] if addresses else []
    others = [a for a in addresses if a[0] != addresses[0][0]] if addresses else []
    return [a for pair in zip_longest(first, others) for a in pair if a is not None]
