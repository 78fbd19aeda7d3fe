import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.telemetry.trace import TRACE_BYTES, TRACE_ID, continue_trace

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")


def like(byte: int = 0xAB) -> str:
    return f"{byte:02x}" * TRACE_BYTES


def test_a_callers_trace_is_continued_with_a_span_of_our_own() -> None:
    sent = continue_trace(f"00-{TRACE}-{SPAN}-01", random=like())
    assert sent == f"00-{TRACE}-{'ab' * 8}-01"
    assert sent[TRACE_ID] == TRACE


def test_a_call_without_a_trace_starts_one_that_is_random_and_not_sampled() -> None:
    sent = continue_trace(None, random="cd" * 8 + "ab" * 16)
    assert sent == f"00-{'ab' * 16}-{'cd' * 8}-02"
    assert sent[TRACE_ID] == "ab" * 16


@pytest.mark.parametrize(
    ("flags", "sent"),
    [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00")],
)
def test_sampled_and_random_are_copied_and_unknown_flags_are_sent_as_zero(flags: str, sent: str) -> None:
    assert continue_trace(f"00-{TRACE}-{SPAN}-{flags}", random=like()).endswith(f"-{sent}")


@pytest.mark.parametrize("header", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes-later", f"01-{TRACE}-{SPAN}-01-"])
def test_a_later_version_is_read_by_position_and_sent_on_as_version_00(header: str) -> None:
    assert continue_trace(header, random=like()) == f"00-{TRACE}-{'ab' * 8}-01"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01x",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-2]}٣٣-{SPAN}-01",
    ],
)
def test_an_invalid_header_starts_a_new_trace(header: str) -> None:
    assert continue_trace(header, random=like()) == f"00-{'ab' * 16}-{'ab' * 8}-02"


def test_a_random_source_of_zeros_still_gives_valid_ids() -> None:
    assert VALID.fullmatch(continue_trace(None, random=like(0)))


GARBAGE = st.one_of(
    st.text(),
    st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", fullmatch=True),
    st.text(alphabet="0123456789abcdef-", min_size=50, max_size=60),
)


@given(header=GARBAGE, seed=st.binary(min_size=24, max_size=24))
def test_whatever_the_header_says_the_trace_is_valid(header: str, seed: bytes) -> None:
    sent = continue_trace(header, random=seed.hex())
    assert VALID.fullmatch(sent)
    assert sent[TRACE_ID][:-1] == seed.hex()[16:-1] or sent[TRACE_ID] in header
