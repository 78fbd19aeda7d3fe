"""Every public word has a status, a type and a meaning, and says no more than it should."""

import re

import pytest

from proxy.errors import CODES, InvalidCall, NotAdmitted, Overloaded, ProxyError, Refusal, StateUnavailable, UpstreamError


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_a_stable_word_with_a_sentence(code: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    known = CODES[code]
    assert 400 <= known.status < 600
    assert re.fullmatch(r"[a-z_]+_error", known.type)
    assert known.meaning.endswith(".")


@pytest.mark.parametrize("code", CODES)
def test_an_error_is_answered_as_its_code_says(code: str) -> None:
    error = ProxyError(code, "x")
    assert (error.status, error.type, error.code) == (CODES[code].status, CODES[code].type, code)


def test_an_upstreams_own_word_keeps_the_status_and_type_it_came_with() -> None:
    error = UpstreamError("context_length_exceeded", "x", status=400, type="invalid_request_error")
    assert (error.status, error.type, error.sent) == (400, "invalid_request_error", True)
    assert ProxyError("an unknown word", "x").status == 500


def test_a_call_may_be_tried_again_only_if_nothing_was_sent() -> None:
    assert UpstreamError("upstream_unreachable", "x", sent=False).sent is False


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (ProxyError, "internal"),
        (InvalidCall, "client"),
        (NotAdmitted, "client"),
        (Refusal, "policy"),
        (UpstreamError, "upstream"),
        (Overloaded, "proxy"),
        (StateUnavailable, "proxy"),
    ],
)
def test_whose_fault_it_is_stands_in_the_log_and_the_message_does_not(kind: type[ProxyError], source: str) -> None:
    error = kind("draining", "a sentence for the client", detail="for the log")
    assert error.source == source
    assert repr(error) == f"<{kind.__name__} 503 draining source={source} detail='for the log'>"
    assert str(error) == "draining"
