"""How much memory this process may use, how much it uses, and giving back what it no longer needs.

The rule a reader could break: usage is compared with a limit of the same kind. What a container is killed for is resident memory that the
system cannot take back, so pages of files (libraries, the journal) do not count. What RLIMIT_AS and RLIMIT_DATA bound is address space,
which is always larger.
"""

import gc
import mmap
import resource
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HIGH = 0.85  # of a limit: no more calls; what runs may still grow, and what is freed may not come back at once
LOW = 0.80  # of it: calls again. A call or two do not cross the distance, so that it does not flap
_SIZE, _RESIDENT, _SHARED, _DATA = 0, 1, 2, 5  # places in /proc/self/statm, source: proc(5)
_PAGE = mmap.PAGESIZE
_UNBOUNDED = 1 << 60  # what version 1 of cgroups shows for no limit is a little less than 2^63


class Bound(NamedTuple):
    """Bytes that one of the process's figures may reach. place: of the figure in statm."""

    place: int
    bytes: int


def bounds(
    setting: int | None, *, root: Path = Path("/"), limit: Callable[[int], tuple[int, int]] = resource.getrlimit
) -> list[Bound]:
    """Every limit on this process's memory. setting: the operator's own, bytes. root: of the file system; limit: as `getrlimit`."""
    found = [Bound(_RESIDENT, size) for size in (setting, *_of_groups(root)) if size is not None]
    for kind, place in ((resource.RLIMIT_AS, _SIZE), (resource.RLIMIT_DATA, _DATA)):
        soft = limit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(Bound(place, soft))
    return [bound for bound in found if 0 < bound.bytes < _UNBOUNDED]


def _of_groups(root: Path) -> list[int]:
    """The limits of the control groups that this process is in, and of those around them. Source: cgroups(7)."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts) + 1):  # a container sees its own group at the root, whatever the path says
            text = _read(base.joinpath(*parts[:count], name)).strip()
            if text.isdigit():
                found.append(int(text))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def own_pages() -> bytes:
    """The process's figures, in pages. On a system without them: none, and no limit is ever reached."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return file.read()
    except OSError:
        return b"0 0 0 0 0 0 0"


class Memory:
    """What is used of what may be, as of the last look. limited: whether there is a limit at all.

    share: of the limit that is nearest, 1 = all of it. room: bytes until calls are refused; below 0 when they should be.
    """

    __slots__ = ("_bounds", "_pages", "limit", "limited", "room", "share")

    def __init__(self, bounds: list[Bound], *, pages: Callable[[], bytes] = own_pages) -> None:
        self._bounds = bounds
        self._pages = pages
        self.limited = bool(bounds)
        self.limit = min((bound.bytes for bound in bounds), default=0)
        self.share = 0.0
        self.room = float("inf")
        self.look()

    def __repr__(self) -> str:
        return f"<Memory {self.share:.0%} of {self.limit}>" if self.limited else "<Memory unlimited>"

    def look(self) -> None:
        """Some microseconds where there is a limit, nothing where there is none."""
        if not self.limited:
            return
        figures = [*map(int, self._pages().split())]
        figures[_RESIDENT] -= figures[_SHARED]
        used = [(figures[bound.place] * _PAGE, bound.bytes) for bound in self._bounds]
        self.share = max(bytes / limit for bytes, limit in used)
        self.room = min(limit * HIGH - bytes for bytes, limit in used)


def give_back() -> None:
    """Hand freed memory back to the system. For a thread: the allocator takes some milliseconds, without the interpreter's lock."""
    import ctypes  # 2 MiB, and only for a process that came near its limit

    gc.collect()  # of what was made since the start: some milliseconds, during which the loop waits
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; musl gives back by itself
    if trim is not None:
        trim(0)
