"""Which answers are recorded while they run, for whom, and how much is kept of them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from proxy.policy.contract import Clause, Stage, Terms, option
from proxy.policy.scalar import NotEmpty, Wrong
from proxy.policy.values import Count, Duration, Name, Size, words

Purpose = Annotated[Literal["idempotency", "tasks", "resume"], words("idempotency", "tasks", "resume")]

_LEAST_BYTES = 64 << 10  # less would not hold what a client on a train misses


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Clause):
    """Answers are recorded that are asked to be: by an Idempotency-Key, as a task, or as a stream that can be resumed."""

    clause: ClassVar[str] = "record"
    stage: ClassVar[Stage] = Stage.ADMIT

    for_: Duration = option("how long a recording is kept after its end", default=600.0)
    grace: Duration = option("how long a call goes on that is no task and that nobody reads", default=60.0)
    max_bytes: Size = option("of one recording; of a longer one the beginning is forgotten", default=8 << 20)
    max_total: Size = option(
        "of all recordings under this policy; beyond it ended ones are forgotten, the longest unread first", default=256 << 20
    )
    running: Count = option("recordings of one user that run at once", default=16)
    allow: Annotated[tuple[Purpose, ...], NotEmpty("leave it out for all of them")] = option(
        "what is granted: idempotency, tasks, resume", default=("idempotency", "tasks", "resume")
    )
    tell: tuple[Name, ...] = option("names under `pages`, webhooks, that are told of every task that ended", default=())

    def __post_init__(self) -> None:
        if self.max_bytes < _LEAST_BYTES:
            raise Wrong("a recording needs at least 64KiB", field="max_bytes")
        if self.max_total < self.max_bytes:
            raise Wrong("is less than one recording may have (`max_bytes`)", field="max_total")

    def terms(self) -> Terms:
        return Terms(
            policy=self.policy,
            kept_s=self.for_,
            grace_s=self.grace,
            most_bytes=self.max_bytes,
            most_total=self.max_total,
            most_running=self.running,
            allow=frozenset(self.allow),
            tell=frozenset(self.tell),
        )
