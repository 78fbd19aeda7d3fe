"""Failing with words: what a scenario says when something is not as it must be."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_S = 0.02


class Failed(Exception):
    """Something is not as it must be. The message says what was expected and what was seen."""


def expect(truth: object, otherwise: str) -> None:
    """Errors: Failed with `otherwise`."""
    if not truth:
        raise Failed(otherwise)


def same(what: str, got: object, wanted: object) -> None:
    """Errors: Failed when `got` is not `wanted`."""
    expect(got == wanted, f"{what}: expected {wanted!r}, got {got!r}")


async def until(what: str, look: Callable[[], Awaitable[T | None]], *, within_s: float) -> tuple[T, float]:
    """Ask `look` again and again until it finds something. Returns that, and the seconds it took. Errors: Failed after `within_s`."""
    began = time.monotonic()
    while (found := await look()) is None:
        expect(time.monotonic() - began < within_s, f"{what}: not within {within_s:g} s")
        await asyncio.sleep(_LOOK_S)
    return found, time.monotonic() - began
