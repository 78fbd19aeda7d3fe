"""What one scalar of the policy file is: a text, a kind that reads it, and words for what is wrong with it.

A kind reads the raw text, so that YAML's own readings (`no` is false, `012` is ten, `1:30` is ninety) become mistakes instead of
values. The kinds themselves are in `proxy.policy.values`. No YAML, no files and no environment here.

The rule a reader could break: a text that came from the environment or a file, or that is a secret by its kind, is never quoted.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any


class Wrong(ValueError):
    """What is wrong with a value, in words for whoever wrote it. field: the key it is about, where a whole mapping was judged."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


@dataclass(frozen=True, slots=True, repr=False)
class Raw:
    """A scalar as it stands in the file. plain: written without quotes; hidden: filled in from elsewhere, not to be shown."""

    text: str
    plain: bool = False
    hidden: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One type of scalar.

    expects: completes "expected …". parse: the text to its value; raises Wrong with its own words, or ValueError for
    "expected …, got …". schema: JSON Schema of what an editor should accept. text: names and patterns, where quotes help against
    YAML's readings. secret: never quoted. truth: `true` and `false` mean what YAML takes them for.
    """

    expects: str
    parse: Callable[[str], Any]
    schema: Mapping[str, Any]
    text: bool = False
    secret: bool = False
    truth: bool = False

    def read(self, raw: Raw) -> Any:
        """The value. Errors: Wrong."""
        if raw.plain:
            self._refuse_yaml_readings(raw.text)
        try:
            return self.parse(raw.text)
        except ValueError as error:
            if raw.hidden:
                raise Wrong(f"expected {self.expects}, but what was filled in is none") from None
            if isinstance(error, Wrong):
                raise
            got = "" if self.secret else f", got {quote(raw.text)}"
            raise Wrong(f"expected {self.expects}{got}") from None

    def _refuse_yaml_readings(self, text: str) -> None:
        if is_null(text):
            raise Wrong(f"has no value; expected {self.expects}")
        reading = yaml_reading(text)
        if reading is None or self.secret or (self.truth and text in ("true", "false")):
            return
        remedy = f'write "{text}" in quotes' if self.text else f"expected {self.expects}"
        raise Wrong(f"YAML reads `{text}` as {reading}; {remedy}")


@dataclass(frozen=True, slots=True, eq=False)
class NotEmpty:
    """Marks a list or mapping that needs at least one entry. otherwise: what to do instead of leaving it empty."""

    otherwise: str


def quote(text: str) -> str:
    """`text` for a message: on one line, in quotes, not longer than a reader wants."""
    short = text if len(text) <= 60 else text[:57] + "…"
    return '"' + "".join(c if c.isprintable() else "·" for c in short) + '"'


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be. Case does not matter."""
    lowered = {name.lower(): name for name in islice(known, 1000)}
    near = get_close_matches(word[:100].lower(), lowered, n=1, cutoff=0.65)
    return lowered[near[0]] if near else None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown word: its nearest relative, or all it could be."""
    near = nearest(word, known)
    if near is not None:
        return f"; did you mean {near}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""


# What YAML 1.1 makes of a plain scalar. Source: yaml.org/type, bool, null, int and float.
_TRUE = frozenset(w for s in ("yes", "on", "true") for w in (s, s.title(), s.upper()))
_FALSE = frozenset(w for s in ("no", "off", "false") for w in (s, s.title(), s.upper()))
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_RADIX = re.compile(r"[-+]?0(x[0-9a-fA-F_]+|b[01_]+)")
_SEXAGESIMAL = re.compile(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_GROUPED = re.compile(r"[-+]?[0-9]+(_[0-9]*)+(\.[0-9_]*)?")


def is_null(text: str) -> bool:
    """Whether YAML reads a plain scalar as nothing at all."""
    return text in ("", "~", "null", "Null", "NULL")


def yaml_reading(text: str) -> str | None:
    """What YAML reads a plain scalar as where that is not what it looks like, else None."""
    if text.lower() in ("true", "false"):
        return "a truth value" if text in _TRUE | _FALSE else None
    if text in _TRUE:
        return "true"
    if text in _FALSE:
        return "false"
    for pattern, name in (
        (_OCTAL, "an octal number"),
        (_RADIX, "a number"),
        (_SEXAGESIMAL, "a number in base 60"),
        (_GROUPED, "a number"),
    ):
        if pattern.fullmatch(text):
            return name
    return None
