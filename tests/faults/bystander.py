"""Another tenant, in a process of its own: its model server, and small calls at a steady pace, each timed.

    python -m tests.faults.bystander

It prints the port of its model server, reads the proxy's port and a key from standard input, and then prints one line a call: when it
ended, how long it took (both in seconds), its status, and how long one took that was made right after it, past the proxy: through a
process that hands bytes on (`python -m tests.faults.bystander PORT`), and so through as many hands of the system.

The rule a reader could break: it shares nothing with whoever makes the faults, or their load would be measured in its calls.
"""

import asyncio
import os
import sys
import time
from contextlib import suppress
from functools import partial

PACE_S = 0.04
_PRIORITY = -15
MODEL = "bystander-1"
UNCOUNTED = "bystander-uncounted"
_BODY = b'{"model": "bystander-1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}'
_ANSWER = (
    b'{"id": "1", "model": "bystander-1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}}'
)
# For UNCOUNTED: without usage, so that Tollhouse must count it.
_BARE = (
    b'{"id": "1", "model": "bystander-uncounted", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}'
)
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            asked = await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            answer = _BARE if UNCOUNTED.encode() in asked else _ANSWER
            writer.write(_REPLY % (len(answer), answer))
            if b"connection: close" in head:
                break
        except (asyncio.IncompleteReadError, ConnectionError):
            break
    writer.close()


async def _call(port: int, key: str) -> int:
    """One call over a connection of its own, as a client that comes now and then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (key.encode(), len(_BODY), _BODY)
        )
        said = await reader.read()
        return int(said[9:12] or b"0")
    finally:
        writer.close()


async def _hand_on(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A connection of its own to `port` for each that comes, and all bytes both ways."""
    try:
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, before), _copy(behind, writer))
    except OSError:
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
    finally:
        writer.close()


async def relay(port: int) -> None:
    """Print a port, and hand on what comes there to `port`, until standard input ends."""
    server = await asyncio.start_server(partial(_hand_on, port), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # what is still being handed on has nobody behind it, and would only be complained of


async def main() -> None:
    with suppress(PermissionError):  # the one that measures waits for no core, where it may; nor does its way past the proxy
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    own = server.sockets[0].getsockname()[1]
    relaying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.bystander", str(own)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert relaying.stdout is not None
    past_port = int(await relaying.stdout.readline())
    print(own, flush=True)
    port, key = (await asyncio.to_thread(sys.stdin.readline)).split()
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(20):
                status = await _call(int(port), key)
        except (OSError, TimeoutError):
            status = 0
        ended = time.monotonic()
        await _call(past_port, key)
        past = time.monotonic() - ended
        print(f"{ended:.6f} {ended - began:.6f} {status} {past:.6f}", flush=True)
        await asyncio.sleep(max(0.0, PACE_S - (time.monotonic() - began)))


if __name__ == "__main__":
    asyncio.run(relay(int(sys.argv[1])) if len(sys.argv) > 1 else main())
