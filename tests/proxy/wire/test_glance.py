"""What a glance says of large messages is what reading them says, and it says yes to no more than that."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.wire.body import messages_in
from proxy.wire.glance import LARGE, Glance
from proxy.wire.inputs import are_plain

GLANCE = Glance()
FILLER = "It is long enough to be worth the look, and says nothing else. " * (LARGE // 60)
KEYS = st.sampled_from(["role", "content", "name", "tool_calls", "audio", "", "r\u00f4le"])
VALUES = st.one_of(st.text(max_size=20), st.none(), st.booleans(), st.integers(), st.lists(st.text(max_size=3), max_size=2))
MESSAGES = st.lists(st.one_of(st.dictionaries(KEYS, VALUES, max_size=3), VALUES), max_size=4)


def read(messages: bytes) -> bool:
    return are_plain(messages_in(memoryview(messages)))


@settings(max_examples=300, deadline=None)
@given(messages=MESSAGES, spaced=st.booleans(), escaped=st.booleans())
def test_messages_are_plain_to_a_glance_when_they_are_plain_to_who_reads_them(
    messages: list[Any], spaced: bool, escaped: bool
) -> None:
    messages = [*messages, {"role": "user", "content": FILLER}]
    separators = (", ", ": ") if spaced else (",", ":")
    text = json.dumps(messages, separators=separators, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    assert GLANCE.are_plain(memoryview(text)) == read(text)


CUTS = st.binary(max_size=6)


@settings(max_examples=1000, deadline=None)
@given(at=st.integers(0, len(FILLER) + 60), cut=st.integers(0, 40), put=CUTS)
@example(at=3, cut=0, put=b"\xef\xbb\xbf")
@example(at=40, cut=0, put=b"\n")
@example(at=40, cut=0, put=b"\\ud800")
@example(at=40, cut=0, put=b'\\u12"')
@example(at=40, cut=0, put=b"\xff")
@example(at=40, cut=0, put=b"\\x")
@example(at=40, cut=0, put=b'"},{"content":"')
@example(at=40, cut=0, put=b'"}],"max_tokens":[{"content":"')
def test_whatever_was_done_to_messages_a_glance_says_yes_to_none_that_cannot_be_read(at: int, cut: int, put: bytes) -> None:
    whole = orjson.dumps([{"role": "user", "content": FILLER}])
    damaged = whole[:at] + put + whole[at + cut :]
    assert not GLANCE.are_plain(memoryview(damaged)) or read(damaged)


@pytest.mark.parametrize(
    "messages",
    [b"", b"[", b"{}", b'"' + b"x" * LARGE + b'"', b"\xef\xbb\xbf[]", b'{"a":"' + b"x" * LARGE + b'"}', b"[" * 2000 + b"]" * 2000],
)
def test_what_is_no_list_of_messages_is_not_plain(messages: bytes) -> None:
    assert not GLANCE.are_plain(memoryview(messages))


def test_many_small_messages_are_left_to_be_read() -> None:
    messages = orjson.dumps([{"role": "user", "content": "hi"}] * 1000)
    assert read(messages)
    assert not GLANCE.are_plain(memoryview(messages))


def test_messages_too_large_to_keep_room_for_are_looked_at_too() -> None:
    messages = orjson.dumps([{"role": "user", "content": FILLER * 100}])
    for _ in range(3):
        assert GLANCE.are_plain(memoryview(messages))
        assert not GLANCE.are_plain(memoryview(messages)[:-1])
