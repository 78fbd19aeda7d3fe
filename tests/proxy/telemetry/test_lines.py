import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.telemetry.lines import MOST_LINE_BYTES, cut, render_console, render_json

HEAD = {"ts": "2027-01-15T08:00:00.123Z", "level": "info", "event": "call.finished"}
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=2000)  # with lone surrogates and control characters
ANY_VALUE = st.one_of(ANY_TEXT, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(ANY_TEXT, max_size=30))


@given(fields=st.dictionaries(st.sampled_from([f"field_{n}" for n in range(40)]), ANY_VALUE))
def test_whatever_the_fields_hold_a_json_line_is_one_line_of_valid_json_within_4_kib(fields: dict[str, object]) -> None:
    line = render_json({**HEAD, **fields})
    assert len(line) <= MOST_LINE_BYTES
    assert line.endswith(b"}\n")
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["event"] == "call.finished"


@given(text=ANY_TEXT)
def test_whatever_a_field_holds_a_console_line_is_one_line_that_moves_no_cursor(text: str) -> None:
    line = render_console({**HEAD, "event": "upstream.broke", "upstream": text}, colour=False)
    assert len(line) <= MOST_LINE_BYTES
    assert line.endswith(b"\n")
    assert line[:-1].decode().isprintable()


@given(text=st.text(max_size=300))
def test_a_string_passes_whole_or_is_cut_to_256_bytes_and_shows_it(text: str) -> None:
    short = cut(text)
    assert len(short.encode()) <= 256
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_a_list_is_cut_to_16_items_and_shows_it() -> None:
    assert cut([str(n) for n in range(16)]) == [str(n) for n in range(16)]
    assert cut([str(n) for n in range(17)]) == [*(str(n) for n in range(16)), "…"]


def test_a_list_of_anything_but_strings_is_a_mistake() -> None:
    with pytest.raises(TypeError):
        cut([ValueError("prompt text")])


def test_text_that_is_well_behaved_reaches_the_log_unchanged() -> None:
    words = "Grüße مرحبا שלום 🙂 \U0001f468\u200d\U0001f469"
    assert json.loads(render_json({**HEAD, "user": words}))["user"] == words
    assert words.encode() in render_json({**HEAD, "user": words})


@pytest.mark.parametrize("unruly", ["\n", "\r", "\x1b[2J", "\x9b2J", "\x85", "\u2028", "\u2029", "\u202e", "\u2066"])
def test_characters_that_break_lines_or_drive_a_terminal_are_escaped_and_not_lost(unruly: str) -> None:
    line = render_json({**HEAD, "user": f"a{unruly}é"})
    assert unruly not in line.decode().removesuffix("\n")
    assert json.loads(line)["user"] == f"a{unruly}é"


def test_a_header_value_that_was_not_utf8_is_repaired() -> None:
    assert json.loads(render_json({**HEAD, "user": "a\udcff"}))["user"] == "a?"


def test_a_number_that_json_readers_cannot_hold_is_null() -> None:
    line = json.loads(render_json({**HEAD, "input_tokens": 2**80, "status": 200}))
    assert line["input_tokens"] is None
    assert line["status"] == 200


def test_a_line_that_is_far_too_long_keeps_what_finds_the_call() -> None:
    hopeless = {f"field_{n}": "\x00" * 256 for n in range(100)}
    assert json.loads(render_json({**HEAD, "request_id": "req_1", **hopeless})) == {**HEAD, "request_id": "req_1"}


CALL = {
    **HEAD,
    "request_id": "req_1",
    "key": "web",
    "user": "ada lovelace",
    "surface": "chat",
    "model_asked": "gpt-4.1",
    "status": 200,
    "outcome": "completed",
    "input_tokens": 312,
    "output_tokens": 45,
    "cost_nanousd": 1_234_567,
    "total_ms": 812.4,
    "error": None,
    "policy_version": "v1",
}


def test_on_a_console_a_call_is_its_key_fields_in_units_for_people() -> None:
    assert render_console(CALL, colour=False).decode() == (
        "08:00:00.123 info    call.finished      status=200 outcome=completed surface=chat model=gpt-4.1 in=312 out=45 "
        "cost=$0.001235 took=812ms key=web user='ada lovelace' request_id=req_1\n"
    )


def test_on_a_console_each_mistake_stands_on_a_line_of_its_own() -> None:
    record = {
        **HEAD,
        "level": "error",
        "event": "policy.rejected",
        "mistakes": 2,
        "mistake_lines": ["a.yaml:1:1: x", "a.yaml:2:1: \x1b"],
    }
    assert render_console(record, colour=False).decode().splitlines() == [
        "08:00:00.123 error   policy.rejected    mistakes=2",
        "    a.yaml:1:1: x",
        r"    'a.yaml:2:1: \x1b'",
    ]


def test_colour_marks_level_and_event_and_changes_no_word() -> None:
    coloured = render_console(CALL, colour=True).decode()
    assert "\x1b[32minfo" in coloured
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m"):
        coloured = coloured.replace(code, "")
    assert coloured.encode() == render_console(CALL, colour=False)
