"""Policies shape a call in any order to the same end, and what it may cost is never less than what it does."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.call import Call, Clamp, Price, Usage
from proxy.timeouts import UNBOUNDED, Timeouts
from proxy.wire.body import parse, patched, shape
from proxy.wire.surfaces import SURFACES

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

BY_NAME = {surface.name: surface for surface in SURFACES}
MODELS = ["gpt-4.1", "gpt-oss-20b", "gemma-3", "o3-mini"]


def call(surface: str, body: bytes = b'{"model":"gemma-3"}', **more: Any) -> Call:
    made = Call(id="r", method="POST", surface=BY_NAME[surface], body=body, fields=parse(body), **more)
    shape(made)
    return made


# ---- output caps ----


@pytest.mark.parametrize(
    ("surface", "asked", "limits", "edits", "cap"),
    [
        pytest.param("chat", {}, [10], {"max_tokens": 10}, 10, id="added"),
        pytest.param("chat", {"max_tokens": 9}, [10], {}, 9, id="below"),
        pytest.param("chat", {"max_tokens": 10}, [10], {}, 10, id="equal"),
        pytest.param("chat", {"max_tokens": 11}, [10], {"max_tokens": 10}, 10, id="lowered"),
        pytest.param("chat", {"max_completion_tokens": 11}, [10], {"max_completion_tokens": 10}, 10, id="lowered, newer name"),
        pytest.param(
            "chat", {"max_tokens": 5, "max_completion_tokens": 11}, [10], {"max_completion_tokens": 10}, 10, id="one of two"
        ),
        pytest.param(
            "chat",
            {"max_tokens": 50, "max_completion_tokens": 11},
            [4],
            {"max_tokens": 4, "max_completion_tokens": 4},
            4,
            id="both",
        ),
        pytest.param("chat", {"max_tokens": 0}, [10], {}, 0, id="zero is a cap"),
        pytest.param("chat", {"max_tokens": None}, [10], {"max_tokens": 10}, 10, id="null is none"),
        pytest.param("chat", {}, [30, 10, 20], {"max_tokens": 10}, 10, id="the smallest of several"),
        pytest.param("completions", {}, [1024], {"max_tokens": 16}, 16, id="never above what the API would apply"),
        pytest.param("completions", {}, [5], {"max_tokens": 5}, 5, id="below what the API would apply"),
        pytest.param("completions", {"max_tokens": 500}, [100], {"max_tokens": 100}, 100, id="completions"),
        pytest.param("responses", {}, [5], {"max_output_tokens": 16}, 16, id="never below what the API accepts"),
        pytest.param(
            "responses", {"max_output_tokens": 500}, [5], {"max_output_tokens": 16}, 16, id="lowered to what the API accepts"
        ),
        pytest.param("responses", {"max_output_tokens": 9}, [5], {}, 9, id="a cap that the API will refuse stays the client's"),
        pytest.param("embeddings", {}, [5], {}, None, id="no output"),
        pytest.param("moderations", {}, [5], {}, None, id="no output either"),
    ],
)
def test_output_is_capped_by_the_smallest_limit(
    surface: str, asked: dict[str, int | None], limits: list[int], edits: dict[str, int], cap: int | None
) -> None:
    for order in permutations(limits):
        made = call(surface)
        made.asked_caps = {name: value for name, value in asked.items() if value is not None}
        made.cap = made.asked_cap if made.asked_caps else made.surface.default_cap
        for limit in order:
            made.limit_output(limit)
        assert (made.edits, made.cap) == (edits, cap)
        assert made.clamps == {name: Clamp(name, asked.get(name), value) for name, value in edits.items()}


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("gpt-4.1", "max_completion_tokens"),
        ("gpt-5-mini", "max_completion_tokens"),
        ("chatgpt-4o-latest", "max_completion_tokens"),
        ("o1", "max_completion_tokens"),
        ("o4-mini-2025-04-16", "max_completion_tokens"),
        ("ft:gpt-4o-mini:acme::Ab12", "max_completion_tokens"),
        ("openai/gpt-4.1", "max_completion_tokens"),
        ("gpt-oss-120b", "max_tokens"),
        ("openai/gpt-oss-20b", "max_tokens"),
        ("gemma-3-27b", "max_tokens"),
        ("olmo-2", "max_tokens"),
        ("my-gpt-4", "max_tokens"),
        (None, "max_tokens"),
    ],
)
def test_the_cap_that_is_added_has_the_name_that_the_models_server_knows(model: str | None, field: str) -> None:
    made = call("chat")
    made.model = model
    assert made.added_cap == field


def test_a_renamed_model_takes_its_added_cap_along_under_the_right_name() -> None:
    made = call("chat")
    made.limit_output(10)
    assert made.edits == {"max_tokens": 10}
    made.rename_model("gpt-4.1")
    assert made.edits == {"model": "gpt-4.1", "max_completion_tokens": 10}
    assert made.clamps == {"max_completion_tokens": Clamp("max_completion_tokens", None, 10)}
    made.rename_model("gemma-3")
    assert made.edits == {"model": "gemma-3", "max_tokens": 10}


def test_a_cap_that_the_client_named_keeps_its_name() -> None:
    made = call("chat", b'{"model":"gemma-3","max_tokens":99}')
    made.limit_output(10)
    made.rename_model("gpt-4.1")
    assert made.edits == {"max_tokens": 10, "model": "gpt-4.1"}
    assert made.model_asked == "gemma-3"


STEPS = st.lists(st.integers(0, 3000).map(lambda cap: ("limit_output", cap)), max_size=4)
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from(MODELS)},
    optional={name: st.none() | st.integers(0, 4000) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")},
)


@settings(PATIENT, max_examples=300)
@given(
    surface=st.sampled_from(["chat", "completions", "responses", "embeddings"]),
    body=BODIES,
    limits=STEPS,
    rename=st.sampled_from([None, *MODELS]),
    order=st.randoms(use_true_random=False),
)
def test_limits_and_a_rename_end_alike_in_any_order(
    surface: str, body: dict[str, Any], limits: list[tuple[str, Any]], rename: str | None, order: Any
) -> None:
    steps = [*limits, ("rename_model", rename)] if rename is not None else limits
    made = []
    for mix in (False, True):
        if mix:
            order.shuffle(steps)
        one = call(surface, str(body).replace("'", '"').replace("None", "null").encode())
        for step, value in steps:
            getattr(one, step)(value)
        made.append(one)
    first, second = made
    assert (first.edits, first.clamps, first.cap, first.model) == (second.edits, second.clamps, second.cap, second.model)
    sent = parse(b"".join(patched(first)))
    assert sent == parse(b"".join(patched(second))) == {**body, **first.edits}
    if limits and first.surface.caps:
        assert first.cap is not None
        assert max(sent[name] for name in first.surface.caps if sent.get(name) is not None) == first.cap


def test_a_scratch_copy_can_be_shaped_without_the_call_noticing() -> None:
    made = call("chat", b'{"model":"gemma-3","max_tokens":99}')
    copy = made.scratch()
    copy.limit_output(10)
    copy.rename_model("x")
    assert (made.edits, made.clamps, made.cap, made.model) == ({}, {}, 99, "gemma-3")
    assert (copy.cap, copy.model) == (10, "x")


@pytest.mark.parametrize(
    ("clamp", "text"),
    [(Clamp("max_tokens", 8000, 1024), "max_tokens=8000->1024"), (Clamp("max_tokens", None, 1024), "max_tokens=none->1024")],
)
def test_a_clamp_reads_as_before_and_after(clamp: Clamp, text: str) -> None:
    assert str(clamp) == text


# ---- money ----

PRICE = Price(
    input=2_000_000_000,
    output=8_000_000_000,
    cached_input=500_000_000,
    cache_write=2_500_000_000,
    audio_input=40_000_000_000,
    audio_output=80_000_000_000,
)


@pytest.mark.parametrize(
    ("usage", "nanousd"),
    [
        (Usage(), 0),
        (Usage(input_tokens=1), 2000),
        (Usage(output_tokens=1), 8000),
        (Usage(input_tokens=10, cached_tokens=10), 5000),
        (Usage(input_tokens=10, cached_tokens=4, cache_write_tokens=2), 4 * 2000 + 4 * 500 + 2 * 2500),
        (
            Usage(input_tokens=10, audio_input_tokens=3, output_tokens=5, audio_output_tokens=2),
            7 * 2000 + 3 * 40_000 + 3 * 8000 + 2 * 80_000,
        ),
        (Usage(output_tokens=5, reasoning_tokens=5), 40_000),
        (Usage(input_tokens=2, cached_tokens=9, cache_write_tokens=9, audio_input_tokens=1), 40_000 + 500),
    ],
)
def test_a_call_costs_each_token_once_at_the_price_of_its_class(usage: Usage, nanousd: int) -> None:
    assert PRICE.cost_nanousd(usage) == nanousd


def test_cost_is_rounded_up_once() -> None:
    cheap = Price(input=1, output=1, cached_input=1, cache_write=1, audio_input=1, audio_output=1)
    assert cheap.cost_nanousd(Usage(input_tokens=1, output_tokens=1)) == 1
    assert cheap.cost_nanousd(Usage(input_tokens=999_999, output_tokens=1)) == 1
    assert cheap.cost_nanousd(Usage(input_tokens=1_000_000, output_tokens=1)) == 2


AMOUNTS = st.integers(0, 10**12)
AMOUNTS_OF = {name: AMOUNTS for name, of in Price.__dataclass_fields__.items() if of.init and of.type is int}
PLAIN_PRICES = st.builds(Price, **AMOUNTS_OF)
LONG_PRICES = st.builds(lambda price, long: replace(price, long=long), PLAIN_PRICES, PLAIN_PRICES)
PRICES = st.builds(
    lambda price, also: replace(price, also=also), LONG_PRICES | PLAIN_PRICES, st.lists(LONG_PRICES, max_size=2).map(tuple)
)
TOKENS = st.integers(0, 10**7)
USAGES = st.builds(Usage, **dict.fromkeys(Usage.__slots__, TOKENS))


@PATIENT
@given(price=PRICES, usage=USAGES, more=TOKENS)
def test_what_a_call_may_cost_is_never_less_than_what_it_does(price: Price, usage: Usage, more: int) -> None:
    worst = price.worst_nanousd(input_tokens=usage.input_tokens + more, output_tokens=usage.output_tokens, units=usage.units + more)
    for billed in (price, *price.also):
        assert 0 <= billed.cost_nanousd(usage) <= worst


def test_what_is_held_counts_every_choice_at_its_cap() -> None:
    made = call("chat", b'{"model":"m","max_tokens":100,"n":3}', input_bound=50, price=PRICE)
    assert made.held_tokens == 50 + 3 * 100
    assert made.held_nanousd == 50 * 40_000 + 300 * 80_000
    made.price = None
    assert made.held_nanousd == 0


def test_totals_include_their_parts() -> None:
    assert Usage(input_tokens=3, output_tokens=4, cached_tokens=2, reasoning_tokens=4).total_tokens == 7


# ---- deadlines ----


@pytest.mark.parametrize(
    "lower", [lambda t, o: t.strictest({"idle": o.idle, "total": o.total, "connect": None}), lambda t, o: t.within(o)]
)
def test_the_shorter_of_each_deadline_holds(lower: Callable[[Timeouts, Timeouts], Timeouts]) -> None:
    assert lower(Timeouts(), Timeouts(idle=5, total=9999)) == Timeouts(idle=5)


def test_nothing_is_shorter_than_unbounded() -> None:
    assert Timeouts().within(UNBOUNDED) == UNBOUNDED.within(Timeouts()) == Timeouts()
    assert UNBOUNDED.strictest({"idle": 5.0}).idle == 5.0


def test_clamps_read_as_one_line() -> None:
    made = call("chat", b'{"model":"gemma-3","max_tokens":9000,"max_completion_tokens":8000}')
    assert made.clamped is None
    made.limit_output(1024)
    assert made.clamped == "max_tokens=9000->1024, max_completion_tokens=8000->1024"
    made.limit_output(10)
    assert made.clamped == "max_tokens=9000->10, max_completion_tokens=8000->10"
