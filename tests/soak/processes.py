"""The soak's model server and clients, as whoever runs them sees them.

The rule a reader could break: what a process kept is read after it has ended, and not before.
"""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.soak.load import Orders


class ModelServer:
    """`tests.soak.model`. file: where it writes what it did, by the time `close` returns."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.port = 0

    def __repr__(self) -> str:
        return f"<ModelServer :{self.port}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.soak.model", str(self.file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End it, and its connections with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


async def loaded(orders: Orders) -> tuple[dict[str, int], list[str]]:
    """Run `tests.soak.load` to its end: how many calls there were of each kind, and what went wrong."""
    load = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak.load", json.dumps(asdict(orders))), stdout=asyncio.subprocess.PIPE
    )
    try:
        said, _ = await load.communicate()
    except BaseException:
        load.kill()
        await load.wait()
        raise
    assert load.returncode == 0, "the clients broke"
    found = json.loads(said)
    return found["kinds"], found["wrong"]
