"""What becomes of an answer whose client has left: it is let go at once, or read on for its usage where the policies say so.

The rule a reader could break: whatever of an answer has reached us is counted, also what nobody had taken yet. The upstream sent it.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from proxy.deadlines import Watch
from proxy.dispatch import meter_for
from proxy.errors import ProxyError, UpstreamError
from proxy.trip import Trip
from proxy.upstream.contract import Answer
from proxy.wire.meter import Meter, PassMeter

MOST_AT_ONCE = 64  # drains of one process; each keeps an upstream busy for nobody


class Departures:
    """Reads answers on. most: how many at once; of those beyond it the upstream is stopped, as if no policy wanted them."""

    __slots__ = ("_most", "_running")

    def __init__(self, *, most: int = MOST_AT_ONCE) -> None:
        self._most = most
        self._running = 0

    def __repr__(self) -> str:
        return f"<Departures {self._running}/{self._most}>"

    async def opened(self, opening: Coroutine[Any, Any, Answer], trip: Trip, watch: Watch) -> Answer:
        """What `opening` returns or raises. If the client leaves before, the answer is waited for and read on, then CancelledError."""
        drain = trip.call.drain
        if drain is None or not drain.seconds or not trip.call.surface.metered:
            return await opening
        task = asyncio.create_task(opening)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            trip.unwanted = True  # so it is not tried again
            try:
                if trip.sent and watch.expired is None and self._running < self._most:
                    self._running += 1
                    try:
                        with suppress(TimeoutError, ProxyError):
                            async with asyncio.timeout(drain.seconds):
                                answer = await asyncio.shield(task)
                                trip.meter = meter_for(trip.call, answer)
                                await _to_its_end(answer, trip.meter, drain.size)
                    finally:
                        self._running -= 1
            finally:
                if trip.meter is None and task.done() and not task.cancelled() and task.exception() is None:
                    # It came in the instant in which nobody waited for it any more: it is counted, and goes no further.
                    trip.meter = meter_for(trip.call, task.result())
                    hear_out(task.result(), trip.meter)
                task.cancel()
                task.add_done_callback(_let_go)
            raise

    async def read_on(self, answer: Answer, trip: Trip, watch: Watch) -> None:
        """The rest of an answer whose client has left, within what the policies allow: nothing, where they want none of it.

        Errors: CancelledError when the process ends or a deadline of the call passes meanwhile.
        """
        drain, meter = trip.call.drain, trip.meter
        if drain is None or not drain.seconds or trip.settled or watch.expired is not None or self._running >= self._most:
            return
        if meter is None or isinstance(meter, PassMeter):
            return
        task = asyncio.current_task()
        assert task is not None
        told = task.cancelling() > 0
        until = asyncio.get_running_loop().time() + drain.seconds
        watch.expect_nothing()
        self._running += 1
        try:
            while True:
                try:
                    with suppress(TimeoutError, UpstreamError):
                        async with asyncio.timeout_at(until):
                            await _to_its_end(answer, meter, drain.size)
                    return
                except asyncio.CancelledError:
                    # A write that failed came before the loop's word that the connection is lost, and this may be it.
                    if told or watch.expired is not None:
                        raise
                    told = True
        finally:
            self._running -= 1


def hear_out(answer: Answer, meter: Meter | None) -> None:
    """Read what has come of an answer that is about to be let go, so that it is counted. Waits for nothing."""
    if meter is None or meter.ended or meter.error is not None or isinstance(meter, PassMeter):
        return
    with suppress(UpstreamError):
        rest = answer.at_hand()
        if rest is None:
            if came := answer.received():
                meter.feed(came)
        else:
            if rest:
                meter.feed(rest)
            meter.finish()


async def _to_its_end(answer: Answer, meter: Meter, most_bytes: int) -> None:
    """Read up to the surface's own end, or the body's, or so many bytes. Errors: UpstreamError when it breaks off."""
    left = most_bytes

    def take(piece: bytes) -> bool:
        nonlocal left
        left -= len(piece)
        meter.feed(piece)
        return left > 0 and not meter.ended and meter.error is None

    if not meter.ended and meter.error is None and not await answer.pump(take):
        meter.finish()


def _let_go(opening: "asyncio.Task[Answer]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
