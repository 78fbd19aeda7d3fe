"""Who is measured: the commands of nginx, the bare relay and Tollhouse, and the mock behind them all.

The rule a reader could break: all are started the same way, alone on the subjects' core, in an environment that holds no setting of
theirs; and Tollhouse runs with every clause of its default policy on.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench import nginx, wire
from bench.subject import Failed, Subject, free_port

LIMIT, BASELINE, SUBJECT, SECOND, MOCK = "nginx", "bare relay", "Tollhouse", "second relay", "mock"

_HERE = Path(__file__).resolve().parent
POLICY = _HERE / "policy.yaml"
_DEFAULT_POLICY = _HERE.parent / "policies" / "default.yaml"


class Lineup:
    """cores: of the subjects, and of the mock and the load. folder: of this run, for what the subjects write."""

    def __init__(self, *, cores: tuple[int, int], folder: Path, self_check: bool) -> None:
        self._cores, self._folder = cores, folder
        self._nginx = nginx.found()
        self._mock_port = free_port()
        self.subject = SECOND if self_check else SUBJECT
        self.names = tuple(name for name in (LIMIT, BASELINE, self.subject) if name != LIMIT or self._nginx)

    @contextmanager
    def start(self, name: str) -> Iterator[Subject]:
        """Runs it; nothing waits for it to be ready."""
        port = self._mock_port if name == MOCK else free_port()
        with self._run(name, self._command(name, port), port=port, core=self._cores[name == MOCK]) as subject:
            yield subject

    @contextmanager
    def watched(self, policy: Path, *, admin_port: int, stalls: Path) -> Iterator[Subject]:
        """Tollhouse with a look at its event loop. stalls: where it writes what it saw."""
        port = free_port()
        command = ["-m", "bench.watched", "--stalls", str(stalls), *self._serve(port, policy=policy, admin_port=admin_port)]
        with self._run(SUBJECT, [sys.executable, *command], port=port, core=self._cores[0]) as subject:
            yield subject

    def _command(self, name: str, port: int) -> list[str]:
        if name == MOCK:
            return [sys.executable, "-m", "bench.mock", "--port", str(port)]
        if name == LIMIT:
            assert self._nginx is not None
            return nginx.command(self._nginx, port=port, upstream_port=self._mock_port, folder=Path(self._new_folder()))
        if name == SUBJECT:
            return [sys.executable, "-m", "proxy", "serve", *self._serve(port, policy=POLICY, admin_port=free_port())]
        return [sys.executable, "-m", "bench.relay", "--upstream", f"http://127.0.0.1:{self._mock_port}", "--port", str(port)]

    def _serve(self, port: int, *, policy: Path, admin_port: int) -> list[str]:
        upstream = f"http://127.0.0.1:{self._mock_port}/v1"
        flags = ["--policy", str(policy), "--upstream", upstream, "--state-dir", self._new_folder()]
        return [*flags, "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin_port}"]

    def _new_folder(self) -> str:
        return tempfile.mkdtemp(dir=self._folder)

    @contextmanager
    def _run(self, name: str, command: Sequence[str], *, port: int, core: int) -> Iterator[Subject]:
        subject = Subject(name, command, port=port, core=core, drain_core=self._cores[1], env=_environment())
        try:
            yield subject
        finally:
            subject.stop()


def hello(subject: Subject) -> bytes:
    """The call that shows that it serves."""
    return wire.request(subject.port, prompt_bytes=100, capped=True)


def check_policy() -> None:
    """Every clause that runs by default runs here too. Errors: Failed."""

    def clauses(path: Path) -> set[str]:
        policies = yaml.safe_load(path.read_text())["policies"]
        return {clause for policy in policies for clause in policy} - {"name", "match", "mode"}

    missing = clauses(_DEFAULT_POLICY) - clauses(POLICY)
    if missing:
        raise Failed(f"{POLICY.name} lacks clauses of the default policy: {', '.join(sorted(missing))}")


def _environment() -> dict[str, str]:
    """Ours, without what would set up Tollhouse in another way."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("TOLLHOUSE_", "OTEL_", "OPENAI_", "PYTHON"))}
