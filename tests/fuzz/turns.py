"""An event loop without sockets, threads or time: what is ready runs, in order, when a target says so.

It is ten times as fast as a real one, and what it does depends on the input alone, so that an input that broke something breaks it
again. The rule a reader could break: nothing that runs on it may wait for anything but what the target does next.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any


class _Handle:
    """Of a callback that nobody cancels, or a timer that never fires."""

    @staticmethod
    def cancel() -> None: ...


_HANDLE: Any = _Handle()


class TurnLoop(asyncio.AbstractEventLoop):
    """faults: what nobody caught, which is always a mistake. moved: its time, in seconds."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.moved = 0.0
        self._ready: deque[tuple[Context | None, Callable[..., object], tuple[Any, ...]]] = deque()

    def enter(self) -> None:
        """From now on this is the running loop of the thread."""
        asyncio._set_running_loop(self)

    def turn(self) -> None:
        """Run what is ready, and what becomes ready by it, until nothing is."""
        ready = self._ready
        while ready:
            context, callback, arguments = ready.popleft()
            try:
                if context is None:
                    callback(*arguments)
                else:
                    context.run(callback, *arguments)
            except Exception as error:
                self.faults.append(repr(error))

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        self._ready.append((context, callback, args))
        return _HANDLE

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return _HANDLE

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return _HANDLE

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, **options)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        """Here and now."""
        future = self.create_future()
        future.set_result(func(*args))
        return future

    def time(self) -> float:
        return self.moved

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")
