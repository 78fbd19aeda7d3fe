"""How much the next turn of a realtime session reads at most: a conversation is read again by each.

What the last turn said that it read and wrote is where the next begins; what was sent since is counted by its bytes, and sound by its
length. The rule a reader could break: what has no length here (a picture, a stored prompt, what a tool of the upstream's finds) makes the
bound the model's context, until a turn has said how much that was.
"""

from collections.abc import Mapping
from typing import Any

from proxy.wire.inputs import LOCAL_TOOLS

# Characters of base64 for a second of sound: 48,000 bytes of PCM at 24 kHz, 8,000 of G.711. Source: OpenAI's guide to realtime.
_PCM_A_SECOND, _G711_A_SECOND = 64_000, 10_667
# What is heard is a token for each 100 ms, and what is spoken one for each 50. Source: OpenAI's guide to realtime costs.
_HEARD_A_SECOND, _SPOKEN_A_SECOND = 10, 20
_RESERVE = 2  # times as much is held
_PLAIN_PARTS = frozenset({"input_text", "text", "output_text", "input_audio", "audio", "output_audio"})
_PLAIN_ITEMS = frozenset({"message", "function_call", "function_call_output"})


class Conversation:
    """known: tokens that are read at most, but for what has no length. added: all that was ever added. sounds: something was to be heard.

    cap: output tokens of a turn that names none, None = as many as the model can make.
    """

    __slots__ = (
        "_buffered_chars",
        "_committed",
        "_hidden_at",
        "_in_a_second",
        "_out_a_second",
        "_tools",
        "added",
        "known",
        "sounds",
    )

    def __init__(self) -> None:
        self.known = self.added = 0
        self.sounds = False
        self._tools = False  # of the upstream's own
        self._hidden_at: int | None = None  # how much had been added when something came that has no length
        self._buffered_chars = 0  # of sound that is in no turn yet
        self._committed: dict[str, int] = {}  # characters of sound by the item that they became, a few of them
        self._in_a_second = self._out_a_second = _G711_A_SECOND

    def __repr__(self) -> str:
        return f"<Conversation known={self.known} hidden={self._hidden_at is not None or self._tools}>"

    def bound(self, window: int) -> int:
        """Tokens that a turn reads at most. window: as many as its model can."""
        if self._tools or self._hidden_at is not None:
            return window
        return min(window, self.known + self._heard(self._buffered_chars) * _RESERVE)

    def sent(self, kind: str, fields: Mapping[str, Any], size: int) -> None:
        """The client sends an event of so many bytes."""
        if kind == "input_audio_buffer.append":
            audio = fields.get("audio")
            self._buffered_chars += len(audio) if isinstance(audio, str) else size
            self.sounds = True
        elif kind == "input_audio_buffer.clear":
            return  # which the upstream confirms
        elif kind == "conversation.item.create":
            self._add(size)
            if _hides(fields.get("item")):
                self._hidden_at = self.added
        elif kind in ("session.update", "response.create"):
            self._add(size)
            part = fields.get("session" if kind == "session.update" else "response")
            self._look(part if isinstance(part, Mapping) else {}, lower=True)

    def told(self, kind: str, fields: Mapping[str, Any], size: int) -> None:
        """The upstream tells of the conversation."""
        if kind == "input_audio_buffer.committed":
            chars, self._buffered_chars = self._buffered_chars, 0
            self._add(self._heard(chars) * _RESERVE)
            item = fields.get("item_id")
            if isinstance(item, str):
                if len(self._committed) >= 64:
                    self._committed.pop(next(iter(self._committed)))
                self._committed[item] = chars
        elif kind == "input_audio_buffer.cleared":
            self._buffered_chars = 0
        elif kind in ("session.created", "session.updated"):
            if kind == "session.created":
                self._add(size)  # its instructions and tools stand in it
            session = fields.get("session")
            self._look(session if isinstance(session, Mapping) else {}, lower=False)

    def turned(self, total: int, since: int) -> None:
        """A turn of the conversation has read and written so many tokens. since: `added` when it began."""
        self.known = total + self.added - since
        if self._hidden_at is not None and self._hidden_at <= since:
            self._hidden_at = None

    def wrote(self, tokens: int) -> None:
        """A turn has ended without saying what it used; so many tokens it wrote at most."""
        self._add(tokens)

    def heard_ms(self, item: Any) -> int:
        """How long the sound of an item was."""
        chars = self._committed.pop(item, 0) if isinstance(item, str) else 0
        return -(-chars * 1000 // self._in_a_second)

    def spoken(self, chars: int) -> int:
        """Tokens of so many characters of sound that the model made."""
        return -(-chars * _SPOKEN_A_SECOND // self._out_a_second)

    def _heard(self, chars: int) -> int:
        return -(-chars * _HEARD_A_SECOND // self._in_a_second)

    def _add(self, tokens: int) -> None:
        self.known += tokens
        self.added += tokens

    def _look(self, said: Mapping[str, Any], *, lower: bool) -> None:
        """At a session as it is wished for or told of. lower: a wish makes what is counted more, and never less."""
        if said.get("prompt") is not None or _hides_input(said.get("input")):
            self._hidden_at = self.added
        tools = said.get("tools")
        kinds = [tool.get("type") if isinstance(tool, Mapping) else None for tool in tools] if isinstance(tools, list) else []
        self._tools = self._tools or any(kind not in LOCAL_TOOLS if isinstance(kind, str) else True for kind in kinds)
        rates = _rate(said, "input"), _rate(said, "output")
        if rates[0] is not None:
            self._in_a_second = min(rates[0], self._in_a_second) if lower else rates[0]
        if rates[1] is not None:
            self._out_a_second = min(rates[1], self._out_a_second) if lower else rates[1]


def transcriber(session: Mapping[str, Any]) -> str | None:
    """The model that writes down what is heard, as a session names it, None where it names none."""
    audio = session.get("audio")
    heard = audio.get("input") if isinstance(audio, Mapping) else None
    config = heard.get("transcription") if isinstance(heard, Mapping) else None
    if config is None:
        config = session.get("input_audio_transcription")
    model = config.get("model") if isinstance(config, Mapping) else None
    return model if isinstance(model, str) else None


def with_transcriber(session: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The fields to set in a session so that another model writes down what is heard."""
    edits: dict[str, Any] = {}
    audio, old = session.get("audio"), session.get("input_audio_transcription")
    if isinstance(audio, Mapping) and isinstance(heard := audio.get("input"), Mapping) and heard.get("transcription"):
        edits["audio"] = {**audio, "input": {**heard, "transcription": {**heard["transcription"], "model": model}}}
    if isinstance(old, Mapping):
        edits["input_audio_transcription"] = {**old, "model": model}
    return edits


def _rate(said: Mapping[str, Any], way: str) -> int | None:
    """Characters a second of the sound that a session takes or makes."""
    audio = said.get("audio")
    side = audio.get(way) if isinstance(audio, Mapping) else None
    named = side.get("format") if isinstance(side, Mapping) else None
    if isinstance(named, Mapping):
        named = named.get("type")
    if named is None:
        named = said.get(f"{way}_audio_format")
    if not isinstance(named, str):
        return None
    return _PCM_A_SECOND if named in ("audio/pcm", "pcm16") else _G711_A_SECOND


def _hides(item: Any) -> bool:
    """Whether an item holds something that has no length."""
    if not isinstance(item, Mapping) or item.get("type") not in _PLAIN_ITEMS:
        return True
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return any(not isinstance(part, Mapping) or part.get("type") not in _PLAIN_PARTS for part in parts)


def _hides_input(items: Any) -> bool:
    return items is not None and (not isinstance(items, list) or any(_hides(item) for item in items))
