import json
import os
import pty
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.call import Call, Clamp, Kind, Principal, Usage
from proxy.errors import ProxyError
from proxy.telemetry.lines import MOST_LINE_BYTES, cut, render_json
from proxy.telemetry.logs import EVENTS, FIELDS, Log
from proxy.timeouts import DEADLINES
from tests.clock import FakeClock
from tests.ended import ENDED, KIND, REFUSED, REFUSED_KIND, START_NS, EndedCall

NOON_S = 1_800_014_400.25

CLAMPS = (Clamp("max_tokens", 8000, 1024), Clamp("max_completion_tokens", None, 1024))


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


def tell(out: Written, kind: Kind = KIND, call: EndedCall = ENDED) -> None:
    line = out.log.call_line(kind)
    if line is not None:
        out.log.write([out.log.call_finished(line, call, out.log.timestamp())])


def told(kind: Kind, call: EndedCall) -> dict[str, Any]:
    """What the line of a call says, field by field."""

    def ms(at_ns: int | None) -> float | None:
        return None if at_ns is None else (at_ns - call.started_ns) / 1e6

    return {
        "ts": "2027-01-15T12:00:00.250Z",
        "level": "info",
        "event": "call.finished",
        "request_id": call.call.id,
        "key": kind.key or None,
        "user": call.call.principal.user or None,
        "surface": kind.surface,
        "path": call.call.path or None,
        "model_asked": kind.model_asked,
        "model_served": kind.model_served,
        "upstream": kind.upstream,
        "status": kind.status,
        "outcome": kind.ending,
        "error": kind.error,
        "stream": kind.stream,
        "input_tokens": call.usage.input_tokens,
        "cached_tokens": call.usage.cached_tokens,
        "output_tokens": call.usage.output_tokens,
        "usage_source": kind.usage_source,
        "cost_nanousd": call.cost_nanousd,
        "price_version": kind.price_version,
        "policy_version": kind.policy_version,
        "deadline": kind.deadline,
        "refused_by": ".".join(kind.refused_by) if kind.refused_by else None,
        "clamped": ", ".join(map(str, kind.clamps)) or None,
        "admit_ms": ms(call.admitted_ns),
        "first_byte_ms": ms(call.first_byte_ns),
        "first_token_ms": ms(call.first_token_ns),
        "total_ms": ms(call.ended_ns),
        "settle_ms": call.settle_ns / 1e6 if call.settle_ns is not None else None,
        "upstream_request_id": call.upstream_request_id,
        "tries": call.tries,
        "trace_id": call.traceparent[3:35],
    }


def test_the_line_of_a_call_says_who_asked_what_how_it_ended_and_what_it_cost(written: Callable[..., Written]) -> None:
    out = written()
    tell(out, KIND._replace(clamps=CLAMPS))
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
        "deadline": None,
        "refused_by": None,
        "clamped": "max_tokens=8000->1024, max_completion_tokens=none->1024",
        "admit_ms": 0.5,
        "first_byte_ms": 300.5,
        "first_token_ms": 350.0,
        "total_ms": 1300.5,
        "settle_ms": 2.0,
        "upstream_request_id": "up_9",
        "tries": 1,
        "trace_id": "ab" * 16,
    }
    assert list(line)[:4] == ["ts", "level", "event", "request_id"]
    assert set(line) - {"ts", "level", "event"} <= set(FIELDS)


def test_the_line_of_a_refused_call_names_policy_and_clause(written: Callable[..., Written]) -> None:
    out = written()
    tell(out, REFUSED_KIND, REFUSED)
    (line,) = out.lines()
    assert (line["outcome"], line["error"], line["refused_by"]) == ("refused", "rate_limit_exceeded", "everyone.rate_limit")
    assert (line["admit_ms"], line["first_byte_ms"], line["settle_ms"]) == (None, None, None)


def test_a_request_that_named_nothing_yet_has_nulls_and_no_empty_words(written: Callable[..., Written]) -> None:
    out = written()
    kind = REFUSED_KIND._replace(key="", error="invalid_api_key", status=401, refused_by=None)
    tell(out, kind, replace(REFUSED, call=Call(id="req_2", method="POST")))
    (line,) = out.lines()
    assert (line["key"], line["user"], line["path"], line["clamped"], line["refused_by"]) == (None,) * 5


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        (KIND, "info"),
        (REFUSED_KIND, "info"),
        (REFUSED_KIND._replace(ending="timed_out", error="upstream_timeout"), "warning"),
        (REFUSED_KIND._replace(ending="upstream_broken", error="upstream_broken"), "warning"),
        (REFUSED_KIND._replace(error="internal_error"), "error"),
    ],
)
def test_a_call_that_the_upstream_failed_is_a_warning_and_one_that_we_failed_an_error(
    written: Callable[..., Written], kind: Kind, level: str
) -> None:
    out = written()
    tell(out, kind)
    assert out.lines()[0]["level"] == level


def test_a_call_below_the_level_has_no_line(written: Callable[..., Written]) -> None:
    assert written(level="warning").log.call_line(KIND) is None


TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=300) | st.sampled_from(
    ("", "ada", "a,b", "100%", 'quo"te\\', "Zoë", "\x9b2J", "\u2028", "\udcff", "x" * 5000, "é" * 200, "\x00" * 256)
)
NS = st.integers(min_value=START_NS, max_value=START_NS + 10**13)
CALLS = st.builds(
    EndedCall,
    call=st.builds(
        Call,
        id=st.from_regex(r"[A-Za-z0-9._:/+=@-]{1,128}\Z"),
        method=st.just("POST"),
        path=TEXT,
        principal=st.builds(Principal, key=st.just("web"), user=TEXT),
    ),
    traceparent=st.just(ENDED.traceparent),
    upstream_request_id=st.none() | st.from_regex(r"[A-Za-z0-9._:/+=@-]{1,128}\Z"),
    usage=st.builds(Usage, *[st.integers(min_value=0, max_value=2**70)] * 7),
    cost_nanousd=st.integers(min_value=0, max_value=2**70),
    started_ns=st.just(START_NS),
    admitted_ns=st.none() | NS,
    first_byte_ns=st.none() | NS,
    first_token_ns=st.none() | NS,
    ended_ns=NS,
    settle_ns=st.none() | NS,
)
KINDS = st.builds(
    Kind,
    key=st.sampled_from(("", "web")),
    surface=st.just("chat"),
    model_asked=st.none() | TEXT,
    model=st.none() | TEXT,
    model_served=st.none() | TEXT,
    upstream=st.none() | st.just("openai"),
    stream=st.booleans(),
    status=st.integers(min_value=0, max_value=599),
    ending=st.sampled_from(("completed", "refused", "client_gone")),
    error=st.none() | TEXT,
    deadline=st.none() | st.sampled_from(DEADLINES),
    refused_by=st.none() | st.just(("everyone", "budget")),
    clamps=st.sampled_from(((), CLAMPS)),
    usage_source=st.sampled_from((None, "reported", "counted", "estimated")),
    usage_nonsense=st.booleans(),
    price_version=st.none() | st.just("2026-11"),
    policy_version=st.just("v7"),
)


@settings(deadline=None)  # a log of its own each: a busy machine is no failure
@given(kind=KINDS, call=CALLS)
@example(kind=KIND._replace(model_asked="\x00" * 300, model_served="\x00" * 300, error="\x00" * 300), call=ENDED)
def test_whoever_called_and_however_it_ended_the_line_is_the_one_that_the_renderer_makes_of_its_fields(
    kind: Kind, call: EndedCall
) -> None:
    with open(os.devnull, "wb") as nowhere:
        log = Log(nowhere.fileno(), clock=FakeClock(wall_s=NOON_S), gather_s=0)
        common = log.call_line(kind)
        assert common is not None
        line = log.call_finished(common, call, log.timestamp())
        log.close(within_s=20)
    fields = told(kind, call)
    rendered = render_json({name: cut(value) if isinstance(value, str) else value for name, value in fields.items()})
    assert len(line) <= MOST_LINE_BYTES
    assert line.endswith(b"}\n")
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == json.loads(rendered)


def test_on_a_console_a_call_is_a_line_for_people(tmp_path: Path) -> None:
    out = Written(tmp_path / "log", format="console")
    tell(out)
    out.log.close(within_s=20)
    assert out.path.read_text().startswith(
        "12:00:00.250 info    call.finished      status=200 outcome=completed surface=chat model=gpt-4 "
    )
    out._file.close()


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
