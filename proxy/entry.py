"""What all calls with the same head have in common: who calls, which surface, how much body, and what is sent on of the head."""

from dataclasses import dataclass, field

from proxy.call import Principal, Surface
from proxy.policy.policyset import PolicySet


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Found out by admission under one policy set, and remembered where the head is known to come again.

    set: under which it holds. until_s: epoch seconds at which the caller's key expires. loopback: of the peer that it was found out for.
    path: canonical; target: what of path and query is sent below an upstream's base URL.
    most_bytes, bounded_by: the most that a body may have, and the policy that says so, None for the proxy's own bound.
    fields: by name of the upstream, filled by dispatch: lines `name: value` joined by CRLF and how many they are, the same in every call.
    """

    set: PolicySet
    loopback: bool
    until_s: float
    path: str
    target: str
    principal: Principal
    surface: Surface
    most_bytes: int
    bounded_by: str | None
    fields: dict[str, tuple[str, int]] = field(default_factory=dict)

    def holds(self, policies: PolicySet, *, loopback: bool, now_s: float) -> bool:
        """Whether it is still, and for this peer too, what would be found out."""
        return self.set is policies and self.loopback is loopback and now_s < self.until_s
