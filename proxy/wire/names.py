"""Names of header fields as parsers hand them over, in lower case.

The rule a reader could break: names come from whoever is at the other end, so what is remembered of them is bounded.
"""

_MOST_NAMES = 256
_LONGEST_NAME = 64  # longer ones are made up by somebody


class LowerNames(dict[bytes, str]):
    """Lower-case names by the bytes of the name, made when asked for. Clients and upstreams send the same few names in every call."""

    __slots__ = ()

    def __missing__(self, name: bytes) -> str:
        lower = name.decode("latin-1").lower()
        if len(name) <= _LONGEST_NAME and len(self) < _MOST_NAMES:
            self[name] = lower
        return lower
