"""A piece of a Kubernetes manifest as plain values, each with its place in the file.

A scalar means what the API server's own reader takes it for; where people and YAML read one differently, it is a mistake, as in a policy
file. The rule a reader could break: a value is asked for by its whole trail, so that what is said about it has a place.
"""

import re
from types import NoneType
from typing import Any

from proxy.policy.document import Enough, Items, Mistake, Mistakes, Node, Pairs, Place, PolicyFileError, Scalar, Trail, parse
from proxy.policy.scalar import did_you_mean, is_null, yaml_reading

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_CALLED: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    NoneType: "nothing",
}
_ABSENT: Any = object()


class Manifest:
    """value: all of it. What is noted later is raised by `finish`. Errors: PolicyFileError for what is no mapping at all."""

    def __init__(self, data: bytes, *, file: str) -> None:
        self._mistakes = Mistakes(file)
        self._places: dict[Trail, Place] = {}
        self._keys: dict[str, Place] = {}  # of the whole
        self._noted: set[tuple[Trail, str]] = set()
        self.value: Any = None
        try:
            if all(line.strip()[:1] in (b"", b"#") for line in data.splitlines()):
                self.wrong((), "the file is empty")
            else:
                self.value = self._value(parse(data, self._mistakes), ())
            if not self._mistakes.found and not isinstance(self.value, dict):
                self.wrong((), "expected a mapping")
        except Enough:
            pass
        self.finish()

    def __repr__(self) -> str:
        return f"<Manifest {self._mistakes.file} values={len(self._places)}>"

    def get(self, trail: Trail, kind: type, default: Any = _ABSENT) -> Any:
        """The value there; the default, or None after a mistake was noted, where there is none of that kind."""
        within: Any = self.value
        for step in trail:
            if isinstance(step, int):
                within = within[step]
                continue
            if not isinstance(within, dict) or step not in within:
                if default is _ABSENT and isinstance(within, dict):
                    self.wrong(trail[:-1], f'missing key "{trail[-1]}"')
                return None if default is _ABSENT else default
            within = within[step]
        if type(within) is not kind:
            self.wrong(trail, f"expected {_CALLED[kind]}, got {_CALLED[type(within)]}")
            return None if default is _ABSENT else default
        return within

    def each(self, trail: Trail, kind: type = dict) -> list[Trail]:
        """The trails of a list's items that are of that kind. A list that is missing has none."""
        found = self.get(trail, list, default=[])
        wanted = [(*trail, position) for position in range(len(found))]
        return [at for at in wanted if self.get(at, kind) is not None]

    def known(self, keys: tuple[str, ...]) -> None:
        """Note the keys of the whole that are none of these."""
        for key, place in self._keys.items():
            if key not in keys:
                self._mistakes.note(place, (key,), f"unknown key{did_you_mean(key, keys)}")

    def wrong(self, trail: Trail, message: str) -> None:
        near = trail
        while near and near not in self._places:
            near = near[:-1]
        mistake = (trail, message)
        if mistake not in self._noted:  # a value may be asked for twice
            self._noted.add(mistake)
            self._mistakes.note(self._places.get(near, Place(1, 1)), trail, message)

    def finish(self) -> None:
        """Errors: PolicyFileError with all that was noted."""
        if self._mistakes.found:
            raise PolicyFileError(self._mistakes.in_order())

    def _value(self, node: Node, trail: Trail) -> Any:
        self._places[trail] = node.place
        if isinstance(node, Items):
            return [self._value(item, (*trail, position)) for position, item in enumerate(node.items)]
        if isinstance(node, Pairs):
            if not trail:
                self._keys = {key.text: key.place for key, _ in node.pairs}
            values = {key.text: self._value(value, (*trail, key.text)) for key, value in node.pairs}
            # What is null is absent, as the API server reads it.
            return {name: value for name, value in values.items() if value is not None}
        return self._scalar(node, trail) if isinstance(node, Scalar) else None

    def _scalar(self, node: Scalar, trail: Trail) -> Any:
        text = node.text
        if not node.plain:
            return text
        if is_null(text):
            return None
        reading = yaml_reading(text)
        if reading is not None and text not in ("true", "false"):
            self.wrong(trail, f'YAML reads `{text}` as {reading}; write "{text}" in quotes')
            return text
        if text in ("true", "false"):
            return text == "true"
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _DECIMAL.fullmatch(text) else text


def unreadable(file: str, error: OSError) -> PolicyFileError:
    """What is said of a file that cannot be read."""
    return PolicyFileError((Mistake(file, Place(1, 1), "", f"the file cannot be read: {error.strerror}"),))
