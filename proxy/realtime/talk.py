"""What a session asks of the API that it speaks: realtime (`voice`) or responses (`replies`)."""

from typing import NamedTuple, Protocol

from proxy.errors import ProxyError
from proxy.realtime.frames import Message

MOST_TURNS = 32  # of one session at once, those that wait for their first event among them


class Heard(NamedTuple):
    """What to make of a message of the upstream.

    passes: it goes on to the client. back: events of ours for the upstream. told: an error for the client, in the API's form; about: the
    id of its event that it is about. over: the session ends, and why.
    """

    passes: bool = True
    back: tuple[bytes, ...] = ()
    told: ProxyError | None = None
    about: str | None = None
    over: ProxyError | None = None


class Talk(Protocol):
    """flat: how errors are told (`events.told_error`). running: an answer is waited for."""

    flat: bool

    @property
    def running(self) -> bool: ...

    def first(self) -> bytes | None:
        """An event of ours that goes before the client's, or None. Errors: Refusal."""

    async def asked(self, message: Message) -> bytes:
        """An event of the client's as it is sent on; its turn is held. Errors: ProxyError, of which the client is told instead."""

    async def heard(self, message: Message) -> Heard:
        """A message of the upstream's; what it ends is settled."""

    def hush(self) -> tuple[bytes, ...]:
        """Events that have the upstream end what it is at."""

    async def end(self, error: ProxyError | None) -> None:
        """The session is over: settle what is left. error: why, None where the client has left or all was said."""
