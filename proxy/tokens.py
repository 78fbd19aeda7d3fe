"""Counting tokens: off the loop, in bounded time and memory, whatever the text.

Counting is the second choice. An upstream's own usage is better, and where a bound is enough the bytes give one for nothing. The
rule a reader could break: a tokenizer can be crashed by text (tiktoken issue 245 ends a thread with an error that is no
Exception), so it sees windows of text, never all of it, and every failure ends as an estimate that says so.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock

from proxy import encodings
from proxy.encodings import Encode, EncodingUnavailable, encoding_of

# Characters, so at most 96 KiB of UTF-8: 1 to 8 ms of work that holds the interpreter lock only to build its result.
WINDOW = 24_576
# Characters counted in one go, about a second of work; what is beyond is estimated.
MOST_CHARS = 8 * 2**20
# Characters being counted or queued, beyond which more are estimated at once.
_MOST_WAITING = 2 * 2**20
# As many as leave the event loop a core, but no more: counting is seldom.
_THREADS = min(2, max(1, (os.cpu_count() or 1) - 1))
# What a call of the encoder costs beside its text, in characters: a million empty messages are work too.
_CALL_CHARS = 64
# How far back from the end of a window to look for a place to cut: nearly every text has one among the last few characters.
_TAILS = (64, 2048)
# A place where both encodings always part, so that windows count exactly as the whole: after a letter or a digit, before white
# space or punctuation (but an apostrophe, which may belong to a contraction), or between a letter and a digit.
_SEAM = re.compile(r"(?<=[^\W_])(?=[\s!-&(-/:-@\[-`{-~、。，；：！？「」（）])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")


@dataclass(frozen=True, slots=True)
class Count:
    """How many tokens some texts are. exact: counted throughout, by the encoding that is known to be the model's."""

    tokens: int
    exact: bool


def estimate(byte_count: int) -> int:
    """Tokens of so many UTF-8 bytes, when nothing can be counted: a quarter, rounded up.

    About right for English, low for code and most other scripts. An estimate, never a bound: `Tokenizer.bound` is that.
    """
    return -(-byte_count // 4)


def utf8_bytes(text: str) -> int:
    """The length of a text in UTF-8, lone surrogates included."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def windows(text: str, *, size: int = WINDOW) -> Iterator[tuple[str, bool]]:
    """A text in pieces of at most `size` characters, each with whether it ends where tokens part in the whole text too.

    A piece that ends elsewhere counts a token or two more or less than it would in the whole.
    """
    start = 0
    while len(text) - start > size:
        end = start + size
        seam = next(filter(None, (_last_seam(text, max(start + 1, end - tail), end) for tail in _TAILS)), None)
        yield text[start : seam or end], seam is not None
        start = seam or end
    if start < len(text):
        yield text[start:], True


def _last_seam(text: str, start: int, end: int) -> int | None:
    """The last place in `text[start:end]` where tokens always part."""
    found = None
    for seam in _SEAM.finditer(text, start, end):
        found = seam.start()
    return found


class Tokenizer:
    """Counts texts on a few threads of its own. Encodings are loaded when first needed, once, and kept.

    load: makes the encoder of a name. threads: how many count at once. most_waiting: characters being counted or queued, beyond
    which `count` estimates at once, so that a flood of calls cannot pile up; a text by itself may be longer. on_fault: told on the
    event loop, once for each thing that makes counts into estimates; the sentence holds nothing of any text.
    """

    def __init__(
        self,
        *,
        load: Callable[[str], Encode] = encodings.load,
        threads: int = _THREADS,
        most_waiting: int = _MOST_WAITING,
        on_fault: Callable[[str], None] | None = None,
    ) -> None:
        self._load = load
        self._most_waiting = most_waiting
        self._on_fault = on_fault
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="tokens")
        self._loading = Lock()
        self._encoders: dict[str, Encode | EncodingUnavailable] = {}
        self._faults: set[str] = set()
        self._waiting = 0
        self._closed = False

    @staticmethod
    def bound(text_bytes: int) -> int:
        """The most tokens that so many UTF-8 bytes can be. Both encodings work on bytes: a token is one at least."""
        return text_bytes

    async def count(self, texts: Sequence[str], *, model: str) -> Count:
        """The tokens of all `texts` together, as the model's encoding counts them. What cannot be counted is estimated.

        Errors: none. May be cancelled; a count that runs then ends unheard.
        """
        if not any(texts):
            return Count(0, exact=True)
        size = sum(map(len, texts)) + _CALL_CHARS * len(texts)
        if self._closed or (self._waiting and self._waiting + size > self._most_waiting):
            return Count(estimate(sum(map(utf8_bytes, texts))), exact=False)
        name, known = encoding_of(model)
        self._waiting += size
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._count, tuple(texts), name)
        running.add_done_callback(partial(self._leave, size))
        # Shielded: a cancelled future would leave its texts in the pool's queue and its place free for the next.
        count, fault = await asyncio.shield(running)
        if fault is not None and fault not in self._faults:
            self._faults.add(fault)
            if self._on_fault is not None:
                self._on_fault(fault)
        return count if known else Count(count.tokens, exact=False)

    async def load(self) -> None:
        """Load the encoding that most models speak. Its library makes it in one step, which holds the loop up for 0.1 to 0.2 s: soon after
        the start that holds up nobody, in the middle of the first count it would. Errors: none, a count says them.
        """
        await asyncio.get_running_loop().run_in_executor(self._pool, self._encoder, encodings.ASSUMED)

    async def close(self) -> None:
        """End the threads. Counts under way end within a window, as estimates, and so does every later one."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)

    def _leave(self, size: int, _: object) -> None:
        self._waiting -= size

    def _count(self, texts: Sequence[str], name: str) -> tuple[Count, str | None]:
        """On a thread of the pool: the count, and what went wrong."""
        encode = self._encoder(name)
        if isinstance(encode, EncodingUnavailable):
            return Count(estimate(sum(map(utf8_bytes, texts))), exact=False), str(encode)
        tokens, exact, fault = 0, True, None
        left = MOST_CHARS
        for text in texts:
            for window, whole in windows(text):
                left -= len(window) + _CALL_CHARS
                counted = None
                if left >= 0 and not self._closed:
                    try:
                        counted = encode(window)
                    except BaseException:  # a panic of the tokenizer is no Exception; this thread has nothing else to hear
                        fault = f"{name} failed on a text, which was estimated"
                tokens += estimate(utf8_bytes(window)) if counted is None else counted
                exact = exact and whole and counted is not None
        return Count(tokens, exact), fault

    def _encoder(self, name: str) -> Encode | EncodingUnavailable:
        with self._loading:
            if name not in self._encoders:
                try:
                    self._encoders[name] = self._load(name)
                except EncodingUnavailable as error:
                    self._encoders[name] = error
            return self._encoders[name]

    def __repr__(self) -> str:
        loaded = [name if callable(encoder) else f"{name}(unavailable)" for name, encoder in sorted(self._encoders.items())]
        return (
            f"<Tokenizer encodings={','.join(loaded) or 'none'} waiting={self._waiting}/{self._most_waiting} closed={self._closed}>"
        )
