"""What models cost: the shipped table, and what a policy file lays over it.

Amounts are integer nanodollars per million tokens, exact from decimal text; no float ever stands for money here. A class that
a model has no price of its own for costs what the plain class costs, so nothing is free by being absent. The rule a reader could
break: a name that is not in the table has no price. It is never guessed from a similar one; `unknown` in the policy file decides.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from fnmatch import translate
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from proxy.call import AS_PLAIN, Price

SHIPPED = Path(__file__).parents[2] / "policies" / "prices.yaml"

# The classes of a price, in US dollars per million tokens, as they are spelt in YAML.
CLASSES = ("input", "output", "cached_input", "cache_write", "audio_input", "audio_output", "image_input", "image_output")
# What is not sold by the token, in US dollars each, and how many of our units it is: audio is counted in milliseconds.
UNITS: Mapping[str, int] = {"image": 1, "character": 1, "second": 1000}
_NANO_PER_USD = 10**9
_MOST_USD = 10**6  # keeps the cost of any call within the 64 bits that stores count in
_MOST_FOUND = 1024  # names come from clients: what they can make us remember is bounded
_LONGEST_NAME = 256
STANDARD = "default"  # the service tier that a price is of unless it says otherwise
# A tier asked for by another name than the one that answers give it. Source: facts on the OpenAI API, section 2.
_TIER_NAMES: Mapping[str, str] = {"fast": "priority", "standard": STANDARD}
NO_TOOLS: Mapping[str, int] = MappingProxyType({})
_GLOB = re.compile(r"[*?\[]")
# Every scalar as text, so that a decimal stays the decimal that was written. The C parser reads the table in 3 ms, the other in 25.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def nanousd(usd: str | int | Decimal) -> int:
    """Nanodollars per million tokens. usd: US dollars per million tokens, as decimal text or an exact number.

    Errors: ValueError for what is no number, negative, absurdly large, or finer than a nanodollar.
    """
    try:
        amount = Decimal(usd)
    except InvalidOperation as error:
        raise ValueError(f"expected US dollars per million tokens, got {usd!r}") from error
    if not amount.is_finite() or not 0 <= amount <= _MOST_USD:
        raise ValueError(f"expected US dollars per million tokens between 0 and {_MOST_USD}, got {usd!r}")
    nano = amount * _NANO_PER_USD
    if nano != int(nano):
        raise ValueError(f"{usd!r} is finer than a nanodollar per million tokens")
    return int(nano)


def price_of(row: Mapping[str, Any]) -> Price:
    """The price that a row of the table names: US dollars per million tokens under the words of CLASSES, and what else it costs.

    `input` and `output` are needed; every other class defaults to the plain one of its direction. Errors: ValueError.
    """
    words = dict(row)
    long, tiers = words.pop("long", None), words.pop("tiers", None)
    above = int(long["above"]) if long is not None else 0
    unit, call = [words.pop(name) for name in UNITS if name in words], words.pop("call", "0")
    per = next((parts for name, parts in UNITS.items() if name in row), 1)
    amounts = {name: nanousd(usd) for name, usd in words.items()}
    unknown = sorted(amounts.keys() - set(CLASSES))
    missing = [name for name in ("input", "output") if name not in amounts]
    if unknown or missing:
        raise ValueError(f"unknown price class {unknown[0]!r}" if unknown else f"no price for {missing[0]!r}")
    return whole_price(
        amounts,
        unit=unit_price(nanousd(unit[0]), per) if unit else 0,
        call=nanousd(call),
        long=price_of({name: usd for name, usd in long.items() if name != "above"}) if long is not None else None,
        long_above=above,
        tiers={tier: price_of(classes) for tier, classes in (tiers or {}).items()},
    )


def unit_price(each: int, parts: int) -> int:
    """Nanodollars per million of our units. each: nanodollars for one of what is sold, which is so many of our units."""
    return -(-each * 1_000_000 // parts)


def whole_price(amounts: Mapping[str, int | None], **more: Any) -> Price:
    """A price by classes, in nanodollars. A class without one costs what the plain class costs: nothing is free by being absent."""
    given = {name: amount for name, amount in amounts.items() if amount is not None}
    plain = {"output": given["output"], "audio_output": given["output"], "image_input": AS_PLAIN, "image_output": AS_PLAIN}
    classes: dict[str, Any] = {name: given.get(name, plain.get(name, given["input"])) for name in CLASSES}
    return Price(**classes, **more)


def _names(model: str) -> tuple[str, ...]:
    """The names under which a model's price may stand, nearest first: as asked, without the vendor, a fine-tune's priced base.

    Only `openai/` is stripped: elsewhere the same model has another price. A fine-tune `ft:BASE:org:name:id` is priced as
    `ft:BASE`, which is dearer than BASE itself.
    """
    bare = model.removeprefix("openai/")
    base = ":".join(bare.split(":", 2)[:2]) if bare.startswith("ft:") else bare
    return tuple(dict.fromkeys((model, bare, base)))


def _known(limits: Mapping[str, int], model: str | None) -> int | None:
    return next((limits[name] for name in _names(model) if name in limits), None) if model is not None else None


def _globs(own: Mapping[str, Price]) -> tuple[tuple[re.Pattern[str], Price], ...]:
    names = sorted((name for name in own if _GLOB.search(name)), key=lambda name: (-len(name), name))
    return tuple((re.compile(translate(name)), own[name]) for name in names)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PriceTable:
    """Prices by model name.

    listed, contexts, outputs: the shipped prices, and the most input and output tokens that a model is known to take and make.
    own, globs: what the policy file adds; it wins over the shipped ones, exact names before globs, longer globs before shorter.
    unknown: the price of a model that none of these names, None = it has none. tier: the service tier of a call that names none.
    tools: nanodollars for a call of each hosted tool that has a price, by the tool's word.
    later: tables that take the place of this one, by the time at which they do, in epoch seconds.
    """

    version: str
    listed: Mapping[str, Price]
    contexts: Mapping[str, int]
    outputs: Mapping[str, int] = field(default_factory=dict)
    own: Mapping[str, Price] = field(default_factory=dict)
    globs: tuple[tuple[re.Pattern[str], Price], ...] = ()
    unknown: Price | None = None
    tier: str = STANDARD
    tools: Mapping[str, int] = field(default_factory=dict)
    later: "tuple[tuple[float, PriceTable], ...]" = ()
    _found: dict[tuple[str, str | None], Price | None] = field(default_factory=dict)

    @classmethod
    def shipped(cls) -> "PriceTable":
        """The table that comes with the package, read once."""
        return _shipped()

    @classmethod
    def parse(cls, text: bytes) -> "PriceTable":
        """A table in the form of policies/prices.yaml. Its version is its date and a hash of its bytes. Errors: ValueError."""
        document = yaml.load(text, Loader=_LOADER)  # noqa: S506 - it builds nothing but strings, lists and mappings
        listed: dict[str, Price] = {}
        known: dict[str, dict[str, int]] = {"context": {}, "most_output": {}}
        for model, row in document["models"].items():
            for word, limits in known.items():
                if (limit := row.pop(word, None)) is not None:
                    limits[model] = int(limit)
            listed[model] = price_of(row)
        return cls(f"{document['as_of']}-{sha256(text).hexdigest()[:8]}", listed, known["context"], known["most_output"])

    def with_overrides(
        self,
        models: Mapping[str, Price],
        *,
        unknown: Price | None = None,
        tier: str = STANDARD,
        tools: Mapping[str, int] = NO_TOOLS,
        dated: Iterable[tuple[float, str, Price]] = (),
    ) -> "PriceTable":
        """This table under a policy file's `prices`. models: by name or glob. The version names what was laid over it.

        dated: prices that hold from a time on, in epoch seconds, by name or glob.
        """
        changes = sorted(dated, key=lambda change: change[0])
        if not (models or unknown or tools or changes) and tier == STANDARD:
            return self
        digest = sha256(repr((sorted(models.items()), unknown, tier, sorted(tools.items()), changes)).encode()).hexdigest()[:8]
        table = replace(
            self,
            version=f"{self.version}+{digest}",
            own=models,
            globs=_globs(models),
            unknown=unknown,
            tier=tier,
            tools=tools,
            _found={},
        )
        later: list[tuple[float, PriceTable]] = []
        own = dict(models)
        for from_s, name, price in changes:
            own = {**own, name: price}
            if later and later[-1][0] == from_s:
                del later[-1]
            later.append((from_s, replace(table, own=own, globs=_globs(own), _found={})))
        return replace(table, later=tuple(later), _found={})

    def at(self, now_s: float) -> "PriceTable":
        """The table that holds at a time, in epoch seconds."""
        return next((table for from_s, table in reversed(self.later) if from_s <= now_s), self) if self.later else self

    def holds_until_s(self, now_s: float) -> float:
        """When the table that holds now makes way for the next, in epoch seconds; infinity where none comes."""
        return next((from_s for from_s, _ in self.later if now_s < from_s), math.inf)

    def find(self, model: str | None, tier: str | None = None) -> Price | None:
        """What a call of a model is held at, and billed at unless its answer says otherwise; None when it has no price.

        model: its name, case and all; None for a call that names none. tier: the service tier as the body names it, None: it does not.
        """
        if model is None:
            return self.unknown
        asked = (model, tier)
        if asked in self._found:
            return self._found[asked]
        price = self._search(_names(model))
        if price is not None and price is not self.unknown:
            price = self._tiered(price, self.tier if tier in (None, "auto") else _TIER_NAMES.get(str(tier), str(tier)))
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        if len(model) <= _LONGEST_NAME:
            self._found[asked] = price
        return price

    def context(self, model: str | None) -> int | None:
        """The most input tokens one call of this model can carry, whatever its body refers to; None where that is not known."""
        return _known(self.contexts, model)

    def most_output(self, model: str | None) -> int | None:
        """The most output tokens of one answer of this model, an image where it makes those; None where that is not known."""
        return _known(self.outputs, model)

    def _tiered(self, price: Price, tier: str) -> Price | None:
        """A model's price for a call that asks for a tier: the dearer of it and of the standard one, to which any call may fall back.

        A tier without a price costs what `unknown` says, and never nothing, unless the model itself costs nothing.
        """
        if tier == STANDARD or price.free:
            return price
        asked = price.tiers.get(tier, self.unknown)
        if asked is None or asked.free:
            return None
        dearer, other = sorted((asked, price), key=lambda p: -(p.dearest_input + p.dearest_output))
        return replace(dearer, tiers={**price.tiers, STANDARD: price, tier: asked}, also=(other,))

    def _search(self, names: tuple[str, ...]) -> Price | None:
        exact = next((self.own[name] for name in names if name in self.own), None)
        if exact is not None:
            return exact
        for pattern, price in self.globs:
            if any(pattern.match(name) for name in names):
                return price
        return next((self.listed[name] for name in names if name in self.listed), self.unknown)

    def __repr__(self) -> str:
        unknown = "priced" if self.unknown else "without a price"
        return f"<PriceTable {self.version} models={len(self.listed)} own={len(self.own)} unknown {unknown}>"


@cache
def _shipped() -> PriceTable:
    return PriceTable.parse(SHIPPED.read_bytes())
