"""What nobody meant to log: defects, and what libraries have to say.

An exception becomes its type and the places it went through, a library's record its logger and place. The rule a reader could
break: never the text of either. An exception quotes what it choked on, and asyncio prints the arguments of a callback.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from proxy.telemetry.logs import Level, Log

_MOST_FRAMES = 16
_MOST_CAUSES = 4


def exception_types(error: BaseException) -> str:
    """Type of an exception and of its causes: `proxy.errors.StateUnavailable < sqlite3.OperationalError`."""
    types: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(types) < _MOST_CAUSES:
        kind = type(cause)
        types.append(kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return " < ".join(types)


def stack_of(trace: TracebackType | None) -> list[str]:
    """The innermost frames, innermost first, each as `module:line function`."""
    frames = [
        f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_qualname}" for frame, line in traceback.walk_tb(trace)
    ]
    return frames[: -_MOST_FRAMES - 1 : -1]


def report(log: Log, error: BaseException | None, *, where: str, request_id: str | None = None) -> None:
    """Log a defect. where: the part of the program that caught it; error: None when nothing is known but that there was one."""
    log.event(
        "fault.caught",
        level="error",
        where=where,
        request_id=request_id,
        exception=exception_types(error) if error else None,
        stack=stack_of(error.__traceback__) if error else None,
    )


class _Bridge(logging.Handler):
    """Turns records of the standard library's logging into `library.logged`."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._log.event(
            "library.logged",
            level=_level(record.levelno),
            logger=record.name,
            where=f"{record.module}:{record.lineno} {record.funcName}",
            exception=exception_types(error) if error else None,
            stack=stack_of(error.__traceback__) if error else None,
        )


def _level(number: int) -> Level:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


def install(log: Log) -> Callable[[], None]:
    """Route into `log` what libraries log from a warning up, warnings, and every exception that nobody caught.

    Returns what undoes it. An event loop has a handler of its own: `loop.set_exception_handler(loop_handler(log))`.
    """
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook, sys.unraisablehook)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        # The log may be closed already by the `finally` that the exception went through, so it goes to standard error too.
        print("tollhouse:", exception_types(error), *stack_of(trace), sep="\n    ", file=sys.stderr)
        report(log, error.with_traceback(trace), where="process")
        log.close()

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            report(log, args.exc_value, where="thread")

    def uncaught_in_destructor(args: Any) -> None:  # sys.UnraisableHookArgs exists for type checkers only
        report(log, args.exc_value, where="destructor")

    root.handlers = [_Bridge(log)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, uncaught_in_thread, uncaught_in_destructor

    def undo() -> None:
        logging.captureWarnings(False)
        root.handlers, level, sys.excepthook, threading.excepthook, sys.unraisablehook = before
        root.setLevel(level)

    return undo


def loop_handler(log: Log) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """For `loop.set_exception_handler`: what a task or a callback raised and nobody awaited."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        report(log, context.get("exception"), where="loop")

    return handle
