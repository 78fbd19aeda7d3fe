"""Who is at the other end of a socket."""

import asyncio
import socket
from ipaddress import ip_address


def address(transport: asyncio.BaseTransport) -> str:
    """The peer's address as text, empty for a socket in the file system and for a peer that has gone."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


def is_loopback(transport: asyncio.BaseTransport) -> bool:
    """Whether the peer is this machine (in a pod: any of its containers)."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        sock = transport.get_extra_info("socket")
        return sock is not None and sock.family == socket.AF_UNIX
    host = peer[0]
    return bool(host == "127.0.0.1" or ip_address(host.partition("%")[0]).is_loopback)
