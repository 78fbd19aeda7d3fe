"""What was no request is counted each time, and logged once a second at most, however much comes."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.downstream.rules import REASONS, late, malformed
from proxy.rejections import TELL_S, Rejections
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from tests.clock import FakeClock
from tests.fakes import FakeUpstream, raw_exchange
from tests.house import House, error_of, policy
from tests.proxy.test_deadlines import Time

NONSENSE = b"GET / HTTP/1.1\r\nhost: x\r\ncanary-without-colon\r\n\r\n"


class Books:
    """Where rejections are told, at a time that the test sets."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._out = file.open("wb")
        clock = FakeClock(wall_s=1000.0)
        self.log = Log(self._out.fileno(), clock=clock, gather_s=0)
        self.metrics = Metrics(version="1", clock=clock, rejections=REASONS)
        self.time = Time()
        loop: Any = self.time
        self.rejections = Rejections(log=self.log, metrics=self.metrics, loop=loop)

    def close(self) -> None:
        self.log.close(within_s=20)
        self._out.close()

    def lines(self) -> list[tuple[int, list[str]]]:
        self.log.close(within_s=20)
        found = [json.loads(line) for line in self.file.read_text().splitlines()]
        assert {line["event"] for line in found} <= {"edge.rejected"}
        return [(line["count"], line["reasons"]) for line in found]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "log")
    yield books
    books.close()


def test_the_first_is_told_at_once_and_others_together(books: Books) -> None:
    for rejection in (malformed(), malformed(), late(), malformed()):
        books.rejections.add(rejection)
    books.time.pass_by(TELL_S + 0.1)
    books.time.pass_by(TELL_S + 0.1)
    assert books.time.timers == [], "nothing waits where nothing came"
    books.rejections.add(late())
    books.rejections.add(late())
    books.rejections.close()
    assert books.lines() == [
        (1, ["malformed=1"]),
        (3, ["malformed=2", "header_read=1"]),
        (1, ["header_read=1"]),
        (1, ["header_read=1"]),
    ]
    assert all(timer.cancelled for timer in books.time.timers)


async def test_each_is_counted_and_one_that_passed_a_deadline_there_too(books: Books) -> None:
    for rejection in (malformed(), malformed(), late()):
        books.rejections.add(rejection)
    shown = (await books.metrics.render()).decode()
    assert 'tollhouse_edge_rejections_total{reason="malformed"} 2\n' in shown
    assert 'tollhouse_edge_rejections_total{reason="header_read"} 1\n' in shown
    assert 'tollhouse_edge_rejections_total{reason="coding"} 0\n' in shown
    assert 'tollhouse_deadlines_total{deadline="header_read"} 1\n' in shown


async def test_a_flood_of_nonsense_is_counted_whole_and_makes_few_lines_without_a_byte_of_it(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        port = house.app.data_address[1]
        for _ in range(10):
            answers = await asyncio.gather(*(raw_exchange("127.0.0.1", port, NONSENSE) for _ in range(20)))
            assert {answer.split()[1] for answer in answers} == {b"400"}
        assert error_of(answers[0].partition(b"\r\n\r\n")[2])["code"] == "bad_request"
        metrics = await house.metrics()
    lines = house.lines("edge.rejected")
    assert 'tollhouse_edge_rejections_total{reason="malformed"} 200\n' in metrics
    assert sum(line["count"] for line in lines) == 200
    assert len(lines) < 20
    assert b"canary" not in (tmp_path / "log").read_bytes()
    assert upstream.received_bytes == 0
