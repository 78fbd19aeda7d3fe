"""A connection is made to the first address that takes one, and the attempts that lost leave nothing open."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from proxy.upstream.eyeballs import _interleaved, connect
from proxy.upstream.resolve import Address
from tests.proxy.upstream.calls import soon, turns


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, Address]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server, (socket.AF_INET, server.getsockname())


@contextlib.contextmanager
def silent() -> Iterator[Address]:
    """An address that neither takes nor refuses: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield socket.AF_INET, server.getsockname()


def refusing() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.AF_INET, server.getsockname()


@pytest.mark.parametrize("before", [0, 1, 3])
async def test_addresses_that_refuse_are_passed_over_at_once(before: int) -> None:
    with listening() as (_, good), await soon(connect([*[refusing()] * before, good])) as sock:
        assert sock.getpeername() == good[1]


async def test_an_address_that_says_nothing_is_not_waited_for() -> None:
    with silent() as bad, listening() as (_, good), await soon(connect([bad, good], stagger_s=0.0)) as sock:
        assert sock.getpeername() == good[1]


@pytest.mark.parametrize("count", [1, 3])
async def test_when_all_refuse_the_last_refusal_is_the_error(count: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        await soon(connect([refusing()] * count))


async def test_an_attempt_that_wins_second_is_closed() -> None:
    with listening() as (server, good), await soon(connect([good] * 3, stagger_s=0.0)):
        for _ in range(5):  # in which the losers end
            await asyncio.sleep(0)
        open_ends = 0
        for _ in range(3):
            with contextlib.suppress(BlockingIOError):
                end, _ = server.accept()
                with end:
                    end.setblocking(False)
                    try:
                        open_ends += end.recv(1) == b"?"
                    except BlockingIOError:
                        open_ends += 1
        assert open_ends == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_a_cancelled_attempt_leaves_nothing_open(count: int) -> None:
    with silent() as bad:
        attempt = asyncio.ensure_future(connect([bad] * count, stagger_s=0.0))
        for _ in range(5):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.wait([attempt])
        assert attempt.cancelled()
        await turns(lambda: not [t for t in asyncio.all_tasks() if t.get_name() == "connect"])


async def test_no_address_at_all_is_an_error() -> None:
    with pytest.raises(OSError, match="no address"):
        await connect([])


def test_families_take_turns_and_the_first_one_begins() -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    given = [(six, "a"), (six, "b"), (six, "c"), (four, "d"), (four, "e")]
    assert _interleaved(given) == [(six, "a"), (four, "d"), (six, "b"), (four, "e"), (six, "c")]
