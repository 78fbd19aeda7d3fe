"""`tollhouse schema`: the JSON Schema of the policy file, or the reference part of the README."""

import argparse
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
        before, _, rest = arguments.readme.read_text("utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        arguments.readme.write_text(before + reference(KINDS, VERBS) + after, "utf-8")
    else:
        print(reference(KINDS, VERBS) if arguments.markdown else schema_text(KINDS).rstrip("\n"))
    return 0
