"""One call's way through the pipeline: what is known of it so far, and what kind of call it became."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.call import Call, Ending, Usage, UsageSource
from proxy.entry import Entry
from proxy.errors import ProxyError
from proxy.policy.contract import Balance
from proxy.policy.policyset import Plan, PolicySet
from proxy.state.contract import Reservation
from proxy.wire.meter import Meter
from proxy.wire.request import RequestHead

_NOTHING = Usage()


class Arrival(Protocol):
    """A request whose head has come, as the edge hands it over. loopback: the peer is this machine."""

    @property
    def head(self) -> RequestHead: ...

    @property
    def loopback(self) -> bool: ...

    @property
    def length(self) -> int | None:
        """Bytes of body that it announces, None where it does not say."""

    def source(self) -> str:
        """The peer's address, as text; empty where it has none."""

    def at_hand(self, most_bytes: int) -> tuple[bytes, int] | None:
        """The whole body where all of it was received already and is no longer than `most_bytes`, else None. Given out once.

        As bytes that end with it, and where in them it begins: a large one is not copied for the sake of what stands before it.
        """

    async def read(self, most_bytes: int) -> bytes | None:
        """The whole body, or None when it is longer than `most_bytes`; it may then be asked for again, with more."""

    def chunks(self, most_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes. Errors: InvalidCall("request_too_large") in the middle of it."""


class Switch(Protocol):
    """A client's socket that may become another protocol's."""

    def switch(self, lines: list[str], heir: asyncio.Protocol) -> asyncio.Transport:
        """The head of a 101, and the socket is the heir's. Errors: InvalidCall where the client spoke the other protocol before it."""

    def lost(self, exc: Exception | None) -> None:
        """The heir says that the socket is closed."""


class Observer(Protocol):
    """Who is told how calls went."""

    def finished(self, trip: "Trip") -> None:
        """The call is settled and over; what it knows is final. Once a call."""

    def would_refuse(self, policy: str, clause: str) -> None:
        """A shadowed policy would have said no."""

    def fault(self, error: BaseException, request_id: str) -> None:
        """A fault of our own was caught."""


@dataclass(eq=False, slots=True)
class Trip:
    """Filled by the steps of the pipeline, told of once it has ended. Times are monotonic nanoseconds, None = not reached.

    traceparent: sent upstream. set: the policies this call began with and ends with.
    sent: an upstream may have been given the call; answered: its head came. tries: how often it was sent, or was to be.
    unwanted: the client left while its answer was yet to come. early: the client got the head of a stream before that.
    fail: how the client is told of an error when its connection is another protocol's; None while it is not.
    handed_on: another trip is the call's from here on.
    counting: a settlement that waits for the tokenizer and outlives a client that left.
    """

    call: Call
    traceparent: str
    set: PolicySet
    now_ns: Callable[[], int]
    started_ns: int
    entry: Entry | None = field(default=None, init=False)
    plan: Plan | None = field(default=None, init=False)
    balances: tuple[Balance, ...] = field(default=(), init=False)
    reservation: Reservation | None = field(default=None, init=False)
    meter: Meter | None = field(default=None, init=False)
    upstream: str | None = field(default=None, init=False)
    upstream_request_id: str | None = field(default=None, init=False)
    sent: bool = field(default=False, init=False)
    tries: int = field(default=0, init=False)
    unwanted: bool = field(default=False, init=False)
    answered: bool = field(default=False, init=False)
    early: bool = field(default=False, init=False)
    settled: bool = field(default=False, init=False)
    fail: Callable[[ProxyError], Awaitable[None]] | None = field(default=None, init=False)
    counting: asyncio.Task[None] | None = field(default=None, init=False)
    usage: Usage = field(default=_NOTHING, init=False)
    usage_source: UsageSource | None = field(default=None, init=False)
    cost_nanousd: int = field(default=0, init=False)
    settle_ns: int | None = field(default=None, init=False)
    status: int = field(default=0, init=False)
    ending: Ending = field(default="completed", init=False)
    error: ProxyError | None = field(default=None, init=False)
    admitted_ns: int | None = field(default=None, init=False)
    first_byte_ns: int | None = field(default=None, init=False)
    first_token_ns: int | None = field(default=None, init=False)
    ended_ns: int = field(default=0, init=False)
    handed_on: bool = field(default=False, init=False)

    def hand_on(self) -> "Trip":
        """The same call, for the task that carries it on; nobody is told of this one."""
        self.handed_on = True
        trip = Trip(self.call, self.traceparent, self.set, self.now_ns, self.started_ns)
        trip.entry = self.entry
        return trip

    def failed(self, error: ProxyError) -> None:
        """Note how the call ended, and by whose fault."""
        self.error = error
        if error.code in ("client_stalled", "call_cancelled"):
            self.ending = "client_gone"
        elif error.code == "draining":
            self.ending = "drained"
        elif error.code == "upstream_timeout":
            self.ending = "timed_out"
        elif error.code == "upstream_broken":
            self.ending = "upstream_broken"
        else:
            self.ending = "upstream_error" if error.source == "upstream" else "refused"

    def secrets(self) -> tuple[str, ...]:
        """What no explanation of the upstream may show: its credential, and where it lives."""
        if self.upstream is None:
            return ()
        config = self.set.upstreams[self.upstream]
        host = config.base_url.partition("://")[2].partition("/")[0]
        return tuple(s for s in (config.api_key, config.base_url, host, host.rpartition(":")[0]) if s)

    def kind(self) -> tuple[Any, ...]:
        """The fields of its Kind, in their order: a bare tuple, which is made in a quarter of the time and found by just as well."""
        call, error, meter, policies = self.call, self.error, self.meter, self.set
        return (
            call.principal.key,
            call.surface.name,
            call.model_asked,
            call.model,
            meter.model if meter is not None else None,
            self.upstream,
            call.stream,
            self.status,
            self.ending,
            error.code if error is not None else None,
            error.deadline if error is not None else None,
            (error.policy, error.clause or "") if error is not None and error.policy else None,
            tuple(call.clamps.values()) if call.clamps else (),
            self.usage_source,
            meter is not None and meter.nonsense,
            policies.prices.version if call.price is not None else None,
            policies.version,
        )

    def timing(self, admitted_ns: int) -> str:
        """The stages so far of an admitted call, for the Server-Timing header."""
        admit_ms = (admitted_ns - self.started_ns) / 1e6
        if self.first_byte_ns is None:
            return f"admit;dur={admit_ms:.2f}"
        return f"admit;dur={admit_ms:.2f}, upstream;dur={(self.first_byte_ns - admitted_ns) / 1e6:.2f}"
