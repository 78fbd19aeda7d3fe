"""A tool that the upstream runs is known by one word, in what is asked and in what is answered."""

from typing import Any

import pytest

from proxy.wire.hosted import ANY_TOOL, called, offered


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("web_search", "web_search"),
        ("web_search_preview", "web_search"),
        ("web_search_preview_2025_03_11", "web_search"),
        ("web_search_2025_08_26", "web_search"),
        ("file_search", "file_search"),
        ("code_interpreter", "code_interpreter"),
        ("image_generation", "image_generation"),
        ("computer_use_preview", "computer"),
        ("mcp", "mcp"),
        ("shell", "shell"),
        ("made_up_tomorrow", "made_up_tomorrow"),
        (None, ANY_TOOL),
        (7, ANY_TOOL),
    ],
)
def test_a_hosted_tool_goes_by_one_word(kind: Any, word: str) -> None:
    assert offered("responses", {"tools": [{"type": kind}]}) == {word: "tools"}


@pytest.mark.parametrize("kind", ["function", "custom", "namespace", "local_shell", "apply_patch"])
def test_a_tool_that_the_app_runs_is_none_of_ours(kind: str) -> None:
    assert offered("responses", {"tools": [{"type": kind}]}) == {}


@pytest.mark.parametrize(
    ("surface", "fields", "words"),
    [
        ("chat", {"web_search_options": {}}, {"web_search": "web_search_options"}),
        ("chat", {"web_search_options": None, "tools": None}, {}),
        ("responses", {"prompt": {"id": "p"}}, {ANY_TOOL: "prompt"}),
        ("responses", {"tools": ["web_search", {"type": "mcp"}]}, {ANY_TOOL: "tools", "mcp": "tools"}),
        ("responses", {"tools": {"type": "mcp"}}, {}),
    ],
)
def test_what_may_offer_tools_does(surface: str, fields: dict[str, Any], words: dict[str, str]) -> None:
    assert offered(surface, fields) == words


def test_calls_are_counted_by_the_items_of_the_answer() -> None:
    output = [
        {"type": "web_search_call"},
        {"type": "message"},
        {"type": "web_search_call"},
        {"type": "mcp_call"},
        {},
        None,
        {"type": 3},
    ]
    assert called(output) == {"web_search": 2, "mcp": 1}
    assert called(None) == called({}) == {}
