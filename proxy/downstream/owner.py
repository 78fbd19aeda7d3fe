"""Whom a client's connection belongs to: what it asks of its listener."""

from collections.abc import Coroutine
from typing import Any, Protocol

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.known import KnownHeads
from proxy.downstream.rules import Rejection
from proxy.downstream.sink import HttpSink


class Owner(Protocol):
    """Whom a connection belongs to. date: the Date field's value. closing: no call is begun any more. heads: known to all of its."""

    closing: bool
    heads: KnownHeads

    def date(self) -> str: ...

    def answer(self, arrival: HttpArrival, sink: HttpSink) -> Coroutine[Any, Any, None]:
        """Answer a request. Raises nothing but CancelledError and ConnectionError, when the client has left."""

    def reject(self, sink: HttpSink, rejection: Rejection) -> Coroutine[Any, Any, None]:
        """Answer what is no request."""

    def lost(self, connection: Any) -> None:
        """Its socket is closed, by whichever side."""
