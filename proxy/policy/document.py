"""The text of a policy file as a tree of nodes with their places, and what can be wrong with it before anything is understood.

YAML is cut down to what cannot surprise: one document of mappings, lists and scalars; no anchors and aliases, merge keys, custom
tags or duplicate keys; bounded in size and depth. A scalar stays the text it was written as: `proxy.policy.values` gives it a
meaning. The rule a reader could break: every mistake has a place, and none stops the search for the next one unless the text ends
to make sense there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml

from proxy.policy.scalar import quote, yaml_reading

MOST_BYTES = 1_000_000
# The format itself needs eight levels.
MOST_DEPTH = 16
# Nobody reads on, and a file of nothing but mistakes would keep us busy with looking for what each was meant to be.
MOST_MISTAKES = 200

# libyaml parses a 1 MB file in a tenth of the time; every published wheel of PyYAML has it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = frozenset(f"tag:yaml.org,2002:{t}" for t in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map")) | {"!"}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, or worth a warning. path: YAML path such as `policies[1].budget.usd`, "" for the file itself."""

    file: str
    place: Place
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.place.line}:{self.place.column}: "
        return where + (f"{self.path}: " if self.path else "") + self.message


# The way from the top of the file to a value: `("policies", 1, "budget", "usd")`.
Trail = tuple[str | int, ...]


def written(trail: Trail) -> str:
    """A trail as people write it: `policies[1].budget.usd`, `prices.models["gemma-*"]`."""
    text = ""
    for step in trail:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]{1,64}", step):
            text += f".{step}" if text else step
        else:
            text += f"[{quote(step)}]"
    return text


_NO_FILES: Mapping[Path, bytes | None] = MappingProxyType({})


class PolicyFileError(Exception):
    """A policy file that cannot be used.

    mistakes: all of them, in the order of the text. files: secret files it asked for, with the SHA-256 of what was in them, None for
    one that could not be read.
    """

    def __init__(self, mistakes: tuple[Mistake, ...], *, files: Mapping[Path, bytes | None] = _NO_FILES) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes
        self.files = files


@dataclass(frozen=True, slots=True)
class Scalar:
    place: Place
    text: str
    plain: bool


@dataclass(frozen=True, slots=True)
class Items:
    place: Place
    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Pairs:
    """A mapping, keys unique, in the order of the text."""

    place: Place
    pairs: "tuple[tuple[Scalar, Node], ...]"


@dataclass(frozen=True, slots=True)
class Broken:
    """A node whose mistake is already known."""

    place: Place


Node = Scalar | Items | Pairs | Broken


class Enough(Exception):
    """So much is wrong that nobody reads on. The mistakes are where they were noted."""


class Mistakes:
    """The mistakes of one file, as they are found."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Mistake] = []

    def note(self, place: Place, trail: Trail, message: str) -> None:
        """Errors: Enough, after the last one that is worth noting."""
        if len(self.found) == MOST_MISTAKES:
            self.found.append(
                Mistake(self.file, place, "", f"there are more than {MOST_MISTAKES} mistakes; the others are not shown")
            )
            raise Enough
        self.found.append(Mistake(self.file, place, written(trail), message))

    def in_order(self) -> tuple[Mistake, ...]:
        return tuple(sorted(self.found, key=lambda m: (m.place, m.path, m.message)))


class _Stop(Exception):
    """Nothing after this place can be understood."""


def parse(data: bytes, mistakes: Mistakes) -> Node:
    """The tree of a file. One that cannot be understood at all is a Broken node. Errors: Enough."""
    try:
        return _Composer(mistakes).compose(data)
    except _Stop:
        return Broken(Place(1, 1))


class _Composer:
    """Builds nodes from the events of a YAML parser: the library's own composer would follow aliases and keep the last duplicate."""

    def __init__(self, mistakes: Mistakes) -> None:
        self._mistakes = mistakes
        self._events: Iterator[Any] = iter(())

    def compose(self, data: bytes) -> Node:
        if len(data) > MOST_BYTES:
            self._stop(Place(1, 1), f"the file has {len(data)} bytes; at most {MOST_BYTES} are read")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start]
            place = Place(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
            self._stop(place, "the file is not UTF-8 text")
        try:
            self._events = yaml.parse(text, Loader=_LOADER)
            return self._document()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = _place(mark) if mark else Place(1, 1)
            self._stop(place, f"not valid YAML: {error.problem or error.context}{_advice(text, place)}")
        except yaml.reader.ReaderError as error:
            # Its position counts characters or bytes, by parser; the character itself is found again here.
            at = text.find(chr(error.character)) if isinstance(error.character, int) else text.find(str(error.character))
            before_text = text[: max(at, 0)]
            place = Place(before_text.count("\n") + 1, len(before_text) - before_text.rfind("\n"))
            self._stop(place, "not valid YAML: a control character")
        except yaml.YAMLError:
            self._stop(Place(1, 1), "not valid YAML")

    def _document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._stop(_place(event.start_mark), "a second document starts here; the file is one document")
                root = self._node(next(self._events), trail=())
        if root is None or root == Scalar(root.place, "", plain=True):
            self._stop(Place(1, 1), "the file is empty; it starts with `version: 1`")
        return root

    def _node(self, event: Any, *, trail: Trail) -> Node:
        place = _place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self._wrong(place, f"the alias *{event.anchor} is not supported; write the value out", trail=trail)
            return Broken(place)
        if len(trail) > MOST_DEPTH:
            self._stop(place, f"nested deeper than {MOST_DEPTH} levels", trail=trail)
        if event.anchor is not None:
            self._wrong(place, f"the anchor &{event.anchor} is not supported; write values out where they are used", trail=trail)
        node = self._bare_node(event, place=place, trail=trail)
        if event.tag is not None and event.tag not in _TAGS:
            self._wrong(
                place,
                f"the tag {quote(event.tag.replace('tag:yaml.org,2002:', '!!'))} is not supported; write plain values",
                trail=trail,
            )
            return Broken(place)
        return node

    def _bare_node(self, event: Any, *, place: Place, trail: Trail) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(place, event.value, plain=event.implicit[0] and event.style in (None, ""))
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, trail=(*trail, len(items))))
            return Items(place, tuple(items))
        pairs: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
                self._stop(_place(event.start_mark), "a key is a word, not a list or mapping", trail=trail)
            key = self._node(event, trail=trail)
            name = key.text if isinstance(key, Scalar) else "?"
            value = self._node(next(self._events), trail=(*trail, name))
            if isinstance(key, Scalar) and self._usable(key, pairs, trail=trail):
                pairs[key.text] = (key, value)
        return Pairs(place, tuple(pairs.values()))

    def _usable(self, key: Scalar, before: dict[str, tuple[Scalar, Node]], *, trail: Trail) -> bool:
        if key.plain and key.text == "<<":
            self._wrong(key.place, "the merge key << is not supported; write the values out", trail=trail)
        elif key.plain and (reading := yaml_reading(key.text)):
            self._wrong(key.place, f'YAML reads the key `{key.text}` as {reading}; write "{key.text}" in quotes', trail=trail)
        elif key.text in before:
            first = before[key.text][0].place
            self._wrong(key.place, f"the key {quote(key.text)} stands twice; it is already in line {first.line}", trail=trail)
        else:
            return True
        return False

    def _wrong(self, place: Place, message: str, *, trail: Trail = ()) -> None:
        self._mistakes.note(place, trail, message)

    def _stop(self, place: Place, message: str, *, trail: Trail = ()) -> NoReturn:
        self._wrong(place, message, trail=trail)
        raise _Stop


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _advice(text: str, place: Place) -> str:
    lines = text.splitlines()
    around = "\n".join(lines[max(place.line - 2, 0) : place.line])
    if "${" in around:
        return "; a ${…} inside { } or [ ] needs quotes"
    if "\t" in around:
        return "; YAML is indented with spaces, not tabs"
    return ""
