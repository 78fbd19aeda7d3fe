"""An answer on its way out: one head, one framing, one end; and a client that is slow to take it."""

import asyncio

import pytest

from proxy.downstream.arrival import HttpArrival
from proxy.downstream.connection import HIGH_WATER_BYTES
from proxy.downstream.sink import HttpSink
from tests.proxy.downstream.door import GET, Door, get, turns

PIECES = [b"a", b"bc" * 100, b"\r\n0\r\n\r\n"]


def streamed(status: int = 200, length: int | None = None) -> object:
    async def answer(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(status, ["x: y"], length=length)
        await sink.room()
        for piece in PIECES:
            if sink.write(piece):
                await sink.room()
        sink.end()
        await sink.room()

    return answer


def together(status: int = 200) -> object:
    """The same, with its first piece in the write of the head."""

    async def answer(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(status, ["x: y"], first=PIECES[0])
        for piece in PIECES[1:]:
            sink.write(piece)
        sink.end()

    return answer


def framed(status: int = 200) -> object:
    """The same, but for the head, from pieces that came in chunks."""

    async def answer(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(status, ["x: y"])
        for piece in PIECES:
            size = b"%x\r\n" % len(piece)
            sink.write_chunk(size + piece + b"\r\n", len(size), len(size) + len(piece))
        sink.end()

    return answer


def whole(status: int = 200, body: bytes = b"hello", length: int | None = None, *, close: bool = False) -> object:
    async def answer(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.whole(body, status, ["x: y"], length=length, close=close)
        await sink.room()

    return answer


@pytest.mark.parametrize("handler", [streamed(), framed(), together()], ids=["pieces", "chunks", "together"])
async def test_an_answer_of_unknown_length_goes_in_chunks_and_the_connection_lives_on(handler: object) -> None:
    async with Door(handler) as door, door.caller() as caller:  # type: ignore[arg-type]
        for _ in range(2):
            await caller.send(GET)
            answer = await caller.answer()
            assert answer.body == b"".join(PIECES)
            assert answer.fields["transfer-encoding"] == "chunked"
            assert "content-length" not in answer.fields


@pytest.mark.parametrize("handler", [streamed(), framed(), together()], ids=["pieces", "chunks", "together"])
@pytest.mark.parametrize("fields", [(), ("connection: keep-alive",)])
async def test_a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection_as_the_end(
    fields: tuple[str, ...], handler: object
) -> None:
    async with Door(handler) as door, door.caller() as caller:  # type: ignore[arg-type]
        await caller.send(get("/", *fields, version="1.0"))
        answer = await caller.answer()
        assert answer.body == b"".join(PIECES)
        assert answer.fields["connection"] == "close"
        assert "transfer-encoding" not in answer.fields


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_whose_length_is_known_says_so(version: str) -> None:
    size = sum(map(len, PIECES))
    async with Door(streamed(length=size)) as door, door.caller() as caller:  # type: ignore[arg-type]
        for _ in range(2):
            await caller.send(get("/", "connection: keep-alive", version=version))
            answer = await caller.answer()
            assert (answer.fields["content-length"], answer.body) == (str(size), b"".join(PIECES))


@pytest.mark.parametrize(
    ("handler", "length"),
    [
        (whole(), "5"),
        (whole(body=b"", length=1234), "1234"),
        (streamed(length=9), "9"),
        (streamed(), None),
        (framed(), None),
        (together(), None),
    ],
    ids=["whole", "whole, of a length that was told", "streamed, of a known length", "streamed", "streamed in chunks", "together"],
)
async def test_the_answer_to_head_is_a_head(handler: object, length: str | None) -> None:
    async with Door(handler) as door, door.caller() as caller:  # type: ignore[arg-type]
        for _ in range(3):
            await caller.send(get(method="HEAD"))
            answer = await caller.answer("HEAD")
            assert (answer.status, answer.fields.get("content-length")) == (200, length)
        assert caller.got == b""


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("handler", [whole, streamed, together])
async def test_an_answer_that_has_no_body_by_its_status_is_a_head(status: int, handler: object) -> None:
    """A last chunk behind it would be taken for the beginning of the next answer."""
    async with Door(handler(status)) as door, door.caller() as caller:  # type: ignore[operator]
        for _ in range(3):
            await caller.send(GET)
            answer = await caller.answer()
            assert answer.status == status
            assert not {"content-length", "transfer-encoding"} & set(answer.fields)
        await caller.send(get("/", "connection: close"))
        await caller.answer()
        assert await caller.ended() == b""


async def test_a_head_says_who_answers_and_when() -> None:
    async with Door(whole(429)) as door, door.caller() as caller:  # type: ignore[arg-type]
        for wall_s, date in ((1.9, "Thu, 01 Jan 1970 00:00:01 GMT"), (2.0, "Thu, 01 Jan 1970 00:00:02 GMT")):
            door.wall_s = wall_s
            await caller.send(GET)
            answer = await caller.answer()
            assert (answer.fields["server"], answer.fields["date"]) == ("tollhouse", date)


async def test_a_head_may_end_the_connection() -> None:
    async with Door(whole(close=True)) as door, door.caller() as caller:  # type: ignore[arg-type]
        await caller.send(GET)
        assert (await caller.answer()).fields["connection"] == "close"
        assert await caller.ended() == b""


@pytest.mark.parametrize("line", ["x: a\r\nset-cookie: b", "x: a\nb", "x: a\rb"])
async def test_a_line_that_would_be_two_is_never_sent_and_no_head_was(line: str) -> None:
    seen: list[bool] = []

    async def answer(arrival: HttpArrival, sink: HttpSink) -> None:
        with pytest.raises(ValueError, match="line break"):
            sink.whole(b"", 200, ["a: b", line])
        seen.append(sink.head_sent)
        sink.whole(b"", 500, ["a: b"])
        await sink.room()

    async with Door(answer) as door, door.caller() as caller:
        await caller.send(GET)
        assert (await caller.answer()).status == 500
    assert seen == [False]


async def test_there_is_never_a_second_head() -> None:
    async def answer(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(200, ["a: b"])
        await sink.room()
        with pytest.raises(AssertionError):
            sink.whole(b"", 500, ["a: b"])
        sink.end()
        await sink.room()

    async with Door(answer) as door, door.caller() as caller:
        await caller.send(GET)
        assert (await caller.answer()).status == 200


async def test_an_answer_that_is_broken_off_looks_like_one() -> None:
    async def answer(arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(200, ["a: b"])
        await sink.room()
        sink.write(b"half")
        sink.abort()

    async with Door(answer) as door, door.caller() as caller:
        await caller.send(GET + GET)
        got = b""
        try:
            got = await caller.ended()
        except ConnectionError:
            pass
        await turns(lambda: door.connections == 0)
    assert not got.endswith(b"0\r\n\r\n")
    assert len(door.begun) == 1


class Slow:
    """Writes for ever, or until it may not."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.waits = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self, arrival: HttpArrival, sink: HttpSink) -> None:
        sink.start(200, ["a: b"], length=64 << 20)
        await sink.room()
        left = 64 << 20
        try:
            while left:
                left -= 65536
                if sink.write(b"x" * 65536):
                    self.waits.set()
                    await sink.room()
                self.sent_bytes += 65536
        except BaseException as error:
            self.error = error
            raise
        sink.end()
        await sink.room()


async def test_a_client_that_does_not_read_is_waited_for_and_little_is_kept_for_it() -> None:
    slow = Slow()
    async with Door(slow) as door, door.caller(receive_bytes=4096) as caller:
        await caller.send(GET)
        await turns(slow.waits.is_set)
        sent = slow.sent_bytes
        for _ in range(1000):
            await asyncio.sleep(0)
        assert slow.sent_bytes - sent <= 1 << 20, "but for what the kernel still took, nothing more was written"
        sent = slow.sent_bytes
        for _ in range(1000):
            await asyncio.sleep(0)
        assert slow.sent_bytes == sent
        [line] = [arrival._line for arrival in door.begun]
        kept = line._transport.get_write_buffer_size()  # type: ignore[attr-defined]
        assert kept <= HIGH_WATER_BYTES + 65536 + 1024
        assert len((await caller.answer()).body) == 64 << 20


@pytest.mark.parametrize("how", ["leave", "reset"])
async def test_a_client_that_leaves_while_it_is_waited_for_is_not_waited_for_any_more(how: str) -> None:
    slow = Slow()
    async with Door(slow) as door, door.caller(receive_bytes=4096) as caller:
        await caller.send(GET)
        await turns(slow.waits.is_set)
        getattr(caller, how)()
        await turns(lambda: door.cancelled + door.finished == 1)
        await turns(lambda: door.connections == 0)
    assert isinstance(slow.error, (asyncio.CancelledError, ConnectionError))


async def test_a_call_that_is_cut_while_it_waits_for_the_client_leaves_the_connection_to_be_broken() -> None:
    """As a deadline does: it cancels the call, which then breaks the connection."""
    slow = Slow()

    async def cut(arrival: HttpArrival, sink: HttpSink) -> None:
        task = asyncio.ensure_future(slow(arrival, sink))
        await slow.waits.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        sink.abort()

    async with Door(cut) as door, door.caller(receive_bytes=4096) as caller:
        await caller.send(GET)
        await turns(lambda: door.connections == 0 and door.finished + door.cancelled == 1)
