"""A bill of what an image has from Python's registry: CycloneDX 1.6, from the lock file, with licences and who needs what.

    python .ci/sbom.py > dist/tollhouse.cdx.json

It is run by a Python that has the locked packages installed, since licences and dependencies stand in their metadata. The same lock gives
the same bytes. Files' hashes are the lock's matter: one package has many files; its own digest is in the bill.

The rule a reader could break: a package without a licence, or with another version than the lock's, ends it with an error.
"""

import hashlib
import json
import re
import sys
import tomllib
import uuid
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = {"record"}  # what the lock is compiled with, beside the dependencies themselves
_LOCKED = re.compile(r"^(?P<requirement>[A-Za-z0-9][^\\\n]*==[^\\\n]+?) *\\?$", re.MULTILINE)
# The images' Python and platform, whatever runs this; tests compare it with the Dockerfile, and an image with the bill.
_IMAGE = {
    "python_version": "3.13",
    "python_full_version": "3.13.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
}
# A package whose metadata names no licence, by the text in its file LICENSE; looked up again with each of its versions.
_READ = {("pysimdjson", "7.0.2"): "MIT"}
_NAMESPACE = uuid.UUID("b6a1c1de-52f3-4d5b-9b0e-0d3a6d1a8f11")  # ours, for serial numbers; drawn once


def locked(text: str) -> dict[str, str]:
    """Name → version of every package that an image gets by a lock file."""
    requirements = [Requirement(found["requirement"]) for found in _LOCKED.finditer(text)]
    wanted = [one for one in requirements if one.marker is None or one.marker.evaluate(_IMAGE)]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in wanted}


def licences(package: Distribution) -> list[dict[str, Any]]:
    """As CycloneDX has them: an SPDX expression where the package says one, else the name that it gives."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    said = (metadata.get("License") or "").strip().partition("\n")[0]  # some give the whole text, which begins with its name
    if said and len(said) < 80:
        return [{"license": {"name": said}}]
    classified = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or [] if c.startswith("License :: ")]
    if read := _READ.get((canonicalize_name(metadata["Name"]), package.version)):
        return [{"expression": read}]
    if not classified:
        raise SystemExit(f"sbom: {metadata['Name']} does not say its licence")
    return [{"license": {"name": name}} for name in classified]


def needs(requires: list[str], names: dict[str, str]) -> list[str]:
    """Which of the locked packages are asked for by these requirements."""
    asked = [Requirement(text) for text in requires]
    wanted = {canonicalize_name(a.name) for a in asked if a.marker is None or a.marker.evaluate({**_IMAGE, "extra": ""})}
    return sorted(wanted & names.keys())


def purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def bill() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_bytes()
    names = locked(lock.decode())
    components, graph = [], []
    for name, version in sorted(names.items()):
        try:
            package = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"sbom: {name} is in the lock and not installed here") from None
        if package.version != version:
            raise SystemExit(f"sbom: {name} {package.version} is installed here, and {version} is in the lock")
        ref = purl(name, version)
        components.append(
            {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref, "licenses": licences(package)}
        )
        graph.append({"ref": ref, "dependsOn": [purl(n, names[n]) for n in needs(package.requires or [], names)]})
    digest = hashlib.sha256(lock).hexdigest()
    root = f"pkg:generic/tollhouse@{project['version']}"
    direct = needs([*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])], names)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, project['version'] + digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": project["name"],
                "version": project["version"],
                "description": project["description"],
                "licenses": [{"expression": project["license"]}],
                "properties": [{"name": "tollhouse:requirements.lock:sha256", "value": digest}],
            }
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [purl(n, names[n]) for n in direct]}, *graph],
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1, ensure_ascii=False)
    print()
