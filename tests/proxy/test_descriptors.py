"""How descriptors are shared out."""

import resource
import subprocess
import sys

from proxy import descriptors


def test_half_of_what_is_left_is_for_clients_so_that_each_call_finds_one_for_its_upstream() -> None:
    for limit in (256, 1024, 20_000):
        most = descriptors.most_calls(limit)
        assert 2 * most + descriptors.OWN + descriptors.ADMIN <= limit
    assert descriptors.most_calls(10) > 0


def test_a_low_soft_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; from proxy import descriptors; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); descriptors.raise_limit(); print(descriptors.limit())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=30, check=True)
    assert done.stdout == "200\n"
    assert descriptors.limit() == min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)
