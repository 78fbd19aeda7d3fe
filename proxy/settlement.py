"""Out of the toll road: what a call used, what that costs, and the end of its hold. Exactly once a call, whatever happened to it.

    reported by the upstream ─ else ─ counted by the tokenizer ─ else ─ estimated at what was held

The rule a reader could break: numbers that are not known are never zero.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

from proxy.call import Call, Usage, UsageSource
from proxy.counting import count_input
from proxy.policy.contract import NANOUSD, TOKENS, Notice
from proxy.spenders import Spenders
from proxy.tokens import Tokenizer
from proxy.trip import Trip
from proxy.wire import units
from proxy.wire.meter import PassMeter

_FRAMING_TOKENS = 1000  # that a server may put around a prompt


class Settlement:
    """Settles trips, and remembers those whose counting outlives their client."""

    def __init__(self, *, tokenizer: Tokenizer, notify: Callable[[Iterable[Notice]], None], spenders: Spenders) -> None:
        self._tokenizer = tokenizer
        self._notify = notify
        self._spenders = spenders
        self._counting: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Settlement counting={len(self._counting)}>"

    def settle(self, trip: Trip) -> Coroutine[Any, Any, None]:
        """Replace what was held by what was used. A second call changes nothing.

        Cancellation interrupts the waiting, never the settling: counting goes on in `trip.counting`.
        """
        known = None if trip.settled else known_usage(trip)
        return self._count(trip) if known is None else self._book(trip, *known)

    async def _count(self, trip: Trip) -> None:
        if trip.settled:
            return
        trip.settled = True
        trip.counting = asyncio.create_task(self._count_and_book(trip))
        self._counting.add(trip.counting)
        trip.counting.add_done_callback(self._counting.discard)
        await asyncio.shield(trip.counting)

    async def finish(self) -> None:
        """Wait for what is still being counted. For the drain."""
        await asyncio.gather(*self._counting, return_exceptions=True)

    async def _count_and_book(self, trip: Trip) -> None:
        call = trip.call
        found = await count_input(call, self._tokenizer)
        exact, output_tokens = found.exact, 0
        if not call.stream and call.surface.has_output and (trip.meter is None or not trip.meter.ended):
            # Nobody saw how much of a whole answer was made, so it is all that was held: leaving early is no way past a budget.
            exact, output_tokens = False, call.billed_output
        elif trip.meter is not None and trip.meter.first_token:
            texts = [text.decode("utf-8", "replace") for text in trip.meter.texts()]
            counted = await self._tokenizer.count(texts, model=call.model or "")
            output_tokens, exact = counted.tokens, exact and counted.exact
        usage = Usage(input_tokens=found.tokens, output_tokens=output_tokens)
        if trip.meter is not None and (told := trip.meter.usage) is not None:  # it was true before more output came
            usage = replace(told, output_tokens=max(told.output_tokens, output_tokens))
        await self._book(trip, usage, "counted" if exact else "estimated")

    async def _book(self, trip: Trip, usage: Usage, source: UsageSource | None) -> None:
        trip.settled = True
        trip.usage, trip.usage_source = usage, source
        cost = trip.cost_nanousd = cost_nanousd(trip, usage) if source is not None else 0
        reservation = trip.reservation
        if reservation is None:
            return
        # The request that was held is the one that was made, and a slot is given back in any case.
        used = {TOKENS: usage.input_tokens + usage.output_tokens, NANOUSD: cost}
        began_ns = trip.now_ns()
        balances = await reservation.settle(used, (usage, source, cost) if source is not None else None)
        trip.settle_ns = trip.now_ns() - began_ns
        if cost:
            self._spenders.add(reservation.quotas, trip.call, cost)
        if balances:
            plan = trip.plan
            assert plan is not None
            for balance in balances:
                if notices := plan.notices(balance):
                    self._notify(notices)


def cost_nanousd(trip: Trip, usage: Usage) -> int:
    """What a call costs that used something: at the tier that its answer names, and with each call of the upstream's own tools."""
    call, meter = trip.call, trip.meter
    price = call.price
    if price is None:
        return 0
    if type(usage) is Held:
        return call.held_nanousd
    cost = price.cost_nanousd(usage, tier=meter.tier if meter is not None else None)
    if call.tools:
        calls = meter.calls if meter is not None and call.surface.name == "responses" else None
        if calls is None:
            return cost + call.tool_calls * max(each for _, each in call.tools)
        cost += sum(calls.get(word, 0) * each for word, each in call.tools)
    return cost


class Held(Usage):
    """All that was held, which costs what was held: whatever class its tokens were of."""

    __slots__ = ()


def known_usage(trip: Trip) -> tuple[Usage, UsageSource | None] | None:
    """The usage where it needs no counting; None where the tokenizer must say. No source: there was nothing to use."""
    call, meter = trip.call, trip.meter
    if not trip.sent or not call.surface.metered or (trip.answered and meter is None):
        return Usage(), None  # never sent, free by nature, or refused by the upstream
    if call.units and (meter is None or meter.guess is None):
        return _units_used(trip)
    if meter is None:
        return None
    usage = meter.usage
    if usage is not None and (meter.ended or not meter.outgrown()):
        if usage.input_tokens > 3 * call.input_bound + _FRAMING_TOKENS:  # more than its bytes can be
            meter.nonsense = True
        return usage, "reported"
    if meter.guess is not None:
        return meter.guess, "estimated"
    if meter.unfinished or isinstance(meter, PassMeter):
        return _held(call), "estimated"
    return None


def _units_used(trip: Trip) -> tuple[Usage, UsageSource]:
    """Of pictures and sound, which no tokenizer counts."""
    call, meter = trip.call, trip.meter
    assert call.price is not None, "a call without a price was refused"
    reported = meter.usage if meter is not None else None
    usage = units.used(call, call.price, reported)
    if usage is not None:
        return usage, "counted" if reported is None or (usage.units and not reported.units) else "reported"
    if call.surface.name == "speech" and isinstance(meter, PassMeter) and meter.ended:
        return units.spoken(call), "estimated"
    return _held(call), "estimated"


def _held(call: Call) -> Held:
    return Held(input_tokens=call.input_bound, output_tokens=call.held_output, units=call.units)
