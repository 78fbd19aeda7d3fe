"""`tollhouse schema`: the JSON Schema of the policy file, or the reference part of the README."""

import argparse
import sys
from pathlib import Path

from policies import KINDS
from proxy.policy.schema import schema_text
from proxy.reference import BEGIN, END, reference
from proxy.verbs import VERBS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="print the reference part of the README instead")
    parser.add_argument(
        "--readme", metavar="FILE", type=Path, help="put the reference part into this file instead, between its markers"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.readme is not None:
        return _renew(arguments.readme)
    print(reference(KINDS, VERBS) if arguments.markdown else schema_text(KINDS).rstrip("\n"))
    return 0


def _renew(readme: Path) -> int:
    """Exchange the reference within a file, and nothing else of it."""
    before, begun, rest = readme.read_text("utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        print(f"tollhouse schema: {readme} has no place for the reference: it must hold {BEGIN} and {END}", file=sys.stderr)
        return 2
    readme.write_text(before + reference(KINDS, VERBS) + after, "utf-8")
    return 0
