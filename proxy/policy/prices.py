"""What models cost: the shipped table, and what a policy file lays over it.

Amounts are integer nanodollars per million tokens, exact from decimal text; no float ever stands for money here. A class that
a model has no price of its own for costs what the plain class costs, so nothing is free by being absent. The rule a reader could
break: a name that is not in the table has no price. It is never guessed from a similar one; `unknown` in the policy file decides.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from fnmatch import translate
from hashlib import sha256
from pathlib import Path

import yaml

from proxy.call import Price

SHIPPED = Path(__file__).parents[2] / "policies" / "prices.yaml"

# The classes of a price, in US dollars per million tokens, as they are spelt in YAML.
CLASSES = ("input", "output", "cached_input", "cache_write", "audio_input", "audio_output")
_NANO_PER_USD = 10**9
_MOST_USD = 10**6  # keeps the cost of any call within the 64 bits that stores count in
_MOST_FOUND = 1024  # names come from clients: what they can make us remember is bounded
_LONGEST_NAME = 256
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


def price_of(classes: Mapping[str, str | int | Decimal]) -> Price:
    """The price that `classes` names: US dollars per million tokens under the words of CLASSES.

    `input` and `output` are needed; every other class defaults to the plain one of its direction. Errors: ValueError.
    """
    amounts = {name: nanousd(usd) for name, usd in classes.items()}
    unknown = sorted(amounts.keys() - set(CLASSES))
    missing = [name for name in ("input", "output") if name not in amounts]
    if unknown or missing:
        raise ValueError(f"unknown price class {unknown[0]!r}" if unknown else f"no price for {missing[0]!r}")
    plain = {"output": amounts["output"], "audio_output": amounts["output"]}
    return Price(**{name: amounts.get(name, plain.get(name, amounts["input"])) for name in CLASSES})


def _names(model: str) -> tuple[str, ...]:
    """The names under which a model's price may stand, nearest first: as asked, without the vendor, a fine-tune's priced base.

    Only `openai/` is stripped: elsewhere the same model has another price. A fine-tune `ft:BASE:org:name:id` is priced as
    `ft:BASE`, which is dearer than BASE itself.
    """
    bare = model.removeprefix("openai/")
    base = ":".join(bare.split(":", 2)[:2]) if bare.startswith("ft:") else bare
    return tuple(dict.fromkeys((model, bare, base)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PriceTable:
    """Prices by model name.

    listed, contexts: the shipped prices and input limits. own, globs: what the policy file adds; it wins over the shipped ones,
    exact names before globs, longer globs before shorter. unknown: the price of a model that none of these names, None = it has none.
    """

    version: str
    listed: Mapping[str, Price]
    contexts: Mapping[str, int]
    own: Mapping[str, Price] = field(default_factory=dict)
    globs: tuple[tuple[re.Pattern[str], Price], ...] = ()
    unknown: Price | None = None
    _found: dict[str, Price | None] = field(default_factory=dict)

    @classmethod
    def shipped(cls) -> "PriceTable":
        """The table that comes with the package."""
        return cls.parse(SHIPPED.read_bytes())

    @classmethod
    def parse(cls, text: bytes) -> "PriceTable":
        """A table in the form of policies/prices.yaml. Its version is its date and a hash of its bytes. Errors: ValueError."""
        document = yaml.load(text, Loader=_LOADER)  # noqa: S506 - it builds nothing but strings, lists and mappings
        listed: dict[str, Price] = {}
        contexts: dict[str, int] = {}
        for model, row in document["models"].items():
            context = row.pop("context", None)
            if context is not None:
                contexts[model] = int(context)
            listed[model] = price_of(row)
        return cls(f"{document['as_of']}-{sha256(text).hexdigest()[:8]}", listed, contexts)

    def with_overrides(self, models: Mapping[str, Price], *, unknown: Price | None = None) -> "PriceTable":
        """This table under a policy file's `prices`. models: by name or glob. The version names what was laid over it."""
        if not models and unknown is None:
            return self
        own = {**self.own, **models}
        globs = sorted((name for name in own if _GLOB.search(name)), key=lambda name: (-len(name), name))
        digest = sha256(repr((sorted(own.items()), unknown)).encode()).hexdigest()[:8]
        return replace(
            self,
            version=f"{self.version}+{digest}",
            own=own,
            globs=tuple((re.compile(translate(name)), own[name]) for name in globs),
            unknown=unknown,
            _found={},
        )

    def find(self, model: str) -> Price | None:
        """The price of a model by its name, case and all; None when it has none."""
        if model in self._found:
            return self._found[model]
        price = self._search(_names(model))
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        if len(model) <= _LONGEST_NAME:
            self._found[model] = price
        return price

    def context(self, model: str) -> int | None:
        """The most input tokens one call of this model can carry, whatever its body refers to; None where that is not known."""
        return next((self.contexts[name] for name in _names(model) if name in self.contexts), None)

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
