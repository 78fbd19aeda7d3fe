import json
import os
import pty
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Call, Clamp, Outcome, Principal, Surface, Usage
from proxy.errors import ProxyError
from proxy.telemetry.logs import EVENTS, FIELDS, Log
from tests.clock import FakeClock

NOON_S = 1_800_014_400.25

CALL = Call(
    id="req_1",
    method="POST",
    path="/v1/chat/completions",
    surface=Surface(name="chat", path="/v1/chat/completions"),
    principal=Principal(key="web", user="ada"),
    body=b'{"messages": [{"content": "the prompt"}]}',
    model_asked="gpt-4",
    model="gpt-4.1",
    stream=True,
    clamps={"max_tokens": Clamp("max_tokens", 8000, 1024), "max_completion_tokens": Clamp("max_completion_tokens", None, 1024)},
)
OUTCOME = Outcome(
    ending="completed",
    status=200,
    usage=Usage(input_tokens=312, output_tokens=45, cached_tokens=100),
    usage_source="reported",
    cost_nanousd=1_234_567,
    model_served="gpt-4.1-2025",
    upstream="openai",
    error=None,
    refused_by=None,
    admit_ms=0.2,
    first_byte_ms=310.5,
    first_token_ms=350.0,
    total_ms=812.0,
    upstream_request_id="up_9",
)


class Written:
    """A log into a file, and what stands in it after `close`."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self._file = path.open("wb")
        self.clock = FakeClock(wall_s=NOON_S)
        self.log = Log(self._file.fileno(), clock=self.clock, gather_s=0, **options)

    def lines(self) -> list[dict[str, Any]]:
        self.log.close(within_s=20)
        self._file.close()
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[..., Written]]:
    made: list[Written] = []

    def make(**options: Any) -> Written:
        made.append(Written(tmp_path / f"log{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.lines()


def test_an_event_is_one_json_line_with_time_level_name_and_its_fields(written: Callable[..., Written]) -> None:
    out = written()
    out.log.event("upstream.broke", level="warning", upstream="openai", status=502, error=None)
    out.clock.advance(1.5)
    out.log.event("server.stopped")
    assert out.lines() == [
        {
            "ts": "2027-01-15T12:00:00.250Z",
            "level": "warning",
            "event": "upstream.broke",
            "upstream": "openai",
            "status": 502,
            "error": None,
        },
        {"ts": "2027-01-15T12:00:01.750Z", "level": "info", "event": "server.stopped"},
    ]


@pytest.mark.parametrize("level", ["info", "debug"])
def test_an_undeclared_event_or_field_is_a_mistake_of_the_program_even_when_its_level_is_not_written(
    written: Callable[..., Written], level: Any
) -> None:
    log = written().log
    with pytest.raises(KeyError, match=r"call\.begun"):
        log.event("call.begun", level=level)
    with pytest.raises(KeyError, match="prompt"):
        log.event("call.finished", level=level, prompt="text")
    with pytest.raises(KeyError, match="loud"):
        log.event("call.finished", level="loud")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"error": ProxyError("internal_error", "message", detail="the prompt")},
        {"status": "200"},
        {"user": b"ada"},
        {"stack": "one string"},
        {"stack": [1]},
        {"stream": 1},
        {"total_ms": "1"},
    ],
)
def test_a_value_of_another_type_than_declared_is_a_mistake_of_the_program(
    written: Callable[..., Written], fields: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        written().log.event("call.finished", **fields)


def test_events_below_the_level_are_not_written(written: Callable[..., Written]) -> None:
    out = written(level="warning")
    for level in ("debug", "info", "warning", "error"):
        out.log.event("server.ready", level=level)
    assert [line["level"] for line in out.lines()] == ["warning", "error"]


def test_the_line_of_a_call_says_who_asked_what_how_it_ended_and_what_it_cost(written: Callable[..., Written]) -> None:
    out = written()
    out.log.call_finished(CALL, OUTCOME, policy_version="v7", price_version="2026-11", trace_id="ab" * 16, settle_ms=0.3)
    (line,) = out.lines()
    assert line == {
        "ts": "2027-01-15T12:00:00.250Z",
        "level": "info",
        "event": "call.finished",
        "request_id": "req_1",
        "key": "web",
        "user": "ada",
        "surface": "chat",
        "path": "/v1/chat/completions",
        "model_asked": "gpt-4",
        "model_served": "gpt-4.1-2025",
        "upstream": "openai",
        "status": 200,
        "outcome": "completed",
        "error": None,
        "stream": True,
        "input_tokens": 312,
        "cached_tokens": 100,
        "output_tokens": 45,
        "usage_source": "reported",
        "cost_nanousd": 1_234_567,
        "price_version": "2026-11",
        "policy_version": "v7",
        "refused_by": None,
        "clamped": "max_tokens=8000->1024, max_completion_tokens=none->1024",
        "admit_ms": 0.2,
        "first_byte_ms": 310.5,
        "first_token_ms": 350.0,
        "total_ms": 812.0,
        "settle_ms": 0.3,
        "upstream_request_id": "up_9",
        "trace_id": "ab" * 16,
    }


def refused(error: str, **changes: Any) -> Outcome:
    values = {name: getattr(OUTCOME, name) for name in Outcome._fields}
    return Outcome(**{**values, "ending": "refused", "error": error, "status": 429, **changes})


def test_the_line_of_a_refused_call_names_policy_and_clause(written: Callable[..., Written]) -> None:
    out = written()
    outcome = refused("rate_limit_exceeded", refused_by=("everyone", "rate_limit"))
    out.log.call_finished(CALL, outcome, policy_version="v7", price_version=None, trace_id=None)
    (line,) = out.lines()
    assert (line["outcome"], line["error"], line["refused_by"]) == ("refused", "rate_limit_exceeded", "everyone.rate_limit")


def test_a_request_that_named_nothing_yet_has_nulls_and_no_empty_words(written: Callable[..., Written]) -> None:
    out = written()
    outcome = refused("invalid_api_key", status=401)
    out.log.call_finished(Call(id="req_2", method="POST"), outcome, policy_version="v7", price_version=None, trace_id=None)
    (line,) = out.lines()
    assert (line["key"], line["user"], line["path"], line["clamped"], line["refused_by"]) == (None,) * 5


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (OUTCOME, "info"),
        (refused("budget_exceeded"), "info"),
        (refused("upstream_timeout", ending="timed_out"), "warning"),
        (refused("upstream_broken", ending="upstream_broken"), "warning"),
        (refused("internal_error"), "error"),
    ],
)
def test_a_call_that_the_upstream_failed_is_a_warning_and_one_that_we_failed_an_error(
    written: Callable[..., Written], outcome: Outcome, level: str
) -> None:
    out = written()
    out.log.call_finished(CALL, outcome, policy_version="v7", price_version=None, trace_id=None)
    assert out.lines()[0]["level"] == level


VALUES = {
    str: st.text(alphabet=st.characters(exclude_categories=())),
    int: st.integers(),
    float: st.floats() | st.integers(),
    bool: st.booleans(),
    list: st.lists(st.text(), max_size=30),
}


@given(data=st.data(), format=st.sampled_from(["json", "console"]))
def test_any_value_of_a_declared_field_gives_a_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, format: Any
) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True))
    fields: dict[str, Any] = {name: data.draw(st.none() | VALUES[FIELDS[name].type]) for name in names}
    out = Written(tmp_path_factory.mktemp("log") / "log", format=format)
    out.log.event("fault.caught", **fields)
    out.log.close(within_s=20)
    text = out.path.read_text()
    assert text.count("\n") >= 1
    if format == "json":
        assert [json.loads(line)["event"] for line in text.splitlines()] == ["fault.caught"]
    out._file.close()


def test_lines_that_were_lost_are_counted_and_announced(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    log = Log(write_fd, clock=FakeClock(wall_s=NOON_S), gather_s=0, most_lines=0)
    log.event("server.ready")
    assert log.dropped == 1
    log.close(within_s=20)
    os.close(write_fd)
    with os.fdopen(read_fd) as reader:
        (line,) = map(json.loads, reader)
    assert (line["event"], line["level"], line["dropped"]) == ("log.dropped", "warning", 1)


@pytest.mark.parametrize(("tty", "coloured"), [(True, True), (False, False)])
def test_the_console_is_coloured_on_a_terminal_and_only_there(tty: bool, coloured: bool) -> None:
    read_fd, write_fd = pty.openpty() if tty else os.pipe()
    log = Log(write_fd, clock=FakeClock(wall_s=NOON_S), gather_s=0, format="console")
    log.event("server.ready", listen="127.0.0.1:8080")
    log.close(within_s=20)
    text = os.read(read_fd, 4096).decode()
    os.close(read_fd)
    os.close(write_fd)
    assert "server.ready" in text
    assert ("\x1b[" in text) is coloured


def test_every_event_is_a_noun_and_a_verb_with_a_meaning() -> None:
    for name, meaning in EVENTS.items():
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", name)
        assert meaning.endswith(".")


def test_no_field_may_hold_content_headers_addresses_or_the_text_of_an_exception() -> None:
    content = {
        "prompt",
        "completion",
        "messages",
        "message",
        "content",
        "body",
        "text",
        "headers",
        "url",
        "query",
        "detail",
        "api_key",
    }
    assert content.isdisjoint(FIELDS)
    assert {field.type for field in FIELDS.values()} <= {str, int, float, bool, list}


def test_the_state_of_a_log_shows_in_its_repr(written: Callable[..., Written]) -> None:
    assert re.fullmatch(r"<Log format=json <LineWriter fd=\d+ waiting=0/4096 dropped=0>>", repr(written().log))
