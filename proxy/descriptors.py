"""How many descriptors this process may have, and how they are shared out.

A call takes two, one towards each side, so half of what is left after our own is for connections of clients; then no call that was taken
finds none for its upstream.
"""

import resource

OWN = 64  # files, the log, the database, the loop, look-ups of names, attempts to connect
ADMIN = 32  # connections to the admin port, so that a probe gets in whatever the data port does
_LEAST = 8
_PLENTY = 1 << 20  # some systems set no bound worth the name


def raise_limit() -> None:
    """The soft limit to the hard one: it is low for the sake of programs that use `select`, which this one does not for sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _PLENTY if hard == resource.RLIM_INFINITY else min(hard, _PLENTY)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def limit() -> int:
    """How many there may be."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _PLENTY if soft == resource.RLIM_INFINITY else min(soft, _PLENTY)


def most_calls(limit: int) -> int:
    """How many calls, and connections of clients, there are descriptors for."""
    return max(_LEAST, (limit - OWN - ADMIN) // 2)
