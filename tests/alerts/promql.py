"""What a PromQL expression names: its metrics with what it asks of their labels, and the labels that it groups by.

Not a parser: promtool is one. It takes strings, braces and parentheses of groupings away, and what is left and is no word of the
language is a metric. The rule a reader could break: a word of PromQL that is not in the list here is taken for a metric.
"""

import re
from dataclasses import dataclass, field

_WORDS = frozenset(("and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"))
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_MATCHER = re.compile(rf'({_NAME})\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(rf'({_NAME})\s*\{{((?:[^{{}}"]|"(?:[^"\\]|\\.)*")*)\}}')
_GROUPING = re.compile(rf"\b(by|without|on|ignoring|group_left|group_right)\s*\(((?:\s*{_NAME}\s*,?)*)\)")


@dataclass(frozen=True, slots=True)
class Matcher:
    label: str
    operator: str
    value: str


@dataclass(slots=True)
class Named:
    """metrics: names and, for each place where it stands, its matchers. by, without: labels of aggregations; others: of other groupings."""

    metrics: dict[str, list[Matcher]] = field(default_factory=dict)
    by: set[str] = field(default_factory=set)
    without: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)


def named(expression: str) -> Named:
    """What it names. Variables of a dashboard may stand in strings and in ranges."""
    found = Named()

    def selector(match: re.Match[str]) -> str:
        found.metrics.setdefault(match[1], []).extend(Matcher(*parts) for parts in _MATCHER.findall(match[2]))
        return " "

    def grouping(match: re.Match[str]) -> str:
        labels = set(re.findall(_NAME, match[2]))
        {"by": found.by, "without": found.without}.get(match[1], found.others).update(labels)
        return " "

    rest = _SELECTOR.sub(selector, expression)
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', " ", rest)
    rest = _GROUPING.sub(grouping, rest)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)  # ranges
    rest = re.sub(r"\b\d[\w.]*", " ", rest)  # numbers and durations
    for match in re.finditer(rf"{_NAME}(?!\s*\()(?![\w:])", rest):
        if match[0] not in _WORDS:
            found.metrics.setdefault(match[0], [])
    return found
