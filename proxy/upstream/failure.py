"""What the failures of an upstream are called: the only place where an error of a socket, of TLS or of framing becomes ours.

The rule a reader could break: `detail` holds type names and fixed words. An exception's own text may name a host, so it goes nowhere.
"""

import ssl

from proxy.errors import UpstreamError


def unreachable(error: BaseException) -> UpstreamError:
    """No connection could be made; nothing was sent."""
    return UpstreamError("upstream_unreachable", "The upstream is unreachable.", sent=False, detail=_cause(error))


def crowded() -> UpstreamError:
    """Every connection is in use, and as many calls wait for one as may; nothing was sent."""
    return UpstreamError(
        "upstream_unreachable",
        "Too many calls are waiting for a connection to the upstream.",
        sent=False,
        ours=True,
        detail="queue full",
    )


def closed() -> UpstreamError:
    """This client is closed; nothing was sent."""
    return UpstreamError("upstream_unreachable", "The upstream is unreachable.", sent=False, ours=True, detail="client closed")


def late(error: BaseException, *, crowded: bool) -> UpstreamError:
    """The connect deadline passed; nothing was sent. crowded: while waiting for one of our connections, all of which were in use."""
    return UpstreamError(
        "upstream_timeout",
        "The upstream did not accept a connection in time (deadline: connect).",
        sent=False,
        ours=crowded,
        detail=_cause(error),
        deadline="connect",
    )


def broken(detail: str, *, sent: bool = True) -> UpstreamError:
    """No usable head came. sent: whether a byte of the call may have reached the upstream."""
    return UpstreamError("upstream_broken", "The upstream's answer was malformed or broke off.", sent=sent, detail=detail)


def cut(detail: str) -> UpstreamError:
    """The head came, and the body did not, or not as it was announced."""
    return UpstreamError("upstream_broken", "The upstream's answer broke off.", detail=detail)


def _cause(error: BaseException) -> str:
    """The kind of an exception, for the log."""
    name = type(error).__name__
    return f"{name}: {error.reason}" if isinstance(error, ssl.SSLError) and error.reason else name
