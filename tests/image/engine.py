"""The program that builds and runs images: Docker where its engine answers, else Podman, which is fetched by apt where we are root.

Podman gets a store and a configuration of its own below .tools/, so that nothing else on the machine changes.

The rule a reader could break: what is asked of an engine are the words that both know; where they differ, it stands here.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools"
_STORE = TOOLS / "containers"
# What Debian's podman only recommends, and does not run or open a port without.
_DEBIAN = ("podman", "runc", "netavark", "aardvark-dns", "catatonit", "containernetworking-plugins", "iptables")
_BUILD_S = 1200


class Missing(SystemExit):
    """Something that a machine does not have, in one line."""

    def __init__(self, said: str) -> None:
        super().__init__(f"image: {said}")


@dataclass(frozen=True, slots=True)
class Engine:
    """program: docker or podman; environment: its own."""

    program: str
    environment: Mapping[str, str]

    def call(self, *arguments: str, timeout_s: float = 120) -> str:
        """Standard output, stripped. Errors: CalledProcessError, and only then is standard error shown: Podman complains a lot."""
        done = self.attempt(*arguments, timeout_s=timeout_s)
        if done.returncode != 0:
            say(done.stderr)
        done.check_returncode()
        return done.stdout.strip()

    def attempt(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """As `call`, but whoever asks looks at the exit code."""
        return subprocess.run(
            [self.program, *arguments], env=self.environment, capture_output=True, timeout=timeout_s, check=False, text=True
        )

    def build(self, *, target: str, tag: str, offline: bool, arguments: Iterable[str] = ()) -> None:
        """Build the committed Dockerfile. offline: the bases are here and are not asked for; arguments: to build with, NAME=VALUE."""
        flags = [flag for argument in arguments for flag in ("--build-arg", argument)]
        if self.program == "podman":  # without the first there is no HEALTHCHECK, without the second no cache
            flags += ["--format", "docker", "--layers", "--isolation", "chroot", "--network", "host"]
            flags += ["--pull=never"] if offline else []
            # A machine may reach the registries by a certificate of its own, or by another index.
            own = {os.environ.get("SSL_CERT_FILE", ""): "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf": "/etc/pip.conf"}
            flags += [f"--volume={here}:{there}:ro" for here, there in own.items() if here and Path(here).exists()]
        command = [self.program, "build", *flags, "--target", target, "--tag", tag, str(ROOT)]
        subprocess.run(command, env=self.environment, timeout=_BUILD_S, check=True)

    def inspect(self, image: str) -> dict[str, Any]:
        found = json.loads(self.call("image", "inspect", image))
        return dict(found[0])

    def saved(self, image: str) -> Iterator[bytes]:
        """The image as an archive of its layers, piece by piece."""
        with subprocess.Popen([self.program, "save", image], env=self.environment, stdout=subprocess.PIPE) as process:
            out: IO[bytes] | None = process.stdout
            assert out is not None
            while piece := out.read(1 << 20):
                yield piece
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, "save")


def found(*, podman: bool = False) -> Engine:
    """The engine of this machine, or Podman in any case. Errors: Missing."""
    docker = shutil.which("docker")
    if (
        not podman
        and docker
        and subprocess.run([docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, check=False).returncode == 0
    ):
        return Engine("docker", os.environ)
    need("podman", *_DEBIAN)
    return Engine("podman", {**os.environ, **_configured()})


def need(program: str, *packages: str) -> None:
    """A program on this machine, by apt where it is missing and we are root. Errors: Missing."""
    if shutil.which(program):
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise Missing(f"{program} is missing: install Docker, or as root on Debian: apt-get install {' '.join(packages)}")
    print(f"installing {' '.join(packages)}", flush=True)
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ([*apt, "update"], [*apt, "install", "--yes", "--no-install-recommends", *packages]):
        if subprocess.run(command, stdout=subprocess.DEVNULL, env=quiet, check=False).returncode != 0:
            raise Missing(f"{program} is missing, and apt-get could not install it")


def _configured() -> dict[str, str]:
    """What points Podman to its own store and configuration. As another user than root it is left as the machine has it."""
    if os.geteuid() != 0:
        return {}
    _STORE.mkdir(parents=True, exist_ok=True)
    containers, storage = _STORE / "containers.conf", _STORE / "storage.conf"
    runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""  # crun refuses machines that mix both versions of cgroups
    containers.write_text(
        # Its own limits need a privilege that root in a container or sandbox does not have.
        '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
        f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n{runtime}'
    )
    storage.write_text(f'[storage]\ndriver = "overlay"\nrunroot = "{_STORE / "run"}"\ngraphroot = "{_STORE / "graph"}"\n')
    return {"CONTAINERS_CONF": str(containers), "CONTAINERS_STORAGE_CONF": str(storage)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
