"""What a call of the soak is: its kind, and its id, which tells the model server what to do with it.

    000017-cut-4      the 17th call, a stream that is cut after 4 words

The rule a reader could break: load and model server meet in the id alone. What each of them saw is compared afterwards, by it.
"""

from dataclasses import dataclass

APP_KEYS = ("app", "drain", "poor")
MODEL = "gpt-4.1-mini"
INPUT_NANOUSD, OUTPUT_NANOUSD = 400, 1600  # a token, at the shipped price of the model
EMBEDDER = "text-embedding-3-small"
EMBED_NANOUSD = 20
CAP = 64  # that calls ask for
# Each is one token of o200k_base, whatever stands around it.
WORDS = (
    " river",
    " stone",
    " cloud",
    " garden",
    " window",
    " silver",
    " winter",
    " music",
    " bridge",
    " market",
    " forest",
    " letter",
)

# What the model server does with a call, and whether it reports usage.
REPORTING = {"json", "embed", "stream", "slow", "steady", "resp", "late"}
SILENT = {"quiet", "cut", "flood", "broken"}
UNANSWERED = {"refused", "failed", "reset", "half"}
SCRIPTS = REPORTING | SILENT | UNANSWERED


@dataclass(frozen=True, slots=True)
class Script:
    """number: of the call. name: one of SCRIPTS. words: how many the model server says, each a token."""

    number: int
    name: str
    words: int

    @property
    def id(self) -> str:
        return f"{self.number:06}-{self.name}-{self.words}"

    @classmethod
    def of(cls, id: str) -> "Script":
        number, name, words = id.split("-")
        return cls(int(number), name, int(words))


@dataclass(slots=True)
class Served:
    """What the model server did. reported: input and output tokens that its usage says, once that is sent. said: words sent, each a token.

    whole: its last byte was written. closed_s: when its connection ended before that, on the machine's monotonic clock.
    """

    reported: tuple[int, int] | None = None
    said: int = 0
    whole: bool = False
    closed_s: float | None = None


@dataclass(slots=True)
class Seen:
    """What the client saw. key: who called. status: 0 where it left before one came. words: that it read. stayed: to the end.

    left_s: when it left, on the machine's monotonic clock.
    """

    key: str
    kind: str
    status: int = 0
    words: int = 0
    stayed: bool = True
    left_s: float | None = None
