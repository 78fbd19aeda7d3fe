"""Policy files: any bytes are a policy set, or mistakes that each name a place, in less than a second and without another exception."""

import time

from policies import KINDS
from proxy.policy.compile import compile_text
from proxy.policy.document import PolicyFileError
from tests.proxy.policy.files import BROKEN, ENV, ROOT, UPSTREAM

_MOST_S = 1.0
_PLANTED = "planted-7d1f"
_ENV = {**ENV, "CANARY": _PLANTED, "OTHER_CANARY": _PLANTED}
SEEDS = tuple(
    path.read_bytes()
    for path in (
        *sorted((ROOT / "policies" / "examples").glob("*.yaml")),
        ROOT / "policies" / "default.yaml",
        *sorted(BROKEN.glob("*.yaml")),
    )
)


def one(data: bytes) -> None:
    """The target."""
    if b"file:" in data:
        return  # what lies on the machine is not the input's to say
    began, found = time.thread_time(), None
    try:
        found = compile_text(data, file="policy.yaml", kinds=KINDS, env=_ENV, upstream=UPSTREAM)
    except PolicyFileError as error:
        mistakes = [str(mistake) for mistake in error.mistakes]
    else:
        mistakes = []
        assert found.version
        assert found.upstreams
    assert found is not None or mistakes
    for said in mistakes:
        assert said.startswith("policy.yaml:"), said
        assert len(said) < 2000, "a mistake quotes the file at length"
        assert "\n" not in said
        assert _PLANTED not in said
    assert time.thread_time() - began < _MOST_S, "it took too long"
