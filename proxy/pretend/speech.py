"""What the pretend upstream says to a generating call, cut to its cap."""

from dataclasses import dataclass

_TEXT = (
    "This is Tollhouse's pretend upstream; no model was asked. "
    "It counts every word of yours and of its own as one token, so the numbers beside this answer are as made up as the answer. "
    "What is real is the way here: the policies, the limits, the price, the log line and the metrics are those of every other call. "
    "Set OPENAI_API_KEY, or TOLLHOUSE_UPSTREAM, and the same request goes to a model."
)
_SPEECH = _TEXT.split()
_WORDS_AN_EVENT = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """What one generating call asks.

    created: epoch seconds. cap: tokens of one answer, None for no cap. answers: how many are shown; generated: how many are billed.
    """

    id: str
    created: int
    model: str
    input_tokens: int
    cap: int | None
    answers: int = 1
    generated: int = 1
    include_usage: bool = False

    @property
    def words(self) -> list[str]:
        """Of each answer."""
        return _SPEECH[: self.cap]

    @property
    def cut(self) -> bool:
        """The cap ended the answer."""
        return len(self.words) < len(_SPEECH)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def pieces(self) -> list[str]:
        """The text, a few words at a time: joined they are the text again."""
        starts = range(0, len(self.words), _WORDS_AN_EVENT)
        return [(" " if at else "") + " ".join(self.words[at : at + _WORDS_AN_EVENT]) for at in starts]

    @property
    def finish(self) -> str:
        return "length" if self.cut else "stop"

    @property
    def output_tokens(self) -> int:
        return self.generated * len(self.words)
