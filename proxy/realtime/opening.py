"""The opening of a session: the upstream is asked first, and the client is told 101 only when it agreed.

    lines to an upstream ─► its 101 ─► our 101 ─► the session
                         └► anything else: an ordinary error

The rule a reader could break: nothing that a client sends is looked at before both sides have agreed, and what it may ask of an upstream
is what any call may: the head is made by the same allow-list.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from proxy.admission import Admission
from proxy.deadlines import Watch
from proxy.dispatch import Dispatch, given_up, not_answered
from proxy.entry import Way
from proxy.errors import UpstreamError
from proxy.policy.contract import Unit
from proxy.policy.policyset import PolicySet
from proxy.realtime.frames import MOST_CLIENT_BYTES, ClientFrames, UpstreamFrames, accepted
from proxy.realtime.ledger import Ledger
from proxy.realtime.leg import Leg
from proxy.realtime.replies import Replies
from proxy.realtime.session import News, Session
from proxy.realtime.talk import Talk
from proxy.realtime.voice import Voice
from proxy.settlement import Settlement
from proxy.trip import Arrival, Observer, Switch, Trip
from proxy.wire.failure import upstream_refusal
from proxy.wire.headers import sane_request_id, towards_client
from proxy.wire.upgrade import REALTIME, is_beta, passed_on, protocols_of

# What the opening was charged for, so that a turn is not: a turn of realtime is a part of one call, and one of responses is a call.
_SPARED = {"/v1/realtime": frozenset({Unit.REQUESTS, Unit.SLOTS}), "/v1/responses": frozenset({Unit.SLOTS})}
_MOST_ERROR_BYTES = 64 << 10


class Openings:
    """Opens sessions. policies: the set that is current now; random: n → n random bytes."""

    def __init__(
        self,
        *,
        admission: Admission,
        dispatch: Dispatch,
        settlement: Settlement,
        observer: Observer,
        policies: Callable[[], PolicySet],
        random: Callable[[int], bytes],
    ) -> None:
        self._admission = admission
        self._dispatch = dispatch
        self._settlement = settlement
        self._observer = observer
        self._policies = policies
        self._random = random

    async def run(self, trip: Trip, arrival: Arrival, sink: Switch, watch: Watch, lines: Callable[[Trip], list[str]]) -> None:
        """A session from its opening to its end. lines: of our own in the head of the 101.

        Errors: ProxyError, told as any other before the 101, and by the session after it; ConnectionError, CancelledError.
        """
        news = News(asyncio.get_running_loop())
        headers = arrival.head.headers
        protocols = protocols_of(headers)
        upstream = await self._linked(trip, arrival, watch, passed_on(protocols), news)
        try:
            trip.answered = True
            trip.first_byte_ns = trip.now_ns()
            entry = trip.entry
            assert entry is not None
            client = Leg(ClientFrames(most_bytes=min(entry.most_bytes, MOST_CLIENT_BYTES)), news=news.tell, on_lost=sink.lost)
            head = [
                f"sec-websocket-accept: {accepted(headers['sec-websocket-key'])}",
                *([f"sec-websocket-protocol: {REALTIME}"] if REALTIME in protocols else []),
                *towards_client(upstream.frames.headers, request_id=trip.upstream_request_id),
                *lines(trip),
            ]
            client.adopt(sink.switch(head, client))
            trip.status = 101
        except BaseException:
            upstream.abort()
            raise
        session = Session(
            client=client,
            upstream=upstream,
            talk=self._talk(trip, beta=is_beta(headers)),
            news=news,
            watch=watch,
            timeouts=trip.call.timeouts,
            drain=trip.call.drain,
            secrets=trip.secrets(),
            random=self._random,
        )
        trip.fail = session.fail
        await session.run()

    def _talk(self, trip: Trip, *, beta: bool) -> Talk:
        path = trip.call.path
        ledger = Ledger(trip, self._admission, self._settlement, self._observer, self._policies, _SPARED[path])
        return Voice(ledger, beta=beta, random=self._random) if path == "/v1/realtime" else Replies(ledger)

    async def _linked(
        self, trip: Trip, arrival: Arrival, watch: Watch, protocols: tuple[str, ...], news: News
    ) -> Leg[UpstreamFrames]:
        """A connection to the first upstream of the route that takes one, whose answer was 101. Errors: ProxyError."""
        call, entry = trip.call, trip.entry
        assert entry is not None
        assert entry.query is not None
        path = entry.target.partition("?")[0]
        asked = call.timeouts
        failure: UpstreamError | None = None
        for name in trip.set.route(call.model):
            way = self._dispatch.way(name, entry, arrival)
            health, probe = way.health, 0
            if health.shut:
                admitted = health.admit(way.config)
                if admitted is None:
                    failure = failure or health.unavailable()
                    continue
                probe = admitted
            health.calls += 1
            trip.upstream = name
            timeouts = call.timeouts = way.timeouts.within(asked)
            ask = way.ask._replace(target=entry.query.target(path, call.model))
            for number in range(way.config.attempts):
                if number and (health.shut or not health.again(way.config, "unreachable")):
                    break
                trip.tries += 1
                frames = UpstreamFrames(protocols=protocols)
                own = [*self._dispatch.own(trip), *frames.lines()]
                make = partial(Leg[UpstreamFrames], frames, news=news.tell)
                watch.bound(timeouts.total, "first_byte", timeouts.first_byte)
                watch.expect_nothing()  # connecting has a deadline of its own
                try:
                    leg = await way.upstream.link(ask, own, make, connect_timeout_s=timeouts.connect)
                except UpstreamError as error:
                    not_answered(error, way, timeouts, probe)
                    failure = error
                    continue
                except BaseException:
                    given_up(way, timeouts, watch, probe)
                    raise
                trip.sent = True
                watch.expect("first_byte", timeouts.first_byte)
                try:
                    await self._agreed(trip, leg, news)
                except BaseException as error:
                    leg.abort()
                    if isinstance(error, UpstreamError):
                        _not_agreed(way, frames.status, probe)
                    else:
                        given_up(way, timeouts, watch, probe)
                    raise
                health.succeeded(probe=probe)
                watch.expect_nothing()
                return leg
        assert failure is not None, "a route names upstreams, and each was tried or passed over"
        raise failure

    async def _agreed(self, trip: Trip, leg: Leg[UpstreamFrames], news: News) -> None:
        """Wait for the upstream's 101. Errors: UpstreamError for any other answer, and for none."""
        frames = leg.frames
        while not frames.answered:
            await news.wait()
        if not frames.status:
            raise _broken("no answer to an upgrade")
        trip.answered = True
        trip.upstream_request_id = sane_request_id(frames.headers.get("x-request-id"))
        if frames.status != 101 or not (frames.open or frames.ending):
            if 200 <= frames.status < 300 or frames.status == 101:
                raise _broken("an upgrade was not agreed to")
            raise upstream_refusal(frames.status, frames.body[:_MOST_ERROR_BYTES], frames.headers, secrets=trip.secrets())


def _not_agreed(way: Way, status: int, probe: int) -> None:
    """Tell an upstream's health of an answer that is no 101."""
    if not 300 <= status < 500:
        way.health.failed(way.config, probe=probe)
        return
    way.health.answered(probe=probe)
    if status == 401:
        way.health.refused_us(way.config)


def _broken(detail: str) -> UpstreamError:
    return UpstreamError("upstream_broken", "The upstream's answer was malformed or broke off.", detail=detail)
