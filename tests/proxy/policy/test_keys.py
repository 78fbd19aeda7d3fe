"""Who calls: what a caller presents, and what it becomes."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Principal
from proxy.errors import InvalidCall, NotAdmitted
from proxy.policy.keys import AccessKey, KeyRing, hash_of, new_key

JAN_2027 = 1_798_761_600.0


def digest(key: str) -> bytes:
    return bytes.fromhex(hash_of(key).removeprefix("sha256:"))


WEB = AccessKey("web", digest("web-key"), tags=("interactive",), user_header="x-user-id")
NIGHTLY = AccessKey("nightly", digest("nightly-key"), expires_s=JAN_2027)
APP = AccessKey("app", None, user_header="x-user-id")

ONLY_KEYS, ONLY_ANONYMOUS, BOTH = KeyRing([WEB, NIGHTLY]), KeyRing([APP]), KeyRing([WEB, NIGHTLY, APP])


def identify(
    ring: KeyRing, presented: str | None, *, headers: Mapping[str, str] | None = None, loopback: bool = True, now_s: float = 0.0
) -> Principal:
    return ring.identify(presented=presented, header=(headers or {}).get, loopback=loopback, now_s=now_s)


def answer(ring: KeyRing, presented: str | None, *, loopback: bool) -> str:
    """The key's id, or the code of the refusal."""
    try:
        return identify(ring, presented, loopback=loopback).key
    except NotAdmitted as error:
        return error.code


@pytest.mark.parametrize(
    ("ring", "presented", "loopback", "result"),
    [
        (ONLY_KEYS, "web-key", True, "web"),
        (ONLY_KEYS, "web-key", False, "web"),
        (ONLY_KEYS, "nightly-key", True, "nightly"),
        (ONLY_KEYS, "other", True, "invalid_api_key"),
        (ONLY_KEYS, "web-key ", True, "invalid_api_key"),
        (ONLY_KEYS, "WEB-KEY", True, "invalid_api_key"),
        (ONLY_KEYS, hash_of("web-key"), True, "invalid_api_key"),
        (ONLY_KEYS, None, True, "missing_api_key"),
        (ONLY_KEYS, "", True, "missing_api_key"),
        (ONLY_ANONYMOUS, None, True, "app"),
        (ONLY_ANONYMOUS, "sk-whatever-the-sdk-sends", True, "app"),
        (ONLY_ANONYMOUS, None, False, "missing_api_key"),
        (ONLY_ANONYMOUS, "sk-whatever", False, "invalid_api_key"),
        (BOTH, None, True, "app"),
        (BOTH, None, False, "missing_api_key"),
        (BOTH, "web-key", True, "web"),
        (BOTH, "wrong", True, "invalid_api_key"),
        (BOTH, "\udcff\ud800", True, "invalid_api_key"),
    ],
)
def test_a_caller_is_its_key_or_on_loopback_nobody_in_particular(
    ring: KeyRing, presented: str | None, loopback: bool, result: str
) -> None:
    assert answer(ring, presented, loopback=loopback) == result


@pytest.mark.parametrize("presented", [None, "sk-whatever"])
def test_who_calls_from_elsewhere_is_told_where_no_key_would_do(presented: str | None) -> None:
    told = []
    for ring in (ONLY_ANONYMOUS, BOTH):
        with pytest.raises(NotAdmitted) as caught:
            identify(ring, presented, loopback=False)
        told.append(caught.value.message)
    assert "no keys for others" in told[0]
    assert "others" not in told[1]


def test_a_key_is_refused_from_the_moment_it_expires() -> None:
    assert identify(ONLY_KEYS, "nightly-key", now_s=JAN_2027 - 0.001).key == "nightly"
    with pytest.raises(NotAdmitted, match="expired_api_key"):
        identify(ONLY_KEYS, "nightly-key", now_s=JAN_2027)


@pytest.mark.parametrize(
    ("presented", "header", "user"),
    [
        ("web-key", {"x-user-id": "ada"}, "ada"),
        ("web-key", {"x-user-id": "  ada lovelace "}, "ada lovelace"),
        ("web-key", {"x-user-id": "u" * 128}, "u" * 128),
        ("web-key", {"x-user-id": " "}, "web"),
        ("web-key", {}, "web"),
        ("web-key", {"x-other": "ada"}, "web"),
        ("nightly-key", {"x-user-id": "ada"}, "nightly"),
        (None, {"x-user-id": "ada"}, "ada"),
    ],
)
def test_a_user_is_believed_only_in_the_header_that_the_key_names(presented: str | None, header: dict[str, str], user: str) -> None:
    assert identify(BOTH, presented, headers=header).user == user


@pytest.mark.parametrize("user", ["u" * 129, "naïve", "a\x00b", "a\tb", "a\x7fb", "\udcff"])
def test_a_user_that_no_log_line_should_carry_is_a_bad_request(user: str) -> None:
    with pytest.raises(InvalidCall) as error:
        identify(BOTH, "web-key", headers={"x-user-id": user})
    assert (error.value.code, error.value.param) == ("bad_request", "x-user-id")
    assert user not in error.value.message


def test_the_principal_carries_the_tags_of_its_key() -> None:
    assert identify(BOTH, "web-key", headers={"x-user-id": "ada"}) == Principal("web", "ada", ("interactive",))
    assert identify(BOTH, "web-key") == Principal("web", "web", ("interactive",))


@given(st.text() | st.none(), st.text(max_size=200) | st.none(), st.booleans())
def test_whatever_is_presented_a_principal_or_a_public_error_comes_out(
    presented: str | None, user: str | None, loopback: bool
) -> None:
    with suppress(NotAdmitted, InvalidCall):
        BOTH.identify(presented=presented, header=lambda _: user, loopback=loopback, now_s=0.0)


@pytest.mark.parametrize("presented", ["c4n4ry", "web-key-c4n4ry"])
def test_a_refusal_does_not_repeat_the_key(presented: str) -> None:
    with pytest.raises(NotAdmitted) as error:
        identify(BOTH, presented)
    assert error.value.status == 401
    assert "c4n4ry" not in error.value.message + str(error.value.detail)


def test_a_ring_shows_no_hash() -> None:
    assert digest("web-key").hex() not in repr(BOTH)
    assert digest("web-key").hex() not in repr(WEB)
    assert repr(BOTH) == "<KeyRing 2 keys, anonymous=app>"


def test_a_new_key_is_as_long_as_its_randomness_and_safe_in_a_header() -> None:
    key = new_key(lambda n: bytes(range(n)))
    assert key == "th-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert identify(KeyRing([AccessKey("new", digest(key))]), key).key == "new"


def steps_of(presented: str) -> list[tuple[str, int]]:
    """Every instruction that looking at a key takes, each by its function and place."""
    steps: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps.append((frame.f_code.co_name, frame.f_lasti))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        answer(ONLY_KEYS, presented, loopback=True)
    finally:
        sys.settrace(before)
    return [step for step in steps if step[0] == "_key"]


def test_looking_at_a_key_takes_the_same_steps_whatever_is_wrong_with_it_and_up_to_the_verdict_when_it_is_right() -> None:
    """What differs in time could only be within SHA-256 and one look-up by a digest, which a guesser cannot steer."""
    right = steps_of("web-key")
    wrong = [steps_of(key) for key in ("web-kex", "xxxxxxx", "web-key-and-more", hash_of("web-key"), "\udcff")]
    assert all(steps == wrong[0] for steps in wrong)
    shared = next(n for n, (one, other) in enumerate(zip(right, wrong[0], strict=False)) if one != other)
    assert shared >= len(right) - 4, "they part at the verdict: a jump, and the key that is returned"


def test_unknown_and_revoked_keys_get_one_answer() -> None:
    revoked = KeyRing([NIGHTLY])
    answers = set()
    for key in ("web-key", "never-known"):
        with pytest.raises(NotAdmitted) as refused:
            identify(revoked, key)
        answers.add((refused.value.code, refused.value.message, refused.value.status))
    assert len(answers) == 1
