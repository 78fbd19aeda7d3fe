"""`tollhouse keys new ID`: a key, shown once, and the line that lets it in."""

import argparse
import os

from proxy.policy.keys import hash_of, new_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("new",), help="what to do")
    parser.add_argument("id", metavar="ID", help="the key's name in policies, logs and limits")


def run(arguments: argparse.Namespace) -> int:
    key = new_key(os.urandom)
    print(f"The key, shown this once; give it to the app as OPENAI_API_KEY:\n\n  {key}\n")
    print(f'The line for the policy file, under `keys`:\n\n  - {{id: {arguments.id}, hash: "{hash_of(key)}"}}')
    return 0
