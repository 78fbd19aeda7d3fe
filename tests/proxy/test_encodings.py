"""The shipped vocabularies are the published ones, count as tiktoken does, and are never fetched from the network."""

import gzip
from collections.abc import Callable, Mapping
from hashlib import sha1
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.encodings import FOLDER, VOCABULARIES, Encode, EncodingUnavailable, encoding_of, load

CACHED_AS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
TEXTS = (
    "hello world",
    "def f(x):\n\treturn {'a': [1, 22, 333, 4444]}\n\n\n",
    "I don't think they'd've said WE'LL go; it's 3.14159…",
    "Größe, naïve, Ελλάδα, Привет мир",
    "你好，世界。これはテストです。안녕하세요",
    "مرحبا بالعالم שלום עולם",
    "👩🏽‍🚀🏳️‍🌈 e\u0301 \u200b\u00a0\u3000",
    "<|endoftext|><|im_start|>user",
    " " * 1000 + "\t" * 100 + "\r\n" * 100 + "x",
    "a" * 5000,
    "\ud800 lone \udfff",
    "",
)


@pytest.fixture(scope="module")
def ours() -> Mapping[str, Encode]:
    return {name: load(name) for name in VOCABULARIES}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Callable[[str], int]]:
    """tiktoken's own encodings, from its cache: it checks the same files against its own hashes."""
    cache = tmp_path_factory.mktemp("tiktoken")
    for name in VOCABULARIES:
        url_hash = sha1(CACHED_AS.format(name).encode()).hexdigest()
        (cache / url_hash).write_bytes(gzip.decompress((FOLDER / f"{name}.tiktoken.gz").read_bytes()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        encodings = {name: tiktoken.get_encoding(name) for name in VOCABULARIES}
    return {name: lambda text, e=encoding: len(e.encode(text, disallowed_special=())) for name, encoding in encodings.items()}


@pytest.mark.parametrize("name", sorted(VOCABULARIES))
def test_every_text_counts_as_tiktoken_counts_it(
    name: str, ours: Mapping[str, Encode], published: Mapping[str, Callable[[str], int]]
) -> None:
    for text in TEXTS:
        assert ours[name](text) == published[name](text), text[:40]


@pytest.mark.parametrize("name", sorted(VOCABULARIES))
@settings(deadline=None)
@given(text=st.text(max_size=300))
def test_any_text_counts_as_tiktoken_counts_it(
    name: str, ours: Mapping[str, Encode], published: Mapping[str, Callable[[str], int]], text: str
) -> None:
    assert ours[name](text) == published[name](text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "FileNotFoundError"),
        (b"", "error"),
        (b"not gzip", "error"),
        ((FOLDER / "cl100k_base.tiktoken.gz").read_bytes()[:-2000], "error"),
        (gzip.compress(b"IQ== 0\nIg== 1\n"), "not the published"),
        ((FOLDER / "o200k_base.tiktoken.gz").read_bytes(), "not the published"),
    ],
    ids=["missing", "empty", "not gzip", "cut short", "other ranks", "another vocabulary"],
)
def test_a_vocabulary_that_is_missing_or_altered_is_never_used(content: bytes | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "cl100k_base.tiktoken.gz").write_bytes(content)
    with pytest.raises(EncodingUnavailable, match=reason):
        load("cl100k_base", folder=tmp_path)


@pytest.mark.parametrize(
    ("model", "encoding", "known"),
    [
        ("gpt-4o", "o200k_base", True),
        ("gpt-4o-mini-2024-07-18", "o200k_base", True),
        ("chatgpt-4o-latest", "o200k_base", True),
        ("gpt-4.1-nano", "o200k_base", True),
        ("gpt-4.5-preview", "o200k_base", True),
        ("gpt-5", "o200k_base", True),
        ("gpt-5.1-codex", "o200k_base", True),
        ("gpt-oss-120b", "o200k_base", False),
        ("o1", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("o4-mini", "o200k_base", True),
        ("openai/gpt-4o", "o200k_base", True),
        ("router/openai/gpt-4o", "o200k_base", True),
        ("ft:gpt-4o-2024-08-06:acme::9x", "o200k_base", True),
        ("ft:gpt-4.1-2025-04-14:acme::9x", "o200k_base", True),
        ("gpt-4", "cl100k_base", True),
        ("gpt-4-turbo-2024-04-09", "cl100k_base", True),
        ("ft:gpt-4-0613:acme::9x", "cl100k_base", True),
        ("gpt-3.5-turbo", "cl100k_base", True),
        ("gpt-3.5-turbo-instruct", "cl100k_base", True),
        ("ft:gpt-3.5-turbo:acme::9x", "cl100k_base", True),
        ("text-embedding-3-small", "cl100k_base", True),
        ("text-embedding-ada-002-v2", "cl100k_base", True),
        ("ft:davinci-002:acme::9x", "cl100k_base", True),
        ("gpt-6-sol", "o200k_base", False),
        ("gpt-4.7", "o200k_base", False),
        ("gpt-4omega", "o200k_base", False),
        ("o5", "o200k_base", False),
        ("claude-4", "o200k_base", False),
        ("meta-llama/Llama-3-8b", "o200k_base", False),
        ("", "o200k_base", False),
    ],
)
def test_a_model_is_counted_by_its_own_encoding_or_by_one_that_is_said_to_be_assumed(
    model: str, encoding: str, known: bool
) -> None:
    assert encoding_of(model) == (encoding, known)
