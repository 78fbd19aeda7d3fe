"""A body of too many values is found out before it is read, whatever its texts hold and wherever it is cut."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidCall
from proxy.wire.weight import MOST, SLICE_BYTES, weigh

VALUES = st.recursive(
    st.one_of(st.none(), st.integers(0, 9), st.text(alphabet='ab"\\,:[{é\n', max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(alphabet='k"\\', max_size=3), inner, max_size=4)),
    max_leaves=30,
)


def weight(body: bytes) -> int:
    return list(weigh(body))[-1]


def naive(value: Any) -> int:
    if type(value) is list:
        return 4 + max(0, len(value) - 1) + sum(map(naive, value))
    if type(value) is dict:
        return 4 + max(0, len(value) - 1) + sum(9 + naive(inner) for inner in value.values())
    return 0


@given(VALUES, st.integers(0, 40))
def test_only_what_stands_outside_of_texts_counts_wherever_a_slice_ends(value: Any, shift: int) -> None:
    padded = ["\\" * (SLICE_BYTES // 2 - 20 - shift), value]
    assert weight(orjson.dumps(padded)) == naive(padded)
    assert weight(json.dumps(padded).encode()) == naive(padded), "spaces and other escapes are no values"


@pytest.mark.parametrize(
    "inner",
    [b"[]," * MOST, b"1," * MOST, b'{"a":1},' * MOST, b"[" * MOST, b'{"a":' * MOST],
    ids=["lists", "numbers", "objects", "deep lists", "deep objects"],
)
def test_a_million_values_are_too_many(inner: bytes) -> None:
    with pytest.raises(InvalidCall) as refused:
        weight(b'{"model":"m","messages":[' + inner)
    assert refused.value.code == "too_many_values"


def test_a_long_prompt_of_source_code_is_a_text_like_any_other() -> None:
    code = 'def f(a, b):\n    return {"x": [a, b], "y": (1, 2)}\n' * 100_000
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": code}]})
    assert weight(body) < 100


def test_a_body_that_begins_behind_its_head_is_weighed_from_there() -> None:
    head = b'POST / HTTP/1.1\r\nx: ",:[{\r\n\r\n'
    assert list(weigh(head + b"[1,2]", len(head))) == [5]
