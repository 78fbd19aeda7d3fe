"""What passes a meter is what came, and what it read of it does not depend on how it came."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.call import Usage
from proxy.errors import UpstreamError
from proxy.wire.meter import MOST_EVENT_BYTES, MOST_TEXT_BYTES, MOST_WHOLE_BYTES, BodyMeter, Meter, PassMeter, StreamMeter

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


def event(said: Any, *, kind: str | None = None) -> bytes:
    named = b"" if kind is None else b"event: " + kind.encode() + b"\n"
    return named + b"data: " + orjson.dumps(said) + b"\n\n"


def chunk(content: str | None = None, *, usage: Any = None, **delta: Any) -> bytes:
    said = delta if content is None else {"content": content, **delta}
    return event({"id": "c", "model": "gpt-4.1", "choices": [{"index": 0, "delta": said}], "usage": usage})


def typed(kind: str, number: int, **more: Any) -> bytes:
    return event({"type": kind, "sequence_number": number, **more}, kind=kind)


def response(kind: str, number: int, **more: Any) -> bytes:
    return typed(kind, number, response={"id": "resp_1", "model": "gpt-4.1", "status": kind.partition(".")[2], **more})


CHAT_USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
RESPONSES_USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
USAGE = Usage(input_tokens=10, output_tokens=5)
DONE = b"data: [DONE]\n\n"
FIRST = chunk("", role="assistant")
AZURE = event({"choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]})
AZURE_NULL = event({"choices": [], "usage": None, "prompt_filter_results": []})
LAST = event({"id": "c", "model": "gpt-4.1", "choices": [], "usage": CHAT_USAGE})
CALL = chunk(tool_calls=[{"index": 0, "function": {"name": "look", "arguments": '{"at":'}}])
ERROR = event({"error": {"message": "boom at 10.0.0.1", "type": "server_error", "code": 500}})
FLAT = typed("error", 7, code="server_error", message="boom", param=None)
DELTAS = [typed("response.output_text.delta", n, delta=text) for n, text in enumerate(["Grüß ", "Gott 👋🏽", " مرحبا"], start=2)]
RESPONSES = [response("response.created", 0), response("response.in_progress", 1), *DELTAS]

CHAT = [FIRST, b": a comment\n\n", chunk("naïve "), chunk("日本 👋🏽"), CALL, chunk("", finish_reason="stop"), LAST, DONE]
STREAMS: dict[str, list[bytes]] = {
    "chat": CHAT,
    "chat, azure": [AZURE, AZURE_NULL, *CHAT],
    "chat, usage on every chunk": [chunk("a", usage=CHAT_USAGE), chunk("b", usage=CHAT_USAGE), DONE],
    "chat, usage twice": [FIRST, LAST, chunk("late"), LAST, DONE],
    "chat, no usage": [FIRST, chunk("x"), DONE],
    "chat, an error": [FIRST, chunk("x"), ERROR, LAST, DONE],
    "chat, an error after the end": [FIRST, chunk("x"), DONE, ERROR],
    "chat, cut": CHAT[:4],
    "chat, bytes after the end": [FIRST, chunk("x"), LAST, DONE, b": bye\n\n", b"data: tail"],
    "completions": [event({"choices": [{"text": "one "}]}), event({"choices": [{"text": "two"}]}), LAST, DONE],
    "responses": [*RESPONSES, response("response.completed", 5, usage=RESPONSES_USAGE)],
    "responses, an error": [*RESPONSES, FLAT, response("response.failed", 8, usage=None)],
    "nonsense": [b"data: {half\n\n", b"data: 7\n\n", b"data: [1]\n\n", b'data: "x"\n\n', b"data: {}\n\n", b"x: y\n\n", DONE],
}
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class Told(NamedTuple):
    """All that a meter says."""

    out: bytes
    broken: str | None
    ended: bool
    usage: Usage | None
    nonsense: bool
    model: str | None
    first_token: bool
    text: str
    sequence: int
    unfinished: bool
    error: Any


def run(meter: Meter, chunks: Iterable[bytes]) -> Told:
    """A meter's whole life. After an error in the stream it is not fed any more, as the relay does not either."""
    out, broken = b"", None
    try:
        for one in chunks:
            out += one if meter.repeats(one, 0, len(one)) else meter.feed(one)
            if meter.error is not None:
                break
        else:
            out += meter.finish()
    except UpstreamError as error:
        broken = error.code
    said = (
        meter.ended,
        meter.usage,
        meter.nonsense,
        meter.model,
        meter.first_token,
        b"".join(meter.texts()).decode("utf-8", "replace"),
    )
    return Told(out, broken, *said, meter.sequence, meter.unfinished, meter.error)


def stream(chunks: Iterable[bytes], *, hide_usage: bool = False) -> Told:
    return run(StreamMeter(hide_usage=hide_usage), chunks)


def cut(whole: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield whole[at : at + size]
        at += size
    yield whole[at:]


def shown(events: list[bytes], *, hide_usage: bool) -> bytes:
    """What a client may see of a sample: nothing from an error on, and no usage chunk where it is hidden."""
    seen = events[: events.index(ERROR)] if ERROR in events and DONE not in events[: events.index(ERROR)] else events
    seen = seen[: seen.index(FLAT)] if FLAT in seen else seen
    return b"".join(one for one in seen if not (hide_usage and one == LAST))


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS)
@pytest.mark.parametrize("hide_usage", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("events", STREAMS.values(), ids=STREAMS)
def test_a_stream_cut_anywhere_in_two_is_read_alike_and_leaves_as_it_came(
    events: list[bytes], hide_usage: bool, line_end: bytes
) -> None:
    whole = b"".join(events).replace(b"\n", line_end)
    expected = shown(events, hide_usage=hide_usage).replace(b"\n", line_end)
    told = stream([whole], hide_usage=hide_usage)
    assert told.out == expected
    for at in range(len(whole) + 1):
        assert stream([whole[:at], whole[at:]], hide_usage=hide_usage) == told, at


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS)
@settings(PATIENT, max_examples=150)
@given(
    events=st.sampled_from(list(STREAMS.values())),
    sizes=st.lists(st.integers(0, 90), max_size=80),
    hide_usage=st.booleans(),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_no_chunking_changes_what_passes_or_what_is_read(
    events: list[bytes], sizes: list[int], hide_usage: bool, bom: bytes, line_end: bytes
) -> None:
    whole = bom + b"".join(events).replace(b"\n", line_end)
    told = stream(cut(whole, sizes), hide_usage=hide_usage)
    assert told == stream([whole], hide_usage=hide_usage)
    assert told.out == bom + shown(events, hide_usage=hide_usage).replace(b"\n", line_end)


def test_a_chat_stream_tells_its_model_text_and_usage() -> None:
    told = stream(CHAT, hide_usage=True)
    assert told.text == 'naïve 日本 👋🏽look{"at":'
    assert (told.model, told.usage, told.ended, told.broken, told.nonsense) == ("gpt-4.1", USAGE, True, None, False)


PIECES = st.lists(
    st.text(max_size=8) | st.sampled_from(['"', "\\", "\n", '"},{"delta":{"content":"', "é", "\u2028", "", "a"]), max_size=12
)


@PATIENT
@given(
    PIECES,
    st.lists(st.sampled_from([{}, {"model": "m2"}, {"usage": None}, {"obfuscation": "xy"}]), min_size=1, max_size=3),
    st.booleans(),
)
def test_events_that_differ_in_their_text_alone_are_read_like_any_others(
    pieces: list[str], shapes: list[dict[str, Any]], ascii_only: bool
) -> None:
    """Whole events in a row take a short way; a byte at a time they cannot."""
    events = []
    for shape in shapes:
        for piece in pieces:
            said = {"id": "c", "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}], **shape}
            events.append(b"data: " + json.dumps(said, separators=(",", ":"), ensure_ascii=ascii_only).encode() + b"\n\n")
    whole = b"".join((*events, DONE))
    told = stream([*events, DONE])
    assert told == stream(whole[at : at + 1] for at in range(len(whole)))
    assert (told.out, told.text) == (whole, "".join(pieces) * len(shapes))


def test_an_event_in_which_something_else_speaks_too_is_not_taken_for_its_like() -> None:
    frame = '{"choices":[{"delta":{"content":"%s"}}]}'
    both = '{"choices":[{"delta":{"content":"%s","reasoning":"r"}}]}'
    two = '{"choices":[{"delta":{"content":"%s"}},{"delta":{"content":"z"}}]}'
    said = [f"data: {kind % text}\n\n".encode() for text in "ab" for kind in (frame, both, two)]
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":9}}\n\n'
    error = b'data: {"error":{"message":"no"}}\n\n'
    told = stream([said[0], said[0], *said, usage, error])
    assert sorted(told.text) == sorted("aa" + "aaraz" + "bbrbz")
    assert (told.usage, told.error) == (Usage(1, 9), {"message": "no"})


FRAMED = 'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
NOTED = 'data: {"note":{"content":"%s"},"choices":[{"delta":{"content" : "a"}}]}\n\n'


@pytest.mark.parametrize(
    "events",
    [
        [FRAMED % "a", FRAMED % "x\n\ndata: [DONE]\n\ny"],
        [FRAMED % "a", FRAMED % "x\ny", FRAMED % "x\ry", FRAMED % "\x7f"],
        [NOTED % "b", NOTED % "c", NOTED % ""],
        [NOTED.replace('"note"', '"\\u0063ontent"') % "b", NOTED % "c"],
    ],
)
def test_an_odd_event_after_a_plain_one_is_read_as_it_would_be_alone(events: list[str]) -> None:
    whole = "".join(events).encode()
    slow = stream(whole[at : at + 1] for at in range(len(whole)))
    assert stream(event.encode() for event in events) == slow


@pytest.mark.parametrize("text", [b"\xe2\x82", b"\xed\xa0\x80", b"\xff", b"x\0y", b"\t"])
def test_text_that_no_string_of_json_may_hold_counts_as_it_came_where_it_ends_nothing(text: bytes) -> None:
    plain = (FRAMED % "a").encode()
    odd = plain.replace(b'"a"', b'"' + text + b'"')
    assert stream([plain, odd, DONE]).text == "a" + text.decode("utf-8", "replace")


def test_a_role_alone_is_no_token() -> None:
    meter = StreamMeter(hide_usage=False)
    meter.feed(FIRST)
    assert not meter.first_token
    meter.feed(chunk("x"))
    assert meter.first_token


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        ({"content": "a"}, "a"),
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "a"}, "a"),
        ({"refusal": "a"}, "a"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"arguments": "x"}}]}, "f{}x"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "f{}"),
        ({"audio": {"id": "a", "data": "AAAA", "transcript": "said"}}, "said"),
        ({"content": None, "tool_calls": None, "audio": None, "function_call": None}, ""),
        ({"content": 7, "tool_calls": "x", "audio": [1], "obfuscation": "padding", "role": "assistant"}, ""),
    ],
    ids=repr,
)
def test_what_is_output_counts_as_text_streamed_or_whole(delta: dict[str, Any], text: str) -> None:
    assert stream([event({"choices": [{"delta": delta}]}), DONE]).text == text
    assert run(BodyMeter(), [orjson.dumps({"choices": [{"message": delta}]})]).text == text


@pytest.mark.parametrize("choices", [None, 7, "x", {}, [7], [None], [{"delta": 7}], [{"delta": None, "text": None}]], ids=repr)
def test_choices_of_any_shape_pass_and_hold_no_text(choices: Any) -> None:
    said = event({"choices": choices})
    told = stream([said, DONE])
    assert (told.out, told.text, told.broken) == (said + DONE, "", None)


def test_text_that_cannot_be_read_is_counted_as_it_stands() -> None:
    said = b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'
    told = stream([said, DONE])
    assert told.out == said + DONE
    assert "\\ud83d" in told.text


def test_text_is_kept_up_to_a_bound() -> None:
    meter = StreamMeter(hide_usage=False)
    piece = chunk("x" * (1 << 20))
    for _ in range((MOST_TEXT_BYTES >> 20) + 3):
        meter.feed(piece)
    assert len(meter.text) <= MOST_TEXT_BYTES + (1 << 20)


NONSENSE = [True, 0, "x", [], {}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": 1.5, "completion_tokens": 1}]
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize("block", [*NONSENSE, {"prompt_tokens": 10, "completion_tokens": 1e30}], ids=repr)
def test_usage_that_makes_no_sense_is_noted_and_not_believed(block: Any) -> None:
    for told in (
        stream([chunk("x", usage=block), DONE]),
        stream([response("response.completed", 1, usage=block)]),
        run(BodyMeter(), [orjson.dumps({"usage": block})]),
    ):
        assert (told.usage, told.nonsense, told.broken) == (None, True, None)


def test_a_later_nonsense_does_not_undo_what_was_understood() -> None:
    told = stream([chunk("x", usage=CHAT_USAGE), chunk("y", usage={"prompt_tokens": "ten"}), DONE])
    assert (told.usage, told.nonsense) == (USAGE, True)


def test_the_last_usage_counts() -> None:
    more = {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}
    assert stream([chunk("x", usage=CHAT_USAGE), chunk("y", usage=more), DONE]).usage == Usage(10, 6)


def test_zeros_that_are_said_are_zeros() -> None:
    assert stream([chunk("", usage=ZEROS), DONE]).usage == Usage()
    assert run(BodyMeter(), [orjson.dumps({"choices": [], "usage": ZEROS})]).usage == Usage()


def answer_of(text: str, usage: object) -> bytes:
    return orjson.dumps({"choices": [{"message": {"content": text}}], "usage": usage})


def test_no_output_beside_a_text_is_no_usage() -> None:
    for told in (stream([chunk("x", usage=ZEROS), DONE]), run(BodyMeter(), [answer_of("x", ZEROS)])):
        assert (told.usage, told.nonsense, told.text) == (None, True, "x")


@pytest.mark.parametrize(
    ("text", "output", "odd"),
    [
        ("word " * 200, 200, False),
        ("word " * 200, 4000, True),
        ("word " * 200, 2000, False),
        ("word " * 200, 5, True),
        ("word " * 200, 30, False),
        ("Hi", 1, False),
        ("Hi", 150, False),
        ("Hi", 170, True),
        ("日本語" * 100, 300, False),
    ],
)
def test_a_usage_that_is_tenfold_off_its_text_is_noted_and_stands(text: str, output: int, odd: bool) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": output}
    last = chunk("", usage=usage)
    for told in (stream([chunk(text), last, DONE]), run(BodyMeter(), [answer_of(text, usage)])):
        assert (told.usage, told.nonsense) == (Usage(3, output), odd)


def test_reasoning_that_nobody_sees_is_not_odd() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 5000, "completion_tokens_details": {"reasoning_tokens": 4990}}
    for told in (stream([chunk("Forty-two"), chunk("", usage=usage), DONE]), run(BodyMeter(), [answer_of("Forty-two", usage)])):
        assert told.nonsense is False


def test_each_choice_has_a_text_of_its_own() -> None:
    said = [event({"choices": [{"index": n, "delta": {"content": word}}]}) for word in ("Hel", "lo") for n in (0, 1, 2)]
    meter = StreamMeter(hide_usage=False)
    for one in said:
        meter.feed(one)
    assert meter.texts() == (b"Hello", b"Hello", b"Hello")


def test_texts_of_choices_are_bounded_in_number_and_size() -> None:
    meter = StreamMeter(hide_usage=False)
    for n in range(2000):
        meter.feed(event({"choices": [{"index": n, "delta": {"content": "x"}}]}))
    assert len(meter.texts()) < 300
    assert sum(map(len, meter.texts())) == 2000, "and nothing is lost by it"
    meter.feed(event({"choices": [{"index": "1", "delta": {"content": "x"}}]}))
    for n in range(1, 40):
        meter.feed(event({"choices": [{"index": n, "delta": {"content": "x" * (1 << 20)}}]}))
    assert sum(map(len, meter.texts())) <= 3 * MOST_TEXT_BYTES


def test_output_behind_a_usage_outgrows_it() -> None:
    meter = StreamMeter(hide_usage=False)
    meter.feed(chunk("a", usage=CHAT_USAGE))
    assert not meter.outgrown()
    meter.feed(chunk("b"))
    assert meter.outgrown()


@pytest.mark.parametrize(
    "events", [CHAT[:-1], CHAT[:3], [], RESPONSES, [*CHAT[:-1], b"data: [DO"], [b"data: x\n"], [b": comment\n\n"]]
)
def test_a_stream_that_ends_before_its_end_is_broken_and_shows_no_half_of_an_event(events: list[bytes]) -> None:
    whole = b"".join(events)
    for at in range(len(whole) + 1):
        told = stream([whole[:at]])
        assert told.broken == "upstream_broken"
        assert whole.startswith(told.out)
        assert told.out == b"" or told.out.endswith(b"\n\n")
        assert not told.ended


def test_done_needs_no_blank_line_since_clients_stop_at_it() -> None:
    told = stream([FIRST, b"data: [DONE]"])
    assert (told.broken, told.ended, told.out) == (None, True, FIRST + b"data: [DONE]")


def test_a_last_responses_event_without_its_blank_line_is_no_end_since_clients_drop_it() -> None:
    last = response("response.completed", 9, usage=RESPONSES_USAGE)
    assert stream([*RESPONSES, last[:-1]]).broken == "upstream_broken"


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
def test_a_responses_stream_ends_with_any_terminal_event(kind: str) -> None:
    told = stream([*RESPONSES, response(f"response.{kind}", 5, usage=RESPONSES_USAGE)])
    assert (told.ended, told.usage, told.model, told.sequence) == (True, USAGE, "gpt-4.1", 5)
    assert told.text == "Grüß Gott 👋🏽 مرحبا"


def test_usage_before_the_terminal_event_is_not_final() -> None:
    told = stream([response("response.in_progress", 1, usage=RESPONSES_USAGE)])
    assert (told.usage, told.broken) == (None, "upstream_broken")


@pytest.mark.parametrize("number", [-1, True, 1.5, "7", None, 1 << 53, (1 << 64) - 1], ids=repr)
def test_a_sequence_number_that_cannot_be_followed_is_left_out(number: Any) -> None:
    told = stream([typed("response.output_text.delta", 3, delta="x"), typed("response.output_text.delta", number, delta="y")])
    assert told.sequence == 3


def test_an_image_that_begins_to_show_is_output() -> None:
    told = stream([typed("response.image_generation_call.partial_image", 3, partial_image_b64="AAAA")])
    assert (told.first_token, told.text) == (True, "")


def test_a_background_run_whose_stream_was_left_goes_on() -> None:
    begun = [response("response.created", 0, background=True), *DELTAS]
    assert stream(begun).unfinished
    assert not stream([*begun, response("response.completed", 5, background=True, usage=RESPONSES_USAGE)]).unfinished
    assert not stream([response("response.created", 0, background=False), *DELTAS]).unfinished


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (ERROR, {"message": "boom at 10.0.0.1", "type": "server_error", "code": 500}),
        (event({"error": "boom"}), "boom"),
        (event({"choices": [], "error": {"message": "boom"}}), {"message": "boom"}),
        (event({"type": "error", "error": {"message": "boom"}}), {"message": "boom"}),
        (FLAT, {"type": "error", "sequence_number": 7, "code": "server_error", "message": "boom", "param": None}),
    ],
)
def test_an_error_in_the_stream_is_told_and_neither_it_nor_anything_behind_it_passes(said: bytes, error: Any) -> None:
    for chunks in ([FIRST, said, DONE], [FIRST + said + DONE], [FIRST + said, LAST + DONE]):
        told = stream(chunks)
        assert (told.error, told.out, told.ended) == (error, FIRST, False)


def test_the_number_of_an_error_event_is_seen() -> None:
    assert stream([*RESPONSES, FLAT]).sequence == 7


def test_usage_that_comes_with_an_error_counts() -> None:
    assert stream([FIRST, event({"error": {"message": "x"}, "usage": CHAT_USAGE})]).usage == USAGE


@pytest.mark.parametrize("error", [None, False, "", {}, 0])
def test_an_empty_error_is_none(error: Any) -> None:
    said = event({"choices": [{"delta": {"content": "x"}}], "error": error})
    told = stream([said, DONE])
    assert (told.error, told.out, told.text) == (None, said + DONE, "x")


def test_an_event_without_end_is_broken() -> None:
    piece = b"x" * (1 << 20)
    told = stream([FIRST, b"data: ", *[piece] * ((MOST_EVENT_BYTES >> 20) + 1)])
    assert (told.broken, told.out) == ("upstream_broken", FIRST)


def test_a_long_event_passes() -> None:
    said = typed("response.image_generation_call.partial_image", 1, partial_image_b64="A" * (MOST_EVENT_BYTES - 1000))
    told = stream(cut(said, [100_000] * 100))
    assert told.out == said


def test_only_the_usage_chunk_itself_is_hidden() -> None:
    filled = event({"choices": [{"delta": {}}], "usage": CHAT_USAGE})
    assert stream([AZURE, filled, LAST, DONE], hide_usage=True).out == AZURE + filled + DONE


# ---- whole answers ----

ANSWER = {
    "id": "c",
    "model": "gpt-4.1",
    "choices": [{"message": {"role": "assistant", "content": "naïve 👋"}}],
    "usage": CHAT_USAGE,
}


@settings(PATIENT, max_examples=50)
@given(sizes=st.lists(st.integers(0, 40), max_size=20))
def test_a_small_answer_is_held_until_it_is_whole(sizes: list[int]) -> None:
    body = orjson.dumps(ANSWER)
    meter = BodyMeter()
    assert b"".join(map(meter.feed, cut(body, sizes))) == b""
    assert meter.finish() == body
    assert (meter.usage, meter.model, meter.ended, meter.streams) == (USAGE, "gpt-4.1", True, False)


@pytest.mark.parametrize("body", [b"", b"{", orjson.dumps(ANSWER)[:-1], b"<html>502</html>", b'{"a": "\xff"}', b"[" * 100_000])
def test_a_small_answer_that_was_cut_or_is_no_json_is_broken(body: bytes) -> None:
    told = run(BodyMeter(), [body])
    assert (told.broken, told.out) == ("upstream_broken", b"")


@pytest.mark.parametrize("body", [b'{"logprob": NaN}', b'{"logprob": -Infinity}', b'{"text": "\\ud83d"}', b'{"n": 1e999}'])
def test_what_python_servers_write_for_json_passes(body: bytes) -> None:
    assert run(BodyMeter(), [body]).out == body


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"x"', b"{}", b'{"choices": 7, "output": "x", "model": 7, "status": []}'])
def test_an_answer_of_any_shape_passes_and_says_nothing(body: bytes) -> None:
    told = run(BodyMeter(), [body])
    assert told == Told(body, None, True, None, False, None, False, "", 0, False, None)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_the_receipt_of_a_background_run_says_that_it_goes_on(status: str) -> None:
    assert run(BodyMeter(), [orjson.dumps({"status": status, "output": [], "usage": None})]).unfinished


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled", None, 7])
def test_any_other_status_is_the_end(status: Any) -> None:
    assert not run(BodyMeter(), [orjson.dumps({"status": status, "output": []})]).unfinished


def test_the_text_of_a_whole_answer_is_read_where_usage_is_missing() -> None:
    choices = [{"message": {"content": "a", "refusal": None}}, {"text": "b"}, {"message": None}, 7]
    assert run(BodyMeter(), [orjson.dumps({"choices": choices})]).text == "ab"
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why "}]},
        {"type": "message", "content": [{"type": "output_text", "text": "hi "}, {"type": "refusal", "refusal": "no "}, 7]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        7,
    ]
    assert run(BodyMeter(), [orjson.dumps({"output": output})]).text == "why hi no {}"


def embeddings(size: int, usage: Any) -> bytes:
    """An embeddings answer of at least so many bytes."""
    data = [{"object": "embedding", "embedding": [0.123456789] * 768}] * (size // 9000 + 1)
    return orjson.dumps({"object": "list", "data": data, "model": "e", "usage": usage})


@pytest.mark.parametrize("sizes", [[], [1], [65_536] * 20, [MOST_WHOLE_BYTES], [MOST_WHOLE_BYTES + 1], [600_000, 600_000, 7]])
def test_a_large_answer_passes_as_it_comes_and_its_usage_is_read_at_its_end(sizes: list[int]) -> None:
    body = embeddings(MOST_WHOLE_BYTES, {"prompt_tokens": 8, "total_tokens": 8})
    told = run(BodyMeter(), cut(body, sizes))
    assert (told.out, told.usage, told.unfinished, told.ended) == (body, Usage(input_tokens=8), False, True)


def test_what_is_held_back_is_bounded() -> None:
    body = b" " * MOST_WHOLE_BYTES
    meter = BodyMeter()
    assert meter.feed(body) == b""
    assert meter.feed(b" ") == body + b" "
    assert meter.feed(b"{}") == b"{}"
    assert meter.finish() == b""


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (b'"usage": {"prompt_tokens": 8, "total_tokens": 9}}', Usage(8, 1)),
        (
            b'"usage" : \n{"prompt_tokens":8,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":2}},"id":"\\"}"}',
            Usage(8, cached_tokens=2),
        ),
        (b'"usage":{"prompt_tokens":1,"total_tokens":1},"usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8)),
        (b'"usage":{"prompt_tokens":8,"total_tokens":8},"metadata":{"usage":"{none}"}}', Usage(8)),
        (b'"text":"\\"usage\\":{\\"prompt_tokens\\":1,\\"total_tokens\\":1}"}', None),
        (b'"usage": null}', None),
        (b'"usage": {"prompt_tokens": "8"}}', None),
        (b'"usage": {"prompt_tokens": 8', None),
        (b'"usage": ' + b"{" * 60_000, None),
        (b'"usage": ' + b'{"a":' * 10_000, None),
        (b'"usage": {"prompt_tokens": 8, "total_tokens": 8}' + b"}" * 60_000, Usage(8)),
        (b'"id":"x"}', None),
    ],
)
def test_the_usage_of_a_large_answer_is_its_last_and_where_there_is_none_the_hold_stands(tail: bytes, usage: Usage | None) -> None:
    told = run(BodyMeter(), [b'{"data":"' + b"x" * MOST_WHOLE_BYTES + b'",', tail])
    assert (told.usage, told.unfinished) == (usage, usage is None)


# ---- bytes that are not read ----


@pytest.mark.parametrize("streams", [False, True])
def test_bytes_that_nobody_reads_pass_and_the_first_counts_as_the_first_token(streams: bool) -> None:
    meter = PassMeter(streams=streams)
    assert not meter.first_token
    assert [meter.feed(one) for one in (b"\x1f\x8b", b"data: [DONE]\n\n", b"{")] == [b"\x1f\x8b", b"data: [DONE]\n\n", b"{"]
    assert (meter.first_token, meter.ended, meter.usage, meter.streams) == (True, False, None, streams)
    assert meter.finish() == b""
    assert meter.ended


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
CHAT_WORDS = ["choices", "delta", "content", "text", "usage", "error", "tool_calls", "function", "arguments", "audio", "message"]
RESPONSES_WORDS = ["type", "response", "model", "sequence_number", "output", "status", "background"]
WORDS = st.sampled_from([*CHAT_WORDS, *RESPONSES_WORDS, "prompt_tokens", "completion_tokens"])
KINDS = st.sampled_from(["response.completed", "response.created", "error", "x.delta"])
SAID = st.recursive(
    JSON | KINDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=12
)


@settings(PATIENT, max_examples=300)
@given(SAID)
def test_an_upstream_may_say_anything_and_no_meter_fails(said: Any) -> None:
    body = json.dumps(said).encode()
    told = stream([b"data: " + body + b"\n\n", DONE])
    assert told.error is not None or told.out == b"data: " + body + b"\n\n" + DONE
    assert run(BodyMeter(), [body]).out == body
