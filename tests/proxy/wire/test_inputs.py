"""Whatever a body sends as input is counted or said to be hidden; no body, however odd, makes that fail."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.inputs import MESSAGE_TOKENS, NAME_TOKENS, PRIMING_TOKENS, TOOLS_TOKENS, Inputs, hides_input, inputs

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
TOOL_TEXT = '[{"type":"function","function":{"name":"f","parameters":{}}}]'


def framed(messages: int, *, names: int = 0, tools: int = 0) -> int:
    return PRIMING_TOKENS + messages * MESSAGE_TOKENS + names * NAME_TOKENS + tools * TOOLS_TOKENS


def say(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **more}]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (say("hi"), Inputs(("hi",), framed(1), hidden=False)),
        (say("hi", name="ada"), Inputs(("hi", "ada"), framed(1, names=1), hidden=False)),
        (say([{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]), Inputs(("a", "b"), framed(1), hidden=False)),
        (say([{"type": "text", "text": "a"}, IMAGE]), Inputs(("a",), framed(1), hidden=True)),
        (say([{"type": "input_audio", "input_audio": {"data": "x"}}]), Inputs((), framed(1), hidden=True)),
        (say([{"type": "file", "file": {"file_id": "x"}}]), Inputs((), framed(1), hidden=True)),
        (say([{"image_url": "x"}]), Inputs(('{"image_url":"x"}',), framed(1), hidden=True)),
        (say(None, audio={"id": "audio_1"}), Inputs((), framed(1), hidden=True)),
        (say(None, audio=None), Inputs((), framed(1), hidden=False)),
        (
            say(None, tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
            Inputs(('[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]',), framed(1), hidden=False),
        ),
        ({"messages": [{"role": "tool", "content": "42", "tool_call_id": "c"}]}, Inputs(("42", "c"), framed(1), hidden=False)),
        ({"messages": [{"role": "an odd role", "content": "x"}]}, Inputs(("an odd role", "x"), framed(1), hidden=False)),
        ({"messages": [], "tools": [TOOL]}, Inputs((TOOL_TEXT,), framed(0, tools=1), hidden=False)),
        ({"messages": [], "functions": [{"name": "f"}]}, Inputs(('[{"name":"f"}]',), framed(0, tools=1), hidden=False)),
        (
            {"messages": [], "response_format": {"type": "json_schema"}},
            Inputs(('{"type":"json_schema"}',), framed(0), hidden=False),
        ),
        ({"messages": [], "web_search_options": {}}, Inputs((), framed(0), hidden=True)),
        ({"messages": [], "tools": [], "web_search_options": None}, Inputs((), framed(0), hidden=False)),
        ({"messages": ["hi", 7]}, Inputs(("hi", "7"), framed(2), hidden=False)),
        ({"messages": {"role": "user"}}, Inputs(('{"role":"user"}',), framed(0), hidden=False)),
        ({}, Inputs((), framed(0), hidden=False)),
    ],
)
def test_chat_counts_every_text_that_the_model_reads(fields: dict[str, Any], expected: Inputs) -> None:
    assert inputs("chat", fields) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", Inputs(("hi",), 0, hidden=False)),
        (["a", "b"], Inputs(("a", "b"), 0, hidden=False)),
        ([1, 2, 3], Inputs((), 3, hidden=False)),
        ([[1, 2], [3]], Inputs((), 3, hidden=False)),
        ([[1, 2], "a"], Inputs(("a",), 2, hidden=False)),
        ([True, False], Inputs(("true", "false"), 0, hidden=False)),
        ([[1, "x"]], Inputs(('[1,"x"]',), 0, hidden=False)),
        ({"a": 1}, Inputs(('{"a":1}',), 0, hidden=False)),
        ([], Inputs((), 0, hidden=False)),
        (None, Inputs((), 0, hidden=False)),
    ],
)
def test_prompts_and_embedding_inputs_are_texts_or_token_ids(prompt: Any, expected: Inputs) -> None:
    assert inputs("completions", {"prompt": prompt}) == expected
    assert inputs("embeddings", {"input": prompt}) == expected


def test_a_suffix_is_input_too() -> None:
    assert inputs("completions", {"prompt": "a", "suffix": "b"}).texts == ("a", "b")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input": "hi"}, Inputs(("hi",), framed(1), hidden=False)),
        ({"input": "hi", "instructions": "be brief"}, Inputs(("be brief", "hi"), framed(2), hidden=False)),
        ({"input": [{"role": "user", "content": "hi"}]}, Inputs(("hi",), framed(1), hidden=False)),
        (
            {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
            Inputs(("hi",), framed(1), hidden=False),
        ),
        (
            {"input": [{"type": "message", "role": "user", "content": [{"type": "input_image"}]}]},
            Inputs((), framed(1), hidden=True),
        ),
        (
            {"input": [{"type": "function_call", "id": "i", "call_id": "c", "name": "f", "arguments": "{}"}]},
            Inputs(("c", "f", "{}"), framed(1), hidden=False),
        ),
        ({"input": [{"type": "function_call_output", "output": "42"}]}, Inputs(("42",), framed(1), hidden=False)),
        (
            {"input": [{"type": "function_call_output", "output": [{"type": "input_text", "text": "42"}, {"type": "input_file"}]}]},
            Inputs(("42",), framed(1), hidden=True),
        ),
        (
            {
                "input": [
                    {
                        "type": "reasoning",
                        "id": "r",
                        "summary": [{"type": "summary_text", "text": "so"}],
                        "encrypted_content": "gAA",
                    }
                ]
            },
            Inputs(("so", "gAA"), framed(1), hidden=False),
        ),
        ({"input": [{"type": "item_reference", "id": "i"}]}, Inputs((), framed(0), hidden=True)),
        ({"input": [{"id": "i"}]}, Inputs(('{"id":"i"}',), framed(0), hidden=True)),
        ({"input": [{"type": "news_to_us", "x": 1}]}, Inputs(('{"type":"news_to_us","x":1}',), framed(0), hidden=True)),
        ({"input": [{"type": "image_generation_call", "result": "AAAA"}]}, Inputs((), framed(0), hidden=True)),
        ({"input": "hi", "previous_response_id": "resp_1"}, Inputs(("hi",), framed(1), hidden=True)),
        ({"input": "hi", "conversation": {"id": "conv_1"}}, Inputs(("hi",), framed(1), hidden=True)),
        ({"prompt": {"id": "pmpt_1"}}, Inputs(('{"id":"pmpt_1"}',), framed(0), hidden=True)),
        ({"input": "hi", "previous_response_id": None, "conversation": None}, Inputs(("hi",), framed(1), hidden=False)),
        (
            {"input": "hi", "tools": [{"type": "function", "name": "f"}]},
            Inputs(("hi", '[{"type":"function","name":"f"}]'), framed(1, tools=1), hidden=False),
        ),
        (
            {"input": "hi", "tools": [{"type": "web_search"}]},
            Inputs(("hi", '[{"type":"web_search"}]'), framed(1, tools=1), hidden=True),
        ),
        (
            {"input": "hi", "text": {"format": {"type": "json_schema"}}},
            Inputs(("hi", '{"format":{"type":"json_schema"}}'), framed(1), hidden=False),
        ),
    ],
)
def test_responses_counts_items_and_knows_what_the_upstream_adds(fields: dict[str, Any], expected: Inputs) -> None:
    assert inputs("responses", fields) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("hi", Inputs(("hi",), 0, hidden=False)),
        (["a", "b"], Inputs(("a", "b"), 0, hidden=False)),
        ([{"type": "text", "text": "a"}, IMAGE], Inputs(("a",), 0, hidden=True)),
    ],
)
def test_moderations_take_texts_and_images(asked: Any, expected: Inputs) -> None:
    assert inputs("moderations", {"input": asked}) == expected


@pytest.mark.parametrize(("surface", "fields"), [("models", {}), ("images", {"prompt": "a"}), ("chat", None), ("chat", ["x"])])
def test_what_cannot_be_read_is_hidden_and_not_free(surface: str, fields: Any) -> None:
    assert inputs(surface, fields) == Inputs((), 0, hidden=True)


def test_a_value_too_deep_to_write_out_is_hidden() -> None:
    deep: Any = "x"
    for _ in range(2000):
        deep = [deep]
    assert inputs("chat", say([{"type": "text", "text": deep}])).hidden
    assert inputs("chat", {"messages": deep, "tools": deep}).hidden


NAMES = [
    *(
        "messages",
        "prompt",
        "input",
        "instructions",
        "tools",
        "functions",
        "content",
        "role",
        "type",
        "text",
        "name",
        "audio",
        "output",
    ),
    *("summary", "suffix", "id", "previous_response_id", "image_url", "refusal", "tool_calls"),
]
WORDS = [
    "user",
    "message",
    "text",
    "input_text",
    "function",
    "function_call_output",
    "reasoning",
    "image_url",
    "file",
    "item_reference",
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5),
    max_leaves=25,
)


@given(
    surface=st.sampled_from(["chat", "completions", "responses", "embeddings", "moderations", "images", ""]),
    fields=st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=6) | JUNK,
)
def test_no_body_makes_reading_its_inputs_fail(surface: str, fields: Any) -> None:
    found = inputs(surface, fields)
    assert all(isinstance(text, str) and text for text in found.texts)
    assert found.tokens >= 0


@given(JUNK)
def test_the_quick_look_for_hidden_input_agrees_with_the_thorough_one(messages: object) -> None:
    for fields in ({"model": "m", "messages": messages}, {"messages": [messages]}, {"messages": [], "tools": messages}):
        assert hides_input("chat", fields) is inputs("chat", fields).hidden


@pytest.mark.parametrize(
    "content", ["text", None, [{"type": "image_url", "image_url": {"url": "x"}}], [{"type": "text", "text": "x"}]]
)
def test_a_chat_hides_input_only_where_it_points_at_some(content: object) -> None:
    fields = {"model": "m", "messages": [{"role": "user", "content": content}]}
    assert hides_input("chat", fields) is inputs("chat", fields).hidden
