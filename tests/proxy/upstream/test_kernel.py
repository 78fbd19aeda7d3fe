"""What the system keeps for a socket is bounded before it connects, and it says how much came."""

import asyncio
import socket
import sys

import pytest

from proxy.upstream.eyeballs import connect
from proxy.upstream.kernel import RECEIVE_BYTES, bound_buffers, received_bytes


def receive_bytes(sock: socket.socket) -> int:
    """Of its buffer, with what Linux adds for its bookkeeping."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


async def test_every_connection_to_an_upstream_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = await connect([(socket.AF_INET, server.getsockname())])
        with sock:
            assert receive_bytes(sock) <= 2 * RECEIVE_BYTES


def test_a_socket_that_cannot_be_bounded_is_used_as_it_is() -> None:
    sock = socket.socket()
    sock.close()
    bound_buffers(sock)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it")
async def test_the_system_says_how_much_came_also_of_what_nobody_read() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = await connect([(socket.AF_INET, server.getsockname())])
        peer, _ = server.accept()
        with sock, peer:
            assert received_bytes(sock) == 0
            peer.sendall(b"x" * 1000)
            assert await loop.sock_recv(sock, 400) == b"x" * 400
            assert received_bytes(sock) == 1000
    assert received_bytes(sock) == 0, "of one that is closed nothing is known"
