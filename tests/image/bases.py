"""The bases that the Dockerfile names, on this machine: the public ones where their registries answer, else stand-ins of the same names.

A stand-in is made of Debian's packages to be like the public image where the Dockerfile could tell: where Python is, what else is there
and what is not (compiled bytecode, a shell), which user it begins with. It is kept in the store of `engine.py` and in no other.

The rule a reader could break: a size that was measured on a stand-in is said to be.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.image.engine import ROOT, Engine, Missing, need, say

_PULL_S = 180
_MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
_SUITE = "trixie"

# As the images that Debian and others publish: no documentation, no other languages.
_SLIM = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")


@dataclass(frozen=True, slots=True)
class StandIn:
    """variant, packages: as mmdebstrap has them; hooks: commands after the installation, $1 = the folder; changes: as `import --change`."""

    variant: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...]
    changes: tuple[str, ...]


STAND_INS: Mapping[str, StandIn] = {
    "SLIM": StandIn(
        "minbase",
        ("ca-certificates", "netbase", "tzdata", "python3", "python3-venv"),
        (
            "ln -s /usr/bin/python3 $1/usr/local/bin/python3",  # where the public image has it
            "ln -s python3 $1/usr/local/bin/python",
            "find $1/usr/lib -name __pycache__ -prune -exec rm -r {} +",
            "rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*",
        ),
        ("ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "CMD python3"),
    ),
    "SMALL": StandIn(
        "extract",
        (  # source: GoogleContainerTools/distroless, base, cc and python3/config.bzl
            *(
                "base-files",
                "netbase",
                "tzdata",
                "ca-certificates",
                "libc-bin",
                "libssl3t64",
                "libgcc-s1",
                "libstdc++6",
                "libgomp1",
            ),
            *("python3.13-minimal", "libpython3.13-minimal", "libpython3.13-stdlib", "python3.13-venv"),
            *("libsqlite3-0", "libbz2-1.0", "liblzma5", "libffi8", "libncursesw6", "libtinfo6", "libreadline8t64", "libuuid1"),
            *("libdb5.3t64", "libnsl2", "libtirpc3t64", "libcrypt1", "libexpat1", "zlib1g"),
        ),
        (
            "ln -s python3.13 $1/usr/bin/python3",
            "mkdir -p $1/etc/ssl/certs && cat $1/usr/share/ca-certificates/mozilla/*.crt > $1/etc/ssl/certs/ca-certificates.crt",
            # What came along as a dependency, and is not in the public image.
            "cd $1/usr && rm -r share/python-wheels share/perl5 share/debconf share/ca-certificates bin/openssl bin/mawk lib/*/gconv",
        ),
        (
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            "ENV LANG=C.UTF-8",
            "USER 65532",
            'ENTRYPOINT ["/usr/bin/python3.13"]',
        ),
    ),
}


def named() -> dict[str, str]:
    """The bases of the Dockerfile, by their argument."""
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    return {name: line.partition("=")[2] for name in STAND_INS for line in lines if line.startswith(f"ARG {name}=")}


def provide(engine: Engine, *, public: bool | None) -> dict[str, bool]:
    """Every base is here. public: True = from its registry alone, False = a stand-in, None = a stand-in where no registry answers.

    Returns which are stand-ins. Errors: Missing.
    """
    stands = {}
    for argument, image in named().items():
        if public is not False and _pulled(engine, image):
            stands[argument] = False
        elif public or engine.program != "podman":
            raise Missing(f"{image} could not be pulled")
        else:
            stands[argument] = True
            _stand_in(engine, image, STAND_INS[argument])
    return stands


def _pulled(engine: Engine, image: str) -> bool:
    whole = image if "." in image.partition("/")[0] else f"docker.io/library/{image}"
    try:
        return engine.attempt("pull", "--quiet", whole, timeout_s=_PULL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _stand_in(engine: Engine, image: str, stand: StandIn) -> None:
    whole = image if "/" in image else f"localhost/{image}"
    if engine.attempt("image", "exists", whole).returncode == 0:
        return
    say(f"no registry answers for {image}: a stand-in is made of Debian {_SUITE}'s packages")
    need("mmdebstrap", "mmdebstrap")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        command = ["mmdebstrap", "--quiet", f"--variant={stand.variant}", f"--include={','.join(stand.packages)}"]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _SLIM]
        stage = "extract" if stand.variant == "extract" else "customize"  # nothing is installed, so nothing is customized
        command += [f"--{stage}-hook={hook}" for hook in stand.hooks]
        if subprocess.run([*command, _SUITE, str(archive), _MIRROR], check=False).returncode != 0:
            raise Missing(f"no stand-in for {image} could be made; DEBIAN_MIRROR names another mirror than {_MIRROR}")
        changes = [flag for change in stand.changes for flag in ("--change", change)]
        engine.call("import", "--quiet", *changes, "--message", "a stand-in", str(archive), whole, timeout_s=300)
