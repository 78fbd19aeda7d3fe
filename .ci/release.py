"""What a release must agree on, and what is said of it.

    python .ci/release.py            every place that names the version, and whether they agree
    python .ci/release.py v1.2.3     the same, and with this tag; on standard output the notes: the entry of CHANGELOG.md

`version` in pyproject.toml is the source. The others repeat it, because neither a container's label nor a chart can look there, and the
program would have to load its own metadata at each start. The rule a reader could break: whoever adds a place adds it to `places`.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_ENTRY = re.compile(r"^## \[(?P<version>[^\]]+)\] - (?P<date>\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def source() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def places() -> dict[str, list[str]]:
    """Every other place → what it says, which is nothing where the file or the line is missing."""
    looked_for = {
        "proxy/__init__.py": r'^__version__ = "(.+)"$',
        "Dockerfile": r"^ARG VERSION=(.+)$",
        "helm/tollhouse/Chart.yaml": r'^(?:version|appVersion): "?([^"\n]+?)"?$',
    }
    found = {}
    for name, pattern in looked_for.items():
        file = ROOT / name
        found[name] = re.findall(pattern, file.read_text("utf-8"), re.MULTILINE) if file.exists() else []
    entry = _ENTRY.search((ROOT / "CHANGELOG.md").read_text("utf-8"))
    found["CHANGELOG.md, its first entry"] = [entry["version"]] if entry else []
    return found


def disagreements() -> list[str]:
    """One line for each place that says something else than pyproject.toml, or nothing."""
    version = source()
    return [
        f"{place}: {', '.join(said) or 'no version'}; pyproject.toml says {version}"
        for place, said in places().items()
        if not said or set(said) != {version}
    ]


def notes() -> str:
    """The first entry of the changelog, without its heading."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    entries = list(_ENTRY.finditer(text))
    end = entries[1].start() if len(entries) > 1 else text.find("\n[", entries[0].end())
    return text[entries[0].end() : end if end >= 0 else None].strip()


def main(arguments: list[str]) -> int:
    wrong = disagreements()
    if arguments and arguments[0] != f"v{source()}":
        wrong.append(f"the tag {arguments[0]}: pyproject.toml says {source()}")
    print(*wrong, sep="\n", file=sys.stderr, end="\n" if wrong else "")
    if not wrong:
        print(notes() if arguments else f"{source()}, everywhere")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
