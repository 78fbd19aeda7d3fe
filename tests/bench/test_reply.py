"""What the clients of the benchmark accept as a reply."""

import pytest

from bench.reply import BadReply, Reply

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED])
def test_any_split_gives_the_same_body(whole: bytes) -> None:
    for at in range(len(whole) + 1):
        reply = Reply()
        got = sum(reply.feed(piece) for piece in (whole[:at], whole[at:]) if piece)
        reply.check(b"hello")
        assert got == 5


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED])
def test_a_part_is_not_whole(whole: bytes) -> None:
    for at in range(1, len(whole)):
        reply = Reply()
        reply.feed(whole[:at])
        with pytest.raises(BadReply):
            reply.check(b"hello")


@pytest.mark.parametrize(
    "wrong",
    [
        PLAIN.replace(b"200 OK", b"502 Bad Gateway"),
        PLAIN + b"x",
        CHUNKED + b"x",
        CHUNKED.replace(b"hel\r\n", b"hel--"),
        CHUNKED.replace(b"\r\n3\r\n", b"\r\nq\r\n"),
        b"HTTP/1.1 200 OK\r\n\r\nhello",
    ],
)
def test_what_is_malformed_is_no_reply(wrong: bytes) -> None:
    with pytest.raises(BadReply):
        Reply().feed(wrong)


def test_another_body_is_no_reply() -> None:
    reply = Reply()
    reply.feed(PLAIN)
    with pytest.raises(BadReply, match="5 bytes instead of 4"):
        reply.check(b"hell")
