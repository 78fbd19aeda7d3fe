"""What fuzzing found, and what it begins with, once more: no input of the corpus breaks anything.

A file whose name begins with `broke-` did so once.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.fuzz.strict import read_all
from tests.fuzz.targets import CORPUS, TARGETS, stored


@pytest.fixture(autouse=True)
def _no_loop_left() -> Iterator[None]:
    """Two of the targets make a loop of their own the running one."""
    yield
    asyncio._set_running_loop(None)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_was_ever_tried_breaks_anything(name: str) -> None:
    one = TARGETS[name].one()
    for number, seed in enumerate(TARGETS[name].seeds()):
        _try(one, seed, f"seed {number}")
    for known, data in stored(name):
        _try(one, data, known)


def test_every_folder_of_the_corpus_is_of_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize(
    ("sent", "bodies"),
    [
        (
            b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nokPOST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            [b"ok", b""],
        ),
        (b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\nb: c\r\n\r\n", [b"ok"]),
        (b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nok", [None]),
        (b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", []),
        (b"POST /a HTTP/1.1\r\nhost : x\r\n\r\n", []),
        (b"POST /a HTTP/1.1\nhost: x\n\n", []),
    ],
)
def test_the_strict_reader_reads_what_means_one_thing(sent: bytes, bodies: list[bytes | None]) -> None:
    assert [read.body for read in read_all(sent)] == bodies


def _try(one: object, data: bytes, name: str) -> None:
    assert callable(one)
    try:
        one(data)
    except Exception as error:
        raise AssertionError(f"{name}: {data[:200]!r}") from error
