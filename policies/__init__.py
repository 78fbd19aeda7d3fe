"""The kinds of policy: one clause, one file. Adding one is a file here, its class in KINDS, and its table of tests."""

from pathlib import Path

from policies.budget import Budget
from policies.concurrency import Concurrency
from policies.heartbeat import Heartbeat
from policies.max_tokens import MaxTokens
from policies.models import Models
from policies.on_disconnect import OnDisconnect
from policies.rate_limit import RateLimit
from policies.record import Record
from policies.request_size import RequestSize
from policies.timeouts import Timeouts
from policies.token_limit import TokenLimit
from proxy.policy.contract import Clause

KINDS: tuple[type[Clause], ...] = (
    Models,
    MaxTokens,
    RateLimit,
    TokenLimit,
    Concurrency,
    Budget,
    Timeouts,
    RequestSize,
    OnDisconnect,
    Heartbeat,
    Record,
)

# What runs without a policy file.
DEFAULT = Path(__file__).with_name("default.yaml")
