"""What one stream takes whose client does not read: of the process, and of the system for its two sockets.

    python -m bench.unread [--streams 200] [--event 300] [--tls]

The upstream sends as fast as it can until nothing moves any more. Its events are framing for the most part, as a model's are: text is kept
besides, to be counted, for as long as a stream runs. The system's share is what it counts for the sockets itself (`ss -m`:
the bytes that wait, with its bookkeeping for them); what waits in the client's own socket is the client's.
"""

import argparse
import asyncio
import re
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import cast

from bench import wire
from bench.lineup import POLICY
from bench.subject import Failed, Subject, free_port

_AT_ONCE_BYTES = 16 << 10  # or the load would be the slowest part
_SETTLE_S = 1.0
_PATIENCE_S = 25.0  # less than the deadline `write_stall`
_MEMORY = re.compile(r"skmem:\(r(\d+),rb\d+,t(\d+),tb\d+,f\d+,w(\d+)")


class Flood(asyncio.Protocol):
    """An upstream that answers any request with events of one size, without end."""

    sent_bytes = 0

    def __init__(self, event: bytes) -> None:
        self._events = event * (1 + _AT_ONCE_BYTES // len(event))
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while not self._transport.is_closing():
            await self._writable.wait()
            self._transport.write(self._events)
            Flood.sent_bytes += len(self._events)
            await asyncio.sleep(0)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self._task is not None:
            self._task.cancel()


def system_bytes(condition: str) -> tuple[int, int]:
    """(to be read, to be sent) in memory of the system, over all sockets that `ss` finds by this condition."""
    told = subprocess.run(
        ["ss", "-tnmH", "state", "established", condition], capture_output=True, text=True, timeout=20, check=True
    )
    found = [(int(r), int(w)) for r, _, w in _MEMORY.findall(told.stdout)]
    return sum(r for r, _ in found), sum(w for _, w in found)


def _certified(folder: Path) -> ssl.SSLContext:
    """What an upstream on this machine shows, made by the `openssl` command; `own.pem` in the folder is to be trusted."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout own.key -out own.pem -subj /CN=bench"
    )
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    return context


async def measure(*, streams: int, event_bytes: int, tls: bool) -> None:
    frame = b'data: {"id":"%b","choices":[{"index":0,"delta":{"content":" a word"}}]}\n\n'
    body = frame % (b"x" * (event_bytes - len(frame) + 2))
    event = b"%x\r\n%b\r\n" % (len(body), body)
    loop = asyncio.get_running_loop()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        context = _certified(Path(folder)) if tls else None
        server = await loop.create_server(lambda: Flood(event), "127.0.0.1", 0, ssl=context)
        upstream = server.sockets[0].getsockname()[1]
        base = f"{'https' if tls else 'http'}://127.0.0.1:{upstream}/v1"
        command = [sys.executable, "-m", "proxy", "serve", "--policy", str(POLICY), "--upstream", base]
        command += ["--state-dir", folder, "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{free_port()}"]
        subject = Subject(
            "Tollhouse", command, port=port, core=0, drain_core=1, env={"SSL_CERT_FILE": f"{folder}/own.pem"} if tls else {}
        )
        writers: list[asyncio.StreamWriter] = []
        try:
            await subject.first_200(wire.request(port, prompt_bytes=100, capped=True, stream=wire.Stream(1, 0.001)))
            before = 0.0
            while (
                subject.rss_mib() > before
            ):  # a call that was broken off is counted, and the first count loads what it takes, 80 MiB
                before = subject.rss_mib()
                await asyncio.sleep(2 * _SETTLE_S)
            for _ in range(streams):
                _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(wire.request(port, prompt_bytes=100, capped=True, stream=wire.Stream(1, 0.001)))
                writers.append(writer)
            async with asyncio.timeout(_PATIENCE_S):
                moved = -1
                while moved != Flood.sent_bytes:
                    moved = Flood.sent_bytes
                    await asyncio.sleep(_SETTLE_S)
            process = (subject.rss_mib() - before) * 2**20
            _, to_client = system_bytes(f"( sport = :{port} )")
            from_upstream, _ = system_bytes(f"( dport = :{upstream} )")
        finally:
            for writer in writers:
                writer.transport.abort()
            subject.stop()
            server.close()
    parts = {"process": process, "system, to the client": to_client, "system, from the upstream": from_upstream}
    for name, size in (*parts.items(), ("in all", sum(parts.values()))):
        print(f"{name:26} {size / streams / 1024:8.1f} KiB a stream")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.unread", description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--event", type=int, default=300, help="bytes of an event")
    parser.add_argument("--tls", action="store_true", help="an upstream that speaks TLS")
    given = parser.parse_args()
    try:
        asyncio.run(measure(streams=given.streams, event_bytes=given.event, tls=given.tls))
    except (Failed, TimeoutError) as error:
        sys.exit(f"bench: {error!r}")


if __name__ == "__main__":
    main()
