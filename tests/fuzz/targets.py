"""What is fuzzed: by name, who is handed an input, and what inputs to begin with.

    python -m tests.fuzz.targets edge CORPUS… [-max_total_time=60 …]      one target under libFuzzer, with its options

The rule a reader could break: a target raises for what must not be, and for nothing else.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Target:
    """module: has `one`, which is handed an input, and `SEEDS`. mutation: has `changed`; else bits are."""

    module: str
    about: str
    mutation: str | None = None
    most_bytes: int = 8192

    def one(self) -> Callable[[bytes], None]:
        found: Callable[[bytes], None] = import_module(self.module).one
        return found

    def seeds(self) -> Sequence[bytes]:
        return tuple(seed for seed in import_module(self.module).SEEDS if len(seed) <= self.most_bytes)


TARGETS: Mapping[str, Target] = {
    "edge": Target("tests.fuzz.edge", "a client's bytes, up to what an upstream is sent", "tests.fuzz.mutation"),
    "streams": Target("tests.fuzz.streams", "event streams of an upstream, and what is read in them"),
    "bodies": Target("tests.fuzz.bodies", "JSON bodies, and what is held for them"),
    "policy": Target("tests.fuzz.policy", "policy files"),
    "answers": Target("tests.fuzz.answers", "an upstream's answers on the wire"),
    "failures": Target("tests.fuzz.failures", "an upstream's errors, and what an app is told of them"),
    "readers": Target("tests.fuzz.readers", "header fields, usage blocks and forms"),
}


def stored(name: str) -> list[tuple[str, bytes]]:
    """The inputs in the repository, by file name."""
    return [(path.name, path.read_bytes()) for path in sorted((CORPUS / name).glob("*"))]


def main() -> None:
    import atheris

    target = TARGETS[sys.argv[1]]
    with atheris.instrument_imports(include=["proxy", "policies"]):
        one = target.one()
    arguments = [sys.argv[0], *sys.argv[2:], f"-max_len={target.most_bytes}"]
    if target.mutation is None:
        atheris.Setup(arguments, one)
    else:
        changed = import_module(target.mutation).changed
        others = target.seeds()[:8]

        def mutator(data: bytes, most: int, seed: int) -> bytes:
            if seed % 4 == 0:
                plain: bytes = atheris.Mutate(data, most)
                return plain
            return bytes(changed(data, seed, others=others, most=most))

        atheris.Setup(arguments, one, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
