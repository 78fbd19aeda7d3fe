"""Frames, pure: any split of the same bytes makes the same messages, and whatever breaks the protocol is told by its code."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import BINARY, CONT, PING, TEXT, Close, Frame
from websockets.utils import accept_key

from proxy.realtime.frames import ClientFrames, Ending, Message, UpstreamFrames, accepted

OPENED = b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %b\r\nx-request-id: u1\r\n\r\n"


def frames(*parts: Frame, mask: bool = True) -> bytes:
    return b"".join(part.serialize(mask=mask) for part in parts)


SENT = frames(
    Frame(TEXT, b"one"),
    Frame(TEXT, b"t", False),
    Frame(PING, b"are you there"),
    Frame(CONT, "wö".encode()[:2], False),
    Frame(CONT, "wö".encode()[2:], True),
    Frame(BINARY, b"\xff"),
    Frame(TEXT, b"x" * 70_000),
)
SAID = [Message(True, b"one"), Message(True, "twö".encode()), Message(False, b"\xff"), Message(True, b"x" * 70_000)]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 300), max_size=40))
def test_any_split_makes_the_same_messages(sizes: list[int]) -> None:
    client, at = ClientFrames(most_bytes=1 << 20), 0
    for size in sizes:
        client.feed(SENT[at : at + size])
        at += size
    client.feed(SENT[at:])
    assert list(client.messages) == SAID
    assert client.size == sum(len(message.data) for message in SAID)
    assert client.out(slow=False) == ([b"\x8a\x0dare you there"], False)


def test_pongs_are_dropped_for_one_who_does_not_read() -> None:
    client = ClientFrames(most_bytes=100)
    client.feed(frames(*[Frame(PING, b"x" * 100)] * 1000))
    assert client.out(slow=True) == ([], False)


def test_endless_fragments_take_no_room() -> None:
    client = ClientFrames(most_bytes=100)
    client.feed(frames(Frame(TEXT, b"{", False)))
    for _ in range(10_000):
        client.feed(frames(Frame(CONT, b"", False)))
    assert (client.size, client.fault) == (0, False)
    client.feed(frames(Frame(CONT, b"x" * 100, False)))
    assert client.fault


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_garbage_is_a_fault_or_nothing(data: bytes) -> None:
    client = ClientFrames(most_bytes=1000)
    client.feed(data)
    client.feed(b"more")
    client.close(Ending(1000, "x"))
    client.out(slow=False)


@pytest.mark.parametrize(("code", "told"), [(1000, 1000), (1011, 1011), (3000, 3000), (4999, 4999), (1012, 1012)])
def test_codes_that_may_be_said_pass(code: int, told: int) -> None:
    client = ClientFrames(most_bytes=100)
    client.feed(frames(Frame(8, Close(code, "why").serialize())))  # type: ignore[arg-type]
    assert client.ending == Ending(told, "why")
    assert not client.open


def test_a_long_reason_is_cut_between_characters() -> None:
    client = ClientFrames(most_bytes=100)
    client.close(Ending(1008, "ä" * 100))
    [piece], _ = client.out(slow=False)
    assert piece[2:] == (1008).to_bytes(2, "big") + ("ä" * 61).encode()
    client.close(Ending(1000))
    client.send(Message(True, b"late"))
    assert client.out(slow=False) == ([], False)


def nonce_of(upstream: UpstreamFrames) -> str:
    return next(line.partition(": ")[2] for line in upstream.lines() if line.startswith("sec-websocket-key"))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_upstream_that_agrees_may_speak_at_once(size: int) -> None:
    upstream = UpstreamFrames()
    data = OPENED % accept_key(nonce_of(upstream)).encode() + frames(Frame(TEXT, b"{}"), mask=False)
    for at in range(0, len(data), size):
        upstream.feed(data[at : at + size])
    assert (upstream.answered, upstream.status, upstream.open) == (True, 101, True)
    assert upstream.headers["x-request-id"] == "u1"
    assert list(upstream.messages) == [Message(True, b"{}")]


REFUSALS: dict[str, tuple[bytes, int]] = {
    "a status": (b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno", 503),
    "until the end": (b"HTTP/1.1 400 No\r\n\r\nno", 400),
    "another key": (OPENED % b"nonsense", 0),
    "an extension nobody asked for": (OPENED.replace(b"x-request-id: u1", b"sec-websocket-extensions: permessage-deflate"), 0),
    "a subprotocol nobody asked for": (OPENED.replace(b"x-request-id: u1", b"sec-websocket-protocol: mqtt"), 0),
    "no HTTP": (b"220 smtp ready\r\n\r\n", 0),
    "nothing": (b"", 0),
    "an endless field": (b"HTTP/1.1 101 S\r\nx: " + b"a" * 100_000, 0),
}


@pytest.mark.parametrize(("said", "status"), REFUSALS.values(), ids=REFUSALS.keys())
def test_any_other_answer_is_none(said: bytes, status: int) -> None:
    upstream = UpstreamFrames()
    upstream.feed(said.replace(b"%b", accept_key(nonce_of(upstream)).encode()))
    upstream.end()
    assert (upstream.answered, upstream.status, upstream.open) == (True, status, False)


def test_the_answer_to_a_nonce_is_the_rfc_s() -> None:
    assert accepted("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
