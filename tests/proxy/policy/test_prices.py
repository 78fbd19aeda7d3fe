"""What a model costs is exact, is never guessed, and is the platform team's own number where they gave one."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from proxy.call import Price, Usage
from proxy.policy.prices import CLASSES, PriceTable, nanousd, price_of

SHIPPED = PriceTable.shipped()


def usd(input: str, output: str, cached_input: str | None = None) -> Price:
    return price_of({"input": input, "output": output} | ({"cached_input": cached_input} if cached_input is not None else {}))


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("5.00", 5_000_000_000),
        ("0", 0),
        ("0.075", 75_000_000),
        ("0.000000001", 1),
        (3, 3_000_000_000),
        (Decimal("1.1"), 1_100_000_000),
    ],
)
def test_a_decimal_price_becomes_the_same_number_of_nanodollars(text: str | int | Decimal, nano: int) -> None:
    assert nanousd(text) == nano


@pytest.mark.parametrize("text", ["", "five", "-1", "NaN", "sNaN", "Infinity", "1e400000", "1000001", "0.0000000001"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        nanousd(text)


def test_a_class_without_a_price_of_its_own_costs_what_the_plain_class_costs() -> None:
    price = price_of({"input": "2", "output": "8"})
    assert price == Price(
        input=2 * 10**9,
        output=8 * 10**9,
        cached_input=2 * 10**9,
        cache_write=2 * 10**9,
        audio_input=2 * 10**9,
        audio_output=8 * 10**9,
    )


def test_an_explicit_zero_is_a_price() -> None:
    assert price_of({"input": "2", "output": "8", "cached_input": "0"}).cached_input == 0


@pytest.mark.parametrize(
    ("classes", "word"),
    [({"input": "1"}, "output"), ({"output": "1"}, "input"), ({"input": "1", "output": "1", "cachedinput": "0"}, "cachedinput")],
)
def test_a_price_names_its_plain_classes_and_no_unknown_one(classes: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        price_of(classes)


@pytest.mark.parametrize(
    ("model", "input", "cached", "output"),
    [
        ("gpt-4.1", "2.00", "0.50", "8.00"),
        ("gpt-4o-mini", "0.15", "0.075", "0.60"),
        ("gpt-4o-mini-2024-07-18", "0.15", "0.075", "0.60"),
        ("gpt-3.5-turbo", "0.50", "0.50", "1.50"),
        ("text-embedding-3-small", "0.02", "0.02", "0"),
        ("omni-moderation-latest", "0", "0", "0"),
    ],
)
def test_the_shipped_table_knows_what_openai_asks(model: str, input: str, cached: str, output: str) -> None:
    price = SHIPPED.find(model)
    assert price is not None
    assert replace(price, tiers={}) == usd(input, output, cached)


def test_the_shipped_table_is_whole_and_plausible() -> None:
    assert len(SHIPPED.listed) > 100
    for model, price in SHIPPED.listed.items():
        assert all(type(getattr(price, name)) is int and getattr(price, name) >= 0 for name in CLASSES), model
        assert price.cached_input <= price.input <= price.cache_write, model
        assert price.input > 0 or price.unit > 0 or model.startswith("omni-moderation"), model
        for dearer in (price.long, *(tier.long for tier in price.tiers.values())):
            assert dearer is None or dearer.input > 0 < dearer.output, model
        assert price.long is None or price.long.input >= price.input, model
    assert all(limit > 1000 for limit in SHIPPED.contexts.values())
    assert all(limit > 1000 for limit in SHIPPED.outputs.values())


def test_audio_tokens_have_a_price_of_their_own() -> None:
    price = SHIPPED.find("gpt-audio")
    assert price is not None
    heard = Usage(input_tokens=1000, audio_input_tokens=1000)
    assert price.cost_nanousd(heard) == 32_000_000


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ("openai/gpt-4o", "gpt-4o"),
        ("ft:gpt-4o-2024-08-06:acme:web:9x", "ft:gpt-4o-2024-08-06"),
        ("ft:gpt-4o-2024-08-06:acme::9x:ckpt-step-80", "ft:gpt-4o-2024-08-06"),
        ("openai/ft:gpt-4.1-2025-04-14:acme::9x", "ft:gpt-4.1-2025-04-14"),
    ],
)
def test_a_vendor_prefix_and_the_tail_of_a_fine_tune_do_not_hide_the_price(asked: str, listed: str) -> None:
    assert SHIPPED.find(asked) == SHIPPED.listed[listed]
    assert SHIPPED.context(asked) == SHIPPED.contexts[listed]


@pytest.mark.parametrize(
    "model",
    [
        "",
        "GPT-4o",
        "gpt-4o ",
        "gpt-4o-2099-01-01",
        "gpt-4o*",
        "azure/gpt-4o",
        "openai/openai/gpt-4o",
        "ft:gpt-5:acme::9x",
        "ft:",
        "llama-3",
    ],
)
def test_a_price_is_never_guessed_from_a_similar_name(model: str) -> None:
    assert SHIPPED.find(model) is None
    assert SHIPPED.context(model) is None


def test_the_context_of_a_model_bounds_what_its_body_does_not_show() -> None:
    assert SHIPPED.context("gpt-4.1") == 1_047_576
    assert SHIPPED.context("text-embedding-3-small") is None, "its limit is one item's, and a call carries many"


def test_the_files_own_price_wins_over_the_shipped_one() -> None:
    assert SHIPPED.with_overrides({"gpt-4o": usd("1", "2")}).find("gpt-4o") == usd("1", "2")
    assert SHIPPED.with_overrides({"gpt-*": usd("1", "2")}).find("openai/gpt-4o") == usd("1", "2")
    assert SHIPPED.with_overrides({"gpt-4o": usd("1", "2")}).find("gpt-4.1") == SHIPPED.find("gpt-4.1")


def test_exact_names_come_before_globs_and_longer_globs_before_shorter() -> None:
    table = SHIPPED.with_overrides(
        {
            "*": usd("1", "1"),
            "gemma-*": usd("2", "2"),
            "gemma-3-*": usd("3", "3"),
            "gemma-3-27b": usd("4", "4"),
            "vllm/*": usd("5", "5"),
        }
    )
    prices = {
        model: table.find(model) for model in ("llama", "gemma-2", "gemma-3-1b", "gemma-3-27b", "vllm/gemma-3-27b", "GEMMA-2")
    }
    assert prices == {
        "llama": usd("1", "1"),
        "gemma-2": usd("2", "2"),
        "gemma-3-1b": usd("3", "3"),
        "gemma-3-27b": usd("4", "4"),
        "vllm/gemma-3-27b": usd("5", "5"),
        "GEMMA-2": usd("1", "1"),
    }


def test_the_policy_file_decides_what_an_unknown_model_costs() -> None:
    table = SHIPPED.with_overrides({}, unknown=usd("5", "15"))
    assert table.find("llama-3") == usd("5", "15")
    assert table.find("gpt-4o") == SHIPPED.find("gpt-4o")
    assert SHIPPED.find("llama-3") is None


def test_the_version_changes_with_the_prices_and_only_with_them() -> None:
    ours = {"a": usd("1", "2"), "b": usd("3", "4")}
    versions = {
        SHIPPED.version,
        SHIPPED.with_overrides(ours).version,
        SHIPPED.with_overrides({"a": usd("1", "3")}).version,
        SHIPPED.with_overrides(ours, unknown=usd("0", "0")).version,
    }
    assert len(versions) == 4
    assert SHIPPED.with_overrides(dict(reversed(ours.items()))).version == SHIPPED.with_overrides(ours).version
    assert SHIPPED.with_overrides({}).version == SHIPPED.version == PriceTable.shipped().version
    assert SHIPPED.version.startswith("20")


def test_names_that_clients_make_up_are_not_remembered_without_end() -> None:
    table = SHIPPED.with_overrides({"gemma-*": usd("1", "2")})
    for n in range(3000):
        assert table.find(f"gemma-{n}") == usd("1", "2")
    table.find("x" * 100_000)
    assert len(table._found) <= 1024
    assert max(map(len, table._found)) < 1000


def test_a_table_says_what_it_holds() -> None:
    assert repr(SHIPPED.with_overrides({"a": usd("1", "2")})).endswith("own=1 unknown without a price>")


# ---- service tiers, long contexts, dates ----

TIERED = """as_of: 2026-11-22
models:
  m: {input: "2.00", output: "8.00", tiers: {flex: {input: "1.00", output: "4.00"}, priority: {input: "4.00", output: "16.00"}}}
  own: {input: "0.00", output: "0.00"}
"""
READ = Usage(input_tokens=1_000_000)


def tiered(**more: Any) -> PriceTable:
    return PriceTable.parse(TIERED.encode()).with_overrides({}, **more)


@pytest.mark.parametrize(
    ("asked", "configured", "held", "by_answer"),
    [
        (None, "default", 2, {None: 2, "default": 2, "flex": 1, "priority": 4, "scale": 2}),
        ("auto", "default", 2, {None: 2}),
        ("default", "priority", 2, {None: 2}),
        (None, "priority", 4, {None: 4, "default": 2, "priority": 4, "scale": 4}),
        ("priority", "default", 4, {None: 4, "default": 2, "flex": 1}),
        ("fast", "default", 4, {"priority": 4, "default": 2}),
        ("flex", "default", 2, {None: 2, "flex": 1, "default": 2}),
    ],
)
def test_a_tier_is_held_at_the_dearest_that_may_apply_and_billed_at_the_one_that_answers(
    asked: str | None, configured: str, held: int, by_answer: dict[str | None, int]
) -> None:
    price = tiered(tier=configured).find("m", asked)
    assert price is not None
    assert price.worst_nanousd(input_tokens=1_000_000, output_tokens=0) == held * 10**9
    assert {tier: price.cost_nanousd(READ, tier=tier) for tier in by_answer} == {t: usd * 10**9 for t, usd in by_answer.items()}


def test_a_tier_without_a_price_costs_what_unknown_says_and_never_nothing() -> None:
    assert tiered().find("m", "scale") is None
    assert tiered(unknown=usd("0", "0")).find("m", "scale") is None
    rated = tiered(unknown=usd("7", "9")).find("m", "scale")
    assert rated is not None
    assert rated.worst_nanousd(input_tokens=1_000_000, output_tokens=0) == 7 * 10**9
    assert rated.cost_nanousd(READ, tier="scale") == 7 * 10**9
    assert rated.cost_nanousd(READ, tier="default") == 2 * 10**9
    assert tiered(unknown=usd("7", "9")).find("no-such-model", "scale") == usd("7", "9")


def test_a_model_that_costs_nothing_does_so_at_any_tier() -> None:
    assert tiered().find("own", "scale") == usd("0", "0")


def test_a_call_without_a_model_costs_what_unknown_says() -> None:
    assert tiered().find(None) is None
    assert tiered(unknown=usd("7", "9")).find(None) == usd("7", "9")


def test_a_price_holds_from_its_day_on() -> None:
    table = tiered(dated=[(200.0, "m", usd("3", "9")), (100.0, "m", usd("5", "9")), (200.0, "n-*", usd("1", "1"))])
    found = {at: table.at(at).find("m") for at in (0.0, 99.9, 100.0, 199.9, 200.0, 999.0)}
    assert {at: price.input // 10**9 for at, price in found.items() if price is not None} == {
        0.0: 2,
        99.9: 2,
        100.0: 5,
        199.9: 5,
        200.0: 3,
        999.0: 3,
    }
    assert table.at(199.9).find("n-1") is None
    assert table.at(200.0).find("n-1") == usd("1", "1")
    assert [table.holds_until_s(at) for at in (0.0, 100.0, 200.0)] == [100.0, 200.0, math.inf]
    assert table.version == table.at(999.0).version != tiered().version


def test_units_are_priced_in_whole_nanodollars_and_never_for_less() -> None:
    assert price_of({"input": "0", "output": "0", "image": "0.04"}).cost_nanousd(Usage(units=2)) == 80_000_000
    assert price_of({"input": "0", "output": "0", "character": "0.000015"}).cost_nanousd(Usage(units=3)) == 45_000
    assert price_of({"input": "0", "output": "0", "second": "0.000283334"}).cost_nanousd(Usage(units=1500)) == 425_001
    assert price_of({"input": "1", "output": "1", "call": "0.025"}).cost_nanousd(Usage(input_tokens=1)) == 25_001_000


def test_a_long_input_makes_the_whole_call_dear_and_is_held_for_where_it_can_be() -> None:
    price = price_of({"input": "1", "output": "2", "long": {"above": "1000", "input": "2", "output": "3"}})
    assert [price.cost_nanousd(Usage(read, 10)) for read in (1000, 1001)] == [1000 * 1000 + 20_000, 1001 * 2000 + 30_000]
    assert price.worst_nanousd(input_tokens=1000, output_tokens=10) == 1000 * 1000 + 20_000
    assert price.worst_nanousd(input_tokens=1001, output_tokens=10) == 1001 * 2000 + 30_000
