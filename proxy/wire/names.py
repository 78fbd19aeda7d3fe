"""Names of header fields as parsers hand them over: what each is to us, by its bytes.

The rule a reader could break: names come from whoever is at the other end, so what is remembered of them is bounded.
"""

from typing import TypeVar

_MOST_NAMES = 256
_LONGEST_NAME = 64  # longer ones are made up by somebody

T = TypeVar("T")


class ByName(dict[bytes, T]):
    """Made when asked for, by `of`. Clients and upstreams send the same few names in every call."""

    __slots__ = ()

    def of(self, lower: str) -> T:
        """What a name in lower case is."""
        raise NotImplementedError

    def __missing__(self, name: bytes) -> T:
        found = self.of(name.decode("latin-1").lower())
        if len(name) <= _LONGEST_NAME and len(self) < _MOST_NAMES:
            self[name] = found
        return found


class LowerNames(ByName[str]):
    """The name itself, in lower case."""

    __slots__ = ()

    def of(self, lower: str) -> str:
        return lower
