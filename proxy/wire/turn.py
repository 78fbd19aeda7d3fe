"""What one turn of a realtime session has said about itself so far: text, sound, usage, end.

The rule a reader could break: a turn that ends without its usage is not free. `guess` is then what was read at most and made so far.
"""

from collections.abc import Mapping
from typing import Any

from proxy.call import Price, Usage
from proxy.wire.reading import Reading
from proxy.wire.usage import read_usage

_SOUND = frozenset({"response.output_audio.delta", "response.audio.delta"})
_TOKEN_MS = 100  # of sound that is heard
_BYTES_A_TOKEN = 4  # of text, where nobody counts it


class TurnMeter(Reading):
    """sound_chars: base64 characters of sound so far. status: how the response ended."""

    __slots__ = ("guess", "sound_chars", "status")

    def __init__(self) -> None:
        super().__init__(streams=True)
        self.guess: Usage | None = None
        self.sound_chars = 0
        self.status: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> bytes:
        return b""

    def heard(self, kind: str, fields: Mapping[str, Any]) -> None:
        """An event of the turn."""
        delta = fields.get("delta")
        if kind in _SOUND:
            self.first_token = True
            self.sound_chars += len(delta) if isinstance(delta, str) else 0
        elif kind.endswith(".delta"):
            self.wrote(delta)

    def done(self, response: Mapping[str, Any]) -> None:
        """Its end, with its usage if it is told."""
        self.ended = True
        status = response.get("status")
        self.status = status if isinstance(status, str) else None
        self.told(response.get("usage"))

    def suppose(self, *, read: int, spoken: int, most: int, sounds: bool) -> None:
        """Take what is known for its usage, should none be told. read: tokens at most; spoken: of sound; most: output it may have made."""
        text = sum(map(len, self.texts()))
        made = min(most, spoken + -(-text // _BYTES_A_TOKEN))
        self.guess = Usage(
            input_tokens=read, output_tokens=made, audio_input_tokens=read if sounds else 0, audio_output_tokens=min(spoken, made)
        )


def transcribed(block: Any, price: Price, heard_ms: int) -> tuple[Usage, bool]:
    """What it cost to write down what was heard, in the measure that has a price, and whether it was told. heard_ms: how long that was."""
    told = read_usage(block)
    usage = told or Usage(units=heard_ms)
    if price.by_tokens and usage.units and not usage.total_tokens:
        tokens = -(-usage.units // _TOKEN_MS)
        return Usage(input_tokens=tokens, audio_input_tokens=tokens), told is not None
    if price.unit and not price.by_tokens and not usage.units:
        return Usage(units=max(usage.audio_input_tokens or usage.input_tokens, 1) * _TOKEN_MS), told is not None
    return usage, told is not None
