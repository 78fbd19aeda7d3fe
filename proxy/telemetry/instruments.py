"""Counters, gauges and histograms that cost an addition, and families of them that no input can blow up.

A child is one set of label values; look it up once and keep it. Adding is for the event loop's thread only. The rule a reader could
break: a family never holds more than `most` children, whatever label values it is asked for, because a scrape that is too large
fails as a whole and blinds the operator. Beyond that bound everything counts on the child whose labels are all `other`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

OTHER = "other"
_MOST_VALUE_CHARS = 128  # scrapers have a limit of their own for label values


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric. buckets: upper bounds, ascending, without infinity. most: children at most, `other` not counted.

    scale: units counted for one unit shown. Money counts in whole nanodollars and shows dollars, so that adding never rounds.
    buckets are in shown units.
    """

    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    most: int = 1
    scale: int = 1

    @property
    def most_lines(self) -> int:
        """Lines that a scrape can show of it, without HELP and TYPE."""
        children = self.most + 1 if self.labels else 1
        return children * (len(self.buckets) + 3 if self.type == "histogram" else 1)


class Counter:
    """A number that only grows. value: in counted units."""

    __slots__ = ("_prefix", "_scale", "value")

    def __init__(self, name: str, declaration: Declaration, labels: str) -> None:
        self._prefix = f"{name}{{{labels}}} " if labels else f"{name} "
        self._scale = declaration.scale
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def lines(self) -> list[str]:
        return [self._prefix + repr(self.value if self._scale == 1 else self.value / self._scale)]


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """How many observations fell below each bound.

    waiting: values, in counted units, that whoever observes many puts here and has sorted in together, which takes a third of the
    time that one search each does. A scrape sorts in what waits; the rule a reader could break: somebody does without one, too.
    """

    __slots__ = ("_bounds", "_prefixes", "_running", "_scale", "_sum", "waiting")

    def __init__(self, name: str, declaration: Declaration, labels: str) -> None:
        self._scale = declaration.scale
        self._bounds = tuple(bound * self._scale for bound in declaration.buckets)
        self._running = [0] * (len(self._bounds) + 1)  # how many fell below each bound, and how many there are
        self._sum: float = 0
        self.waiting: list[float] = []
        comma = f"{labels}," if labels else ""
        braced = f"{{{labels}}}" if labels else ""
        buckets = [f'{name}_bucket{{{comma}le="{bound}"}} ' for bound in (*map(float, declaration.buckets), "+Inf")]
        self._prefixes = [*buckets, f"{name}_count{braced} ", f"{name}_sum{braced} "]

    def observe(self, value: float) -> None:
        """value: in counted units."""
        self.waiting.append(value)
        self.sort_in()

    @property
    def count(self) -> int:
        return self._running[-1] + len(self.waiting)

    @property
    def sum(self) -> float:
        """In shown units."""
        total = self._sum + sum(self.waiting)
        return total if self._scale == 1 else total / self._scale

    def lines(self) -> list[str]:
        self.sort_in()
        shown = [*self._running, self._running[-1], self.sum]
        return [prefix + repr(value) for prefix, value in zip(self._prefixes, shown, strict=True)]

    def sort_in(self) -> None:
        """Count what waits."""
        if not self.waiting:
            return
        values = sorted(self.waiting)
        self.waiting.clear()
        self._sum += sum(values)
        for n, bound in enumerate(self._bounds):
            self._running[n] += bisect_right(values, bound)
        self._running[-1] += len(values)


C = TypeVar("C", Counter, Gauge, Histogram)


class Family(Generic[C]):
    """The children of one metric, by their label values in the order of its declaration."""

    def __init__(self, name: str, declaration: Declaration, make: Callable[[str, Declaration, str], C]) -> None:
        self.name = name
        self.declaration = declaration
        self._make: Callable[[str, Declaration, str], C] = make
        self._children: dict[tuple[str, ...], C] = {}

    def __repr__(self) -> str:
        return f"<Family {self.name} {len(self._children)}/{self.declaration.most}>"

    def __iter__(self) -> Iterator[C]:
        """The children at this moment; one that is added meanwhile is not among them."""
        return iter(tuple(self._children.values()))

    def child(self, *values: str) -> C:
        """The child of these label values, made when it is new. A full family answers with its `other` child."""
        try:
            return self._children[values]
        except KeyError:
            return self._adopt(values)

    def clear(self) -> None:
        """Forget all children: for a family that shows what holds now, like a version."""
        self._children.clear()

    def _adopt(self, values: tuple[str, ...]) -> C:
        labels = self.declaration.labels
        if len(values) != len(labels):
            raise ValueError(f"{self.name} has the labels {labels}")
        # Made safe before it becomes a key: two spellings that show as one would be a series given twice, which fails the scrape.
        values = tuple(value.encode(errors="replace").decode()[:_MOST_VALUE_CHARS] for value in values)
        if values not in self._children and len(self._children) >= self.declaration.most:
            values = (OTHER,) * len(labels)
        child = self._children.get(values)
        if child is None:
            text = ",".join(f'{label}="{_escape(value)}"' for label, value in zip(labels, values, strict=True))
            child = self._children[values] = self._make(self.name, self.declaration, text)
        return child


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
