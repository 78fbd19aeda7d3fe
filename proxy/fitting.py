"""A call made to fit what is left: its output cap lowered until its holds of tokens and money do.

The rule a reader could break: a call may share its edits and clamps with what is remembered of others (`outline`), so they are replaced
and never changed; and nothing of it changes unless it then holds what it asks.
"""

from dataclasses import replace

from proxy.call import Call
from proxy.entry import Order
from proxy.policy.policyset import Plan, PolicySet, charges
from proxy.state.contract import Denial, Reservation, StateStore
from proxy.wire import body

# What was left when it was looked at may be gone when it is to be held. A store in memory cannot be overtaken; others are asked twice.
_TRIES = 2


async def hold_less(
    store: StateStore, policies: PolicySet, call: Call, plan: Plan, denial: Denial, *, order: Order, least: int = 0
) -> Reservation | Denial:
    """The charges of the call with the largest output cap that fits, and the call with that cap; or why it cannot be made to fit.

    denial: of the call as it is. order: what it holds whatever its cap is, and in whose name. least: the smallest cap to try beside what
    the clauses say.
    Errors: StateUnavailable.
    """
    last = 0
    told = denial
    for _ in range(_TRIES):
        cap = _cap(store, call, plan, least=least)
        if cap is None or cap == last:
            break
        last = cap
        less = call.scratch()
        less.limit_output(cap)
        held = await store.reserve(charges(less, plan.varying, order.steady), order.holder, lasts_s=policies.longest_s)
        if not isinstance(held, Denial):
            _become(call, less)
            return held
        # It tells when the smaller call may pass, which is what will be tried then; the amount is that of the call as it is.
        told = held if held.charge.limit is not denial.charge.limit else replace(held, charge=denial.charge)
    return told


def _cap(store: StateStore, call: Call, plan: Plan, *, least: int) -> int | None:
    """The cap to try: the largest that fits every limit, or the least that is of use. None where that would not be less than now."""
    fits: list[int] = []
    for clause, shadow in plan.varying:
        if shadow or not call.surface.caps:
            continue
        for charge in clause.charges(call):
            if not charge.enforced or charge.amount <= (left := store.peek(charge).remaining):
                continue
            lowered = clause.lowered(call, left)
            if lowered is None:
                return None
            fits.append(lowered[0])
            least = max(least, lowered[1])
    if not fits:
        return None
    cap = max(min(fits), least, call.surface.least_cap)
    return cap if call.cap is None or cap < call.cap else None


def _become(call: Call, less: Call) -> None:
    """Give a call the cap that it could hold, also in a body whose parts are known already."""
    if call.parts:
        call.parts = body.patched_again(call.parts, {name: cap for name, cap in less.edits.items() if call.edits.get(name) != cap})
    call.cap, call.edits, call.clamps = less.cap, less.edits, less.clamps
