"""`${env:NAME}` and `${file:PATH}` in the values of a policy file.

The environment is handed in; files are read here and remembered, so that the shelf can watch them. The rule a reader could break:
what was filled in is never part of a message.
"""

import os
import re
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from proxy.policy.document import MOST_BYTES
from proxy.policy.scalar import Wrong, nearest, quote

# A secret that is larger than this is something else, such as a device or the wrong file.
_MOST_SECRET_BYTES = 65_536
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_REFERENCE = re.compile(r"\$\{([^}]*)\}?")


class References:
    """Fills in references.

    env: the process's environment. folder: what relative paths are relative to. files: those asked for, with the SHA-256 of what was
    read, None for one that could not be.
    """

    def __init__(self, env: Mapping[str, str], *, folder: Path) -> None:
        self._env = env
        self._folder = folder
        self.files: dict[Path, bytes | None] = {}

    def resolve(self, text: str) -> str:
        """`text` with every reference filled in, once: what comes in is not searched again. Errors: Wrong."""
        return _REFERENCE.sub(self._fill, text)

    def _fill(self, match: re.Match[str]) -> str:
        kind, _, name = match[1].partition(":")
        if match[0].endswith("}"):
            if kind == "env" and _VARIABLE.fullmatch(name):
                return self._variable(name)
            if kind == "file" and name:
                return self._file(name)
        raise Wrong(f"{quote(match[0])} is no reference; write ${{env:NAME}} or ${{file:/path}}")

    def _variable(self, name: str) -> str:
        value = self._env.get(name)
        if value is None:
            near = nearest(name, sorted(self._env))
            raise Wrong(f"the environment variable {name} is not set" + (f"; did you mean {near}?" if near else ""))
        if not value:
            raise Wrong(f"the environment variable {name} is empty")
        return value

    def _file(self, name: str) -> str:
        path = self._folder / name
        self.files[path] = None
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
                raise Wrong(f"the file {quote(name)} cannot be read: it is not a regular file")
            with path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, Wrong):
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "its name is no path"
            raise Wrong(f"the file {quote(name)} cannot be read: {reason}") from None
        self.files[path] = sha256(data).digest()
        if len(data) > _MOST_SECRET_BYTES:
            raise Wrong(f"the file {quote(name)} is larger than 64 KiB")
        try:
            # Editors and `echo` end a file with a newline that nobody means as part of the secret.
            value = data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise Wrong(f"the file {quote(name)} is not UTF-8 text") from None
        if not value:
            raise Wrong(f"the file {quote(name)} is empty")
        return value
