"""`tollhouse schema`: the JSON Schema of the policy file."""

import argparse

from policies import KINDS
from proxy.policy.schema import schema_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(arguments: argparse.Namespace) -> int:
    print(schema_text(KINDS), end="")
    return 0
