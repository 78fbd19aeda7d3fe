"""Names of header fields are read in lower case, and strangers cannot make us remember theirs for ever."""

from proxy.wire.names import LowerNames


def test_a_name_is_the_same_in_any_case() -> None:
    names = LowerNames()
    assert names[b"Content-TYPE"] == names[b"content-type"] == "content-type"


def test_what_is_remembered_is_bounded() -> None:
    names = LowerNames()
    made_up = [f"X-{n}".encode() for n in range(1000)] + [b"X-" + b"y" * 30_000]
    assert [names[name] for name in made_up] == [name.decode().lower() for name in made_up]
    assert len(names) <= 256
    assert max(map(len, names)) <= 64
