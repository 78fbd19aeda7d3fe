"""What a file that is watched holds: a digest, which tells whether it has changed. Reached by its path each time, so a symlink that was
moved to another file is a change. The rule a reader could break: a file that is not there is no error, and is told as None.
"""

from hashlib import sha256
from pathlib import Path

from proxy.policy.document import MOST_BYTES


def digest(path: Path) -> bytes | None:
    """Of as much of a file as may be read of one, and a byte more; None where there is none to read."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return None
        with path.open("rb") as file:
            return sha256(file.read(MOST_BYTES + 1)).digest()
    except (OSError, ValueError):
        return None
