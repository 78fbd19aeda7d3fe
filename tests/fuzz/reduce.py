"""The smallest set of inputs that reaches all that many do: what is kept in the repository of what fuzzing found.

The rule a reader could break: what an input reaches is told by pairs of lines, one after the other, so that a branch counts both ways.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any

_PARTS = ("/proxy/", "/policies/")
Pair = tuple[CodeType, int, int]


def reached(one: Callable[[bytes], None], data: bytes) -> set[Pair]:
    """The pairs of lines of the product that an input reaches."""
    found: set[Pair] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not any(part in code.co_filename for part in _PARTS):
            return None
        last = 0

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                found.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        with contextlib.suppress(Exception):  # one that breaks something is kept elsewhere
            one(data)
    finally:
        sys.settrace(None)
    return found


def reduced(one: Callable[[bytes], None], known: Iterable[bytes], more: Iterable[bytes]) -> list[bytes]:
    """Those of `more` that reach something which neither `known` nor a shorter one does."""
    seen: set[Pair] = set()
    for data in known:
        seen |= reached(one, data)
    kept = []
    for data in sorted(more, key=len):
        if new := reached(one, data) - seen:
            seen |= new
            kept.append(data)
    return kept
