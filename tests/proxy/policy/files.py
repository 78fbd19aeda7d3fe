"""Policy files for tests: a smallest one to add to, and the environment that the repository's own files need."""

from collections.abc import Mapping
from pathlib import Path

from policies import KINDS
from proxy.policy.compile import compile_text
from proxy.policy.document import PolicyFileError
from proxy.policy.policyset import PolicySet, UpstreamConfig

ROOT = Path(__file__).parents[3]
BROKEN = ROOT / "tests" / "broken"

# Enough for every example, and canaries that no message may show.
ENV: Mapping[str, str] = {
    "OPENAI_API_KEY": "sk-example",
    "PAGERDUTY_KEY": "0123456789abcdef0123456789abcdef",
    "SLACK_URL": "https://hooks.slack.com/services/T000/B000/example",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "TOLLHOUSE_UPSTREAM": "http://127.0.0.1/v1",
    "EMPTY": "",
    "CANARY": "canary",
    "OTHER_CANARY": "other-canary",
    "LARGE": "5GiB",
}

UPSTREAM = UpstreamConfig(base_url="http://127.0.0.1:9/v1")

HEAD = """version: 1
keys:
  - {id: app, anonymous: true}
"""


def compiled(
    text: str, *, file: str = "policy.yaml", env: Mapping[str, str] = ENV, upstream: UpstreamConfig | None = UPSTREAM
) -> PolicySet:
    return compile_text(text.encode(), file=file, kinds=KINDS, env=env, upstream=upstream)


def with_policies(*policies: str) -> PolicySet:
    """A set with one anonymous key and these policies, each in one line of YAML."""
    return compiled(HEAD + "policies:\n" + "".join(f"  - {policy}\n" for policy in policies))


def mistakes(text: str, *, upstream: UpstreamConfig | None = UPSTREAM) -> list[str]:
    """What is wrong with a file, without the file's name."""
    try:
        compiled(text, upstream=upstream)
    except PolicyFileError as error:
        return [str(mistake).removeprefix("policy.yaml:") for mistake in error.mistakes]
    return []
