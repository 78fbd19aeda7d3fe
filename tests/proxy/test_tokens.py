"""Texts are counted off the loop, exactly where that can be promised, and nothing that a text holds can bring counting down."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import encodings
from proxy.encodings import VOCABULARIES, Encode, EncodingUnavailable
from proxy.tokens import MOST_CHARS, WINDOW, Count, Tokenizer, estimate, windows

PROSE = 'The toll is 3.50 at the bridge; don\'t pay twice, says Größe-Straße 12b.\n\tif (x >= 10) { return "ok"; }\n\n'
CJK = "桥头收费三元五角，请勿重复付款"


class Panic(BaseException):
    """What a crash inside the tokenizer looks like: no Exception."""


class Gate:
    """An encoder that waits to be let through, and says on the loop when it was reached."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.opened = threading.Event()

    def __call__(self, text: str) -> int:
        self.loop.call_soon_threadsafe(self.reached.set)
        self.opened.wait()
        return 7


@pytest.fixture(scope="module")
def encoders() -> Mapping[str, Encode]:
    return {name: encodings.load(name) for name in VOCABULARIES}


@pytest.fixture
async def tokenizer(encoders: Mapping[str, Encode]) -> AsyncIterator[Tokenizer]:
    made = Tokenizer(load=encoders.__getitem__)
    yield made
    await made.close()


def failing(on: Callable[[str], bool]) -> Callable[[str], Encode]:
    def encode(text: str) -> int:
        if on(text):
            raise Panic
        return 1

    return lambda name: encode


async def test_short_texts_are_counted_exactly(tokenizer: Tokenizer) -> None:
    assert await tokenizer.count(["hello world", "", "hello world"], model="gpt-4o") == Count(4, exact=True)
    assert await tokenizer.count(["hello world"], model="gpt-4") == Count(2, exact=True)


async def test_a_model_whose_encoding_is_assumed_is_not_counted_exactly(tokenizer: Tokenizer) -> None:
    assert await tokenizer.count(["hello world"], model="llama-3") == Count(2, exact=False)


async def test_special_tokens_in_a_text_are_ordinary_text(tokenizer: Tokenizer) -> None:
    count = await tokenizer.count(["<|endoftext|>"], model="gpt-4o")
    assert count.exact
    assert count.tokens > 1


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
async def test_a_long_text_counts_as_if_it_were_counted_whole(
    model: str, tokenizer: Tokenizer, encoders: Mapping[str, Encode]
) -> None:
    text = PROSE * 2000
    assert len(text) > 8 * WINDOW
    whole = encoders[encodings.encoding_of(model)[0]](text)
    assert await tokenizer.count([text], model=model) == Count(whole, exact=True)


@pytest.mark.parametrize("text", ["桥" * 60_000, "🚀" * 60_000, "é" * 60_000, " \t" * 60_000, "x" * 60_000, CJK * 5000])
async def test_a_text_that_nothing_divides_is_counted_to_two_tokens_a_window(
    text: str, tokenizer: Tokenizer, encoders: Mapping[str, Encode]
) -> None:
    count = await tokenizer.count([text], model="gpt-4o")
    assert abs(count.tokens - encoders["o200k_base"](text)) <= 2 * len(list(windows(text)))


@pytest.mark.parametrize("name", sorted(VOCABULARIES))
@settings(deadline=None, max_examples=300)
@given(
    text=st.lists(
        st.sampled_from([*PROSE.split(" "), CJK, "'s", "'", "\n", "\r\n", " ", "   ", "\t", "_", "/", "1234", "…", "e\u0301"])
    ).map("".join)
    | st.text(max_size=200),
    size=st.integers(min_value=2, max_value=40),
)
def test_windows_that_end_at_seams_count_as_the_whole(name: str, encoders: Mapping[str, Encode], text: str, size: int) -> None:
    pieces = list(windows(text, size=size))
    assert "".join(piece for piece, _ in pieces) == text
    assert all(0 < len(piece) <= size for piece, _ in pieces)
    # Join across the ends that are no seams: what remains divided must count as if it were not.
    joined = [""]
    for piece, at_seam in pieces:
        joined[-1] += piece
        if at_seam:
            joined.append("")
    assert sum(map(encoders[name], joined)) == encoders[name](text)


@pytest.mark.parametrize(
    "text",
    [" " * 1_100_000, "\u00a0" * 1_100_000 + "x", "\ud800" * 50_000, "\x00" * 50_000, "a\u0301" * 50_000, "\n" * 200_000],
    ids=["spaces", "no-break spaces", "lone surrogates", "nul", "marks", "newlines"],
)
async def test_hostile_texts_are_counted_like_any_other(text: str, tokenizer: Tokenizer) -> None:
    count = await tokenizer.count([text], model="gpt-4o")
    assert 0 < count.tokens <= Tokenizer.bound(len(text.encode("utf-8", "surrogatepass")))


async def test_the_encoder_never_sees_more_than_a_window_at_once() -> None:
    seen: list[int] = []

    def encode(text: str) -> int:
        seen.append(len(text.encode()))
        return 1

    tokenizer = Tokenizer(load=lambda name: encode)
    await tokenizer.count(["🚀" * 100_000, PROSE * 3000], model="gpt-4o")
    await tokenizer.close()
    assert max(seen) <= 100_000


@pytest.mark.parametrize("texts", [["x " * MOST_CHARS], ["x"] * (MOST_CHARS // 16)], ids=["one long text", "very many short ones"])
async def test_work_beyond_the_cap_is_estimated(texts: list[str]) -> None:
    calls = 0

    def encode(text: str) -> int:
        nonlocal calls
        calls += 1
        return 0

    tokenizer = Tokenizer(load=lambda name: encode, threads=1)
    count = await tokenizer.count(texts, model="gpt-4o")
    await tokenizer.close()
    assert not count.exact
    assert count.tokens > 0
    assert calls <= MOST_CHARS // 64


async def test_a_crash_of_the_tokenizer_costs_an_estimate_and_is_told_once() -> None:
    told: list[str] = []
    tokenizer = Tokenizer(load=failing(lambda text: "boom" in text), on_fault=told.append)
    for _ in range(2):
        assert await tokenizer.count(["fine", "boom secret", "fine"], model="gpt-4o") == Count(1 + estimate(11) + 1, exact=False)
    assert await tokenizer.count(["fine"], model="gpt-4o") == Count(1, exact=True)
    await tokenizer.close()
    assert len(told) == 1
    assert "secret" not in told[0]


async def test_without_a_vocabulary_everything_is_estimated_and_that_is_told_once() -> None:
    told: list[str] = []
    loads = 0

    def load(name: str) -> Encode:
        nonlocal loads
        loads += 1
        raise EncodingUnavailable(f"{name} is not here")

    tokenizer = Tokenizer(load=load, on_fault=told.append)
    for _ in range(3):
        assert await tokenizer.count(["12345"], model="gpt-4o") == Count(2, exact=False)
    assert "o200k_base(unavailable)" in repr(tokenizer)
    await tokenizer.close()
    assert told == ["o200k_base is not here"]
    assert loads == 1


async def test_nothing_is_loaded_before_there_is_something_to_count() -> None:
    loaded: list[str] = []

    def load(name: str) -> Encode:
        loaded.append(name)
        return len

    tokenizer = Tokenizer(load=load)
    assert await tokenizer.count([], model="gpt-4o") == Count(0, exact=True)
    assert await tokenizer.count(["", ""], model="gpt-4o") == Count(0, exact=True)
    assert loaded == []
    await asyncio.gather(*(tokenizer.count(["abc"], model="gpt-4") for _ in range(8)))
    await tokenizer.close()
    assert loaded == ["cl100k_base"]


async def test_a_flood_of_counts_is_estimated_at_once_instead_of_piling_up() -> None:
    gate = Gate()
    tokenizer = Tokenizer(load=lambda name: gate, threads=1, most_waiting=200)
    admitted = [asyncio.create_task(tokenizer.count(["text"], model="gpt-4o")) for _ in range(2)]
    await gate.reached.wait()
    assert await tokenizer.count(["12345678"], model="gpt-4o") == Count(2, exact=False)
    assert "waiting=136/200" in repr(tokenizer), "two texts of four characters, and a call each"
    gate.opened.set()
    assert await asyncio.gather(*admitted) == [Count(7, exact=True)] * 2
    assert await tokenizer.count(["text"], model="gpt-4o") == Count(7, exact=True)
    await tokenizer.close()


async def test_a_count_that_nobody_waits_for_keeps_its_place_until_it_ends() -> None:
    gate = Gate()
    tokenizer = Tokenizer(load=lambda name: gate, threads=1, most_waiting=1)
    left = asyncio.create_task(tokenizer.count(["text"], model="gpt-4o"))
    await gate.reached.wait()
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert not (await tokenizer.count(["text"], model="gpt-4o")).exact
    gate.opened.set()
    await tokenizer.close()
    assert "waiting=0/1" in repr(tokenizer)


async def test_after_closing_everything_is_estimated_and_nothing_fails() -> None:
    tokenizer = Tokenizer(load=lambda name: len)
    await tokenizer.close()
    await tokenizer.close()
    assert await tokenizer.count(["12345"], model="gpt-4o") == Count(2, exact=False)


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (8000, 2000)])
def test_an_estimate_is_a_quarter_of_the_bytes(size: int, tokens: int) -> None:
    assert estimate(size) == tokens


@pytest.mark.parametrize("name", sorted(VOCABULARIES))
@settings(deadline=None)
@given(text=st.text(max_size=200))
def test_no_text_has_more_tokens_than_its_bound(name: str, encoders: Mapping[str, Encode], text: str) -> None:
    assert encoders[name](text) <= Tokenizer.bound(len(text.encode()))


async def test_an_encoding_that_was_loaded_ahead_is_not_loaded_again() -> None:
    loaded: list[str] = []

    def load(name: str) -> Encode:
        loaded.append(name)
        return len

    tokenizer = Tokenizer(load=load)
    await tokenizer.load()
    await tokenizer.count(["hello"], model="gpt-4o")
    await tokenizer.close()
    assert loaded == ["o200k_base"]
