"""Nodes into dataclasses by their annotations: everything that can be wrong with a shape, and what is kept of the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from proxy.policy.contract import option
from proxy.policy.document import Mistakes, parse
from proxy.policy.reading import ANY, BROKEN, Reader, Reading
from proxy.policy.references import References
from proxy.policy.scalar import NotEmpty, Wrong
from proxy.policy.values import Count, Name, words


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel."""

    spokes: Count = option("how many")

    def __post_init__(self) -> None:
        if self.spokes == 13:
            raise Wrong("nobody builds that", field="spokes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One kind of engine."""

    exactly_one: ClassVar[bool] = True
    steam: Count | None = option("kettles", default=None)
    diesel: Count | None = option("cylinders", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cart:
    """A cart."""

    name: Name = option("its name")
    wheels: tuple[Wheel, ...] = option("its wheels", default=())
    horses: Annotated[tuple[Name, ...], NotEmpty("push it")] | None = option("who draws it", default=None)
    load: Mapping[Name, Count] = option("what it carries", default_factory=dict)
    spare: Annotated[str, words("none")] | Wheel = option("none, or a wheel", default="none")
    engine: Engine | None = option("if it has one", default=None)
    built: int = 1900  # no YAML key


def read(text: str) -> tuple[Any, Reading]:
    mistakes = Mistakes("f")
    reading = Reading(mistakes)
    node = parse(text.encode(), mistakes)
    value = Reader(reading, references=References({}, folder=Path()), shapes={}).read(node, Cart, trail=())
    return value, reading


def test_every_annotation_is_read() -> None:
    text = "{name: c, wheels: [{spokes: 8}, {spokes: 9}], horses: moritz, load: {hay: 3}, spare: {spokes: 7}, engine: {steam: 1}}"
    cart, reading = read(text)
    assert reading.mistakes.found == []
    assert cart == Cart(
        name="c",
        wheels=(Wheel(spokes=8), Wheel(spokes=9)),
        horses=("moritz",),
        load={"hay": 3},
        spare=Wheel(spokes=7),
        engine=Engine(steam=1),
    )


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("{}", ['f:1:1: missing key "name"']),
        ("[]", ["f:1:1: expected a mapping with name, wheels, horses, load, spare, engine, got a list"]),
        ("{name: c, built: 1901}", ["f:1:11: built: unknown key; known: name, wheels, horses, load, spare, engine"]),
        ("{name: c, wheel: []}", ["f:1:11: wheel: unknown key; did you mean wheels?"]),
        ("{name: c, wheels: {spokes: 8}}", ["f:1:19: wheels: expected a list, got a mapping"]),
        ("{name: c, wheels: [8]}", ["f:1:20: wheels[0]: expected a mapping with spokes, got a single value"]),
        ("{name: c, wheels: [{spokes: 13}]}", ["f:1:29: wheels[0].spokes: nobody builds that"]),
        ("{name: c, horses: []}", ["f:1:19: horses: expected at least one; push it"]),
        ("{name: c, horses: [max, moritz, max]}", ['f:1:33: horses[2]: "max" stands twice in the list']),
        ("{name: c, load: [hay]}", ["f:1:17: load: expected a mapping, got a list"]),
        ("{name: c, load: {hay: 0}}", ['f:1:18: load.hay: expected a whole number ≥ 1, got "0"']),
        ("{name: c, spare: some}", ['f:1:18: spare: expected none, got "some"']),
        ("{name: c, engine: {}}", ["f:1:19: engine: expected exactly one of steam, diesel"]),
        ("{name: c, engine: {steam: 1, diesel: 2}}", ["f:1:19: engine: expected exactly one of steam, diesel"]),
        (
            "{name: [], wheels: [{spokes: x}, {}], load: {hay: y}}",
            [
                "f:1:8: name: expected a name of letters, digits, `.`, `_` and `-`, at most 64, got a list",
                'f:1:30: wheels[0].spokes: expected a whole number ≥ 1, got "x"',
                'f:1:34: wheels[1]: missing key "spokes"',
                'f:1:46: load.hay: expected a whole number ≥ 1, got "y"',
            ],
        ),
    ],
)
def test_everything_that_is_wrong_is_noted_once_and_in_its_place(text: str, messages: list[str]) -> None:
    cart, reading = read(text)
    assert cart is BROKEN
    assert [str(mistake) for mistake in reading.mistakes.in_order()] == messages


def test_what_could_be_read_is_kept_though_the_whole_is_broken() -> None:
    _, reading = read("{name: c, wheels: [{spokes: 8}, {spokes: x}], horses: [max, 0x1]}")
    assert list(reading.find("wheels", ANY, "spokes")) == [(("wheels", 0, "spokes"), 8)]
    assert list(reading.find("horses", ...)) == [(("horses", 0), "max")]
    assert list(reading.find("name")) == [(("name",), "c")]
