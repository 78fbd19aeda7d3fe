"""A name server for one process, and a view of the file system in which that process asks it.

    async with Names.serving(folder) as names, rig.proxy("http://model.test:1", within=names.command()) as proxy:
        names.say("127.0.0.1")

The rule a reader could break: only the process sees it. What this machine resolves is not touched.
"""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

_ADDRESS = "127.0.0.153"  # nobody else's, on the one port that a resolver asks
_A = 1
_NO_SUCH_NAME = 3


def sealed() -> str | None:
    """Why a process cannot be given name servers of its own here, None if it can."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "no unshare here"
    if os.geteuid() != 0:
        return "it takes root"
    tried = subprocess.run(["unshare", "-m", "mount", "--bind", "/etc/hosts", "/etc/resolv.conf"], capture_output=True, check=False)
    if tried.returncode != 0:
        return "no leave to mount"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((_ADDRESS, 53))
        except OSError:
            return "port 53 is taken"
    return None


class Names(asyncio.DatagramProtocol):
    """asked: look-ups of addresses of the first family, however often one was repeated."""

    def __init__(self, folder: Path) -> None:
        self._conf = folder / "resolv.conf"
        self._conf.write_text(f"nameserver {_ADDRESS}\noptions timeout:2 attempts:1\n")
        self._said = ""
        self._seen: set[tuple[bytes, object]] = set()

    @classmethod
    @asynccontextmanager
    async def serving(cls, folder: Path) -> "AsyncIterator[Names]":
        names = cls(folder)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: names, local_addr=(_ADDRESS, 53))
        try:
            yield names
        finally:
            transport.close()

    @property
    def asked(self) -> int:
        return len(self._seen)

    def command(self) -> list[str]:
        """What a process is run by to see these names and no others."""
        return ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(self._conf)]

    def say(self, what: str) -> None:
        """From now on every name has this address; or is `no such name`; or gets `nothing` for an answer."""
        self._said = what

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        question, [kind] = data[12:end], struct.unpack(">H", data[end - 4 : end - 2])
        if kind == _A:
            self._seen.add((data[:2], addr))
        if self._said == "nothing":
            return
        unknown = self._said == "no such name"
        answers = b"" if unknown or kind != _A else b"\xc0\x0c" + struct.pack(">HHIH", _A, 1, 0, 4) + socket.inet_aton(self._said)
        head = struct.pack(">HHHHH", 0x8180 | (_NO_SUCH_NAME if unknown else 0), 1, 1 if answers else 0, 0, 0)
        self._transport.sendto(data[:2] + head + question + answers, addr)
