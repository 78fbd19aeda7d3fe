import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.telemetry.trace import TRACE_BYTES, Trace, continue_trace

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")


def like(byte: int = 0xAB) -> str:
    return f"{byte:02x}" * TRACE_BYTES


def test_a_callers_trace_is_continued_with_a_span_of_our_own() -> None:
    trace = continue_trace(f"00-{TRACE}-{SPAN}-01", random=like())
    assert trace == Trace(trace_id=TRACE, span_id="ab" * 8, parent_id=SPAN, flags=1)
    assert trace.sampled
    assert trace.header() == f"00-{TRACE}-{'ab' * 8}-01"


def test_a_call_without_a_trace_starts_one_that_is_random_and_not_sampled() -> None:
    trace = continue_trace(None, random=like())
    assert trace == Trace(trace_id="ab" * 16, span_id="ab" * 8, parent_id=None, flags=2)
    assert not trace.sampled


@pytest.mark.parametrize(
    ("flags", "sent"),
    [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00")],
)
def test_sampled_and_random_are_copied_and_unknown_flags_are_sent_as_zero(flags: str, sent: str) -> None:
    assert continue_trace(f"00-{TRACE}-{SPAN}-{flags}", random=like()).header().endswith(f"-{sent}")


@pytest.mark.parametrize("header", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes-later", f"01-{TRACE}-{SPAN}-01-"])
def test_a_later_version_is_read_by_position_and_sent_on_as_version_00(header: str) -> None:
    assert continue_trace(header, random=like()).header() == f"00-{TRACE}-{'ab' * 8}-01"


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
    trace = continue_trace(header, random=like())
    assert trace.parent_id is None
    assert trace.trace_id == "ab" * 16


def test_a_random_source_of_zeros_still_gives_valid_ids() -> None:
    assert VALID.fullmatch(continue_trace(None, random=like(0)).header())


GARBAGE = st.one_of(
    st.text(),
    st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", fullmatch=True),
    st.text(alphabet="0123456789abcdef-", min_size=50, max_size=60),
)


@given(header=GARBAGE, seed=st.binary(min_size=24, max_size=24))
def test_whatever_the_header_says_the_trace_is_valid(header: str, seed: bytes) -> None:
    trace = continue_trace(header, random=seed.hex())
    assert VALID.fullmatch(trace.header())
    assert trace.parent_id is None or trace.trace_id in header
