"""What stands between the pipeline and a model server. The client behind it may be exchanged; nothing above imports its library.

The rule a reader could break: an Answer is closed on every way out. Closing one that is not at its end closes its connection,
which is how an upstream learns that nobody wants the rest.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

# Takes a piece of a body. False: whoever gave it is to give no more for now.
Take = Callable[[bytes], bool]
# The same for one that came as a chunk of HTTP in the one way that everybody writes them: the chunk as it came, where the piece begins
# in it, and where it ends. None: not taken, `Take` is to have it.
TakeChunk = Callable[[bytes, int, int], bool | None]
# What is sent behind a head: the parts of a whole body, none for no body, or chunks as they come.
Body = tuple[bytes | memoryview, ...] | AsyncIterator[bytes]


class Ask(NamedTuple):
    """What to send of the head in many calls. target: absolute path and query as sent on the wire, below the upstream's base URL.

    fields: header lines `name: value`. With a call's own lines they are complete but for framing and Host, which the client writes.
    """

    method: str
    target: str
    fields: tuple[str, ...]


class Answer(Protocol):
    """A response whose head has come.

    headers: names in lower case; a repeated name keeps its values in order under one key, joined by ", ". Of the fields that came, those
    are sure to be here that the client was told to keep when it was made.
    """

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """The next bytes of the body as they came off the socket, b"" at its true end.

        Errors: UpstreamError("upstream_broken") when the body was cut short. Awaiting the next read is the backpressure.
        Cancellation leaves nothing behind: close() still works.
        """

    def at_hand(self) -> bytes | None:
        """The whole body, where all of it was received already, else None. What it gives out nobody gets again."""

    def received(self) -> bytes:
        """What of the body has come and nobody took yet, without waiting; b"" for nothing."""

    def hold(self) -> None:
        """Have no more received, until whoever reads or pumps asks for it."""

    def received_bytes(self) -> int:
        """Bytes that came over its connection so far, framing and earlier answers included; 0 where that is not known.

        Asked now and then, it costs nothing while bytes pass.
        """

    async def pump(self, take: Take, take_chunk: TakeChunk | None = None) -> bool:
        """Hand the body out, piece by piece as it comes, until whoever takes says False: True then, and it may go on with another call.

        False at the body's true end. Pieces are taken while the socket is read, with no task in between, so that must wait for nothing;
        while nobody pumps, the upstream is slowed down. take_chunk: asked first where a piece came as one chunk.
        Errors: as in `read`, and whatever is raised by who takes. Cancellation as in `read`; pieces may be taken until it has taken effect.
        """

    def close(self) -> None:
        """Let go: the connection is kept if the body was read to its end, and closed if not. Any number of times."""


class Opening(Answer, Protocol):
    """A response whose head may be yet to come; its status is 0 until then. It is closed on every way out, too."""

    def more(self) -> Awaitable[object]:
        """Done when more of the head came. Errors: UpstreamError("upstream_broken") when none will. May be cancelled."""


class Heir(asyncio.BaseProtocol):
    """Another protocol's end of a connection, which it has to itself from the first byte to the last."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Send, now or as soon as the socket takes it."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Whoever made it gave up. A loop may go on with a handshake that was cancelled; its end is then the protocol's too."""
        raise NotImplementedError


H = TypeVar("H", bound=Heir)


class Upstream(Protocol):
    @property
    def name(self) -> str: ...

    def send(self, ask: Ask, own: Sequence[str], body: Body) -> Opening | None:
        """Send a call if it can be done without waiting: whole, over a connection that is at hand. None if not; nothing was sent then.

        Errors: UpstreamError with `sent=False`.
        """

    async def open(
        self, ask: Ask, own: Sequence[str], body: Body, *, connect_timeout_s: float, progress: Callable[[], object] | None = None
    ) -> Answer:
        """Send a call and wait for the head of its answer. own: header lines of this call alone; body: the parts of a whole one, or chunks.

        connect_timeout_s: for the way to the first byte that is sent: a turn in the queue, DNS, TCP, the tunnel and TLS.
        progress: called whenever the socket has taken more of the call, the last time when it has all of it.

        Errors: UpstreamError with `sent=False` while no byte of the call was written (refused, unresolved, TLS, connect deadline);
        UpstreamError("upstream_broken") after that. May be cancelled at any point; the connection is then closed.
        """

    async def link(self, ask: Ask, own: Sequence[str], make: Callable[[], H], *, connect_timeout_s: float) -> H:
        """A connection of its own for another protocol, to which the head of a call without a body is written; the rest is its affair.

        Errors: UpstreamError with `sent=False` while no byte was written. May be cancelled; nothing is left open then.
        """

    async def close(self) -> None: ...
