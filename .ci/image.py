"""What is left to do in an image's last stage, by its own Python: a base may have no shell, and Python in one place or another.

It makes the command `tollhouse`, the state folder and the standard library's bytecode, takes away what installs packages, and fails the
build where the base's Python is not the one that the packages were installed for.

The rule a reader could break: it is built into every image and run once, as root; nothing in it may ask for the network or a shell.
"""

import importlib
import os
import pkgutil
import shutil
import sys
import sysconfig
from pathlib import Path

PACKAGES = Path("/opt/tollhouse")
COMMAND = Path("/usr/local/bin/tollhouse")  # in the PATH of every base
STATE = Path("/var/lib/tollhouse")
LATER = ("prometheus_client", "tiktoken", "encodings.idna", "gzip")  # what a process loads only when it first needs it
USER, GROUP = 65532, 0  # platforms that choose a user of their own give it group 0

# -I: neither the environment (PYTHONPATH) nor the working folder says what is imported. A process with the number 1 is not ended by
# a signal that it has no handler for, so until `serve` has its own, a SIGTERM would be lost, and the container killed after its grace. It
# leaves at once: there is nothing to end in order yet, and an exception while a compiled module is loaded can crash it (seen: exit 139).
LAUNCHER = f"""#!{{python}} -I
import os
import signal
import sys

signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
sys.path.insert(0, "{PACKAGES}")

from proxy.__main__ import main

sys.exit(main())
"""


def fit() -> None:
    """Fails where the packages were compiled for another Python."""
    tag = sys.implementation.cache_tag
    if not list((PACKAGES / "proxy" / "__pycache__").glob(f"*.{tag}.pyc")):
        sys.exit(f"the packages were not installed for {tag}, which is this base's Python: {sys.executable}")


def take_away() -> None:
    """pip and what would bring it back: nothing is installed here any more, and whoever gets in finds no tool for it."""
    library, site, scripts = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "scripts"))
    found = (library.glob("ensurepip"), site.glob("pip*"), site.glob("setuptools*"), site.glob("wheel*"), scripts.glob("pip*"))
    for path in (one for some in found for one in some):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def load() -> None:
    """Every module once: that it can be loaded is what is checked, and the standard library's bytecode, which images leave out, stays."""
    sys.path.insert(0, str(PACKAGES))
    for package in ("proxy", "policies"):
        for module in pkgutil.walk_packages([str(PACKAGES / package)], f"{package}."):
            if module.name not in ("proxy.__main__", "policies.update_prices"):  # which run, and needs what is not here
                importlib.import_module(module.name)
    for name in LATER:
        importlib.import_module(name)


fit()
take_away()
load()
COMMAND.parent.mkdir(parents=True, exist_ok=True)
COMMAND.write_text(LAUNCHER.format(python=sys.executable))
COMMAND.chmod(0o755)
STATE.mkdir(parents=True)
os.chown(STATE, USER, GROUP)
STATE.chmod(0o770)
