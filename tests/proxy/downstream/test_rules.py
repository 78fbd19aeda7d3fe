"""What a head may not be, as a table; and that nobody hears a byte of it."""

import pytest

from proxy.downstream.rules import MOST_FIELDS, MOST_HEAD_BYTES, MOST_TARGET_BYTES, REASONS, fault_of, late, malformed, too_large
from proxy.errors import CODES

HOST = {"host": "x"}
MANY = {f"a{n}": "" for n in range(MOST_FIELDS)}
LONG = {**HOST, "a": "b" * MOST_HEAD_BYTES}

# method, target, version, fields, how many repeated → reason, or None
RULES = [
    ("POST", b"/", "1.1", HOST, 0, None),
    ("POST", b"/", "1.0", {}, 0, None),
    ("POST", b"/", "1.1", {**HOST, "transfer-encoding": "Chunked"}, 0, None),
    ("POST", b"/", "1.1", {**HOST, "expect": "100-Continue", "content-length": "9"}, 0, None),
    ("POST", b"/", "1.0", {"expect": "whatever"}, 0, None),
    ("GET", b"/", "1.1", {**HOST, "content-length": "0"}, 0, None),
    ("DELETE", b"/", "1.1", {**HOST, "content-length": "000"}, 0, None),
    ("GET", b"/" * MOST_TARGET_BYTES, "1.1", HOST, 0, None),
    ("GET", b"/", "1.1", {**HOST, **dict(list(MANY.items())[1:])}, 0, None),
    ("GET", b"/" * (MOST_TARGET_BYTES + 1), "1.1", HOST, 0, "target_too_long"),
    ("GET", b"/", "1.1", {**HOST, **MANY}, 0, "head_too_large"),
    ("GET", b"/", "1.1", HOST, MOST_FIELDS, "head_too_large"),
    ("GET", b"/", "1.1", LONG, 0, "head_too_large"),
    ("POST", b"/", "2.0", HOST, 0, "malformed"),
    ("POST", b"/", "0.9", {}, 0, "malformed"),
    ("POST", b"/", "1.0", {"transfer-encoding": "chunked"}, 0, "malformed"),
    ("POST", b"/", "1.1", {}, 0, "host"),
    ("POST", b"/", "1.0", {}, 0, None),
    ("POST", b"/", "1.0", {"host": "x/y"}, 0, "host"),
    ("POST", b"/", "1.1", {"host": "[::1]:80"}, 0, None),
    ("POST", b"/", "1.1", {"host": "x, y"}, 0, "host"),
    ("POST", b"/", "1.1", {**HOST, "transfer-encoding": "gzip, chunked"}, 0, "coding"),
    ("POST", b"/", "1.1", {**HOST, "transfer-encoding": "chunked, chunked"}, 0, "coding"),
    ("POST", b"/", "1.1", {**HOST, "expect": "200-ok"}, 0, "expectation"),
    ("POST", b"/", "1.1", {**HOST, "expect": ""}, 0, "expectation"),
    ("TRACE", b"/", "1.1", HOST, 0, "method"),
    ("CONNECT", b"x:443", "1.1", HOST, 0, "method"),
    ("GET", b"/", "1.1", {**HOST, "content-length": "10"}, 0, "body"),
    ("HEAD", b"/", "1.1", {**HOST, "transfer-encoding": "chunked"}, 0, "body"),
    ("DELETE", b"/", "1.1", {**HOST, "transfer-encoding": "chunked"}, 0, "body"),
]
STATUS = {
    "malformed": 400,
    "host": 400,
    "target_too_long": 414,
    "head_too_large": 431,
    "coding": 501,
    "expectation": 417,
    "method": 405,
    "body": 400,
    "header_read": 408,
}


@pytest.mark.parametrize(("method", "target", "version", "headers", "repeated", "reason"), RULES)
def test_what_a_head_may_be(
    method: str, target: bytes, version: str, headers: dict[str, str], repeated: int, reason: str | None
) -> None:
    fault = fault_of(method, target, version, headers, repeated, large=True)
    assert (fault.reason if fault is not None else None) == reason
    if fault is not None:
        assert fault.error.status == STATUS[fault.reason] == CODES[fault.error.code].status
        assert fault.error.close


def test_a_head_that_cannot_be_too_large_is_not_measured() -> None:
    assert fault_of("POST", b"/", "1.1", LONG, 0, large=False) is None


def test_a_reason_is_one_of_the_known_ones() -> None:
    others = (malformed(), late(), too_large(0), too_large(MOST_TARGET_BYTES + 1))
    found = {reason for *_, reason in RULES if reason} | {other.reason for other in others}
    assert found == set(REASONS) == set(STATUS)
    assert late().error.deadline == "header_read"


def test_nothing_that_was_sent_is_quoted() -> None:
    canary = {"host": "canary", "expect": "canary", "transfer-encoding": "canary", "a": "canary" * MOST_HEAD_BYTES}
    for drop in ((), ("a",), ("a", "transfer-encoding"), ("a", "host")):
        headers = {name: value for name, value in canary.items() if name not in drop}
        fault = fault_of("POST", b"/canary", "1.1", headers, 0, large=True)
        assert fault is not None
        assert "canary" not in f"{fault.reason}{fault.error.message}{fault.error.detail}"
