"""What upstreams report is read in every spelling; what makes no sense is not known, and never zero."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.call import Usage
from proxy.wire.usage import count, read_usage

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

CHAT = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
RESPONSES = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
NO_COUNTS = [True, False, -1, 1.0, 12.5, 1e30, float("inf"), "7", "", [], {}, [7], 1 << 40, 10**30]


@pytest.mark.parametrize("value", [0, 1, (1 << 40) - 1])
def test_a_count_is_a_whole_number(value: int) -> None:
    assert count(value) == value


@pytest.mark.parametrize("value", [None, *NO_COUNTS], ids=repr)
def test_nothing_else_is_a_count(value: Any) -> None:
    assert count(value) is None


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        pytest.param(CHAT, Usage(input_tokens=10, output_tokens=5), id="chat"),
        pytest.param(RESPONSES, Usage(input_tokens=10, output_tokens=5), id="responses"),
        pytest.param({"prompt_tokens": 8, "total_tokens": 8}, Usage(input_tokens=8), id="embeddings"),
        pytest.param({"prompt_tokens": 8, "total_tokens": 8, "completion_tokens": None}, Usage(input_tokens=8), id="null output"),
        pytest.param(
            {"prompt_tokens": 8, "total_tokens": 11}, Usage(input_tokens=8, output_tokens=3), id="output only in the total"
        ),
        pytest.param({"prompt_tokens": None, **RESPONSES}, Usage(input_tokens=10, output_tokens=5), id="both spellings, one null"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(), id="zeros are said"),
        pytest.param({**CHAT, "total_tokens": 999}, Usage(input_tokens=10, output_tokens=5), id="a total that does not add up"),
        pytest.param(
            {**CHAT, "prompt_tokens_details": None, "completion_tokens_details": None},
            Usage(input_tokens=10, output_tokens=5),
            id="null details",
        ),
        pytest.param(
            {
                **CHAT,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2, "audio_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 2, "accepted_prediction_tokens": 1},
            },
            Usage(
                input_tokens=10,
                output_tokens=5,
                cached_tokens=4,
                cache_write_tokens=2,
                audio_input_tokens=1,
                audio_output_tokens=2,
                reasoning_tokens=3,
            ),
            id="chat, details",
        ),
        pytest.param(
            {
                **RESPONSES,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=5),
            id="responses, details",
        ),
        pytest.param(
            {**CHAT, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(10, 5, cached_tokens=10),
            id="more cached than there was",
        ),
        pytest.param({**CHAT, "prompt_tokens_details": {"cached_tokens": -1}}, Usage(10, 5), id="a nonsensical detail is left out"),
        pytest.param({**CHAT, "prompt_tokens_details": "none"}, Usage(10, 5), id="details of a wrong type"),
    ],
)
def test_usage_is_read_in_every_spelling(block: Any, expected: Usage) -> None:
    assert read_usage(block) == expected


@pytest.mark.parametrize(
    "block",
    [
        None,
        True,
        0,
        "usage",
        [],
        {},
        {"completion_tokens": 5},
        {"prompt_tokens": 10},
        {"prompt_tokens": 10, "total_tokens": 9},
        {"prompt_tokens": 10, "total_tokens": "ten"},
        {"type": "duration", "seconds": -3},
        {"type": "duration", "seconds": "3"},
        {"type": "duration", "seconds": True},
        {"type": "duration", "seconds": float("inf")},
        {"type": "duration"},
        {"seconds": 3},
    ],
    ids=repr,
)
def test_a_block_that_does_not_say_enough_is_none(block: Any) -> None:
    assert read_usage(block) is None


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_nonsense_in_what_is_billed_makes_no_usage(field: str, value: Any) -> None:
    assert read_usage({**CHAT, field: value}) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
TOTALS = ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"]
DETAILS = ["prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details"]
PARTS = ["cached_tokens", "cache_write_tokens", "audio_tokens", "reasoning_tokens"]
NAMES = st.sampled_from([*TOTALS, *DETAILS, *PARTS])


@PATIENT
@given(st.recursive(JSON, lambda inner: st.dictionaries(NAMES, inner, max_size=5), max_leaves=10))
def test_any_block_is_read_or_none_and_its_parts_never_exceed_their_total(block: Any) -> None:
    usage = read_usage(block)
    if usage is not None:
        assert 0 <= max(usage.cached_tokens, usage.cache_write_tokens, usage.audio_input_tokens) <= usage.input_tokens
        assert 0 <= max(usage.reasoning_tokens, usage.audio_output_tokens) <= usage.output_tokens
