"""That something is wrong with an upstream and worth a page, whoever notices and whoever is told."""

from typing import Literal, NamedTuple

PREFIX = "tollhouse/upstream/"  # of every `dedup`

What = Literal["credentials", "down"]


class Outage(NamedTuple):
    """Something is wrong with an upstream. to: names under `pages`. Two with one `dedup` are one."""

    upstream: str
    what: What
    to: tuple[str, ...]

    @property
    def dedup(self) -> str:
        return f"{PREFIX}{self.upstream}/{self.what}"
