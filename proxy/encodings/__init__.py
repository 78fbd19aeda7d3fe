"""The vocabularies that come with the package, and which model speaks which.

The rule a reader could break: nothing here asks the network. tiktoken's own loader downloads what it does not find, so it is not
used; the ranks beside this file are, and only if their hash is the published one.
"""

import re
import zlib
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).parent

Encode = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What defines an encoding beside its ranks. sha256: of the unpacked ranks; pattern: how text is split before merging.

    Source: tiktoken 0.14.0, tiktoken_ext/openai_public.py. The text of a call is data: no special token is ever recognised in it.
    """

    sha256: str
    pattern: str


VOCABULARIES: Mapping[str, Vocabulary] = {
    "o200k_base": Vocabulary(
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern="|".join(
            (
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            )
        ),
    ),
    "cl100k_base": Vocabulary(
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern="|".join(
            (
                r"'(?i:[sdmt]|ll|ve|re)",
                r"[^\r\n\p{L}\p{N}]?+\p{L}++",
                r"\p{N}{1,3}+",
                r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
                r"\s++$",
                r"\s*[\r\n]",
                r"\s+(?!\S)",
                r"\s",
            )
        ),
    ),
}

# What OpenAI's models speak, by the start of their names; the first that matches. tiktoken's own table takes a fine-tuned gpt-4.1
# for a gpt-4, and knows no vendor prefix. gpt-oss speaks o200k too, but its servers add instructions of their own: it stays assumed.
_SPEAKERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?:chatgpt-4o|gpt-4o|gpt-4\.[15]|gpt-5(?:\.\d+)?|o[134])(?:[-:].*)?", re.DOTALL), "o200k_base"),
    (
        re.compile(r"(?:gpt-4|gpt-3\.5|gpt-35|text-embedding-(?:3|ada-002)|(?:davinci|babbage)-002)(?:[-:].*)?", re.DOTALL),
        "cl100k_base",
    ),
)
ASSUMED = "o200k_base"
_GZIP = 16 + zlib.MAX_WBITS


class EncodingUnavailable(Exception):
    """An encoding cannot be loaded. The message names it and the remedy; trying again is of no use."""


def encoding_of(model: str) -> tuple[str, bool]:
    """The encoding that counts a model's tokens, and whether it is known to be the model's own or only assumed."""
    name = model.rpartition("/")[2].removeprefix("ft:")
    for pattern, encoding in _SPEAKERS:
        if pattern.fullmatch(name):
            return encoding, True
    return ASSUMED, False


def load(name: str, *, folder: Path = FOLDER) -> Encode:
    """A function that counts the tokens of a text, for a name of VOCABULARIES.

    Takes 0.1 to 0.3 s of CPU, of which tiktoken holds the interpreter lock for up to half; costs 50 MB (o200k) or 27 MB (cl100k).
    Errors: EncodingUnavailable. The function returned may fail on hostile text with an error that is no Exception (tiktoken
    issue 245): whoever calls it contains that.
    """
    vocabulary = VOCABULARIES[name]
    try:
        import tiktoken  # here and not above: a proxy whose upstreams report usage never counts, and is spared the memory

        lines = zlib.decompress((folder / f"{name}.tiktoken.gz").read_bytes(), wbits=_GZIP)
    except (ImportError, OSError, zlib.error) as error:
        raise EncodingUnavailable(f"{name} cannot be loaded ({type(error).__name__}); reinstall the package") from error
    if sha256(lines).hexdigest() != vocabulary.sha256:
        raise EncodingUnavailable(f"{name} is not the published vocabulary; reinstall the package")
    ranks = {a2b_base64(token): int(rank) for token, rank in (line.split() for line in lines.splitlines())}
    encoding = tiktoken.Encoding(name, pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens={})
    # It has copied the ranks and keeps ours only to be pickled, which nobody does: 27 MB less for o200k, 12 MB for cl100k.
    ranks.clear()
    return lambda text: len(encoding.encode_ordinary(text))
