"""What of a request body the upstream will count as input: its texts, its token ids, and whether there is more than it shows.

Pure and without errors: an unknown shape is counted by its JSON text, which is seldom too little. The rule a reader could break:
what the body only refers to (an image, a file, an earlier answer, what a hosted tool will find) has no length here. It sets
`hidden`, and whoever needs a bound then takes it from the model, not from the body.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

# Tokens that frame one chat message, its role among them, and those that prime the answer.
# Source: OpenAI's cookbook, "How to count tokens with tiktoken".
MESSAGE_TOKENS = 4
NAME_TOKENS = 1
PRIMING_TOKENS = 3
# What introduces a list of tools. Each tool counts by its JSON text, which is longer than the form the model is shown.
TOOLS_TOKENS = 12

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# What labels a message or an item and is not shown to the model.
_LABELS = frozenset({"type", "id", "status", "phase"})
# Parts of a message that are text, and the field it stands in.
_TEXT_PARTS: Mapping[str, str] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
# Parts and items whose tokens cannot be told from their bytes.
_MEDIA = frozenset(
    {
        "image_url",
        "input_image",
        "input_audio",
        "audio",
        "file",
        "input_file",
        "item_reference",
        "computer_call_output",
        "image_generation_call",
    }
)
# Items of a responses input that are all there, and which of their fields hold parts. Encrypted reasoning counts by its text, which
# is longer than what it hides.
_TEXT_ITEMS: Mapping[str, tuple[str, ...]] = {
    "function_call": (),
    "function_call_output": ("output",),
    "custom_tool_call": (),
    "custom_tool_call_output": ("output",),
    "reasoning": ("summary", "content"),
    "compaction": (),
    "local_shell_call": (),
    "local_shell_call_output": (),
    "shell_call": (),
    "shell_call_output": (),
    "apply_patch_call": (),
    "apply_patch_call_output": (),
}
# Tools that the app runs itself. Any other is hosted by the upstream, which feeds what it finds back in as input.
LOCAL_TOOLS = frozenset({"function", "custom", "namespace", "local_shell", "apply_patch"})
# Fields whose presence means input that the body does not hold.
_HIDING: Mapping[str, tuple[str, ...]] = {
    "chat": ("web_search_options", "chat_template"),
    "completions": ("prompt_embeds",),
    "responses": ("previous_response_id", "conversation", "prompt"),
    "compact": ("previous_response_id", "conversation", "prompt"),
}
# Fields that are shown to the model as they are, or nearly.
_SCHEMAS: Mapping[str, tuple[str, ...]] = {
    "chat": ("response_format", "prediction", "documents"),
    "completions": ("suffix",),
    "responses": ("text", "prompt"),
}


class Inputs(NamedTuple):
    """texts: what is to be counted. tokens: known without counting (token ids, message framing). hidden: there is more."""

    texts: tuple[str, ...]
    tokens: int
    hidden: bool


# Fields of a chat beside its messages that hide nothing.
_USUAL = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "temperature", "top_p", "stop", "seed", "user"}
    | {"max_tokens", "max_completion_tokens", "frequency_penalty", "presence_penalty", "metadata", "store"}
)
_PLAIN_MESSAGE = frozenset(("role", "content", "name"))
_TEXT = frozenset((str,))


def hides_input(surface: str, fields: Mapping[str, Any]) -> bool:
    """Whether there is input that the body does not show. Most calls are plain chats, for which a quick look tells."""
    if surface == "chat" and is_usual(fields) and are_plain(fields.get("messages")):
        return False
    return inputs(surface, fields).hidden


def is_usual(fields: Mapping[str, Any]) -> bool:
    """Whether nothing can hide in a chat but in its messages."""
    return _USUAL.issuperset(fields)


def is_plain_field(name: str, value: Any) -> bool:
    """Whether this is a field of a plain message."""
    return name in _PLAIN_MESSAGE and type(value) is str


def are_plain(messages: Any) -> bool:
    """Whether these are messages of texts and nothing else, which hide nothing and are not deep."""
    if type(messages) is not list:
        return False
    for message in messages:
        if type(message) is not dict or not _PLAIN_MESSAGE.issuperset(message) or not _TEXT.issuperset(map(type, message.values())):
            return False
    return True


def inputs(surface: str, fields: Mapping[str, Any] | None) -> Inputs:
    """What a parsed body carries as input. surface: a name of SURFACES; one without a rule here, or no body, hides everything."""
    gather = _GATHERERS.get(surface)
    if gather is None or not isinstance(fields, Mapping):
        return Inputs((), 0, hidden=True)
    found = _Found()
    gather(found, fields)
    for name in _HIDING.get(surface, ()):
        found.hidden = found.hidden or fields.get(name) is not None
    for name in _SCHEMAS.get(surface, ()):
        found.text(fields.get(name))
    for name in ("tools", "functions"):
        found.tools(fields.get(name), hostable=name == "tools")
    return Inputs(tuple(found.texts), found.tokens, found.hidden)


def _word(value: Any) -> str:
    """A string, or "" for what is none: a `type` or `role` may be anything, even unhashable."""
    return value if isinstance(value, str) else ""


class _Found:
    """What was found so far. Every method takes any JSON value."""

    __slots__ = ("hidden", "texts", "tokens")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tokens = 0
        self.hidden = False

    def text(self, value: Any) -> None:
        """A string as it is, anything else by its JSON text, null as nothing."""
        if isinstance(value, str):
            if value:
                self.texts.append(value)
        elif value is not None:
            try:
                self.texts.append(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode())
            except TypeError:  # nested too deeply, or no JSON at all
                self.hidden = True

    def prompt(self, value: Any) -> None:
        """A string, token ids, or a list of either."""
        if not isinstance(value, list):
            self.text(value)
        elif value and all(type(item) is int for item in value):
            self.tokens += len(value)
        else:
            for item in value:
                if isinstance(item, list) and all(type(token) is int for token in item):
                    self.tokens += len(item)
                else:
                    self.text(item)

    def content(self, value: Any) -> None:
        """A string, or a list of parts."""
        if isinstance(value, list):
            for part in value:
                self.part(part)
        else:
            self.part(value)

    def part(self, part: Any) -> None:
        if not isinstance(part, Mapping):
            self.text(part)
            return
        kind = _word(part.get("type"))
        if kind in _MEDIA:
            self.hidden = True
        elif kind in _TEXT_PARTS and part.get(_TEXT_PARTS[kind]) is not None:
            self.text(part[_TEXT_PARTS[kind]])
        else:
            self.text(part)
            self.hidden = True

    def message(self, message: Any) -> None:
        self.tokens += MESSAGE_TOKENS
        if not isinstance(message, Mapping):
            self.text(message)
            return
        for name, value in message.items():
            if name == "content":
                self.content(value)
            elif name == "audio":
                self.hidden = self.hidden or value is not None
            elif name == "name":
                self.tokens += NAME_TOKENS
                self.text(value)
            elif name not in _LABELS and not (name == "role" and _word(value) in _ROLES):
                self.text(value)

    def item(self, item: Any) -> None:
        """One item of a responses input."""
        kind = _word(item.get("type")) if isinstance(item, Mapping) else "message"
        if kind == "message" or (not kind and "role" in item):
            self.message(item)
        elif kind in _TEXT_ITEMS:
            self.tokens += MESSAGE_TOKENS
            for name, value in item.items():
                if name in _TEXT_ITEMS[kind]:
                    self.content(value)
                elif name not in _LABELS:
                    self.text(value)
        else:
            self.part(item)

    def tools(self, value: Any, *, hostable: bool) -> None:
        """Definitions of tools. hostable: they have a type, and by it may be the upstream's own."""
        if not value:
            return
        self.tokens += TOOLS_TOKENS
        self.text(value)
        for tool in value if isinstance(value, list) and hostable else ():
            hosted = isinstance(tool, Mapping) and _word(tool.get("type")) not in LOCAL_TOOLS
            self.hidden = self.hidden or hosted


def _chat(found: _Found, fields: Mapping[str, Any]) -> None:
    found.tokens += PRIMING_TOKENS
    messages = fields.get("messages")
    if not isinstance(messages, list):
        found.text(messages)
        return
    for message in messages:
        found.message(message)


def _responses(found: _Found, fields: Mapping[str, Any]) -> None:
    found.tokens += PRIMING_TOKENS
    if fields.get("instructions") is not None:
        found.message(fields["instructions"])
    asked = fields.get("input")
    for item in asked if isinstance(asked, list) else (asked,):
        if item is not None:
            found.item(item)


_GATHERERS: Mapping[str, Callable[[_Found, Mapping[str, Any]], None]] = {
    "chat": _chat,
    "responses": _responses,
    "compact": _responses,
    "completions": lambda found, fields: found.prompt(fields.get("prompt")),
    "embeddings": lambda found, fields: found.prompt(fields.get("input")),
    "moderations": lambda found, fields: found.content(fields.get("input")),
}
