"""Turns nodes into dataclasses by their annotations, and keeps what was found where.

A field with `option` metadata is a YAML key; its annotation says what may stand there: a scalar kind (`Annotated[T, Kind]`), another
such dataclass, `tuple[X, ...]` (a list; one scalar may stand for a list of one), `Mapping[K, V]`, either of them marked `NotEmpty`,
`X | None` for what may be left out, and a choice by shape: a scalar, a list or a dataclass (`Word | Price`). A field whose name ends in
`_` is a key that Python keeps for itself (`from_`). The same annotations are the schema.

Every value that could be read is kept with its trail even where the whole around it is broken, so that cross checks see all there is.
The rule a reader could break: `BROKEN` means that the mistake is already noted; never note it twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from proxy.policy.contract import Clause
from proxy.policy.document import Broken, Items, Mistake, Mistakes, Node, Pairs, Place, Scalar, Trail, written
from proxy.policy.references import References
from proxy.policy.scalar import Kind, NotEmpty, Raw, Wrong, did_you_mean, is_null, quote

BROKEN: Any = object()
ANY: Any = object()


@dataclass(frozen=True, slots=True)
class Entry:
    """One YAML key. hint: its annotation, without `| None`."""

    name: str
    hint: Any
    doc: str
    required: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """What a mapping may hold. build: keyword arguments to the value. exactly_one: whether the keys exclude each other."""

    entries: tuple[Entry, ...]
    build: Callable[..., Any]
    doc: str
    exactly_one: bool = False


Shapes = Mapping[type, Shape]


def shape_of(cls: type) -> Shape:
    """The YAML keys of a dataclass: its fields that have documentation."""
    hints = get_type_hints(cls, include_extras=True)
    entries = tuple(
        Entry(
            f.name.rstrip("_"),
            without_none(hints[f.name]),
            f.metadata["doc"],
            f.default is MISSING and f.default_factory is MISSING,
        )
        for f in fields(cls)
        if "doc" in f.metadata
    )
    build: Callable[..., Any] = cls
    kept = {f.name.rstrip("_"): f.name for f in fields(cls) if f.name.endswith("_")}
    # The compiler names the policy; until then a clause belongs to none.
    given = {"policy": ""} if issubclass(cls, Clause) else {}
    if kept or given:

        def build(**values: Any) -> Any:
            return cls(**given, **{kept.get(name, name): value for name, value in values.items()})

    doc = (cls.__doc__ or "").strip().splitlines()[0]
    return Shape(entries, build, doc, exactly_one=getattr(cls, "exactly_one", False))


def without_none(hint: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    kept = tuple(a for a in get_args(hint) if a is not NoneType)
    return kept[0] if len(kept) == 1 else Union[kept]  # noqa: UP007 (built at run time)


def kind_of(hint: Any) -> Kind | None:
    """The scalar kind of an annotation, or None for anything else."""
    if get_origin(hint) is Annotated:
        return next((extra for extra in hint.__metadata__ if isinstance(extra, Kind)), None)
    return None


def not_empty(hint: Any) -> NotEmpty | None:
    """The mark of a list or mapping that must have an entry."""
    if get_origin(hint) is Annotated:
        return next((extra for extra in hint.__metadata__ if isinstance(extra, NotEmpty)), None)
    return None


@dataclass(frozen=True, slots=True, repr=False)
class Found:
    """A value that was read. literal: it stands in the file itself."""

    value: Any
    literal: bool = True


@dataclass(slots=True, repr=False)
class Reading:
    """What was found in a file: values by trail, in the order of the text, and mistakes.

    files: what `${file:…}` asked for, as References has it.
    """

    mistakes: Mistakes
    found: dict[Trail, Found] = field(default_factory=dict)
    places: dict[Trail, Place] = field(default_factory=dict)
    files: Mapping[Path, bytes | None] = field(default_factory=dict)

    def find(self, *pattern: Any) -> Iterator[tuple[Trail, Any]]:
        """Values whose trail matches step by step; ANY stands for any one step, `...` at the end for any number."""
        open_ended = pattern[-1] is ...
        steps = pattern[:-1] if open_ended else pattern
        for trail, found in self.found.items():
            long_enough = len(trail) >= len(steps) if open_ended else len(trail) == len(steps)
            if long_enough and all(s is ANY or s == t for s, t in zip(steps, trail, strict=False)):
                yield trail, found.value

    def shown(self, trail: Trail) -> str:
        """A value for a message. One that was filled in is not shown."""
        found = self.found[trail]
        return quote(str(found.value)) if found.literal else "(filled in, not shown)"

    def wrong(self, trail: Trail, message: str) -> None:
        self.mistakes.note(self._near(trail), trail, message)

    def at(self, trail: Trail, message: str) -> Mistake:
        """A warning about what stands at `trail`, or about the nearest thing around it."""
        return Mistake(self.mistakes.file, self._near(trail), written(trail), message)

    def _near(self, trail: Trail) -> Place:
        while trail and trail not in self.places:
            trail = trail[:-1]
        return self.places.get(trail, Place(1, 1))


class Reader:
    """Reads nodes into values. shapes: what replaces a dataclass's own fields."""

    def __init__(self, reading: Reading, *, references: References, shapes: Shapes) -> None:
        self._reading = reading
        self._references = references
        self._shapes = dict(shapes)

    def read(self, node: Node, hint: Any, *, trail: Trail) -> Any:
        """The value of a node, or BROKEN after its mistakes were noted."""
        self._reading.places.setdefault(trail, node.place)
        if isinstance(node, Broken):
            return BROKEN
        if (kind := kind_of(hint)) is not None:
            return self._scalar(node, kind, trail=trail)
        if (full := not_empty(hint)) is not None:
            value = self.read(node, get_args(hint)[0], trail=trail)
            return value if value else self._wrong(trail, f"expected at least one; {full.otherwise}")
        origin = get_origin(hint)
        if origin in (Union, UnionType):
            return self.read(node, _fitting(get_args(hint), node), trail=trail)
        if origin is tuple:
            return self._items(node, get_args(hint)[0], trail=trail)
        if origin is not None and issubclass(origin, Mapping):
            key, value = get_args(hint)
            return self._mapping(node, key, value, trail=trail)
        return self._object(node, hint, trail=trail)

    def _scalar(self, node: Node, kind: Kind, *, trail: Trail) -> Any:
        if not isinstance(node, Scalar):
            return self._wrong(trail, f"expected {kind.expects}, got {_called(node)}")
        raw = self._filled_in(node, trail=trail)
        if raw is BROKEN:
            return BROKEN
        try:
            value = kind.read(raw)
        except Wrong as wrong:
            return self._wrong(trail, wrong.message)
        self._reading.found[trail] = Found(value, literal=not raw.hidden)
        return value

    def _filled_in(self, node: Scalar, *, trail: Trail) -> Any:
        if "${" not in node.text:
            return Raw(node.text, plain=node.plain)
        try:
            return Raw(self._references.resolve(node.text), hidden=True)
        except Wrong as wrong:
            return self._wrong(trail, wrong.message)

    def _items(self, node: Node, hint: Any, *, trail: Trail) -> Any:
        kind = kind_of(hint)
        if kind is not None and isinstance(node, Scalar):
            value = self._scalar(node, kind, trail=trail)
            return value if value is BROKEN else (value,)
        if not isinstance(node, Items):
            return self._wrong(trail, f"expected a list, got {_called(node)}")
        values = [self.read(item, hint, trail=(*trail, n)) for n, item in enumerate(node.items)]
        if kind is not None and len(set(values)) < len(values):
            return self._twice(values, trail=trail)
        return BROKEN if BROKEN in values else tuple(values)

    def _twice(self, values: Sequence[Any], *, trail: Trail) -> Any:
        """Notes what stands in a list of scalars more than once. What is broken was noted before."""
        seen: set[Any] = set()
        for n, value in enumerate(values):
            if value in seen and value is not BROKEN:
                self._wrong((*trail, n), f"{self._reading.shown((*trail, n))} stands twice in the list")
            seen.add(value)
        return BROKEN

    def _mapping(self, node: Node, key_hint: Any, value_hint: Any, *, trail: Trail) -> Any:
        if not isinstance(node, Pairs):
            return self._wrong(trail, f"expected a mapping, got {_called(node)}")
        kind = kind_of(key_hint)
        assert kind is not None, "a mapping's keys are scalars"
        values: dict[Any, Any] = {}
        broken = False
        for key, value_node in node.pairs:
            at = (*trail, key.text)
            self._reading.places[at] = key.place
            try:
                name = kind.read(Raw(key.text, plain=key.plain))
            except Wrong as wrong:
                self._wrong(at, f"this key: {wrong.message}")
                broken = True
                continue
            values[name] = self.read(value_node, value_hint, trail=at)
            broken = broken or values[name] is BROKEN
        return BROKEN if broken else MappingProxyType(values)

    def _object(self, node: Node, cls: Any, *, trail: Trail) -> Any:
        shape = self._shapes.get(cls)
        if shape is None:
            shape = self._shapes[cls] = shape_of(cls)
        known = {entry.name: entry for entry in shape.entries}
        if not isinstance(node, Pairs):
            expected = f"expected a mapping with {_listed(known)}" if known else "expected an empty mapping {}"
            return self._wrong(trail, f"{expected}, got {_called(node)}")
        before = len(self._reading.mistakes.found)
        values: dict[str, Any] = {}
        for key, value_node in node.pairs:
            at = (*trail, key.text)
            if key.text not in known:
                self._reading.places[at] = key.place
                self._wrong(at, f"unknown key{did_you_mean(key.text, tuple(known))}")
                continue
            values[key.text] = self.read(value_node, known[key.text].hint, trail=at)
        present = {key.text for key, _ in node.pairs}
        for entry in shape.entries:
            if entry.required and entry.name not in present:
                self._wrong(trail, f'missing key "{entry.name}"')
        if shape.exactly_one and len(values) != 1:
            self._wrong(trail, f"expected exactly one of {_listed(known)}")
        if BROKEN in values.values() or len(self._reading.mistakes.found) > before:
            return BROKEN
        return self._built(shape, values, trail=trail)

    def _built(self, shape: Shape, values: dict[str, Any], *, trail: Trail) -> Any:
        try:
            value = shape.build(**values)
        except Wrong as wrong:
            return self._wrong((*trail, wrong.field) if wrong.field else trail, wrong.message)
        self._reading.found[trail] = Found(value)
        return value

    def _wrong(self, trail: Trail, message: str) -> Any:
        self._reading.wrong(trail, message)
        return BROKEN


def _fitting(hints: Sequence[Any], node: Node) -> Any:
    """Which of several hints a node is meant as, by its shape; the simplest where none fits."""
    for hint in hints:
        shape = Scalar if kind_of(hint) is not None else Items if get_origin(hint) is tuple else Pairs
        if isinstance(node, shape):
            return hint
    return min(hints, key=lambda hint: kind_of(hint) is None)


def _called(node: Node) -> str:
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Pairs):
        return "a mapping"
    if isinstance(node, Scalar) and node.plain and is_null(node.text):
        return "nothing"
    return "a single value"


def _listed(names: Mapping[str, Entry]) -> str:
    return ", ".join(names)
