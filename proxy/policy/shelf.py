"""Holds the policy set in force and exchanges it for the next one, whole or not at all.

                 load ok                    reload ok
    (empty) ───────────────► in force ──────────────────► in force (the new one)
       │ load broken            │ reload broken
       ▼                        ▼
    PolicyFileError          in force (the one before), Rejected

It reads files and nothing else: no watching thread, no event loop. Whoever holds it asks `changed()` every few seconds, away from
the loop, and then calls `reload()`. Files are compared by content and reached by the path that was given, so it does not matter how
they were exchanged: written in place, renamed over, or by the `..data` symlink of a mounted ConfigMap or Secret. (A file's time and
size would be a little cheaper to compare, and miss a rewrite of the same length within one tick of the file system's clock.)

The rule a reader could break: `changed()` compares with the very bytes that the last load read, never with what a file holds after
it. A change during a load is thus seen at the next look.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from proxy.policy.compile import compile_text
from proxy.policy.contract import Clause
from proxy.policy.document import MOST_BYTES, Mistake, Place, PolicyFileError
from proxy.policy.policyset import PolicySet, UpstreamConfig
from proxy.policy.watched import digest

# What each file holds, by digest; None for one that cannot be read.
Look = Mapping[Path, bytes | None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy set came into force. replaced: the version before it; the same one where only a secret file changed."""

    policies: PolicySet
    replaced: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The file was broken, and nothing changed."""

    mistakes: tuple[Mistake, ...]


class Shelf:
    """The policy set in force, from one file. kinds, env, upstream: as for compile_text."""

    def __init__(self, *, kinds: tuple[type[Clause], ...], env: Mapping[str, str], upstream: UpstreamConfig | None = None) -> None:
        self._kinds = kinds
        self._env = env
        self._upstream = upstream
        self._path: Path | None = None
        self._current: PolicySet | None = None
        self._loaded: Look = {}
        self._last: Look = {}

    def __repr__(self) -> str:
        version = self._current.version if self._current else "empty"
        return f"<Shelf {version} watching {len(self._loaded)} files>"

    @property
    def current(self) -> PolicySet:
        """The set in force. A call takes it once and keeps it to its end."""
        assert self._current is not None, "load() comes first"
        return self._current

    def load(self, path: Path) -> PolicySet:
        """Put the first set in force. Errors: PolicyFileError."""
        self._path = path
        self._current = self._compile()
        return self._current

    def reload(self) -> Loaded | Rejected:
        """Read the file again. What cannot be used changes nothing."""
        before = self.current.version
        try:
            self._current = self._compile()
        except PolicyFileError as error:
            return Rejected(error.mistakes)
        return Loaded(self._current, before)

    def changed(self) -> bool:
        """Whether the policy file or a secret it names differs from what the last load saw, and is no longer being written.

        Two looks in a row must agree: a file caught half-written could be a valid file with half of its rules. A broken file is
        reported once and not again until it changes.
        """
        look = self._look()
        settled = look == self._last
        self._last = look
        return settled and look != self._loaded

    def _compile(self) -> PolicySet:
        assert self._path is not None, "load() comes first"
        loaded: dict[Path, bytes | None] = {self._path: None}
        try:
            data = _policy_bytes(self._path)
            loaded[self._path] = sha256(data).digest()
            policies = compile_text(data, file=str(self._path), kinds=self._kinds, env=self._env, upstream=self._upstream)
            loaded.update(policies.source.files)
        except PolicyFileError as error:
            loaded.update(error.files)
            raise
        finally:
            self._loaded = self._last = loaded
        return policies

    def _look(self) -> Look:
        return {path: digest(path) for path in self._loaded}


def _policy_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        mistake = Mistake(str(path), Place(1, 1), "", f"the file cannot be read: {error.strerror}")
        raise PolicyFileError((mistake,)) from None
