"""How much memory may be used and is: every limit that a system can set, and figures of the same kind."""

import mmap
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.memory import Bound, Memory, bounds, give_back, own_pages

MIB = 1 << 20
PAGE = mmap.PAGESIZE
FREE = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def unlimited(kind: int) -> tuple[int, int]:
    return FREE


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        ({}, []),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "134217728\n"}, [128]),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, []),
        (
            {
                "proc/self/cgroup": "0::/pods/app\n",
                "sys/fs/cgroup/pods/memory.max": "268435456\n",
                "sys/fs/cgroup/pods/app/memory.max": "max\n",
            },
            [256],
        ),
        (
            {"proc/self/cgroup": "0::/seen/from/outside\n", "sys/fs/cgroup/memory.max": "134217728\n"},
            [128],
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "67108864\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            [64],
        ),
        ({"proc/self/cgroup": "0::/../../..\n", "sys/fs/cgroup/memory.max": "67108864\n"}, [64]),
    ],
    ids=["none", "version 2", "no limit", "of a parent", "of a container", "version 1", "beyond the root"],
)
def test_the_limits_of_control_groups_are_found(tmp_path: Path, files: dict[str, str], sizes: list[int]) -> None:
    found = bounds(None, root=tree(tmp_path, files), limit=unlimited)
    assert [bound.bytes // MIB for bound in found] == sizes


def test_an_operator_s_own_limit_and_those_of_the_process_count_as_well(tmp_path: Path) -> None:
    def limit(kind: int) -> tuple[int, int]:
        return {resource.RLIMIT_AS: (4 << 30, -1), resource.RLIMIT_DATA: (2 << 30, -1)}[kind]

    own, space, data = bounds(256 * MIB, root=tmp_path, limit=limit)
    assert (own.bytes, space.bytes, data.bytes) == (256 * MIB, 4 << 30, 2 << 30)
    assert len({own.place, space.place, data.place}) == 3, "each is compared with a figure of its kind"


def pages(**mib: int) -> Callable[[], bytes]:
    """What statm would show."""
    figures = [mib.get(name, 0) * MIB // PAGE for name in ("size", "resident", "shared", "text", "lib", "data", "dt")]
    return lambda: " ".join(map(str, figures)).encode()


def test_pages_of_files_do_not_count_for_the_system_takes_them_back() -> None:
    memory = Memory([Bound(1, 100 * MIB)], pages=pages(size=900, resident=90, shared=40))
    assert memory.share == 0.5
    assert memory.room == 35 * MIB


def test_the_limit_that_is_nearest_decides() -> None:
    memory = Memory([Bound(1, 100 * MIB), Bound(0, 1000 * MIB)], pages=pages(size=900, resident=90, shared=40))
    assert memory.share == 0.9
    assert memory.room < 0


def test_without_a_limit_there_is_room_and_nothing_is_looked_at() -> None:
    memory = Memory([], pages=lambda: pytest.fail("it was looked at"))
    memory.look()
    assert (memory.limited, memory.share, memory.room) == (False, 0.0, float("inf"))


def test_the_system_s_own_figures_can_be_read_and_memory_be_given_back() -> None:
    assert len(own_pages().split()) == 7
    give_back()
