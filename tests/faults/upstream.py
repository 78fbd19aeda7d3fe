"""Faults of an upstream's connection and head: rows A1 to A6, A15 to A20, A22 and A23."""

import socket

from tests.faults.rig import Rig
from tests.faults.row import row
from tests.house import error_of


@row("A1", "connection refused", "502 `upstream_unreachable` at once, the hold released, no host in the body")
async def refused(rig: Rig) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with rig.proxy(f"http://127.0.0.1:{port}") as proxy:
        status, _, body = await proxy.chat()
        error = error_of(body)
        assert (status, error["code"]) == (502, "upstream_unreachable")
        assert str(port) not in body.decode()
        assert b"127.0.0.1" not in body
        [line] = await proxy.call_lines()
        assert (line["outcome"], line["cost_nanousd"]) == ("upstream_error", 0)
    return f"502 after {line['total_ms']:.0f} ms"
