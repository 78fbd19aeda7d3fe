"""What every meter has found out about its answer so far.

The rule a reader could break: text is kept only up to a bound, however many choices there are, and is never looked at but to be counted.
"""

from collections.abc import Mapping
from typing import Any

from proxy.call import Usage
from proxy.wire.usage import far_off, read_usage

MOST_TEXT_BYTES = 8 << 20
_MOST_CHOICES = 256  # whose texts are kept apart


class Reading:
    """What all meters tell. guess: what is taken for the usage, where none is told and nothing can be counted."""

    guess: Usage | None = None
    __slots__ = (
        "_further",
        "_further_bytes",
        "calls",
        "ended",
        "error",
        "first_token",
        "model",
        "nonsense",
        "sequence",
        "streams",
        "text",
        "tier",
        "unfinished",
        "usage",
    )

    def __init__(self, *, streams: bool) -> None:
        self.streams = streams
        self.ended = self.nonsense = self.first_token = self.unfinished = False
        self.usage: Usage | None = None
        self.model: str | None = None
        self.tier: Any = None
        self.calls: Mapping[str, int] | None = None
        self.error: Any = None
        self.sequence = self._further_bytes = 0
        self.text = bytearray()
        self._further: dict[int, bytearray] | None = None  # text of choices beyond the first

    def __repr__(self) -> str:
        return f"<{type(self).__name__} ended={self.ended} usage={self.usage} text={len(self.text)}>"

    def repeats(self, data: bytes, at: int, end: int) -> bool:
        return False

    def texts(self) -> tuple[bytearray, ...]:
        return (self.text,) if self._further is None else (self.text, *self._further.values())

    def outgrown(self) -> bool:
        return False

    def told(self, block: Any) -> None:
        """A usage block came, or None."""
        if block is None:
            return
        usage = read_usage(block)
        if usage is None:
            self.nonsense = True
        else:
            self.usage = usage

    def wrote(self, piece: Any, choice: Any = None) -> None:
        """Something came where text may stand."""
        if isinstance(piece, str) and piece:
            self.first_token = True
            text = self._text_of(choice, len(piece)) if choice else self.text
            if len(text) < MOST_TEXT_BYTES:
                text += piece.encode("utf-8", "surrogatepass")

    def _text_of(self, choice: Any, more: int) -> bytearray:
        """The text of a choice, which grows by so much; of one too many, or that says too much, the first one's, which has a bound."""
        if self._further is None:
            self._further = {}
        self._further_bytes += more
        if type(choice) is not int or self._further_bytes > MOST_TEXT_BYTES:
            return self.text
        if choice not in self._further:
            if len(self._further) >= _MOST_CHOICES:
                return self.text
            self._further[choice] = bytearray()
        return self._further[choice]

    def weigh(self) -> None:
        """Doubt a usage that is far off the text. None at all for some is no usage; ten times too much or too little is noted."""
        usage = self.usage
        if usage is None:
            return
        if not usage.output_tokens and self.text:
            self.usage, self.nonsense = None, True
        elif far_off(usage, sum(map(len, self.texts()))):
            self.nonsense = True
