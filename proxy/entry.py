"""What all calls with the same head have in common: who calls, which surface, how much body, and what is sent on of the head."""

from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.call import Call, Principal, Surface
from proxy.health import Health
from proxy.outline import Outlines
from proxy.policy.contract import Charge, Terms, Unit
from proxy.policy.policyset import Plan, PolicySet, UpstreamConfig, charges
from proxy.state.contract import Holder
from proxy.timeouts import Timeouts
from proxy.upstream.contract import Ask, Upstream
from proxy.wire.upgrade import Query
from proxy.wire.wish import Wish

MOST_ORDERS = 16  # of one head: an app has few models


class Way(NamedTuple):
    """To an upstream: its client, what of the head is sent with every call, its deadlines, how it does, and what the file says of it."""

    upstream: Upstream
    ask: Ask
    timeouts: Timeouts
    health: Health
    config: UpstreamConfig


class Order(NamedTuple):
    """What calls hold alike that come with one head and meet one plan: in whose name, and what the steady clauses want held."""

    holder: Holder
    steady: tuple[Charge, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Found out by admission under one policy set, and remembered where the head is known to come again.

    set: under which it holds. until_s: epoch seconds at which the caller's key expires, or prices change. loopback: of the peer that it
    was found out for.
    path: canonical; target: what of path and query is sent below an upstream's base URL.
    boundary: of a body that is a form, None for one in JSON.
    most_bytes, bounded_by: the most that a body may have, and the policy that says so, None for the proxy's own bound.
    small_bytes: up to which a body is taken as it is, without making room for it.
    query: of a WebSocket's opening. spares: what a call is not charged for again that is a turn of a session.
    wish: what it asks of recordings, and is granted; None for nearly all. terms: under which it is recorded.
    ways: by name of the upstream, filled by dispatch. outlines: of bodies that came with the head. orders: by plan, filled by `order`.
    """

    set: PolicySet
    loopback: bool
    until_s: float
    path: str
    target: str
    principal: Principal
    surface: Surface
    boundary: bytes | None
    most_bytes: int
    small_bytes: int
    bounded_by: str | None
    query: Query | None = None
    spares: frozenset[Unit] = frozenset()
    wish: Wish | None = None
    terms: Terms | None = None
    ways: dict[str, Way] = field(default_factory=dict)
    outlines: Outlines = field(default_factory=Outlines)
    orders: dict[Plan, Order] = field(default_factory=dict)

    def holds(self, policies: PolicySet, loopback: bool, now_s: float) -> bool:
        """Whether it is still, and for this peer too, what would be found out."""
        return self.set is policies and self.loopback is loopback and now_s < self.until_s

    def order(self, call: Call, plan: Plan) -> Order:
        """The standing order of calls like this one, which is shaped. Remembered in `orders`, a few of them."""
        holder = Holder(self.principal.key, self.principal.user, call.model or "", self.surface.name)
        order = Order(holder, tuple(c for c in charges(call, plan.steady) if c.limit.unit not in self.spares))
        if len(self.orders) >= MOST_ORDERS:
            self.orders.clear()
        self.orders[plan] = order
        return order
