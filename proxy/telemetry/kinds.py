"""What is made once for a kind of call and found again with the next call of that kind.

The rule a reader could break: models and error codes in a kind come from clients and upstreams, so neither how many kinds are
remembered nor how long their names are may be up to them.
"""

from collections.abc import Callable
from typing import TypeVar

from proxy.call import Kind

MOST_KINDS = 1024  # with a log line's constant part and its counters, about 2 KiB each
MOST_NAME_CHARS = 512  # of all names of a kind that come from outside; one with longer names is made anew every time

V = TypeVar("V")


class ByKind(dict[Kind, V]):
    """What `make` makes of a kind. `[kind]` finds it or makes it; a full memory begins anew."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[Kind], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, kind: Kind) -> V:
        made = self._make(kind)
        outside = (kind.model_asked, kind.model, kind.model_served, kind.error)
        if sum(len(name) for name in outside if name) <= MOST_NAME_CHARS:
            if len(self) >= MOST_KINDS:
                self.clear()
            self[kind] = made
        return made
