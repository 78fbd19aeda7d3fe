"""What a turn is held to read is never less than what it can: by tables, and by conversations made up at random."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Price, Usage
from proxy.errors import InvalidCall
from proxy.wire.conversation import Conversation, transcriber, with_transcriber
from proxy.wire.events import cap_edits, read_asked, told_error
from proxy.wire.turn import TurnMeter, transcribed
from proxy.wire.usage import read_usage

WINDOW = 32_000
CAPS = ("max_output_tokens", "max_response_output_tokens")


def message(text: str) -> dict[str, object]:
    return {"item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}}


def test_a_turn_goes_on_from_what_the_last_one_said() -> None:
    talk = Conversation()
    talk.told("session.created", {"session": {"instructions": "x"}}, 300)
    talk.sent("conversation.item.create", message("hello"), 100)
    assert talk.bound(WINDOW) == 400
    since = talk.added
    talk.sent("conversation.item.create", message("and"), 50)
    talk.turned(120, since)
    assert talk.bound(WINDOW) == 170


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("conversation.item.create", {"item": {"type": "message", "content": [{"type": "input_image", "image_url": "x"}]}}),
        ("conversation.item.create", {"item": {"type": "mcp_approval_response"}}),
        ("conversation.item.create", {}),
        ("session.update", {"session": {"prompt": {"id": "p"}}}),
        ("session.update", {"session": {"tools": [{"type": "mcp", "server_url": "x"}]}}),
        ("response.create", {"response": {"tools": [{"type": "mcp"}]}}),
        ("response.create", {"response": {"input": [{"type": "item_reference", "id": "x"}]}}),
    ],
)
def test_what_has_no_length_is_as_long_as_can_be(kind: str, fields: dict[str, object]) -> None:
    talk = Conversation()
    talk.sent(kind, fields, 10)
    assert talk.bound(WINDOW) == WINDOW
    talk.turned(120, talk.added)
    assert talk.bound(WINDOW) == (WINDOW if "mcp'" in str(fields) and "tools" in str(fields) else 120)


@pytest.mark.parametrize(("named", "a_second"), [({"audio": {"input": {"format": {"type": "audio/pcm"}}}}, 64_000), ({}, 10_667)])
def test_sound_counts_by_its_length(named: dict[str, object], a_second: int) -> None:
    talk = Conversation()
    talk.told("session.updated", {"session": named}, 0)
    for _ in range(30):
        talk.sent("input_audio_buffer.append", {"audio": "A" * a_second}, a_second)
    assert 600 <= talk.bound(WINDOW) <= 602, "thirty seconds are 300 tokens, and twice as much is held"
    talk.told("input_audio_buffer.committed", {"item_id": "i"}, 0)
    assert 600 <= talk.bound(WINDOW) <= 602
    assert talk.heard_ms("i") == 30_000
    assert talk.heard_ms("i") == 0
    assert talk.spoken(10_667) == 20


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["text", "sound", "commit", "turn"]), st.integers(1, 400)), max_size=40))
def test_the_bound_is_never_below_what_is_read(steps: list[tuple[str, int]]) -> None:
    """Against a model that reads a token for each byte of text, and ten for a second of sound, and forgets nothing."""
    talk, read, buffered = Conversation(), 0, 0
    for what, size in steps:
        if what == "text":
            talk.sent("conversation.item.create", message("x" * size), size + 100)
            read += size
        elif what == "sound":
            talk.sent("input_audio_buffer.append", {"audio": "A" * 1067 * size}, size)
            buffered += size
        elif what == "commit":
            talk.told("input_audio_buffer.committed", {"item_id": "i"}, 0)
            read, buffered = read + buffered, 0
        else:
            assert talk.bound(1 << 40) >= read
            talk.turned(read + size, talk.added)
            read += size
    assert talk.bound(1 << 40) >= read


def test_usage_of_a_turn_in_its_classes() -> None:
    details = {"text_tokens": 100, "audio_tokens": 800, "image_tokens": 100, "cached_tokens": 900}
    cached = {"text_tokens": 50, "audio_tokens": 760, "image_tokens": 90}
    block = {
        "input_tokens": 1000,
        "output_tokens": 70,
        "input_token_details": {**details, "cached_tokens_details": cached},
        "output_token_details": {"text_tokens": 20, "audio_tokens": 50},
    }
    usage = read_usage(block)
    assert usage == Usage(1000, 70, cached_tokens=900, audio_input_tokens=40, image_input_tokens=10, audio_output_tokens=50)


TOKENS = Price(1_000, 2_000, 1_000, 1_000, 5_000, 2_000)
SECONDS = Price(0, 0, 0, 0, 0, 0, unit=7)


@pytest.mark.parametrize(
    ("block", "price", "usage", "told"),
    [
        ({"input_tokens": 5, "output_tokens": 3}, TOKENS, Usage(5, 3), True),
        ({"type": "duration", "seconds": 1.5}, SECONDS, Usage(units=1500), True),
        ({"type": "duration", "seconds": 1.55}, TOKENS, Usage(16, audio_input_tokens=16), True),
        ({"input_tokens": 5, "output_tokens": 3}, SECONDS, Usage(units=500), True),
        (None, SECONDS, Usage(units=2000), False),
        ({"input_tokens": -1}, TOKENS, Usage(20, audio_input_tokens=20), False),
    ],
)
def test_what_was_written_down_is_paid_for_in_the_measure_that_has_a_price(
    block: object, price: Price, usage: Usage, told: bool
) -> None:
    assert transcribed(block, price, 2000) == (usage, told)


def test_a_turn_without_usage_is_supposed() -> None:
    meter = TurnMeter()
    meter.heard("response.output_text.delta", {"delta": "x" * 41})
    meter.heard("response.output_audio.delta", {"delta": "A" * 100})
    meter.suppose(read=70, spoken=9, most=1000, sounds=True)
    assert meter.guess == Usage(70, 20, audio_input_tokens=70, audio_output_tokens=9)
    meter.suppose(read=70, spoken=9, most=5, sounds=False)
    assert meter.guess == Usage(70, 5, audio_output_tokens=5)


def test_the_model_that_writes_down_is_found_and_set_in_both_dialects() -> None:
    new = {"audio": {"input": {"transcription": {"model": "a", "language": "en"}, "x": 1}, "y": 2}}
    old = {"input_audio_transcription": {"model": "a"}}
    assert (transcriber(new), transcriber(old), transcriber({}), transcriber({"audio": 7})) == ("a", "a", None, None)
    assert with_transcriber(new, "b") == {"audio": {"input": {"transcription": {"model": "b", "language": "en"}, "x": 1}, "y": 2}}
    assert with_transcriber(old, "b") == {"input_audio_transcription": {"model": "b"}}


@pytest.mark.parametrize(
    ("event", "edits", "more", "sent"),
    [
        (b'{"type":"t"}', {}, {}, b'{"type":"t"}'),
        (b'{ "type" : "t" }', {"n": 1}, {}, b'{"response":{"n":1}, "type" : "t" }'),
        (b'{"type":"t","response":null}', {"n": 1}, {}, b'{"type":"t","response":{"n":1}}'),
        (b'{"type":"t","response":{ "n": 5, "m": 1e99 } }', {"n": 1}, {}, b'{"type":"t","response":{ "n": 1, "m": 1e99 } }'),
        (b'{"type":"t","response":{"a":{"n":5},"n":5}}', {"n": 1}, {"id": "x"}, b'{"id":"x","type":"t","response":{"a":{"n":5},"n":1}}'),
    ],
)  # fmt: skip
def test_an_event_differs_in_the_changed_fields_alone(
    event: bytes, edits: dict[str, int], more: dict[str, str], sent: bytes
) -> None:
    assert read_asked(event, text=True).changed("response", edits, more) == sent


def test_a_cap_takes_the_place_of_none_under_its_own_name() -> None:
    assert cap_edits({}, {CAPS[0]: 5}, CAPS) == {CAPS[0]: 5}
    assert cap_edits({CAPS[0]: "inf"}, {CAPS[0]: 5, "model": "m"}, CAPS) == {CAPS[0]: 5, "model": "m"}
    assert cap_edits({CAPS[1]: "inf"}, {CAPS[0]: 5}, CAPS) == {CAPS[1]: 5}
    assert cap_edits({CAPS[1]: "inf", CAPS[0]: 9}, {CAPS[0]: 5}, CAPS) == {CAPS[0]: 5}


def test_an_error_is_told_in_the_form_of_its_api() -> None:
    error = InvalidCall("invalid_json", "No.")
    assert b'"event_id":"mine"' in told_error(error, flat=False, own_id="o", event_id="mine")
    assert told_error(error, flat=True, own_id="o", event_id=None).startswith(b'{"type":"error","status":400,"code":"invalid_json"')
