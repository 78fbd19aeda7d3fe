import asyncio
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.telemetry.faults import exception_types, install, loop_handler, report, stack_of
from proxy.telemetry.logs import Log
from tests.clock import FakeClock

CANARY = "canary-7f3a"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = Log(fd, clock=FakeClock(), gather_s=0)
    yield log
    log.close(within_s=20)
    os.close(fd)


@pytest.fixture
def written(log: Log, tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Ends the log and gives its lines, none of which may hold the canary."""

    def read() -> list[dict[str, Any]]:
        log.close(within_s=20)
        text = (tmp_path / "log").read_text()
        assert CANARY not in text
        return [json.loads(line) for line in text.splitlines()]

    return read


@contextmanager
def installed(log: Log) -> Iterator[None]:
    undo = install(log)
    try:
        yield
    finally:
        undo()


class Broken(Exception):
    pass


class Doomed:
    def __del__(self) -> None:
        fail()


def fail(depth: int = 0) -> None:
    if depth:
        fail(depth - 1)
    raise ValueError(CANARY)


def caught(depth: int = 0) -> BaseException:
    error = Broken(CANARY)
    try:
        try:
            fail(depth)
        except ValueError as cause:
            raise error from cause
    except Broken:
        pass
    return error


def test_an_exception_is_its_type_and_those_of_its_causes_and_never_its_text() -> None:
    assert exception_types(caught()) == f"{__name__}.Broken < ValueError"


def test_a_cause_that_was_hidden_on_purpose_is_not_named() -> None:
    error = Broken()
    error.__context__, error.__suppress_context__ = ValueError(), True
    assert exception_types(error) == f"{__name__}.Broken"


def test_a_ring_of_causes_ends() -> None:
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one
    assert exception_types(one) == "ValueError < KeyError < ValueError < KeyError"


def test_a_stack_is_places_innermost_first_and_at_most_16() -> None:
    cause = caught(depth=30).__cause__
    assert cause is not None
    stack = stack_of(cause.__traceback__)
    assert len(stack) == 16
    assert all(place.startswith(f"{__name__}:") and place.endswith(" fail") for place in stack)
    assert stack[0] != stack[1], "the line that raised, then the line that called"
    assert stack_of(None) == []


def test_a_fault_is_logged_with_its_place_and_its_call(log: Log, written: Callable[[], list[dict[str, Any]]]) -> None:
    report(log, caught(), where="edge", request_id="req_1")
    (line,) = written()
    assert (line["event"], line["level"], line["where"], line["request_id"]) == ("fault.caught", "error", "edge", "req_1")
    assert line["exception"] == f"{__name__}.Broken < ValueError"
    assert line["stack"][-1].endswith(" caught")


def test_what_a_library_logs_is_its_logger_level_place_and_type_of_exception(
    log: Log, written: Callable[[], list[dict[str, Any]]]
) -> None:
    logger = logging.getLogger("aiohttp.server")
    with installed(log):
        logger.warning("could not parse %s", CANARY)
        logger.error("bytes of a call: %r", CANARY, exc_info=caught())
        logger.critical("a text that cannot even be formatted: %d", CANARY)
        logger.info("less than a warning")
    first, second, third = written()
    assert (first["event"], first["level"], first["logger"]) == ("library.logged", "warning", "aiohttp.server")
    assert first["where"].startswith("test_faults:")
    assert first["exception"] is None
    assert (second["level"], second["exception"]) == ("error", f"{__name__}.Broken < ValueError")
    assert third["level"] == "error"


def test_a_warning_is_logged_without_its_text(log: Log, written: Callable[[], list[dict[str, Any]]]) -> None:
    with warnings.catch_warnings(), installed(log):
        warnings.simplefilter("default")
        warnings.warn(CANARY, stacklevel=1)
    (line,) = written()
    assert (line["event"], line["logger"], line["level"]) == ("library.logged", "py.warnings", "warning")


def test_what_nobody_caught_is_a_fault_wherever_it_was_raised(
    log: Log, written: Callable[[], list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    error = caught()
    with installed(log):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        doomed = Doomed()
        del doomed
        sys.excepthook(type(error), error, error.__traceback__)
    lines = written()
    assert [line["where"] for line in lines] == ["thread", "destructor", "process"]
    assert {line["event"] for line in lines} == {"fault.caught"}
    assert lines[0]["stack"][0].endswith(" fail")
    assert CANARY not in capsys.readouterr().err


def test_a_fault_that_ends_the_process_is_seen_even_when_the_log_is_closed(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.close(within_s=20)
    error = caught()
    with installed(log):
        sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert printed.startswith(f"tollhouse:\n    {__name__}.Broken < ValueError\n    {__name__}:")
    assert CANARY not in printed


def test_an_interrupt_and_an_exit_are_no_faults(log: Log, written: Callable[[], list[dict[str, Any]]]) -> None:
    with installed(log):
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        thread = threading.Thread(target=sys.exit)
        thread.start()
        thread.join()
    assert written() == []


async def test_what_the_event_loop_reports_is_logged_without_arguments_of_callbacks(
    log: Log, written: Callable[[], list[dict[str, Any]]]
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(loop_handler(log))

    def callback(argument: str) -> None:
        fail()

    loop.call_soon(callback, CANARY)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_exception_handler({"message": f"Task {CANARY} was destroyed"})
    first, second = written()
    assert (first["where"], first["exception"]) == ("loop", "ValueError")
    assert (second["where"], second["exception"], second["stack"]) == ("loop", None, None)


def test_installing_can_be_undone(log: Log) -> None:
    root = logging.getLogger()
    hooks = (root.handlers[:], root.level, sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning)
    install(log)()
    assert (root.handlers[:], root.level, sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning) == hooks
