"""Who tries wrong keys has few tries, and nobody else suffers from it."""

import pytest

from proxy.errors import NotAdmitted
from proxy.guesses import MOST_RIGHT, MOST_SOURCES, RATE, Guesses, network_of
from proxy.policy.keys import AccessKey, KeyRing, hash_of, new_key
from tests.clock import FakeClock

MADE = new_key(lambda count: b"k" * count)


def ring_of(*keys: str) -> KeyRing:
    return KeyRing([AccessKey(f"k{n}", bytes.fromhex(hash_of(key).removeprefix("sha256:"))) for n, key in enumerate(keys)])


class Door:
    """A ring behind guesses, as admission has them. counted: the codes of wrong keys."""

    def __init__(self, *keys: str) -> None:
        self.clock = FakeClock()
        self.counted: list[str] = []
        self.guesses = Guesses(self.clock, self.counted.append)
        self.ring = ring_of(*keys)

    def show(self, key: str, *, source: str = "127.0.0.1") -> str:
        """The caller, or the code that he gets."""
        try:
            self.guesses.look(key, self.ring, lambda: source)
            try:
                who = self.ring.identify(presented=key, header={}.get, loopback=False, now_s=0.0)
            except NotAdmitted:
                self.guesses.wrong(lambda: source)
                raise
            self.guesses.right(key, self.ring)
        except NotAdmitted as error:
            return error.code
        return who.key

    def use_up(self, *, source: str = "127.0.0.1") -> None:
        for n in range(RATE.burst):
            assert self.show(f"wrong-{n}", source=source) == "invalid_api_key"
        assert self.show("one too many", source=source) == "too_many_wrong_keys"


def test_a_source_has_twenty_wrong_keys_at_once_and_then_one_a_second() -> None:
    door = Door("app-key")
    door.use_up()
    door.clock.advance(1)
    assert [door.show("a"), door.show("b")] == ["invalid_api_key", "too_many_wrong_keys"]
    door.clock.advance(3600)
    door.use_up()


def test_while_a_source_has_none_left_a_key_is_not_looked_at() -> None:
    door = Door("app-key", "short-and-right")
    door.use_up()
    assert door.show("short-and-right") == "too_many_wrong_keys"
    assert door.show("short-and-right", source="10.0.0.7") == "k1"


def test_a_key_that_was_right_before_passes_from_everywhere() -> None:
    door = Door("app-key")
    assert door.show("app-key", source="10.0.0.7") == "k0"
    door.use_up()
    assert door.show("app-key") == "k0"


def test_a_key_that_nobody_can_guess_passes_also_the_first_time() -> None:
    """Or a guesser in the pod would lock out an app that starts after it."""
    door = Door(MADE)
    door.use_up()
    assert door.show(MADE) == "k0"
    assert door.show(MADE[:-1] + "x") == "too_many_wrong_keys", "one answer for all wrong keys"


def test_a_key_that_was_revoked_is_as_wrong_as_any_other() -> None:
    door = Door("app-key", "old-key")
    assert door.show("old-key") == "k1"
    door.ring = ring_of("app-key")
    door.use_up()
    assert door.show("old-key") == "too_many_wrong_keys"


def test_new_rules_forget_nothing_of_the_keys_that_they_keep() -> None:
    door = Door("app-key")
    door.show("app-key")
    door.use_up()
    door.ring = ring_of("other", "app-key")
    assert door.show("app-key") == "k1"


def test_a_refusal_says_when_the_next_key_is_looked_at() -> None:
    door = Door("app-key")
    door.use_up()
    with pytest.raises(NotAdmitted) as refused:
        door.guesses.look("x", door.ring, lambda: "127.0.0.1")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1.0)


def test_every_wrong_key_is_counted_by_its_answer() -> None:
    door = Door("app-key")
    door.use_up()
    door.show("app-key", source="10.0.0.7")
    assert [door.counted.count(code) for code in ("invalid_api_key", "too_many_wrong_keys")] == [RATE.burst, 1]


def test_however_many_sources_and_keys_there_are_few_are_remembered() -> None:
    keys = [f"key-{n}" for n in range(MOST_RIGHT + 10)]
    door = Door(*keys)
    for n in range(MOST_SOURCES + 10):
        door.show("wrong", source=f"10.{n >> 8}.{n & 255}.1")
    for key in keys:
        door.show(key, source="192.168.0.1")
    assert repr(door.guesses) == f"<Guesses sources={MOST_SOURCES} right={MOST_RIGHT}>"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_an_address_is_one_source_with_what_its_owner_has_many_of(address: str, network: str) -> None:
    assert network_of(address) == network
