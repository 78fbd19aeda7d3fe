"""`tollhouse keys new ID`: a key, shown once, and the line that lets it in."""

import argparse
import os
import sys
from typing import get_args

from proxy.policy.keys import hash_of, new_key
from proxy.policy.scalar import Kind, Raw, Wrong, is_null, yaml_reading
from proxy.policy.values import Name

_ID: Kind = get_args(Name)[1]  # what the policy file takes as an id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("new",), help="what to do")
    parser.add_argument("id", metavar="ID", help="the key's name in policies, logs and limits")


def run(arguments: argparse.Namespace) -> int:
    try:
        _ID.read(Raw(arguments.id))
    except Wrong as wrong:
        print(f"tollhouse keys new: {wrong.message}", file=sys.stderr)
        return 2
    key = new_key(os.urandom)
    shown = f'"{arguments.id}"' if is_null(arguments.id) or yaml_reading(arguments.id) else arguments.id
    print(f"The key, shown this once; give it to the app as OPENAI_API_KEY:\n\n  {key}\n")
    print(f'The line for the policy file, under `keys`:\n\n  - {{id: {shown}, hash: "{hash_of(key)}"}}')
    return 0
