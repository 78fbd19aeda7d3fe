"""Every test of the client's side runs on both loops: uvloop, which serves, and the standard library's, which is stricter to test on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


class _Movable:
    """A loop whose time a test can move on."""

    moved_s = 0.0

    def time(self) -> float:
        return super().time() + self.moved_s  # type: ignore[misc,no-any-return]


class MovableUvloop(_Movable, uvloop.Loop):
    pass


class MovableAsyncio(_Movable, asyncio.SelectorEventLoop):
    pass


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": MovableUvloop, "asyncio": MovableAsyncio}
